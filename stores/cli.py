"""The command line: each command prints what one method of `Store` (or `Ledger`) returns."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from stores.plain import printable

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)

CELL = 80


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option(help="How to print the rows.")]


@app.callback()
def _pairwright() -> None:
    """Versioned preference data: query, inspect and check the tables of this checkout."""


@app.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="The query; without one it is read from standard input.")] = None,
    format: FormatOption = Format.table,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Lift the guard: SQL may write and read any file.")] = False,
    ledger: Annotated[bool, typer.Option("--ledger", help="Ask the ledger (SQLite) instead of the tables.")] = False,
) -> None:
    """Answers one SQL query over all tables and runs; `pairwright describe` lists them."""
    if query is None:
        if sys.stdin.isatty():
            raise ValueError('give a query: pairwright sql "select * from funnel"')
        query = sys.stdin.read()
    if ledger:
        from stores.ledger import Ledger

        print_rows(*Ledger().sql(query), format)
        return
    from stores.store import Store

    with Store.open(guard=not unsafe) as store:
        result = store.sql(query)
        print_rows(result.columns, result.fetchall(), format)


@app.command()
def runs(format: FormatOption = Format.table) -> None:
    """Lists every run of every table in params.yaml, built or not."""
    from stores.store import RunRow, Store

    with Store.open() as store:
        print_rows(RunRow._fields, store.runs(), format)


@app.command()
def describe(
    table: Annotated[str | None, typer.Argument(help="A table or view; without one they are listed.")] = None,
) -> None:
    """Says what a table or view holds: grain, columns, runs and an example row."""
    from schemas import TABLES
    from stores.store import RunRow, Store, grain
    from stores.views import DERIVED

    if table is None:
        for name in (*TABLES, *DERIVED):
            print(f"{name:18}  {grain(name)}")
        return
    with Store.open() as store:
        found = store.describe(table)
    print(f"{found.name}: {found.grain}\n")
    print_rows(("column", "type", "meaning"), found.columns, Format.table)
    if found.runs:
        print()
        print_rows(RunRow._fields[1:], [row[1:] for row in found.runs], Format.table)
    if found.example is not None:
        print("\nan example row:")
        print(printable(json.dumps(found.example, ensure_ascii=False, indent=2, default=_jsonable)))


@app.command()
def show(
    identity: Annotated[str, typer.Argument(metavar="PAIR_ID|PROMPT_ID")],
    run: Annotated[str | None, typer.Option(help="Only in this pairs run.")] = None,
) -> None:
    """Prints a pair, or all pairs of a prompt: texts, verdicts, answers and lineage."""
    from stores.store import Store

    with Store.open() as store:
        print(store.show(identity, run))


@app.command()
def check(
    deep: Annotated[bool, typer.Option("--deep", help="Hash the files of models, too.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Checks all built runs; exits with 1 if anything is wrong."""
    from stores.store import Store, Violation

    with Store.open() as store:
        violations = store.check(deep)
    if violations or format != Format.table:
        print_rows(Violation._fields, violations, format)
    else:
        print("no violations")
    if violations:
        raise typer.Exit(1)


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], format: Format) -> None:
    """Rows on standard output. `table` shortens long cells; `json` (ASCII) and `csv` are whole.

    Only on a terminal does `csv` write out control characters: elsewhere it must read back.
    """
    match format:
        case Format.json:
            objects = (json.dumps(dict(zip(columns, row, strict=True)), default=_jsonable) for row in rows)
            print("[" + ",\n ".join(objects) + "]")
        case Format.csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(columns)
            shown = _shown if sys.stdout.isatty() else _plain
            writer.writerows([shown(value) for value in row] for row in rows)
        case Format.table:
            _print_table([_cell(name) for name in columns], [[_cell(value) for value in row] for row in rows])


def _print_table(names: list[str], cells: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for row in (names, ["─" * width for width in widths], *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"({len(cells)} row{'' if len(cells) == 1 else 's'})")


def _cell(value: Any) -> str:
    text = "" if value is None else str(_plain(value))
    text = printable(text.replace("\n", "\\n").replace("\t", "\\t"))
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def _plain(value: Any) -> Any:
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, ensure_ascii=False, default=_jsonable)
    return value.hex() if isinstance(value, bytes) else value


def _shown(value: Any) -> Any:
    plain = _plain(value)
    return printable(plain) if isinstance(plain, str) else plain


def _jsonable(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


def main() -> None:
    """Runs the command line. A user's mistake is one line on standard error and exit code 1."""
    try:
        app(prog_name="pairwright")
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"pairwright: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
