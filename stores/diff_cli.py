"""`pairwright diff`: prints what `Store.diff` finds."""

from enum import StrEnum
from typing import Annotated

import typer

from stores.paths import WORKSPACE


class DiffFormat(StrEnum):
    """How a difference is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"
    md = "md"


Tables = Annotated[list[str] | None, typer.Option("--table", help="A table to compare row by row; can be repeated.")]
Runs = Annotated[list[str] | None, typer.Option("--run", help="Only this run; can be repeated.")]


def diff(
    old: Annotated[str, typer.Argument(metavar="A", help="A tag, branch, commit or DVC experiment.")],
    new: Annotated[str, typer.Argument(metavar="[B]", help="Another; default: the checkout.")] = WORKSPACE,
    table: Tables = None,
    run: Runs = None,
    rows: Annotated[bool, typer.Option("--rows", help="Print every row that differs, too.")] = False,
    format: Annotated[DiffFormat, typer.Option(help="How to print it.")] = DiffFormat.table,
) -> None:
    """Says what came, went and changed between two versions, and why: counts by reason, params, the funnel."""
    from stores.diff_printing import print_diff
    from stores.store import Store

    with Store.open() as store, store.diff(old, new, table or ["pairs"], run or []) as found:
        print_diff(found, rows, format)
