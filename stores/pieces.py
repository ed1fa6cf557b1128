"""Pieces of a run: what commands with `--bucket` have built, beside DVC's outputs, until the whole run joins them.

A piece is a directory `data/.pieces/<section>-<run>/<b>-of-<n>` with one Arrow file per table, one of rejects, and a
record of all that decided them: the run's params and seed, its input files, this package's code and the libraries
behind it. A piece whose record is not what would be written now is stale, and never used.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa

from schemas import Row, arrow_schema
from schemas.ids import digest
from schemas.params import STAGES, Params, references
from schemas.slots import NONE, Entry, Slot
from stores.buckets import COUNTS, Bucket, Range, overlaps, within
from stores.model_record import RECORD as MODEL_RECORD
from stores.parquet import Batches, fit, part_files
from stores.paths import DATA, run_dir
from stores.run_log import RunCost

RECORD = "record.json"
REJECTS = "rejects"
_PACKAGES = ("builders", "schemas", "stores")
_SOURCES = {".py", ".sql", ".yaml"}
_LIBRARIES = ("duckdb", "math-verify", "numpy", "pyarrow", "pydantic-monty", "sympy", "tokenizers", "transformers")
_PLACE = ("workspace", "stage", "run", "finished_at")
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")
_COST = ("wall_s", "cpu_s", "device_s", "tokens", "price_usd")


class Piece(NamedTuple):
    """The rows of one range, and what it cost to build them."""

    range: Range
    directory: Path
    cost: dict[str, Any]


class Pieces:
    """All pieces of one run in a workspace."""

    def __init__(self, section: str, name: str, params: Params, root: Path):
        self.section, self.name, self.params, self.root = section, name, params, root
        self.directory = root / DATA / ".pieces" / f"{section}-{name}"

    @cached_property
    def decided(self) -> dict[str, str]:
        """What decides the rows of this run, as hashes by kind.

        Raises ValueError for an input that is not there.
        """
        run = getattr(self.params, self.section)[self.name]
        named = list(references(self.section, self.name, run))
        entries = [getattr(self.params, r.marker.section)[r.value] for r in named if isinstance(r.marker, Entry)]
        slots = [(r.marker.table, r.value) for r in named if isinstance(r.marker, Slot)]
        files = [file for table, name in slots for file in self._files(table, name)]
        return {
            "params": digest([row.model_dump(mode="json") for row in (run, *entries)]),
            "seed": digest(self.params.seed),
            "inputs": digest([[str(file.relative_to(self.root)), self._file_digest(file)] for file in files]),
            "code": _code_digest(),
            "libraries": digest([[name, version(name)] for name in _LIBRARIES]),
        }

    def _files(self, table: str, run: str) -> list[Path]:
        """What a stage may read of a run that it names: with problems come their answers and solutions."""
        if run == NONE:
            return []
        if table == "models":
            return [run_dir(table, run, self.root) / MODEL_RECORD]
        beside = [t for t in STAGES["problems"].writes if t != table] if table == "problems" else []
        there = [run_dir(t, run, self.root) for t in beside if run_dir(t, run, self.root).is_dir()]
        return [file for directory in (run_dir(table, run, self.root), *there) for file in part_files(directory)]

    def _file_digest(self, path: Path) -> str:
        """The SHA-256 of a file, kept beside the pieces for as long as its size and time stay the same."""
        if not path.exists():
            raise ValueError(f"{path}: not there; build it with `dvc repro`, or restore it with `dvc checkout`")
        state = path.stat()
        known = self.directory / "inputs" / digest([str(path), state.st_size, state.st_mtime_ns, state.st_ino])
        if known.exists():
            return known.read_text()
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        known.parent.mkdir(parents=True, exist_ok=True)
        _write_text(known, found)
        return found

    def path(self, bucket: Bucket) -> Path:
        return self.directory / bucket.name

    def valid(self) -> list[Piece]:
        """The pieces that may be used, in order, none of which overlaps another; says which ones are stale."""
        taken: list[Piece] = []
        for bucket in (Bucket(number, of) for of in COUNTS for number in range(of)):
            piece = self.find(bucket)
            if piece is not None and not any(_overlap(piece.range, other.range) for other in taken):
                taken.append(piece)
        return sorted(taken)

    def find(self, bucket: Bucket) -> Piece | None:
        """The piece of a bucket, if there is one and it is not stale."""
        directory = self.path(bucket)
        if not directory.is_dir():
            return None
        reason, record = self._read(directory)
        if reason:
            print(f"{self.section}.{self.name}: piece {bucket} {reason}; it is computed again", file=sys.stderr)
            return None
        return Piece(bucket.range, directory, record["cost"])

    def _read(self, directory: Path) -> tuple[str, dict]:
        """(why it is stale, or an empty string; its record)."""
        try:
            record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
            made, tables = record["decided"], [*STAGES[self.section].writes, REJECTS]
            for table in tables:
                _open(directory / f"{table}.arrow")
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            return f"cannot be read ({' '.join(str(error).split())})", {}
        differs = sorted(kind for kind, value in self.decided.items() if made.get(kind) != value)
        return f"was made with other {' and '.join(differs)}" if differs else "", record

    def write_record(self, directory: Path, cost: dict[str, Any]) -> None:
        """The record of a piece that is complete."""
        _write_text(directory / RECORD, json.dumps({"decided": self.decided, "cost": cost}, indent=1))

    def remove(self) -> None:
        """Removes the pieces; the tables have their rows now."""
        shutil.rmtree(self.directory, ignore_errors=True)


def write_pieces(
    directories: Sequence[tuple[Range, Path]], row_class: type[Row], batches: Batches, hashed: Sequence[str] = ()
) -> int:
    """Writes rows, which come in the order of the key, to the directories of their ranges; returns their number.

    The columns `hashed`, of which a table only keeps a hash, are kept here, for the join to hash over the whole.
    """
    schema = pa.schema([*arrow_schema(row_class), *(pa.field(column, pa.string()) for column in hashed)])
    key, count = row_class.key[0], 0
    with ExitStack() as stack:
        files = [directory / f"{row_class.table}.arrow" for _, directory in directories]
        writers = [stack.enter_context(pa.ipc.new_file(str(file), schema, options=_OPTIONS)) for file in files]
        for batch in batches:
            table = fit(batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch]), schema, row_class)
            for (part, _), writer in zip(directories, writers, strict=True) if len(table) else ():
                scope = (part,)
                if len(writers) == 1 or overlaps(scope, table[key][0].as_py(), table[key][-1].as_py()):
                    writer.write_table(table if len(writers) == 1 else within(table, key, scope))
            count += len(table)
    return count


def scan_piece(piece: Piece, table: str) -> Iterator[pa.Table]:
    """The rows of one table of a piece, as they were written."""
    reader = _open(piece.directory / f"{table}.arrow")
    for number in range(reader.num_record_batches):
        yield pa.Table.from_batches([reader.get_batch(number)])


def hashed_columns(piece: Piece, row_class: type[Row]) -> list[str]:
    """The columns of a piece that its table only keeps a hash of."""
    return _open(piece.directory / f"{row_class.table}.arrow").schema.names[len(row_class.model_fields) :]


def cost_of(cost: RunCost) -> dict[str, Any]:
    """What a piece cost, without when and where it was built."""
    return {name: value for name, value in asdict(cost).items() if name not in _PLACE}


def add_cost(cost: RunCost, piece: Piece) -> None:
    """Adds what a piece cost to that of the whole: numbers add up, names are the same in all."""
    for name, value in piece.cost.items():
        setattr(cost, name, (value or getattr(cost, name)) if isinstance(value, str) else getattr(cost, name) + value)


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _overlap(one: Range, other: Range) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _code_digest() -> str:
    """Hash of this package's code, queries and templates."""
    root, hasher = Path(__file__).resolve().parent.parent, hashlib.sha256()
    files = (file for package in _PACKAGES for file in (root / package).rglob("*") if file.suffix in _SOURCES)
    for file in sorted(files):
        content = file.read_bytes()
        hasher.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return hasher.hexdigest()[:16]


def _write_text(path: Path, text: str) -> None:
    """Puts a small file in place whole; commands that are started together may write the same one."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
