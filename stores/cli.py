"""The command line: each command prints what one method of `Store` (or `Ledger`) returns.

Higher layers, and anybody's package, add commands as entry points of the group `pairwright.commands`: a function whose
parameters Typer understands, or a `typer.Typer` of several. They are looked for only when no command of this module is
called, and only the one that is called is loaded.
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated

import typer

from stores import diff_cli, ledger_cli, release_cli
from stores.plain import printable
from stores.printing import (
    SHOWN_ROWS,
    Format,
    FormatOption,
    OutputOption,
    ResultFormat,
    ResultFormatOption,
    RowsOption,
    jsonable,
    print_result,
    print_rows,
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)

app.add_typer(ledger_cli.app, name="ledger")
app.command("diff")(diff_cli.diff)
app.command("release")(release_cli.release)

GROUP = "pairwright.commands"
EXAMPLE = 24
"""Characters of an example in `describe`."""

RevOption = Annotated[
    str | None, typer.Option(metavar="REV", help="Of a tag, branch, commit or DVC experiment, not of the checkout.")
]


@app.callback()
def _pairwright() -> None:
    """Versioned preference data: query, inspect and check the tables of this checkout."""


@app.command()
def sql(
    query: Annotated[
        str | None, typer.Argument(help="Without one: a prompt on a terminal, else the query on standard input.")
    ] = None,
    rev: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REV",
            help="A tag, branch, commit or DVC experiment instead of the checkout (`workspace`). Each is a schema, too:"
            " `--rev v1.0 --rev workspace` has v1_0.pairs and workspace.pairs.",
        ),
    ] = None,
    format: ResultFormatOption = ResultFormat.table,
    output: OutputOption = None,
    rows: RowsOption = SHOWN_ROWS,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Lift the guard: SQL may write and read any file.")] = False,
    ledger: Annotated[bool, typer.Option("--ledger", help="Ask the ledger (SQLite) instead of the tables.")] = False,
) -> None:
    """Answers SQL over all tables and runs, of the checkout or of other versions; `pairwright describe` lists them."""
    prompted = query is None and sys.stdin.isatty()
    if prompted and (ledger or output is not None or not sys.stdout.isatty()):
        raise ValueError('give a query: pairwright sql "select * from funnel"')
    if query is None and not prompted:
        query = sys.stdin.read()
    if ledger:
        _ask_ledger(str(query), format, bool(rev))
        return
    from stores.versions import open_versions

    with open_versions(rev or ["workspace"], guard=not unsafe) as versions:
        if query is not None:
            print_result(versions.sql(query), format, output, rows)
        else:
            from stores.prompt import Prompt

            Prompt(versions, format, rows).run()


def _ask_ledger(query: str, format: ResultFormat, versions: bool) -> None:
    from stores.ledger import Ledger

    if versions or format == ResultFormat.parquet:
        raise ValueError("the ledger has no versions, and prints as table, json or csv")
    print_rows(*Ledger().sql(query), Format(format))


@app.command()
def query(
    name: Annotated[str | None, typer.Argument(help="A named query; without one they are listed.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter's value; can be repeated.")
    ] = None,
    rev: RevOption = None,
    format: ResultFormatOption = ResultFormat.table,
    output: OutputOption = None,
    rows: RowsOption = SHOWN_ROWS,
) -> None:
    """Answers a named query: those of Pairwright, and the .sql files in this project's `queries/`."""
    from stores.named import find, listing, named_queries
    from stores.store import Store

    if name is None:
        print(printable(listing(named_queries(Path()).values())))
        return
    named = find(Path(), name)
    with Store.open(guard=not named.shipped, rev=rev) as store:
        result = store.query(named, **named.parsed(settings or []))
        print_result(result, format, output, rows)


@app.command()
def fetch(
    rev: Annotated[str, typer.Argument(help="A tag, branch, commit or DVC experiment.")],
    paths: Annotated[list[str] | None, typer.Argument(help="Only what it tracks at or below these.")] = None,
) -> None:
    """Gets one version's files from the DVC remote into the local cache; the checkout stays as it is."""
    from stores.fetching import fetch as fetch_version

    print(f"{fetch_version(rev, paths or [])} files fetched")


@app.command()
def runs(rev: RevOption = None, format: FormatOption = Format.table) -> None:
    """Lists every run of every table in params.yaml, built or not."""
    from stores.store import RunRow, Store

    with Store.open(rev=rev) as store:
        print_rows(RunRow._fields, store.runs(), format)


@app.command()
def describe(
    table: Annotated[str | None, typer.Argument(help="A table or view; without one they are listed.")] = None,
    rev: RevOption = None,
) -> None:
    """Says what a table or view holds: grain, columns with their meaning and examples, rows by run, an example row."""
    from schemas import TABLES
    from stores.store import RunRow, Store, grain
    from stores.views import DERIVED

    if table is None:
        for name in (*TABLES, *DERIVED):
            print(f"{name:18}  {grain(name)}")
        return
    with Store.open(rev=rev) as store:
        found = store.describe(table)
    print(f"{found.name}: {found.grain}\n")
    described = [(*column, _examples(found.examples(column[0]))) for column in found.columns]
    print_rows(("column", "type", "meaning", "examples"), described, Format.table)
    if found.runs:
        print(f"\n{sum(row.rows or 0 for row in found.runs)} rows, by run:\n")
        print_rows(RunRow._fields[1:], [row[1:] for row in found.runs], Format.table)
    if found.example is not None:
        print("\nan example row:")
        print(printable(json.dumps(found.example, ensure_ascii=False, indent=2, default=jsonable)))


def _examples(values: Sequence[object]) -> str:
    """Short values side by side, and of long ones the beginning."""
    texts = [printable(" ".join(str(value).split())) for value in values]
    return ", ".join(dict.fromkeys(text if len(text) <= EXAMPLE else f"{text[: EXAMPLE - 1]}…" for text in texts))


@app.command()
def show(
    identity: Annotated[str, typer.Argument(metavar="PAIR_ID|PROMPT_ID")],
    run: Annotated[str | None, typer.Option(help="Only in this pairs run.")] = None,
    rev: RevOption = None,
) -> None:
    """Prints a pair, or all pairs of a prompt: texts, verdicts, answers and lineage."""
    from stores.store import Store

    with Store.open(rev=rev) as store:
        print(store.show(identity, run))


@app.command()
def check(
    deep: Annotated[bool, typer.Option("--deep", help="Hash the files of models, too.")] = False,
    rev: RevOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Checks all built runs; exits with 1 if anything is wrong."""
    from stores.store import Store, Violation

    with Store.open(rev=rev) as store:
        violations = store.check(deep)
    if violations or format != Format.table:
        print_rows(Violation._fields, violations, format)
    else:
        print("no violations")
    if violations:
        raise typer.Exit(1)


def add_commands(arguments: list[str]) -> None:
    """Adds the command of an entry point that the arguments call, or all of them where they call none of ours."""
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    ours = {command.name or getattr(command.callback, "__name__", None) for command in app.registered_commands}
    if wanted in ours | {group.name for group in app.registered_groups}:
        return
    found = {point.name: point for point in entry_points(group=GROUP)}
    for point in [found[wanted]] if wanted in found else found.values():
        _add_command(point, called=point.name == wanted)


def _add_command(point: EntryPoint, called: bool) -> None:
    try:
        command = point.load()
    except Exception as error:  # anybody's code: it must not take the list of commands with it
        reason = f"cannot be loaded ({type(error).__name__}: {error}; '{point.value}')"
        if called:
            raise ValueError(f"{point.name}: {reason}") from error
        app.command(point.name, help=reason)(lambda: None)
        return
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=point.name)
    else:
        app.command(point.name)(command)


def main() -> None:
    """Runs the command line. A user's mistake is one line on standard error (and of a query the place), exit code 1."""
    try:
        add_commands(sys.argv[1:])
        app(prog_name="pairwright")
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(printable("\n".join([f"pairwright: {error}", *getattr(error, "__notes__", [])])), file=sys.stderr)
        sys.exit(1)
