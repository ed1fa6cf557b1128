"""Deterministic Parquet: same rows, same bytes, however they arrive; bad rows and bad files are refused by name."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import TABLES, Demo, Pair, Problem, Prompt, Reject, Reward, Row, Sample, TrainingStep, arrow_schema
from stores import parquet
from stores.parquet import (
    PART,
    part_files,
    read_table,
    rows_to_table,
    scan_table,
    sort_table,
    texts_digest,
    write_table,
)
from tests import small_store

REPOSITORY = Path(__file__).resolve().parent.parent


def sha(directory: Path) -> str:
    return hashlib.sha256((directory / PART).read_bytes()).hexdigest()[:16]


def many_samples(count: int = 500) -> pa.Table:
    """Samples with texts of very different lengths."""
    asked = small_store.prompts()[0]
    rows = [small_store.sample(asked, i, f"{i} é🐈 " * (i * 37 % 91)) for i in range(count)]
    return rows_to_table(Sample, rows)


def slices(table: pa.Table, sizes: Sequence[int]) -> list[pa.Table]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [table.slice(start, size) for start, size in zip(starts, sizes, strict=True)]


BATCHINGS = {
    "single rows": [1] * 500,
    "uneven": [0, 1, 99, 300, 0, 77, 23],
}


@pytest.mark.parametrize("sizes", BATCHINGS.values(), ids=BATCHINGS)
def test_bytes_do_not_depend_on_how_rows_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 64)
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 30_000)
    table = many_samples()
    write_table(tmp_path / "once", Sample, [table], digest=["text"])
    batches = [b for piece in slices(table, sizes) for b in (piece.to_batches() or [piece])]
    write_table(tmp_path / "pieces", Sample, batches, digest=["text"])
    assert sha(tmp_path / "once") == sha(tmp_path / "pieces")


WRITE = """
import sys
from pathlib import Path
import pyarrow as pa
from schemas import Sample
from stores import parquet
from stores.duck import Duck
from tests.test_parquet import many_samples
threads = int(sys.argv[1])
pa.set_cpu_count(threads)
pa.set_io_thread_count(threads)
parquet.ROW_GROUP_ROWS = 100
with Duck() as duck:
    duck.execute(f"set threads = {threads}")
    duck.register("given", many_samples())
    query = "select * from (select * from given order by random()) order by sample_id"
    parquet.write_table(Path(sys.argv[2]), Sample, duck.batches(query))
"""


def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    for threads in (1, 4):
        command = [sys.executable, "-c", WRITE, str(threads), str(tmp_path / str(threads))]
        subprocess.run(command, check=True, cwd=REPOSITORY)
    assert sha(tmp_path / "1") == sha(tmp_path / "4")
    assert pq.ParquetFile(tmp_path / "4" / PART).num_row_groups == 5


GOLDEN = {
    "problems": "6d3972a7714f86f8",
    "answers": "0848bc9e4e4971ff",
    "solutions": "90fb66322392bc46",
    "prompts": "19099866f555f551",
    "samples": "1ee24b087ec35b20",
    "predictions": "ce46e5e360fc9f35",
    "agreements": "dddae365c04b607e",
    "votes": "f32803f44a19977c",
    "rewards": "73caa08265110025",
    "scores": "6757cb360819350b",
    "rollouts": "5ef036a30a1c9016",
    "step_labels": "53f5b2bba2f6a682",
    "demos": "c49abc240cba7f5f",
    "pairs": "35e984721a039fad",
    "reference_logprobs": "3d1fdba6bcb81ba9",
    "training": "0ded3c9e5a5a3901",
    "findings": "f596604f46efbd0c",
    "text_statistics": "e6f28f7f38287ca5",
    "rejects": "7ff3ef921111e610",
}
"""Table -> SHA-256 of its small file. A change of these re-runs every stage of every user: say so in CHANGELOG.md."""


def small_table(table: str) -> list[Row]:
    rows: list[Row] = [row for (name, _), run in small_store.rows().items() if name == table for row in run]
    rows += small_store.OUTSIDE[table]() if table in small_store.OUTSIDE else []
    return rows + [r for run in small_store.REJECTS.values() for r in run] if table == "rejects" else rows


@pytest.mark.parametrize("table", TABLES)
def test_golden_bytes(tmp_path: Path, table: str) -> None:
    rows = small_table(table)
    assert rows
    assert write_table(tmp_path, TABLES[table], [rows_to_table(TABLES[table], rows)]) == len(rows)
    assert sha(tmp_path) == GOLDEN[table]


def test_an_empty_table_is_a_file_with_the_schema(tmp_path: Path) -> None:
    assert write_table(tmp_path, Pair, []) == 0
    assert read_table(tmp_path, Pair).equals(arrow_schema(Pair).empty_table())


DEMOS = rows_to_table(Demo, [Demo(prompt_id=f"{i:025d}", sample_id=f"{i:030d}") for i in range(6)])


@pytest.mark.parametrize(
    "order", [[1, 0, 2], [0, 0, 1], [0, 2, 1, 3], [5, 4]], ids=["swapped", "repeated", "later", "descending"]
)
@pytest.mark.parametrize("one_by_one", [False, True], ids=["one batch", "row by row"])
def test_keys_that_do_not_ascend_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[int], one_by_one: bool
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 1 if one_by_one else 100)
    with pytest.raises(ValueError, match=r"demos: key {'prompt_id': '0+\d', .*} is repeated or out of order"):
        write_table(tmp_path, Demo, [DEMOS.take(order)])


def test_the_later_columns_of_a_key_count(tmp_path: Path) -> None:
    pairs = rows_to_table(Pair, small_store.rows()["pairs", "irpo_0"])
    assert pairs["rank"].to_pylist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"'rank': 0} is repeated or out of order"):
        write_table(tmp_path, Pair, [pairs.take([1, 0])])


def test_rows_without_a_unique_key_may_repeat(tmp_path: Path) -> None:
    reject = Reject(reason="duplicate", detail="line 3")
    assert write_table(tmp_path, Reject, [rows_to_table(Reject, [reject, reject])]) == 2


def test_order_is_by_key_with_nulls_last() -> None:
    given = [Reject(reason="empty"), Reject(problem_id="b" * 16, reason="empty"), Reject(problem_id="", reason="empty")]
    assert rows_to_table(Reject, given)["problem_id"].to_pylist() == ["", "b" * 16, None]
    assert len(sort_table(Reject, arrow_schema(Reject).empty_table())) == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (DEMOS.drop_columns(["sample_id"]), "demos: rows lack the column 'sample_id'"),
        (DEMOS.set_column(1, "sample_id", pa.array(["x"] * 5 + [None])), "demos.sample_id: 1 nulls in a column that"),
    ],
    ids=["lacking column", "null"],
)
def test_rows_that_do_not_fit_the_schema_are_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    with pytest.raises(ValueError) as error:
        write_table(tmp_path, Demo, [table])
    assert str(error.value).startswith(message)


def test_columns_are_cast_and_put_in_order(tmp_path: Path) -> None:
    steps = rows_to_table(TrainingStep, small_store.training())
    wide = pa.table({name: steps[name] for name in reversed(steps.column_names)})
    wide = wide.set_column(wide.column_names.index("step"), "step", wide["step"].cast(pa.int64()))
    write_table(tmp_path, TrainingStep, [wide])
    assert read_table(tmp_path, TrainingStep).equals(steps)


def test_the_digest_of_texts_follows_the_texts_alone(tmp_path: Path) -> None:
    def digest_of(name: str, texts: list[str | None], sizes: list[int]) -> tuple[str | None, str]:
        table = DEMOS.append_column("text", pa.array(texts, pa.string()))
        write_table(tmp_path / name, Demo, slices(table, sizes), digest=["text"])
        return texts_digest(tmp_path / name), sha(tmp_path / name)

    texts = ["a", "bé", None, "", "c🐈", "d"]
    first = digest_of("first", texts, [6])
    assert first == digest_of("sliced", texts, [1, 2, 3])
    assert first != digest_of("changed", [*texts[:-1], "D"], [6])
    assert read_table(tmp_path / "first", Demo).equals(read_table(tmp_path / "changed", Demo))
    write_table(tmp_path / "none", Demo, [DEMOS])
    assert texts_digest(tmp_path / "none") is None


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    table = many_samples()
    write_table(tmp_path, Sample, [table])
    assert read_table(tmp_path, Sample).equals(table)
    assert pa.concat_tables(scan_table(tmp_path, Sample, batch_rows=33)).equals(table)
    assert read_table(tmp_path, Sample, ["text", "index"]).column_names == ["text", "index"]
    assert max(len(batch) for batch in scan_table(tmp_path, Sample, batch_rows=33)) == 33


def test_pyarrow_and_duckdb_read_the_same_from_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 50)
    write_table(tmp_path, Sample, [many_samples()])
    column = pq.ParquetFile(tmp_path / PART).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    with duckdb.connect() as con:
        con.execute("set threads = 4")
        columns = "sample_id, sha256(text), sum(n_chars) over ()"
        got = con.sql(f"select {columns} from '{tmp_path / PART}' order by sample_id").fetchall()
    texts = read_table(tmp_path, Sample)
    total = sum(texts["n_chars"].to_pylist())
    expected = [
        (i, hashlib.sha256(t.encode()).hexdigest(), total)
        for i, t in zip(texts["sample_id"].to_pylist(), texts["text"].to_pylist(), strict=True)
    ]
    assert got == expected


def test_a_missing_column_is_null_only_where_the_table_allows_it(tmp_path: Path) -> None:
    prompts = rows_to_table(Prompt, small_store.prompts())
    pq.write_table(prompts.drop_columns(["demo_sample_ids"]), tmp_path / PART)
    assert read_table(tmp_path, Prompt).equals(prompts)
    pq.write_table(prompts.drop_columns(["prefill"]), tmp_path / PART)
    with pytest.raises(ValueError, match=r"not a prompts table: column 'prefill' is missing"):
        read_table(tmp_path, Prompt)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"part-00000.parquet: not a readable Parquet file \(.*\); restore it with `dvc checkout .*run=x`"),
        (b"PAR1 nothing PAR1", r"not a readable Parquet file"),
        (b'{"a": 1}\n' * 100, r"not a readable Parquet file"),
        (b"PAR1" + bytes(4000), r"not a readable Parquet file"),
    ],
    ids=["empty", "marks only", "json", "truncated"],
)
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    directory = tmp_path / "run=x"
    directory.mkdir()
    (directory / PART).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_table(directory, Demo)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"a": [1]}), "not a demos table: column 'prompt_id' is missing"),
        (DEMOS.append_column("score", pa.array([1.0] * 6)), "demos has no column 'score': written by a newer version?"),
        (DEMOS.set_column(0, "prompt_id", pa.array(range(6))), "demos.prompt_id is int64, expected string"),
    ],
    ids=["foreign", "newer", "other type"],
)
def test_a_foreign_table_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / PART)
    with pytest.raises(ValueError, match=r"part-00000\.parquet: ") as error:
        read_table(tmp_path, Demo)
    assert message in str(error.value)


def test_a_run_that_is_not_there_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no table here; build it with `dvc repro` or restore it with `dvc checkout`"):
        part_files(tmp_path / "run=absent")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.integers(0, 2**31 - 1)
FLOAT = st.floats(allow_nan=False)


def rows_of(row_class: type[Row], **columns: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Row]]:
    """Lists of rows whose keys differ."""
    rows = st.builds(row_class, **columns)
    return st.lists(rows, max_size=8, unique_by=lambda row: tuple(getattr(row, c) for c in row_class.key))


IDS = {size: st.text("0123456789abcdef-", min_size=size, max_size=size) for size in (16, 25, 38)}
VERDICTS = st.sampled_from(["correct", "wrong", "no_answer", "undecided"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}))
STRATEGIES: dict[type[Row], st.SearchStrategy[list[Row]]] = {
    Problem: rows_of(
        Problem, problem_id=IDS[16], source=TEXT, split=TEXT, question=TEXT, choices=st.none() | st.lists(TEXT),
        answer_kind=st.sampled_from(["number", "latex"]), level=st.none() | TEXT, subject=st.none() | TEXT,
        licence=TEXT,
    ),
    Prompt: rows_of(
        Prompt, prompt_id=IDS[25], problem_id=IDS[16], messages=MESSAGES, prefill=TEXT, style=TEXT, template=TEXT,
        rendering=st.sampled_from(["chat", "text"]), demo_sample_ids=st.none() | st.lists(IDS[38]),
    ),
    Sample: rows_of(
        Sample, sample_id=IDS[38], prompt_id=st.none() | IDS[25], problem_id=IDS[16], model=TEXT,
        model_fingerprint=TEXT, index=NUMBER, seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        temperature=st.none() | FLOAT, top_p=st.none() | FLOAT, text=TEXT, text_hash=TEXT, n_chars=NUMBER,
        n_tokens=st.none() | NUMBER, n_prompt_tokens=st.none() | NUMBER, token_ids=st.none() | st.lists(NUMBER),
        finish_reason=st.sampled_from(["stop", "length"]),
    ),
    Reward: rows_of(
        Reward, sample_id=IDS[38], verdict=VERDICTS, reward=st.none() | FLOAT, checker=TEXT, checker_version=TEXT
    ),
}  # fmt: skip


@pytest.mark.parametrize("row_class", STRATEGIES, ids=lambda c: c.table)
@settings(max_examples=25)
@given(data=st.data())
def test_rows_survive_the_round_trip(tmp_path: Path, row_class: type[Row], data: st.DataObject) -> None:
    rows = data.draw(STRATEGIES[row_class])
    write_table(tmp_path, row_class, [rows_to_table(row_class, rows)])
    read = [row_class.model_validate(row) for row in read_table(tmp_path, row_class).to_pylist()]
    assert read == sorted(rows, key=lambda row: tuple(getattr(row, column).encode() for column in row_class.key))
