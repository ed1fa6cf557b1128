"""Commands of this layer for `pairwright`: each prints what one function returns."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stores.plain import printable
from stores.printing import Format, FormatOption, print_rows

if TYPE_CHECKING:
    from builders.forecast import Forecast


def forecast(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs such as samples.irpo_0 (default: all).")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Says what generating will cost before it is spent: completions, tokens, time, space and price."""
    from builders.forecast import Forecast, forecast
    from schemas.params import load_params
    from stores.ledger import Ledger

    ledger = Ledger()
    rows = forecast(ledger, load_params(), Path(), runs or [])
    print_rows(Forecast._fields, rows if format is not Format.table else map(_readable, rows), format)
    if format is Format.table:
        print(_together(rows, shutil.disk_usage(ledger.root).free))


def _readable(row: "Forecast") -> Sequence[Any]:
    from stores.estimates import duration, megabytes

    shown = row._asdict()
    for name in ("wanted", "in_ledger", "to_generate", "tokens"):
        shown[name] = None if shown[name] is None else f"{shown[name]:,}"
    shown["device_s"] = None if row.device_s is None else duration(row.device_s)
    shown["bytes"] = None if row.bytes is None else megabytes(row.bytes)
    shown["price_usd"] = None if row.price_usd is None else f"{row.price_usd:,.2f}"
    return list(shown.values())


def _together(rows: "list[Forecast]", free: int) -> str:
    """The sums of what is known, and how much is not."""
    from stores.estimates import duration, megabytes

    space, seconds = sum(row.bytes or 0 for row in rows), sum(row.device_s or 0 for row in rows)
    price = sum(row.price_usd or 0 for row in rows)
    unknown = sum(row.to_generate is None for row in rows)
    untimed = sum(bool(row.to_generate) and row.device_s is None for row in rows)
    parts = [
        f"{sum(row.to_generate or 0 for row in rows):,} completions to generate",
        f"{sum(row.tokens or 0 for row in rows):,} tokens",
        *([f"{duration(seconds)} of computing"] if seconds else []),
        f"{megabytes(space)} in the ledger ({megabytes(free)} free{', too little' if space > free else ''})",
        *([f"{price:,.2f} USD"] if price else []),
        *([f"not counted: {unknown} rows of unknown size"] if unknown else []),
        *([f"time not known of {untimed} rows"] if untimed else []),
    ]
    return "together " + ", ".join(parts)


def smoke(
    params: Annotated[Path, typer.Argument(help="A params file, such as one of recipes/.")] = Path("params.yaml"),
    problems: Annotated[int, typer.Option(help="Problems of each run.", min=1)] = 20,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the directory, with its tables and its report.")] = False,
) -> None:
    """Runs a recipe's whole graph on a few problems and tiny models, in a directory of its own: minutes."""
    from builders.smoke_run import scratch_directory, smoke

    total = 0.0
    with scratch_directory(keep) as scratch:
        for ran in smoke(params, Path(), scratch, problems):
            total += ran.seconds
            print(f"{ran.seconds:7.1f} s  {ran.stage}", flush=True)
        print(f"{total:7.1f} s  {params}: every stage ran")


def export_steps(
    run: Annotated[str, typer.Argument(help="A run of step pairs, such as of pairs_step.")],
    file: Annotated[Path, typer.Argument(help="The file to write: .parquet or .jsonl.")],
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="In the columns of the authors' pipeline, not of their data set.")
    ] = False,
) -> None:
    """Writes step pairs in the columns of the published Math-Step-DPO-10K."""
    from builders.step_pair_export import export_step_pairs
    from stores.store import Store

    with Store.open() as store:
        count = export_step_pairs(store, run, file, pipeline)
    print(f"{file}: {count:,} pairs")


def doctor(
    network: Annotated[bool, typer.Option("--network", help="Ask the servers, the Hub and DVC's remote, too.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read the whole of a large ledger.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Says what is fit for work here and what is not, with remedies; exits with 1 if there is a problem."""
    from builders.doctor import Finding, examine

    found = []
    for finding in examine(Path(), network, deep):
        found.append(finding)
        if format is Format.table:
            remedy = f"\n{'':24}→ {finding.remedy}" if finding.remedy and finding.state != "ok" else ""
            print(printable(f"{finding.state:8}  {finding.check:12}  {finding.detail}{remedy}"), flush=True)
    if format is not Format.table:
        print_rows(Finding._fields, found, format)
    if any(finding.state == "problem" for finding in found):
        raise typer.Exit(1)
