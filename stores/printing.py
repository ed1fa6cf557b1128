"""How commands print rows: as a table for humans, as JSON, or as CSV."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from stores.plain import printable

CELL = 80


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option(help="How to print the rows.")]


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], format: Format) -> None:
    """Rows on standard output. `table` shortens long cells; `json` (ASCII) and `csv` are whole.

    Only on a terminal does `csv` write out control characters: elsewhere it must read back.
    """
    match format:
        case Format.json:
            objects = (json.dumps(dict(zip(columns, row, strict=True)), default=jsonable) for row in rows)
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
        return json.dumps(value, ensure_ascii=False, default=jsonable)
    return value.hex() if isinstance(value, bytes) else value


def _shown(value: Any) -> Any:
    plain = _plain(value)
    return printable(plain) if isinstance(plain, str) else plain


def jsonable(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)
