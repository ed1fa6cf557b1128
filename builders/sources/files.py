"""Rows of local files: JSON lines (also gzipped) and Parquet, with errors that name file and row."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builders.sources.base import Fields

Located = tuple[str, Fields]


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


def _json_lines(path: Path, label: str) -> Iterator[Located]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield (place := f"{label} line {number}"), _object(line, place)
        except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
            raise ValueError(f"{label}: damaged ({error}); download it again") from None


def _object(line: str, place: str) -> Fields:
    try:
        row = json.loads(line.strip())
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not valid JSON ({error.msg} at column {error.colno}); mend the line") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: one JSON object per line is expected, not {type(row).__name__}")
    return row


def _parquet(path: Path, label: str) -> Iterator[Located]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{label} row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{label}: not a readable Parquet file ({' '.join(str(error).split())})") from None


_READERS = {".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".parquet": _parquet}
