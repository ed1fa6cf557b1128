"""Differences of what is chosen by agreement: a demo that comes or goes is explained by the agreement behind it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import Agreement, Demo, Reject
from stores.parquet import write_table
from stores.paths import rejects_dir
from tests import small_store
from tests.diff_changes import of_first
from tests.diff_world import World
from tests.small_store import PARAMS, prompts

WEAK: dict[str, Any] = PARAMS | {
    "consistency": {"first": {"a": "irpo_0", "b": "irpo_0"}},
    "demos_consistent": {
        "ft": {"samples": "irpo_0", "other": "none", "prompts": "train", "agreements": "first"},
    },
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    (made.a / "params.yaml").write_text(yaml.safe_dump(WEAK, sort_keys=False))
    samples = {s.problem_id: s.sample_id for s in made.rows("samples", "irpo_0") if s.index == 0}
    agreements = [
        Agreement(problem_id=problem, a_sample_id=sample, b_sample_id=sample, a_answer="8", b_answer="8",
                  agrees=True, kept=True)
        for problem, sample in sorted(samples.items())
    ]  # fmt: skip
    demos = [Demo(prompt_id=p.prompt_id, sample_id=samples[p.problem_id]) for p in prompts()]
    small_store.write(made.a, "agreements", "first", agreements)
    small_store.write(made.a, "demos", "ft", sorted(demos, key=lambda d: d.prompt_id))
    for section, run in (("consistency", "first"), ("demos_consistent", "ft")):
        write_table(rejects_dir(section, run, made.a), Reject, [])
    return made.branch(tmp_path / "b")


def lose(world: World) -> None:
    world.drop("demos", "ft", of_first)


def test_a_demo_goes_because_its_answers_disagree(world: World) -> None:
    world.update("agreements", "first", of_first, b_answer="9", agrees=False, kept=False)
    lose(world)
    assert world.reasons("demos", runs=["ft"]) == {("removed", "agreement", "agreed -> disagrees"): 1}
    assert world.reasons("agreements") == {("changed", "other", "no recorded cause"): 1}


def test_a_demo_goes_because_the_top_up_is_smaller(world: World) -> None:
    world.update("agreements", "first", of_first, b_answer="9", agrees=False, kept=True)
    small_store.write(world.a, "agreements", "first", world.rows("agreements", "first"))
    world.update("agreements", "first", of_first, kept=False)
    world.params(lambda params: params["consistency"]["first"].update(top_up=1))
    lose(world)
    assert world.reasons("demos", runs=["ft"]) == {("removed", "agreement", "top-up"): 1}
    assert world.reasons("agreements") == {("changed", "params", "top_up none -> 1"): 1}


def test_a_demo_goes_with_its_problem(world: World) -> None:
    for table, run in (("problems", "train"), ("agreements", "first")):
        world.drop(table, run, of_first)
    lose(world)
    assert world.reasons("demos", runs=["ft"]) == {("removed", "problem", "gone"): 1}
