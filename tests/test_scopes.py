"""Parts of the hash space: what lies in one, read from files, in SQL, and side by side."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.streams import ProblemStream
from schemas import Demo, Reject
from stores import parquet, spool
from stores.buckets import COUNTS, WHOLE, Bucket, Scope, divided, overlaps, parse_bucket, uncovered, within
from stores.duck import Duck
from stores.parquet import PART, read_table, rows_to_table, scan_table, write_table
from stores.spool import RejectSpool

PROBLEMS = [f"{i * 0x3F7 % 0x10000:04x}{i:012x}" for i in range(300)]
DEMOS = rows_to_table(
    Demo, [Demo(prompt_id=f"{p}-00000000", sample_id=f"{p}-00000000-cafecafe-0000") for p in PROBLEMS]
)
NO_DEMOS = DEMOS.slice(0, 0)
SCOPES: dict[str, Scope] = {
    "one": (Bucket(3, 16).range,),
    "several": ((0, 3), (17, 18), (200, 256)),
    "nothing": (),
    "whole": WHOLE,
}


def expected(scope: Scope) -> list[str]:
    prompts = DEMOS["prompt_id"].to_pylist()
    return [p for p in prompts if any(start <= int(p[:2], 16) < end for start, end in scope)]


@pytest.fixture
def demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of many row groups."""
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 7)
    write_table(tmp_path, Demo, [DEMOS])
    return tmp_path


def in_sql(directory: Path, scope: Scope) -> pa.Table:
    with Duck() as duck:
        duck.view("demos", "demos", [directory], scope)
        return duck.table("select * from demos order by all")


READERS: dict[str, Callable[[Path, Scope], pa.Table]] = {
    "read": lambda directory, scope: read_table(directory, Demo, scope=scope),
    "scan": lambda directory, scope: pa.concat_tables(
        [NO_DEMOS, *scan_table(directory, Demo, batch_rows=5, scope=scope)]
    ),
    "another column": lambda directory, scope: read_table(directory, Demo, ["sample_id"], scope).append_column(
        "prompt_id", read_table(directory, Demo, ["prompt_id"], scope)["prompt_id"]
    ),
    "SQL": in_sql,
    "in memory": lambda _, scope: within(DEMOS, "prompt_id", scope),
}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_scope_is_its_rows(demos: Path, reader: Callable[[Path, Scope], pa.Table], scope: Scope) -> None:
    assert reader(demos, scope)["prompt_id"].to_pylist() == expected(scope)


def test_only_row_groups_of_the_scope_are_read(demos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *a, **k: read.extend(k["row_groups"]) or iter_batches(*a, **k)
    )
    rows = sum(len(batch) for batch in scan_table(demos, Demo, scope=(Bucket(3, 16).range,)))
    groups = pq.ParquetFile(demos / PART).num_row_groups
    assert rows == len(expected((Bucket(3, 16).range,))) > 0
    assert (groups, len(read)) == (43, len(set(read)))
    assert len(read) <= rows / 7 + 2


def test_batches_end_with_their_row_group(demos: Path) -> None:
    assert {len(batch) for batch in scan_table(demos, Demo)} == {7, 300 % 7}


def test_buckets_cover_everything_once() -> None:
    for of in COUNTS:
        ranges = [Bucket(number, of).range for number in range(of)]
        assert uncovered(ranges) == ()
        assert [row for part in ranges for row in expected((part,))] == expected(WHOLE)
    assert parse_bucket("3/16") == Bucket(3, 16)
    assert uncovered([]) == WHOLE


RANGES = st.lists(st.integers(0, 256), unique=True).map(
    lambda cuts: [(a, b) for a, b in zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False)]
)


@given(RANGES, st.integers(1, 300))
def test_what_is_uncovered_completes_and_divides(ranges: list[tuple[int, int]], count: int) -> None:
    rest = uncovered(ranges)
    units = [unit for part in (*ranges, *rest) for unit in range(*part)]
    assert sorted(units) == list(range(256))
    parts = divided(rest, count)
    assert len(parts) <= count
    assert [u for p in parts for r in p for u in range(*r)] == [u for r in rest for u in range(*r)]


@pytest.mark.parametrize(
    ("low", "high", "does"), [("2f", "2fff", False), ("2f", "30", True), ("3fff", "99", True), ("40", "41", False)]
)
def test_statistics_that_overlap(low: str, high: str, does: bool) -> None:
    assert overlaps((Bucket(3, 16).range,), low, high) is does


def test_rejects_that_exceed_memory_come_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [None, "", *PROBLEMS[:40]]
    given = [
        Reject(problem_id=p, sample_id=s, reason="empty", detail=d)
        for p in problems for s in ("é", None, "z", "\U0001f408") for d in ("", "b", "B")
    ]  # fmt: skip
    written = []
    for limit in (1_000, 50):
        monkeypatch.setattr(spool, "IN_MEMORY", limit)
        spooled = RejectSpool(tmp_path / str(limit))
        for start in range(0, len(given), 30):
            spooled.add(rows_to_table(Reject, given[start : start + 30]))
        assert sum(len(table) for table in spooled.unsorted()) == len(given)
        write_table(tmp_path / f"{limit}.table", Reject, spooled.sorted())
        written.append((tmp_path / f"{limit}.table" / PART).read_bytes())
        assert (tmp_path / str(limit)).is_dir() is (limit == 50)
    assert written[0] == written[1]


def test_a_stream_gives_the_rows_of_problems_that_are_asked_for() -> None:
    pieces = [DEMOS.slice(start, 13) for start in range(0, len(DEMOS), 13)]
    stream = ProblemStream([DEMOS.slice(0, 0), *pieces], "prompt_id")
    ids = sorted(PROBLEMS)
    for first, last in ((0, 0), (0, 20), (20, 45), (60, 60), (60, 61), (200, 299)):
        rows = stream.between(ids[first], ids[last])
        assert rows is not None
        assert [p[:16] for p in rows["prompt_id"].to_pylist()] == ids[first : last + 1]
    beyond = stream.between("fffffffffffffffe", "ffffffffffffffff")
    assert beyond is not None
    assert len(beyond) == 0
    assert ProblemStream([], "prompt_id").between(ids[0], ids[1]) is None
