"""Scores in the store: what `check` finds of them, and what `diff` says of two versions."""

from pathlib import Path
from typing import Any

import yaml

from schemas import Reject
from stores.parquet import write_table
from stores.paths import rejects_dir
from stores.store import Store
from tests import small_store
from tests.diff_changes import of_first
from tests.diff_world import World

PARAMS: dict[str, Any] = small_store.PARAMS | {
    "reward_model": {
        "rm": {"model": "base", "samples": "irpo_0", "rewards": "irpo_0",
               "optimizer": {"lr": 1e-6, "batch_size": 24, "epochs": 3}},
    },
    "scores": {"rm": {"samples": "irpo_0", "model": "rm"}},
}  # fmt: skip


def scored(root: Path, **first: Any) -> None:
    """Adds scores of each prompt's first sample to a small store; `first` changes the first row."""
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    one, *others = small_store.scores()
    rows = [one.model_copy(update=first), *others]
    small_store.write(root, "scores", "rm", sorted(rows, key=lambda row: row.sample_id))
    for section in ("reward_model", "scores"):
        write_table(rejects_dir(section, "rm", root), Reject, [])


def violations() -> list[tuple[str, str, int]]:
    return [(v.run, v.check, v.violations) for v in Store.open().check() if v.table == "scores"]


def test_scores_of_samples_are_in_order(workspace: Path) -> None:
    small_store.build(workspace)
    scored(workspace)
    assert violations() == []
    assert Store.open().sql("select count(*), min(run) from scores").fetchall() == [(2, "rm")]


def test_a_score_of_no_sample_is_found(workspace: Path) -> None:
    small_store.build(workspace)
    scored(workspace, sample_id="f" * 16 + "-12345678-00000000-0000")
    assert violations() == [("rm", "sample_id is in samples (irpo_0)", 1)]


def test_a_score_that_is_no_probability_is_found(workspace: Path) -> None:
    small_store.build(workspace)
    scored(workspace, score=1.5)
    ((run, check, count),) = violations()
    assert (run, check.startswith("score"), count) == ("rm", True, 1)


def test_a_changed_score_is_told_with_its_sample(tmp_path: Path) -> None:
    made = World(tmp_path)
    scored(made.a)
    world = made.branch(tmp_path / "b")
    world.update("scores", "rm", of_first, score=0.5, fingerprint="g")
    before = next(row.score for row in small_store.scores() if of_first(row))
    assert world.whats("scores") == [f"score {before} -> 0.5; fingerprint f -> g"]
