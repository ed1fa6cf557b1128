"""Releases: what `datasets` reads of them equals what the store holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import export
from stores.stage import execute
from stores.store import Store
from tests import small_store

EVERYTHING = {
    "pairs": ["irpo_0"], "demos": ["gold", "star"], "samples": ["irpo_0", "gold"], "rewards": ["irpo_0"],
    "step_labels": ["checked"], "model": "none",
}  # fmt: skip


@pytest.fixture
def root(workspace: Path) -> Path:
    small_store.build(workspace)
    return workspace


def write(root: Path, release: dict[str, Any]) -> Path:
    """Exports a release of the small store; its directory."""
    params = yaml.safe_load((root / "params.yaml").read_text()) | {"export": {"first": release}}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    execute("export", "first", export.run, root)
    return root / "data/export/first"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`datasets.load_dataset` without a network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield lambda directory, config, **more: datasets.load_dataset(
        str(directory), config, cache_dir=str(tmp_path / "hf"), split="train", **more
    )
    datasets.enable_progress_bars()


def test_pairs_are_those_of_the_store(root: Path, load: Any) -> None:
    rows = load(write(root, EVERYTHING), "pairs").to_list()
    query = "select * from pair_texts order by run, prompt_id, rank"
    with Store.open(root) as store:
        stored = store.sql(query).to_arrow().to_pylist()
    assert len(rows) == 4
    for row, own in zip(rows, stored, strict=True):
        text = "".join(m["content"] for m in own["messages"]) + own["prefill"]
        assert row["prompt"] == text
        assert {name: row[name] for name in own if name in row} == {name: own[name] for name in own if name in row}


@pytest.mark.parametrize("streaming", [False, True])
def test_every_config_loads(root: Path, load: Any, streaming: bool) -> None:
    directory = write(root, EVERYTHING)
    record = json.loads((directory / "provenance.json").read_text())
    counts = {name: sum(1 for _ in load(directory, name, streaming=streaming)) for name in record["configs"]}
    assert counts == {"pairs": 4, "demos": 4, "samples": 8, "rewards": 6, "step_labels": 2}
    assert counts == {name: config["rows"] for name, config in record["configs"].items()}
