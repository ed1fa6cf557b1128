"""Where Parquet row groups are cut: by rows, and by the bytes of texts, lists and structs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import Sample
from stores import parquet
from stores.parquet import PART, read_table, rows_to_table, write_table
from tests import small_store
from tests.test_parquet import many_samples


def test_row_groups_are_cut_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 200)
    write_table(tmp_path, Sample, [many_samples()])
    assert group_sizes(tmp_path) == [200, 200, 100]


def test_row_groups_are_cut_by_bytes_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = small_store.prompts()[0]
    lengths = [400, 10, 400, 400, 400, 2000, 10, 10]
    table = rows_to_table(Sample, [small_store.sample(asked, i, "x" * n) for i, n in enumerate(lengths)])
    ids = int(parquet._row_bytes(table)[1]) - 10
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 2 * (400 + ids) + ids + 10)
    write_table(tmp_path, Sample, [table])
    assert group_sizes(tmp_path) == [3, 3, 2]
    assert read_table(tmp_path, Sample).equals(table)


def test_bytes_in_lists_and_structs_count_row_by_row() -> None:
    messages = [[{"role": "user", "content": "four"}], [], None, [{"role": "user", "content": None}, None]]
    kind = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
    table = pa.table({
        "text": ["é", "", None, "abc"],
        "ids": pa.array([[1, 2, 3], None, [], [4]], pa.list_(pa.int32())),
        "messages": pa.array(messages, kind),
        "index": pa.array([1, 2, 3, 4], pa.int32()),
    })  # fmt: skip
    expected = [2 + 12 + 8, 0, 0, 3 + 4 + 4]
    assert parquet._row_bytes(table).tolist() == expected
    assert parquet._row_bytes(table.slice(1)).tolist() == expected[1:]
    assert parquet._row_bytes(pa.concat_tables([table, table.slice(3), table.slice(0, 0)])).tolist() == [*expected, 11]


def test_row_groups_are_cut_by_bytes_of_token_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = small_store.prompts()[0]
    samples = [small_store.sample(asked, i, "x").model_copy(update={"token_ids": [7] * 1000}) for i in range(5)]
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 8_000)
    write_table(tmp_path, Sample, [rows_to_table(Sample, samples)])
    assert group_sizes(tmp_path) == [2, 2, 1]


def group_sizes(directory: Path) -> list[int]:
    metadata = pq.ParquetFile(directory / PART).metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
