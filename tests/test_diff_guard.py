"""`diff` of demos and pairs that leave out right samples with a wrong step: which label, or which setting, did it."""

from pathlib import Path
from typing import Any

import pytest

from schemas import Reject
from tests.diff_changes import FIRST, judge, new_checker, of_first
from tests.diff_world import World, index
from tests.small_store import labels, prompts, sample

STAGES = {"demos": ("demos_correct", "star"), "pairs": ("pairs_outcome", "irpo_0")}
"""Table -> section and run that write it."""


def guard(world: World, table: str, root: Path | None = None) -> None:
    """The run reads step labels in one version."""
    section, run = STAGES[table]
    world.params(lambda p: p[section][run].update(step_labels="checked"), root)


def label_right(world: World, first_error: int | None) -> None:
    """Somebody labels the right sample of the first problem, and no other."""
    asked = next(p for p in prompts() if of_first(p))
    row = labels(sample(asked, 1, world.rows("samples", "irpo_0")[0].text))
    right = next(s for s in world.rows("samples", "irpo_0") if of_first(s) and s.index == 0)
    said: dict[str, Any] = {"sample_id": right.sample_id, "steps": [{"start": 0, "end": right.n_chars}]}
    if first_error is None:
        said |= {"verdict": "no_error", "first_error": None, "labels": ["correct"], "correction": None}
    world.write("step_labels", "checked", [type(row).model_validate(row.model_dump() | said)])


def drop_right(world: World, table: str) -> None:
    """The right sample of the first problem is a reject of the stage, and in no row."""
    section, run = STAGES[table]
    right = next(s for s in world.rows("samples", "irpo_0") if of_first(s) and s.index == 0)
    name = "sample_id" if table == "demos" else "chosen_sample_id"
    world.drop(table, run, lambda row: getattr(row, name) == right.sample_id)
    dropped = Reject(
        problem_id=FIRST, prompt_id=right.prompt_id, sample_id=right.sample_id, reason="wrong_step", detail=""
    )
    world.reject(section, run, [dropped])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path).branch(tmp_path / "b")


@pytest.mark.parametrize("table", STAGES)
def test_a_label_that_drops_a_right_sample_is_the_reason(world: World, table: str) -> None:
    for root in (world.a, world.b):
        guard(world, table, root)
    label_right(world, 0)
    drop_right(world, table)
    expected = {("removed", "label", "newly labelled by ada"): 1}
    assert world.reasons(table, runs=[STAGES[table][1]]) == expected
    world.a, world.b = world.b, world.a
    expected = {("added", "label", "no longer labelled by ada"): 1}
    assert world.reasons(table, runs=[STAGES[table][1]]) == expected


@pytest.mark.parametrize("table", STAGES)
def test_the_setting_that_names_the_labels_is_the_reason_where_it_differs(world: World, table: str) -> None:
    label_right(world, 0)
    guard(world, table)
    drop_right(world, table)
    assert world.reasons(table, runs=[STAGES[table][1]]) == {("removed", "params", "step_labels none -> checked"): 1}


@pytest.mark.parametrize("table", STAGES)
def test_labels_that_drop_nothing_explain_nothing(world: World, table: str) -> None:
    """The first wrong sample's label goes, which no pair depends on; what does change its pair is the verdict."""
    for root in (world.a, world.b):
        guard(world, table, root)
    world.drop("step_labels", "checked", lambda row: index(row) == 1)
    assert world.reasons(table, runs=[STAGES[table][1]]) == {}
    if table == "pairs":
        judge(new_checker)(world)
        assert world.reasons() == {("removed", "verdict", "wrong -> correct: checker number 1 -> number 2"): 1}
