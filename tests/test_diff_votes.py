"""Differences of what is chosen by votes: a pair or verdict that comes or goes is explained by the vote behind it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import Reject, Reward, Vote
from stores.parquet import write_table
from stores.paths import rejects_dir
from tests import small_store
from tests.diff_changes import FIRST, of_first
from tests.diff_world import World
from tests.small_store import PARAMS, pair, prompts

VOTED: dict[str, Any] = PARAMS | {
    "votes": {"v": {"samples": "irpo_0", "predictions": "irpo_0"}},
    "rewards_votes": {"rv": {"predictions": "irpo_0", "votes": "v"}},
    "pairs_contrast": {
        "own": {"samples": "irpo_0", "predictions": "irpo_0", "votes": "v", "weak": "none", "weak_predictions": "none",
                "threshold": 0.3, "k": 2},
    },
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two pairs of every prompt, whose first sample states the majority's answer."""
    made = World(tmp_path)
    (made.a / "params.yaml").write_text(yaml.safe_dump(VOTED, sort_keys=False))
    drawn = made.rows("samples", "irpo_0")
    of = {p.prompt_id: [s for s in drawn if s.prompt_id == p.prompt_id] for p in prompts()}
    votes = [
        Vote(prompt_id=p.prompt_id, problem_id=p.problem_id, sample_id=of[p.prompt_id][0].sample_id, answer="8",
             count=2, n=4, confidence=0.5)
        for p in prompts()
    ]  # fmt: skip
    rewards = [
        Reward.model_validate({
            "sample_id": s.sample_id, "verdict": verdict, "reward": float(verdict == "correct"), "checker": "votes",
            "checker_version": "1",
        })
        for s in drawn for verdict in [("correct", "wrong", "no_answer")[s.index]]
    ]  # fmt: skip
    pairs = [pair(p, i, of[p.prompt_id][0], of[p.prompt_id][i + 1]) for p in prompts() for i in (0, 1)]
    for table, run, rows in (("votes", "v", votes), ("rewards", "rv", rewards), ("pairs", "own", pairs)):
        small_store.write(made.a, table, run, rows)
    for section, run in (("votes", "v"), ("rewards_votes", "rv"), ("pairs_contrast", "own")):
        write_table(rejects_dir(section, run, made.a), Reject, [])
    return made.branch(tmp_path / "b")


def test_a_pair_goes_because_the_vote_is_another(world: World) -> None:
    world.update("votes", "v", of_first, answer=None, count=3, n=4, confidence=0.75)
    world.drop("pairs", "own", of_first)
    world.update("rewards", "rv", of_first, verdict="undecided", reward=None)
    assert world.reasons("pairs", runs=["own"]) == {("removed", "vote", "8 (2 of 4) -> none (3 of 4)"): 2}
    assert world.reasons("rewards", runs=["rv"]) == {("changed", "vote", "8 (2 of 4) -> none (3 of 4)"): 3}
    assert world.whats("votes") == ["answer 8 -> none; count 2 -> 3; confidence 0.5 -> 0.75"]


def test_a_pair_goes_because_the_threshold_moved(world: World) -> None:
    world.params(lambda params: params["pairs_contrast"]["own"].update(threshold=0.6))
    world.drop("pairs", "own", of_first)
    asked = next(p for p in prompts() if of_first(p))
    reject = Reject(problem_id=FIRST, prompt_id=asked.prompt_id, reason="low_confidence", detail="2 of 4")
    world.reject("pairs_contrast", "own", [reject])
    assert world.reasons("pairs", runs=["own"]) == {("removed", "params", "threshold 0.3 -> 0.6"): 2}
    assert world.reasons("rejects", runs=["pairs_contrast.own"]) == {("added", "params", "threshold 0.3 -> 0.6"): 1}


def test_a_pair_goes_because_fewer_are_asked_for(world: World) -> None:
    world.params(lambda params: params["pairs_contrast"]["own"].update(k=1))
    world.drop("pairs", "own", lambda row: row.rank == 1)
    assert world.reasons("pairs", runs=["own"]) == {("removed", "params", "k 2 -> 1"): 2}
