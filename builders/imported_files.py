"""Rows of a user's file of completions: JSONL, CSV or Parquet, read in bounded memory and checked one by one."""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from stores.stage import Stage

BATCH_ROWS = 10_000
UNNAMED = "imported"
"""The model of rows that name none."""
SCHEMA = pa.schema(
    [
        pa.field("file_row", pa.int64(), nullable=False),
        pa.field("problem_key", pa.string()),
        pa.field("text", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("index", pa.int32()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prediction", pa.string()),
    ]
)
"""What is read: `problem_key` is the mapped problem id, or else the question without the whitespace around it;
`prediction` a final answer that was found elsewhere."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""JSON may hold half of a character, as `\\ud83d`; UTF-8 cannot."""
_FINISHED = {
    None: "stop", "": "stop", "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop",
    "stop_sequence": "stop", "length": "length", "max_tokens": "length",
}  # fmt: skip


def imported_batches(path: Path, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """The file's rows with the columns of `SCHEMA`, in its order; `columns` maps our names to the file's.

    Raises ValueError for a missing or unreadable file, a column that is not there, or a value of the wrong type,
    naming the row.
    """
    rows = (_checked(path, number, row, columns) for number, row in _rows(path, columns))
    while batch := list(islice(rows, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(batch, SCHEMA)


def problem_keys(stage: Stage) -> pa.Table:
    """`problem_key` (the question without whitespace around it, or the id) and `problem_id` of a run of problems."""
    problems = stage.read("problems", stage.config.problems, ["problem_id", "question"])
    if "problem_id" in stage.config.columns:
        keys = problems["problem_id"]
    else:
        keys = pa.array([question.strip() for question in problems["question"].to_pylist()], pa.string())
    return pa.table({"problem_key": keys, "problem_id": problems["problem_id"]})


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of a file, by its name."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the path from the project's directory")
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return enumerate(_parquet_rows(path, columns), 1)
    if name.endswith(".csv"):
        return enumerate(_csv_rows(path), 1)
    if name.endswith((".jsonl", ".ndjson")):
        return _json_rows(path)
    raise ValueError(f"{path}: not a kind of file that is read; name it .jsonl, .csv (either also .gz) or .parquet")


def _parquet_rows(path: Path, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
        wanted = [c for c in dict.fromkeys(columns.values()) if c in file.schema_arrow.names]
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})") from None


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 30)
    with _text(path) as file:
        try:
            yield from csv.DictReader(_decoded(path, file), restkey="", strict=True)
        except csv.Error as error:
            raise ValueError(f"{path}: not readable as CSV: {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _text(path) as file:
        for number, line in enumerate(_decoded(path, file), 1):
            if line.strip():
                yield number, _json_row(path, number, line)


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}: row {number} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}: row {number} is no JSON object; write one object per line")
    return row


def _text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _decoded(path: Path, lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not readable as UTF-8 text: {error}") from None


def _checked(path: Path, number: int, row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    for ours, theirs in columns.items():
        if theirs not in row:
            have = ", ".join(f"'{name}'" for name in row)
            raise ValueError(f"{path}: row {number} has no column '{theirs}' (mapped as `{ours}`; have {have})")
    given = {ours: row[theirs] for ours, theirs in columns.items()}
    for ours in ("question", "problem_id", "text"):
        if not isinstance(given.get(ours), str | None):
            raise ValueError(f"{path}: row {number}: '{columns[ours]}' is no text but {given[ours]!r}")
    for ours in ("question", "problem_id", "text", "model", "prediction"):
        if _SURROGATE.search(str(given.get(ours))):
            remedy = "write the character whole, or leave it out"
            raise ValueError(f"{path}: row {number}: '{columns[ours]}' has half of a surrogate pair; {remedy}")
    return {
        "file_row": number,
        "problem_key": given["problem_id"] if "problem_id" in given else (given["question"] or "").strip(),
        "text": given["text"],
        "model": str(given.get("model") or UNNAMED),
        "index": _index(path, number, given) if "index" in given else None,
        "finish_reason": _finish_reason(path, number, given.get("finish_reason")),
        "prediction": _prediction(path, number, given),
    }


def _index(path: Path, number: int, given: Mapping[str, Any]) -> int:
    written = str(given["index"]).strip()
    if not written.isdecimal() or len(written) > 4:
        raise ValueError(f"{path}: row {number}: index {written!r} is no number from 0 to 9999")
    return int(written)


def _prediction(path: Path, number: int, given: Mapping[str, Any]) -> str | None:
    """A final answer, which some files have as a number; empty is none."""
    value = given.get("prediction")
    if not isinstance(value, str | int | float | None) or isinstance(value, bool):
        raise ValueError(f"{path}: row {number}: prediction {value!r} is no text and no number")
    return None if value is None else str(value).strip() or None


def _finish_reason(path: Path, number: int, value: object) -> str:
    if not isinstance(value, str | None) or value not in _FINISHED:
        known = ", ".join(sorted(name for name in _FINISHED if name))
        raise ValueError(f"{path}: row {number}: finish_reason {value!r} is none of {known}")
    return _FINISHED[value]
