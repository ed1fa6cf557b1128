"""How a difference is printed: sections of tables for humans, one JSON object, or one relation as CSV or Parquet."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stores.diff import Count, Diff, RunChange
from stores.diff_cli import DiffFormat
from stores.diff_params import FunnelChange, ParamChange
from stores.plain import printable
from stores.printing import Format, ResultFormat, jsonable, print_result, print_rows

Relation = tuple[Sequence[str], Iterable[Sequence[Any]]]
"""Columns and rows."""


def print_diff(found: Diff, rows: bool, format: DiffFormat) -> None:
    """A difference on standard output. `csv` and `parquet` hold the counts by reason or, with `rows`, the rows alone.

    Raises ValueError for Parquet on a terminal.
    """
    match format:
        case DiffFormat.json:
            _print_json(found, rows)
        case DiffFormat.csv | DiffFormat.parquet:
            if format is DiffFormat.parquet and sys.stdout.isatty():
                remedy = "send it to a file: `pairwright diff … --format parquet > FILE`"
                raise ValueError(f"Parquet is not for a terminal; {remedy}")
            print_result(found.rows() if rows else found.counted(), ResultFormat(format))
        case _:
            print(printable(" -> ".join(found.names)))
            show = _markdown if format is DiffFormat.md else _table
            for title, relation in _sections(found).items():
                show(title, *relation)
            if rows:
                show("rows", *_rows(found))


def _sections(found: Diff) -> dict[str, Relation]:
    """What there is to say, what matters most first."""
    return {
        "rows by reason": (Count._fields, found.counts),
        "runs": (RunChange._fields, [run for run in found.runs if run.state != "equal"]),
        "params": (ParamChange._fields, found.params),
        "funnel": (FunnelChange._fields, found.funnel),
    }


def _rows(found: Diff) -> Relation:
    """The rows that differ, as a stream."""
    rows = found.rows()
    return rows.columns, rows.rows()


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print(f"\n{title}")
    print_rows(columns, rows, Format.table)


def _markdown(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print(f"\n### {title[0].upper()}{title[1:]}\n")
    for line in markdown(columns, rows):
        print(line)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The lines of a Markdown table; what would end a cell or make a link, tag or emphasis is escaped."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        yield "None."
        return
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" * len(columns)
    yield _cells(first)
    yield from map(_cells, rows)


def _cells(row: Sequence[Any]) -> str:
    return "| " + " | ".join("" if value is None else _escaped(str(value)) for value in row) + " |"


def _escaped(text: str) -> str:
    text = printable(text.replace("\n", " ").replace("\t", " "))
    return "".join("\\" + character if character in "\\`*_[]<>|#" else character for character in text)


def _print_json(found: Diff, rows: bool) -> None:
    """One object; its rows are streamed."""
    versions = {
        side: {"name": name, "revision": store.revision}
        for side, name, store in zip(("old", "new"), found.names, (found.old, found.new), strict=True)
    }
    sections = {"counts" if title == "rows by reason" else title: rel for title, rel in _sections(found).items()}
    sections["runs"] = (RunChange._fields, found.runs)
    print(json.dumps(versions)[:-1], end="")
    for name, (columns, content) in sections.items():
        _print_array(name, columns, content)
    if rows:
        _print_array("rows", *_rows(found))
    print("}")


def _print_array(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print(f',\n"{name}": [', end="")
    for number, row in enumerate(rows):
        print(
            ",\n " if number else "", json.dumps(dict(zip(columns, row, strict=True)), default=jsonable), sep="", end=""
        )
    print("]", end="")
