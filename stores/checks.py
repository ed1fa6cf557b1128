"""What must hold of every table: schema, order and uniqueness of keys, each row's constraints, references, spans.

Rows are checked by Arrow and by one SQL pass per table, never one by one in Python.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from schemas import TABLES, Row, arrow_schema, column_checks
from schemas.ids import digest
from schemas.params import Params, table_runs
from stores.duck import BATCH_ROWS, Duck, literal, sql_file
from stores.model_record import read_record
from stores.parquet import open_part
from stores.paths import run_dir
from stores.sources import run_sources
from stores.views import RunFiles, Views

SPANS = {
    "pairs": {"chosen_end": ("chosen_sample_id", "chosen_end"), "rejected_end": ("rejected_sample_id", "rejected_end")},
    "reference_logprobs": {"end": ("sample_id", '"end"')},
    "step_labels": {"the last step": ("sample_id", 'steps[-1]."end"')},
}
"""Table -> name of a span's end -> column with the sample that the span is in, and the end as SQL."""


FilesOf = Callable[[Path], dict[str, Path] | None]
"""The files of a directory (relative to the project) by their path below it; None: it is not there."""


class Violation(NamedTuple):
    """One row per (run, check) that does not hold: how many rows break it, and one of them."""

    table: str
    run: str
    check: str
    violations: int
    example: str


def check_tables(params: Params, files: Sequence[RunFiles]) -> Iterator[Violation]:
    """Violations of the built runs; a run that cannot be read is reported and left out of the other checks."""
    readable = []
    for run in files:
        if run.built:
            found = list(_file_violations(run))
            yield from found
            readable += [] if any(v.check == "readable" for v in found) else [run]
    with Duck() as duck:
        views = Views(duck, params, readable)
        for table in dict.fromkeys(run.table for run in readable):
            try:
                yield from _row_violations(views, table)
                yield from _reference_violations(views, table)
                yield from _span_violations(views, table)
                yield from _step_violations(views) if table == "pairs" else ()
            except ValueError as error:
                yield Violation(table, "", "readable", 1, str(error))


def _file_violations(run: RunFiles) -> Iterator[Violation]:
    row_class = TABLES[run.table]
    order = _KeyOrder(row_class)
    try:
        parts = run.parts
    except ValueError as error:  # of another version: not in the local cache, or damaged there
        yield Violation(run.table, run.label, "readable", 1, str(error))
        return
    for part in parts:
        try:
            file = open_part(part, row_class)
            yield from _schema_violations(run, part, file.schema_arrow)
            for batch in file.iter_batches(BATCH_ROWS, columns=list(row_class.key)):
                order.add(pa.Table.from_batches([batch]))
        except (ValueError, OSError, pa.ArrowException) as error:
            yield Violation(run.table, run.label, "readable", 1, f"{part}: {' '.join(str(error).split())}")
            return
    if order.violations:
        name = "key ascends and is unique" if row_class.unique else "rows are in the order of the key"
        yield Violation(run.table, run.label, name, order.violations, order.example)


def _schema_violations(run: RunFiles, part: Path, stored: pa.Schema) -> Iterator[Violation]:
    """Columns may be missing (an older version); those that are there are in order and no more nullable than ours."""
    schema = arrow_schema(TABLES[run.table])
    expected = [field for field in schema if field.name in stored.names]
    if list(stored) != expected:
        wrong = next(str(a) for a, b in zip(stored, expected, strict=True) if a != b)
        yield Violation(run.table, run.label, "schema", 1, f"{part}: column {wrong}")
    version = (stored.metadata or {}).get(b"pairwright.schema_version", b"none").decode()
    ours = TABLES[run.table].version
    if not version.isdecimal() or int(version) > ours:
        yield Violation(run.table, run.label, "schema version", 1, f"{part}: {version}, this program's: {ours}")


class _KeyOrder:
    """Counts, over a stream of key columns, the rows whose key does not follow the one before."""

    def __init__(self, row_class: type[Row]):
        self.row_class, self.violations, self.example = row_class, 0, ""
        self._last: pa.Table | None = None

    def add(self, keys: pa.Table) -> None:
        joined = pa.concat_tables([self._last, keys]) if self._last is not None else keys
        if not len(joined):
            return
        before, after = joined.slice(0, len(joined) - 1), joined.slice(1)
        wrong = pc.invert(_follows(before, after, self.row_class))
        count = pc.sum(wrong).as_py() or 0
        if count and not self.violations:
            self.example = str(after.slice(pc.index(wrong, True).as_py(), 1).to_pylist()[0])
        self.violations += count
        self._last = joined.slice(len(joined) - 1)


def _follows(before: pa.Table, after: pa.Table, row_class: type[Row]) -> pa.ChunkedArray:
    """Row by row: whether the key ascends (where keys may repeat: does not descend); nulls come last."""
    follows = pa.chunked_array([pa.repeat(not row_class.unique, len(before))])
    for name in reversed(row_class.key):
        a, b = before[name], after[name]
        less = pc.or_(pc.fill_null(pc.less(a, b), False), pc.and_(pc.is_valid(a), pc.is_null(b)))
        equal = pc.or_(pc.fill_null(pc.equal(a, b), False), pc.and_(pc.is_null(a), pc.is_null(b)))
        follows = pc.or_(less, pc.and_(equal, follows))
    return follows


def _row_violations(views: Views, table: str) -> Iterator[Violation]:
    """Every constraint of the row class, all of them in one pass over the table."""
    row_class, label = TABLES[table], _label(table)
    checks = column_checks(row_class)
    example = f'"{row_class.key[0]}"'
    counts = ", ".join(
        f"count(*) filter (where not ({predicate})) as count_{i},"
        f" min({example}::varchar) filter (where not ({predicate})) as example_{i}"
        for i, predicate in enumerate(checks.values())
    )
    if counts:
        query = f'select {label} as run, {counts} from "{table}" group by all order by run'
        for row in _table(views, query).to_pylist():
            for i, name in enumerate(checks):
                if row[f"count_{i}"]:
                    yield Violation(table, row["run"], name, row[f"count_{i}"], str(row[f"example_{i}"]))


def _reference_violations(views: Views, table: str) -> Iterator[Violation]:
    """Ids that none of the runs behind a run has."""
    query, sources = sql_file(__file__, "dangling"), run_sources(views.params)
    for column, target in TABLES[table].references.items():
        sql = query.format(table=table, column=column, target=target, key=TABLES[target].key[0])
        for run, count, example in _rows(views, sql):
            behind = [s.input_run for s in sources if s[:3] == (table, run, target)]
            name = f"{column} is in {target} ({', '.join(behind) or 'no run behind this one'})"
            yield Violation(table, run, name, count, example)


def _span_violations(views: Views, table: str) -> Iterator[Violation]:
    """Spans that end after their sample's text."""
    for name, (column, end) in SPANS.get(table, {}).items():
        sql = sql_file(__file__, "overlong").format(table=table, column=column, end=end)
        for run, count, example in _rows(views, sql):
            yield Violation(table, run, f"{name} is inside the text of {column}", count, example)


def _step_violations(views: Views) -> Iterator[Violation]:
    """Step pairs whose spans do not follow their prompt, as far as the samples' own prompts are known."""
    sections = table_runs(views.params, "pairs")
    runs = ", ".join(literal(run) for run, section in sections.items() if section == "pairs_step")
    for side in ("chosen", "rejected") if runs else ():
        for run, count, example in _rows(views, sql_file(__file__, "detached").format(side=side, runs=runs)):
            yield Violation("pairs", run, f"the {side} span begins where the prompt ends", count, example)


def _table(views: Views, query: str) -> pa.Table:
    views.provide(query)
    return views.duck.table(query)


def _rows(views: Views, query: str) -> list[tuple]:
    table = _table(views, query)
    return list(zip(*(column.to_pylist() for column in table.itercolumns()), strict=True))


def _label(table: str) -> str:
    return "stage || '.' || run" if table == "rejects" else "run"


def check_models(params: Params, files_of: FilesOf, deep: bool) -> Iterator[Violation]:
    """Model directories whose files are not those of their record; `deep` compares the content too."""
    for run in table_runs(params, "models"):
        try:
            files = files_of(run_dir("models", run))
            record = read_record(run_dir("models", run), files) if files is not None else None
        except ValueError as error:
            yield Violation("models", run, "has a record", 1, str(error))
            continue
        if files is None or record is None:
            continue
        expected: dict[str, str] = record["files"]
        if digest(expected) != record["fingerprint"]:
            yield Violation("models", run, "fingerprint is that of the files", 1, record["fingerprint"])
        for name, check in (
            ("files are there", _is_there),
            *([("files are unchanged", _is_unchanged)] if deep else []),
        ):
            wrong = [file for file, sha in expected.items() if not check(files.get(file), sha)]
            if wrong:
                yield Violation("models", run, name, len(wrong), str(run_dir("models", run) / wrong[0]))


def _is_there(path: Path | None, _: str) -> bool:
    return path is not None and path.is_file() and path.stat().st_size > 0


def _is_unchanged(path: Path | None, sha: str) -> bool:
    if path is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha
