"""`Store.dataset`: tables and texts as memory-mapped `datasets.Dataset`s."""

from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from schemas import Sample
from stores.store import Store
from tests.small_store import build, pair_id, prompts, rows, sample, write


@pytest.fixture
def root(workspace: Path) -> Path:
    build(workspace)
    return workspace


def test_a_dataset_holds_the_rows_of_one_run_or_all(root: Path) -> None:
    store = Store.open()
    one = store.dataset("samples", run="irpo_0")
    assert one.column_names == [*Sample.model_fields, "run"]
    assert one.to_list() == [s.model_dump() | {"run": "irpo_0"} for s in by_id(rows()["samples", "irpo_0"])]
    everything = store.dataset("samples")
    assert [(r["run"], r["sample_id"]) for r in everything.to_list()] == [
        (run, s.sample_id) for run in ("irpo_0", "gold") for s in by_id(rows()["samples", run])
    ]


def by_id(samples: object) -> list[Sample]:
    return sorted(samples, key=lambda s: s.sample_id)  # type: ignore[call-overload]


def test_texts_are_in_a_fixed_order(root: Path) -> None:
    got = Store.open().dataset("pair_texts", run="irpo_0")
    pairs = sorted(rows()["pairs", "irpo_0"], key=lambda p: (p.prompt_id, p.rank))  # type: ignore[attr-defined]
    assert got["pair_id"][:] == [pair_id(p) for p in pairs]  # type: ignore[arg-type]
    assert got[0]["messages"][0]["role"] == "user"
    assert len(Store.open().dataset("demo_texts")) == 4


@pytest.mark.parametrize("guard", [False, True], ids=["fast", "guarded"])
def test_it_is_memory_mapped_and_written_once(root: Path, guard: bool, tmp_path: Path) -> None:
    asked = prompts()[0]
    write(root, "samples", "irpo_0", [sample(asked, i, f"{i} " + "long " * 20_000) for i in range(100)])
    store = Store.open(guard=guard)
    (path,) = (Path(f["filename"]) for f in store.dataset("samples", run="irpo_0").cache_files)
    assert path.is_relative_to(tmp_path / "ledger" / "cache")
    written, before = path.stat(), pa.total_allocated_bytes()
    dataset = store.dataset("samples", run="irpo_0")
    assert dataset[57]["text"].startswith("57 long")
    assert path.stat().st_size > 10_000_000
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert path.stat().st_mtime_ns == written.st_mtime_ns


def test_a_rebuilt_table_gives_its_new_rows(root: Path) -> None:
    asked = prompts()[0]
    write(root, "samples", "irpo_0", [sample(asked, 0, "old")])
    assert Store.open().dataset("samples", run="irpo_0")["text"][:] == ["old"]
    write(root, "samples", "irpo_0", [sample(asked, 0, "new")])
    assert Store.open().dataset("samples", run="irpo_0")["text"][:] == ["new"]


def test_changed_params_give_texts_from_other_runs(root: Path) -> None:
    before = Store.open().dataset("pair_texts", run="irpo_0")["chosen"][:]
    assert None not in before
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["pairs_outcome"]["irpo_0"]["gold"] = "none"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert Store.open().dataset("pair_texts", run="irpo_0")["chosen"][:].count(None) == 2


def test_a_failed_write_leaves_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(pa.RecordBatchStreamWriter):
        def write_batch(self, *_: object) -> None:
            raise OSError("no space left")

    monkeypatch.setattr(pa.ipc, "new_stream", FullDisk)
    with pytest.raises(OSError, match="no space left"):
        Store.open().dataset("samples")
    assert list((tmp_path / "ledger" / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("table", "run", "message"),
    [
        ("sample", None, r"no table 'sample' \(did you mean 'samples'\?\)"),
        ("samples", "irpo_9", r"no run 'irpo_9' of samples in params.yaml \(did you mean 'irpo_1'\?\)"),
        ("samples", "irpo_1", r"samples run 'irpo_1' is not built; run `dvc repro`"),
        ("pair_texts", "mine", r"no run 'mine' of pairs in params.yaml \(have irpo_0\)"),
    ],
)
def test_what_is_not_there_is_said(root: Path, table: str, run: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Store.open().dataset(table, run)
