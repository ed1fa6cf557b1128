"""Rows of files (JSON lines, JSON, CSV, each also gzipped; Parquet), streamed, with errors that name the row."""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from builders.sources.base import Fields

Located = tuple[str, Fields]
_CHUNK = 1 << 20
_MAX_ROW = 64 << 20
"""Characters of one row of a JSON list: more is no row but a file that is broken."""
_GAP = re.compile(r"[ \t\r\n,]*")
_DECODE = json.JSONDecoder().raw_decode


def read_rows(path: Path, label: str) -> Iterator[Located]:
    """Every (place, row) of a file in order; `label` names it in places, such as `gsm8k.jsonl line 12`.

    Raises ValueError for a file that is missing, empty, of an unknown kind, damaged, or has a malformed line.
    """
    if not path.is_file():
        raise ValueError(f"{label}: no such file; check `path`, which is relative to the project's directory")
    reader = _READERS.get("".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix)
    if reader is None:
        raise ValueError(f"{label}: unknown kind of file; have {', '.join(_READERS)}")
    rows = reader(path, label)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{label}: the file has no rows; check that it was downloaded whole")
    yield first
    yield from rows


def _open(path: Path) -> IO[str]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="" if ".csv" in path.suffixes else None)


def _sound(pieces: Iterable[str], label: str) -> Iterator[str]:
    """The same pieces of text. Raises ValueError where the file is cut off or holds other bytes than UTF-8."""
    try:
        yield from pieces
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{label}: damaged ({error}); download it again") from None


def _json_lines(path: Path, label: str) -> Iterator[Located]:
    with _open(path) as file:
        for number, line in enumerate(_sound(file, label), 1):
            if line.strip():
                yield (place := f"{label} line {number}"), _object(line, place)


def _object(line: str, place: str) -> Fields:
    try:
        row = json.loads(line.strip())
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not valid JSON ({error.msg} at column {error.colno}); mend the line") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: one JSON object per line is expected, not {type(row).__name__}")
    return row


def _json(path: Path, label: str) -> Iterator[Located]:
    """The objects of a list, or of a file that holds one object after the other, decoded one by one."""
    with _open(path) as file:
        chunks = _sound(iter(lambda: file.read(_CHUNK), ""), label)
        for number, row in enumerate(_values(chunks, label), 1):
            if not isinstance(row, dict):
                raise ValueError(f"{label} row {number}: a list of JSON objects is expected, not {type(row).__name__}")
            yield f"{label} row {number}", row


def _values(chunks: Iterator[str], label: str) -> Iterator[Any]:
    """The values of a list, or those of a text, in order. Raises ValueError where it is no JSON, or cut off."""
    text = next(chunks, "").lstrip()
    is_list = text.startswith("[")
    at, number = int(is_list), 0
    while True:
        at = _gap_end(text, at)
        if is_list and text.startswith("]", at):
            return
        value, end = _decoded(text, at)
        if end is not None:
            yield value
            at, number = end, number + 1
            continue
        more = next(chunks, "")
        if not more and at == len(text) and not is_list:
            return
        if not more or len(text) - at > _MAX_ROW:
            raise ValueError(f"{label} row {number + 1}: not valid JSON, or cut off; mend the file")
        text, at = text[at:] + more, 0


def _gap_end(text: str, at: int) -> int:
    gap = _GAP.match(text, at)
    assert gap is not None, "it matches the empty text too"
    return gap.end()


def _decoded(text: str, at: int) -> tuple[Any, int | None]:
    """The value that begins at a place of a text, and where it ends; no end where it goes on beyond the text."""
    try:
        return _DECODE(text, at)
    except json.JSONDecodeError:
        return None, None


def _csv(path: Path, label: str) -> Iterator[Located]:
    csv.field_size_limit(_MAX_ROW)
    with _open(path) as file:
        rows = csv.DictReader(_sound(file, label), strict=True)
        try:
            for number, row in enumerate(rows, 1):
                if None in row or None in row.values():
                    wanted = f"{len(rows.fieldnames or ())} cells, as its first line"
                    raise ValueError(f"{label} row {number}: it has not {wanted}; quote cells that hold commas")
                yield f"{label} row {number}", row
        except csv.Error as error:
            raise ValueError(f"{label}: not readable as CSV near line {rows.line_num} ({error}); mend it") from None


def _parquet(path: Path, label: str) -> Iterator[Located]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=8_192):
            for row in batch.to_pylist():
                number += 1
                yield f"{label} row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{label}: not a readable Parquet file ({' '.join(str(error).split())})") from None


_READERS = {
    ".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".json": _json, ".json.gz": _json, ".csv": _csv, ".csv.gz": _csv,
    ".parquet": _parquet,
}  # fmt: skip
