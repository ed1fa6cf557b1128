"""How commands print rows: as a table for humans, as JSON, CSV or Parquet."""

import contextlib
import csv
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TextIO

import typer

from stores.plain import printable

if TYPE_CHECKING:
    from stores.query import Result

CELL = 80


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option(help="How to print the rows.")]


class ResultFormat(StrEnum):
    """How the answer to a query is given."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"


ResultFormatOption = Annotated[
    ResultFormat, typer.Option("--format", help="How to give the rows; csv, json and parquet are whole.")
]
OutputOption = Annotated[Path | None, typer.Option(help="Write the rows to this file instead of printing them.")]
RowsOption = Annotated[int, typer.Option("--rows", min=0, help="A table shows at most so many rows; 0: all.")]
SHOWN_ROWS = 1000


def print_result(result: "Result", format: ResultFormat, output: Path | None = None, most: int = SHOWN_ROWS) -> None:
    """The answer to a query on standard output or in a file, which appears only once it is whole.

    All but `table` is a stream, in constant memory. Raises ValueError for what goes wrong in the query, and for binary
    output to a terminal.
    """
    if format == ResultFormat.parquet and output is None and sys.stdout.isatty():
        raise ValueError(
            "parquet is binary, and this is a terminal: give `--output FILE`, or send it to another program"
        )
    with _opened(output, format) as stream:
        match format:
            case ResultFormat.parquet:
                _write_parquet(result, stream)
            case ResultFormat.table:
                rows = result.head(most + 1) if most else result.fetchall()
                _print_table(result.columns, rows[:most] if most else rows, stream, more=0 < most < len(rows))
            case _:
                print_rows(result.columns, result.rows(), Format(format), stream)


@contextlib.contextmanager
def _opened(output: Path | None, format: ResultFormat) -> Iterator[Any]:
    binary = format == ResultFormat.parquet
    if output is None:
        yield sys.stdout.buffer if binary else sys.stdout
        return
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") if binary else unfinished.open("w", encoding="utf-8", newline="") as file:
            yield file
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_parquet(result: "Result", stream: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not result.columns:
        raise ValueError("the statement has no rows to write")
    reader = result.batches()
    with pq.ParquetWriter(pa.PythonFile(stream, mode="w"), reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def print_rows(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], format: Format, stream: TextIO | None = None
) -> None:
    """Rows on standard output. `table` shortens long cells; `json` (ASCII) and `csv` are whole.

    Only on a terminal does `csv` write out control characters: elsewhere it must read back.
    """
    stream, found = stream or sys.stdout, iter(rows)
    match format:
        case Format.json:
            objects = (_ASCII(dict(zip(columns, row, strict=True))) for row in found)
            stream.write("[" + next(objects, ""))
            stream.writelines(f",\n {line}" for line in objects)
            stream.write("]\n")
        case Format.csv:
            first = next(found, None)  # what goes wrong at once is said before anything is written
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(columns)
            shown = _shown if stream.isatty() else _plain
            whole = found if first is None else itertools.chain([first], found)
            writer.writerows([shown(value) for value in row] for row in whole)
        case Format.table:
            _print_table(columns, list(found), stream)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], stream: TextIO, more: bool = False) -> None:
    names, cells = [_cell(name) for name in columns], [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for row in (names, ["─" * width for width in widths], *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=stream)
    count = f"{len(cells)} row{'' if len(cells) == 1 else 's'}"
    print(f"(the first {count}; `--rows 0` shows all)" if more else f"({count})", file=stream)


def _cell(value: Any) -> str:
    text = "" if value is None else str(_plain(value))
    text = printable(text.replace("\n", "\\n").replace("\t", "\\t"))
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def _plain(value: Any) -> Any:
    if isinstance(value, list | dict | tuple):
        return _UNICODE(value)
    return value.hex() if isinstance(value, bytes) else value


def _shown(value: Any) -> Any:
    plain = _plain(value)
    return printable(plain) if isinstance(plain, str) else plain


def jsonable(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


_ASCII, _UNICODE = (json.JSONEncoder(ensure_ascii=ascii, default=jsonable).encode for ascii in (True, False))
"""Made once: `json.dumps` would make an encoder for every value."""
