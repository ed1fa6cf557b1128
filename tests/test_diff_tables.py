"""Why rows of step pairs and of all other tables differ: one change, one reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.diff_changes import (
    ask_otherwise,
    draw_otherwise,
    dropped,
    fewer_samples,
    given,
    judge,
    lose_problem,
    new_checker,
    new_extractor,
    new_gold,
    of_first,
    retell,
)
from tests.diff_world import Reasons, World, add_steps, drawn_again, index


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The small store; tests change copies of it."""
    return World(tmp_path_factory.mktemp("built"))


@pytest.fixture
def world(built: World, tmp_path: Path) -> World:
    return built.branch(tmp_path / "b")


STEPS: list[tuple[str, Callable[[World], None], Reasons]] = [
    (
        "human", lambda w: w.drop("step_labels", "checked", of_first),
        {("removed", "label", "no longer labelled by ada"): 1},
    ),
    (
        "judge", lambda w: w.edit("step_labels", "checked", lambda r: relabelled(r, "gpt-6", "j@2")),
        {("removed", "label", "human ada -> judge gpt-6"): 1},
    ),
    (
        "continuation's seed",
        lambda w: w.edit("samples", "continued", lambda r: drawn_again(r, seed=4) if of_first(r) else r),
        {("removed", "sample", "seed 0 -> 4"): 1},
    ),
]  # fmt: skip


def relabelled(row, model: str, template: str):
    changed = {"kind": "judge", "labeler": model, "model": model, "template": template, "verdict": "no_error",
               "first_error": None, "labels": ["correct"], "correction": None}  # fmt: skip
    return row.model_copy(update=changed) if of_first(row) else row


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The small store with step pairs."""
    found = World(tmp_path_factory.mktemp("stepped"))
    add_steps(found)
    return found


@pytest.mark.parametrize(("change", "expected"), given(STEPS, ["human"]))
def test_a_change_of_step_pairs_has_its_reason(
    stepped: World, tmp_path: Path, change: Callable[[World], None], expected: Reasons
) -> None:
    """The prompt that stops before the wrong step goes with the label, and is not the reason."""
    world = stepped.branch(tmp_path / "b")
    change(world)
    world.drop("pairs", "steps", of_first)
    if "label" in str(expected):
        world.drop("prompts", "prefixes", of_first)
    assert world.reasons(runs=["steps"]) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "detail"),
    [
        ({"template": "j@1"}, {"template": "j@2"}, "template j@1 -> j@2"),
        ({"model": "gpt-5"}, {"model": "gpt-6"}, "judge gpt-5 -> gpt-6"),
        ({"labeler_version": "1"}, {"labeler_version": "2"}, "version of judge 1 -> 2"),
        ({"labeler": "ada"}, {"labeler": "bob"}, "labeler ada -> bob"),
    ],
)
def test_a_changed_label_says_who_labels_otherwise(
    stepped: World, tmp_path: Path, old: dict[str, str], new: dict[str, str], detail: str
) -> None:
    judged = {"kind": "judge", "labeler": "judge", "model": "gpt", "template": "j"}
    before = stepped.branch(tmp_path / "a")
    before.edit("step_labels", "checked", lambda r: r.model_copy(update=judged | old))
    after = before.branch(tmp_path / "b", before.b)
    after.edit("step_labels", "checked", lambda r: r.model_copy(update=judged | new | {"rationale": "é"}))
    after.update("step_labels", "checked", of_first, verdict="no_error", first_error=None, labels=["correct"])
    assert after.reasons("step_labels")[next(iter(after.reasons("step_labels")))] == 2
    after.drop("pairs", "steps", of_first)
    assert after.reasons(runs=["steps"]) == {("removed", "label", detail): 1}


def judged_again(world: World) -> None:
    world.update("rewards", "irpo_0", lambda r: of_first(r) and index(r) == 1, verdict="correct", reward=1.0)


def fewer_of(table: str, run: str) -> Callable[[World], None]:
    """The last sample of every prompt is gone, and what was said of it."""

    def change(world: World) -> None:
        fewer_samples(world)
        world.drop(table, run, lambda row: index(row) == 2)

    return change


def demo_of_another(world: World) -> None:
    """Another sample of the first problem is right, and the problem's demo is gone."""
    judged_again(world)
    world.drop("demos", "star", of_first)


def drop_by_verdict(world: World) -> None:
    """A verdict is another one, for which the stage of the pairs drops the first problem's prompt, and no other one."""
    judge(new_checker)(world)
    dropped("no_rejected", "")(world)


TABLES_CHANGED: list[tuple[str, Callable[[World], None], Reasons]] = [
    ("problems", lose_problem, {("removed", "problem", "problems.train.limit 2 -> 1"): 1}),
    (
        "problems", lambda w: w.update("problems", "train", of_first, licence="MIT"),
        {("changed", "other", "no recorded cause"): 1},
    ),
    ("answers", new_gold, {("changed", "other", "no recorded cause"): 1}),
    ("solutions", lose_problem, {("removed", "problem", "problems.train.limit 2 -> 1"): 1}),
    (
        "prompts", ask_otherwise(rendering="chat"),
        {("added", "prompt", "rendering text -> chat"): 2, ("removed", "prompt", "rendering text -> chat"): 2},
    ),
    ("prompts", lose_problem, {("removed", "problem", "problems.train.limit 2 -> 1"): 1}),
    ("samples", fewer_samples, {("removed", "sample", "samples.irpo_0.n 3 -> 2"): 2}),
    (
        "samples", draw_otherwise(seed=1),
        {("added", "sample", "seed 0 -> 1"): 6, ("removed", "sample", "seed 0 -> 1"): 6},
    ),
    ("samples", retell, {("changed", "text", "another text under the same id"): 1}),
    ("predictions", new_extractor, {("changed", "verdict", "extractor number 1 -> number 2"): 3}),
    (
        "rewards", judge(new_checker),
        {("changed", "verdict", "checker number 1 -> number 2"): 5,
         ("changed", "verdict", "wrong -> correct: checker number 1 -> number 2"): 1},
    ),
    ("rewards", judged_again, {("changed", "verdict", "wrong -> correct"): 1}),
    ("rewards", fewer_of("rewards", "irpo_0"), {("removed", "sample", "samples.irpo_0.n 3 -> 2"): 2}),
    (
        "demos", demo_of_another,
        {("removed", "regrouped", "another sample: wrong -> correct"): 1},
    ),
    (
        "reference_logprobs", lambda w: w.update("reference_logprobs", "irpo_0", of_first, fingerprint="g"),
        {("changed", "model", "fingerprint f -> g"): 2},
    ),
    (
        "rejects", lambda w: w.reject("problems", "train", []),
        {("removed", "other", "no recorded cause"): 2},
    ),
    (
        "rejects", drop_by_verdict,
        {("added", "verdict", "wrong -> correct: checker number 1 -> number 2"): 1,
         ("removed", "other", "no recorded cause"): 1},
    ),
    ("step_labels", fewer_of("step_labels", "checked"), {("removed", "sample", "samples.irpo_0.n 3 -> 2"): 2}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "change", "expected"), given([(case[0], *case) for case in TABLES_CHANGED], ["demos"])
)
def test_a_change_of_any_table_has_its_reason(
    world: World, table: str, change: Callable[[World], None], expected: Reasons
) -> None:
    change(world)
    assert world.reasons(table) == expected
