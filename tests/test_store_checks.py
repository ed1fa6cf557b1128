"""`Store.check`: a whole store has no violations, and each kind of damage is found, counted and shown."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import TABLES, Row, arrow_schema, column_checks
from schemas.ids import digest
from stores.duck import Duck
from stores.parquet import PART, rows_to_table
from stores.paths import rejects_dir, run_dir
from stores.store import Store
from tests.small_store import REJECTS, build, problems, prompts, rows, write


@pytest.fixture
def root(workspace: Path) -> Path:
    build(workspace)
    return workspace


def findings() -> list[tuple[str, str, str, int]]:
    return [v[:4] for v in Store.open().check()]


def raw(table: str, run: str, content: pa.Table) -> None:
    """Writes a file past every check of the writer."""
    pq.write_table(content, run_dir(table, run) / PART)


def change(table: str, run: str, index: int, **update: Any) -> None:
    """Changes one row of a run."""
    content = list(rows()[table, run])
    content[index] = content[index].model_copy(update=update)
    write(Path(), table, run, content)


def test_a_whole_store_has_no_violations(root: Path) -> None:
    assert Store.open().check(deep=True) == []


def test_runs_that_are_not_built_are_no_violation(root: Path) -> None:
    for table in ("pairs", "reference_logprobs"):
        (run_dir(table, "irpo_0") / PART).unlink()
    assert findings() == []


SPAN = "{0}_end is inside the text of {0}_sample_id"
OWNER = "sample_id starts with prompt_id or problem_id"
GHOST = "f" * 16 + "-12345678"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda: change("samples", "irpo_0", 0, n_chars=3),
            [("samples", "irpo_0", "n_chars is the length of text", 1), ("pairs", "irpo_0", SPAN.format("chosen"), 1)],
        ),
        (
            lambda: change("pairs", "irpo_0", 0, chosen_end=999),
            [("pairs", "irpo_0", SPAN.format("chosen"), 1)],
        ),
        (
            lambda: change("pairs", "irpo_0", 0, rejected_end=999, chosen_start=50),
            [("pairs", "irpo_0", "chosen span is not empty", 1), ("pairs", "irpo_0", SPAN.format("rejected"), 1)],
        ),
        (
            lambda: change("rewards", "irpo_0", 4, reward=None),
            [("rewards", "irpo_0", "reward is null iff undecided", 1)],
        ),
        (
            lambda: change("rewards", "irpo_0", 4, verdict="perhaps"),
            [("rewards", "irpo_0", "verdict: one of its values", 1)],
        ),
        (
            lambda: change("prompts", "train", 0, problem_id="short"),
            [
                ("prompts", "train", "problem_id: length", 1),
                ("prompts", "train", "problem_id is in problems (train)", 1),
            ],
        ),
        (
            lambda: change("samples", "gold", 0, problem_id="f" * 16),
            [
                ("samples", "gold", "problem_id is in problems (train)", 1),
                ("samples", "gold", OWNER, 1),
            ],
        ),
        (
            lambda: change("samples", "irpo_0", 0, problem_id=problems()[1].problem_id),
            [("samples", "irpo_0", "prompt_id starts with problem_id", 1)],
        ),
        (
            lambda: change("samples", "irpo_0", 0, **prompts()[1].model_dump(include={"prompt_id", "problem_id"})),
            [("samples", "irpo_0", OWNER, 1)],
        ),
        (
            lambda: change("demos", "star", 1, prompt_id=GHOST),
            [("demos", "star", "prompt_id is in prompts (train)", 1)],
        ),
        (
            lambda: write(Path(), "samples", "gold", []),
            [
                ("demos", "gold", "sample_id is in samples (gold)", 2),
                ("pairs", "irpo_0", "chosen_sample_id is in samples (irpo_0, gold)", 2),
            ],
        ),
        (
            lambda: write(Path(), "predictions", "irpo_0", rows()["predictions", "irpo_0"][:4]),
            [("rewards", "irpo_0", "sample_id is in predictions (irpo_0)", 2)],
        ),
    ],
    ids=[
        "wrong length", "span past the text", "empty span", "reward", "verdict", "problem id",
        "a gold sample's problem", "a sample's problem", "a sample's prompt", "dangling prompt",
        "lost samples", "lost predictions",
    ],
)  # fmt: skip
def test_damage_to_rows(root: Path, damage: Callable[[], None], expected: list[tuple[str, str, str, int]]) -> None:
    damage()
    assert sorted(f for f in findings() if f[0] != "reference_logprobs") == sorted(expected)


def test_the_example_is_a_row_that_is_wrong(root: Path) -> None:
    change("demos", "star", 1, prompt_id=GHOST)
    (violation,) = Store.open().check()
    assert violation.example == GHOST


def test_spans_of_reference_logprobs(root: Path) -> None:
    change("reference_logprobs", "irpo_0", 0, end=10_000)
    assert findings() == [("reference_logprobs", "irpo_0", "end is inside the text of sample_id", 1)]


def reordered(table: str, run: str, order: Sequence[int]) -> None:
    content = rows_to_table(TABLES[table], rows()[table, run])
    raw(table, run, content.take(order))


@pytest.mark.parametrize(
    ("order", "count"), [([1, 0, 2, 3], 1), ([0, 0, 1, 2, 3], 1), ([3, 2, 1, 0], 3), ([0, 1, 2, 3, 0], 1)]
)
def test_keys_out_of_order_or_repeated(root: Path, order: list[int], count: int) -> None:
    reordered("pairs", "irpo_0", order)
    assert findings() == [("pairs", "irpo_0", "key ascends and is unique", count)]


def test_order_is_checked_across_parts(root: Path) -> None:
    part = run_dir("pairs", "irpo_0") / PART
    part.rename(part.with_name("part-00001.parquet"))
    pq.write_table(rows_to_table(TABLES["pairs"], rows()["pairs", "irpo_0"]).slice(3), part)
    assert findings() == [("pairs", "irpo_0", "key ascends and is unique", 1)]


def test_rejects_may_repeat_but_keep_their_order(root: Path) -> None:
    dropped = REJECTS["problems", "train"]
    part = rejects_dir("problems", "train") / PART
    ordered = rows_to_table(TABLES["rejects"], [*dropped, *dropped])
    pq.write_table(ordered, part)
    assert findings() == []
    pq.write_table(ordered.take([3, 2, 1, 0]), part)
    assert findings() == [("rejects", "problems.train", "rows are in the order of the key", 1)]


def test_a_column_that_allows_nulls_though_it_should_not(root: Path) -> None:
    table = rows_to_table(TABLES["demos"], rows()["demos", "gold"])
    loose = pa.schema([field.with_nullable(True) for field in table.schema], metadata=table.schema.metadata)
    raw("demos", "gold", table.cast(loose))
    (violation,) = Store.open().check()
    assert violation[:4] == ("demos", "gold", "schema", 1)
    assert "prompt_id" in violation.example


@pytest.mark.parametrize("version", [None, "2"])
def test_a_file_of_another_schema_version(root: Path, version: str | None) -> None:
    table = rows_to_table(TABLES["demos"], rows()["demos", "gold"])
    metadata = {"pairwright.schema_version": version} if version else None
    raw("demos", "gold", table.replace_schema_metadata(metadata))
    assert findings() == [("demos", "gold", "schema version", 1)]


def test_unreadable_files_are_reported_and_the_rest_is_still_checked(root: Path) -> None:
    (run_dir("predictions", "irpo_0") / PART).write_bytes(b"not Parquet")
    raw("demos", "gold", pa.table({"other": [1]}))
    change("rewards", "irpo_0", 4, reward=None)
    got = {v.check: v for v in Store.open().check() if v.table != "rewards"}
    assert set(got) == {"readable"}
    assert ("rewards", "irpo_0", "reward is null iff undecided", 1) in findings()


def test_a_file_that_breaks_in_the_middle(root: Path) -> None:
    part = run_dir("samples", "irpo_0") / PART
    content = bytearray(part.read_bytes())
    metadata = pq.ParquetFile(part).metadata.row_group(0)
    texts = next(c for c in map(metadata.column, range(metadata.num_columns)) if c.path_in_schema == "text")
    start = texts.data_page_offset + 40
    content[start : start + 60] = b"\xff" * 60
    part.write_bytes(content)
    assert ("samples", "", "readable", 1) in findings()


def model(root: Path, name: str = "base") -> Path:
    directory = run_dir("models", name, root)
    directory.mkdir(parents=True)
    (directory / "script.json").write_text('["8"]')
    files = {"script.json": hashlib.sha256(b'["8"]').hexdigest()}
    record = {"fingerprint": digest(files), "provenance": {}, "files": files}
    (directory / "pairwright.json").write_text(json.dumps(record))
    return directory


@pytest.mark.parametrize(
    ("damage", "deep", "expected"),
    [
        (lambda d: None, True, []),
        (lambda d: (d / "script.json").unlink(), False, ["files are there"]),
        (lambda d: (d / "script.json").write_text('["9"]'), False, []),
        (lambda d: (d / "script.json").write_text('["9"]'), True, ["files are unchanged"]),
        (lambda d: (d / "pairwright.json").unlink(), False, ["has a record"]),
        (
            lambda d: (d / "pairwright.json").write_text('{"fingerprint": "0", "files": {}, "provenance": {}}'),
            False,
            ["fingerprint is that of the files"],
        ),
        (lambda d: (d / "pairwright.json").write_text('{"fingerprint": '), False, ["has a record"]),
        (lambda d: (d / "pairwright.json").write_text('["mine"]'), False, ["has a record"]),
        (lambda d: (d / "pairwright.json").write_bytes(b"\xff\xfe"), False, ["has a record"]),
    ],
    ids=[
        "whole", "lost file", "changed file", "changed file, deep", "no record", "wrong fingerprint", "damaged record",
        "foreign record", "bytes",
    ],
)  # fmt: skip
def test_models(root: Path, damage: Callable[[Path], object], deep: bool, expected: list[str]) -> None:
    damage(model(root))
    assert [v.check for v in Store.open().check(deep) if v.table == "models"] == expected


@pytest.mark.parametrize("row_class", TABLES.values(), ids=TABLES)
def test_derived_predicates_bind(row_class: type[Row]) -> None:
    """The predicates that are derived from a row class are SQL over its table."""
    with Duck() as duck:
        duck.register("t", arrow_schema(row_class).empty_table())
        for predicate in column_checks(row_class).values():
            assert duck.table(f"select count(*) filter (where not ({predicate})) as n from t").to_pylist() == [{"n": 0}]
