"""The store on step pairs: what is joined, shown and checked where a sample's own prompt is not the pair's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas import Pair, Prediction
from schemas.params import load_params
from stores.sources import run_sources
from stores.store import Store
from tests import stage_world as world
from tests import step_world as steps
from tests.step_world import ASKED, CATS, PREFILL, WRONG, label, reward

CORRECT_START = "A cat has 4 legs.\nStep 2:"
BAD, GOOD = " 2 * 4 = 6.", " 2 * 4 = 8."


@pytest.fixture
def store(workspace: Path) -> Store:
    """One wrong sample with two labels, two continuations of which one is correct, and their pair."""
    wrong = world.sample(ASKED, 0, WRONG)
    judge = {"kind": "judge", "model": "judge-1-2025", "template": "step_judge@12345678", "labeler": "judge-1"}
    labels = [label(wrong, 1, labeler="ada"), label(wrong, 1, **judge)]
    steps.write([wrong], labels)
    steps.run("prompts_step")
    (asked,) = steps.step_prompts()
    chosen = [world.sample(asked, i, text + "\nStep 3: So.") for i, text in enumerate((GOOD, BAD))]
    world.write("samples", "continued", chosen)
    world.write("rewards", "continued", [reward(s, sign) for s, sign in zip(chosen, "+-", strict=True)])
    world.write("rewards", "drawn", [reward(wrong, "-")])
    for name, samples in (("p", chosen), ("drawn", [wrong])):
        found = [prediction(s.sample_id, s.text[-2:]) for s in samples]
        world.write("predictions", name, found)
    params()
    steps.run("pairs_step")
    return Store.open()


def prediction(sample_id: str, answer: str) -> Prediction:
    return Prediction(
        sample_id=sample_id, extracted=answer, normalised=answer, extractor="number", extractor_version="1"
    )


def params(**changes: Any) -> None:
    """Those of the world, with verdicts of the samples that the labels were chosen by."""
    sections: dict[str, Any] = {section: dict(runs) for section, runs in steps.SECTIONS.items()}
    sections["predictions"]["drawn"] = {"samples": "drawn", "prompts": "train", "problems": "train"}
    sections["rewards"]["drawn"] = {"predictions": "drawn", "problems": "train"}
    labels = sections["step_labels"]["labels"] | {"rewards": "drawn", "select": "wrong"}
    sections["step_labels"] = {"labels": labels}
    world.write_params(**sections | changes)


def test_both_sides_come_from_their_own_runs(store: Store) -> None:
    found: dict[str, list[str]] = {}
    for source in run_sources(load_params(Path("params.yaml"))):
        if source[:2] == ("pairs", "step"):
            found.setdefault(source.input_table, []).append(source.input_run)
    assert found == {
        "samples": ["drawn", "continued"], "prompts": ["train", "steps"], "rewards": ["continued", "drawn"],
        "predictions": ["p", "drawn"], "step_labels": ["labels"], "problems": ["train"], "answers": ["train"],
        "solutions": ["train"], "models": ["base"],
    }  # fmt: skip


def test_a_union_of_step_pairs_has_the_sources_of_its_parts(store: Store) -> None:
    union = {"a": "step", "b": "none", "c": "none", "d": "none", "problems": "none"}
    params(pairs_union={"all": union})
    sources = run_sources(load_params(Path("params.yaml")))
    assert [s.input_run for s in sources if s[:3] == ("pairs", "all", "rewards")] == ["continued", "drawn"]


def test_pair_texts_are_steps_after_a_prompt_with_the_correct_ones(store: Store) -> None:
    columns = "prefill, chosen, chosen_eos, rejected, rejected_eos, prompt_run, chosen_run, rejected_run"
    assert store.sql(f"select {columns} from pair_texts").fetchall() == [
        (PREFILL + CORRECT_START, GOOD, False, BAD, False, "steps", "continued", "drawn")
    ]


def test_lineage_names_verdicts_and_labelers_of_both_sides(store: Store) -> None:
    columns = (
        "side, sample_run, verdict, extracted, label_run, labelers, label_models, label_templates, sample_prompt_id"
    )
    rejected, chosen = store.sql(f"select {columns} from lineage order by side desc").fetchall()
    labelled = ("labels", ["ada", "judge-1"], ["judge-1-2025"], ["step_judge@12345678"])
    assert rejected == ("rejected", "drawn", "wrong", "6.", *labelled, ASKED.prompt_id)
    (asked,) = steps.step_prompts()
    assert chosen == ("chosen", "continued", "correct", "o.", None, None, None, None, asked.prompt_id)


def test_show_prints_the_steps_and_who_says_so(store: Store) -> None:
    text = store.show(steps.step_prompts()[0].prompt_id)
    for part in (
        "── prefill ─", f"{PREFILL}{CORRECT_START}\n", f"\n{GOOD}\n", f"\n{BAD}\n", "rejected: wrong, answer '6.'",
        "-- step 2 is the first wrong one, says ada (rule); run labels",
        "-- step 2 is the first wrong one, says judge-1 (judge, step_judge@12345678); run labels",
    ):  # fmt: skip
        assert part in text
    assert "and the end of the sequence" not in text


def replace_pair(**changes: Any) -> None:
    (row,) = world.read("pairs", "step")
    world.write("pairs", "step", [Pair.model_validate(row | changes)])


def other_prefill() -> None:
    """Another prompt of the same id: what a changed file without its id would be."""
    (asked,) = steps.step_prompts()
    world.write("prompts", "steps", [asked.model_copy(update={"prefill": asked.prefill + " "})])


def other_text() -> None:
    text = WRONG.replace("A cat", "a cat")
    world.write("samples", "drawn", [world.sample(ASKED, 0, text)])


def long_label() -> None:
    wrong = world.sample(ASKED, 0, WRONG)
    longer = world.sample(ASKED, 0, WRONG + " And more.")
    world.write("step_labels", "labels", [label(longer, 1), label(wrong, 1, labeler="ada")])


REJECTED, CHOSEN = (f"the {side} span begins where the prompt ends" for side in ("rejected", "chosen"))
DAMAGE: list[tuple[Callable[[], None], list[tuple[str, str]]]] = [
    (lambda: None, []),
    (lambda: replace_pair(rejected_start=5), [("pairs", REJECTED)]),
    (lambda: replace_pair(chosen_start=1), [("pairs", CHOSEN)]),
    (other_prefill, [("pairs", REJECTED)]),
    (other_text, [("pairs", REJECTED)]),
    (long_label, [("step_labels", "the last step is inside the text of sample_id")]),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE)
def test_check_finds_spans_that_do_not_follow_their_prompt(
    store: Store, damage: Callable[[], None], expected: list[tuple[str, str]]
) -> None:
    damage()
    found = [(v.table, v.check) for v in Store.open().check() if v.table in ("pairs", "step_labels")]
    assert sorted(found) == expected


def test_a_chosen_sample_of_another_prompt_is_found(store: Store) -> None:
    """`continued` is asked with the step prompts; this one answers the problem's own."""
    other = world.sample(ASKED, 5, "A cat has 4 legs.")
    rows = [*(world.sample(steps.step_prompts()[0], i, GOOD) for i in range(2)), other]
    world.write("samples", "continued", rows)
    replace_pair(chosen_sample_id=other.sample_id, chosen_end=5)
    assert CHOSEN in {v.check for v in Store.open().check()}
    assert CATS.problem_id == other.problem_id
