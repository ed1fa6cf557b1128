"""The stages `consistency` and `demos_consistent`: agreement of two runs, and what is imitated because of it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import consistency, demos_consistent
from schemas import Prediction, Sample
from stores.paths import run_dir
from stores.stage import execute
from tests import stage_world as world

PROBLEMS = sorted((world.problem(f"{i} + 1?") for i in range(8)), key=lambda p: p.problem_id)
ASKED = [world.prompt(p) for p in PROBLEMS]
SHOWN = [world.prompt(p, words=" (after examples)") for p in PROBLEMS]
RUNS: dict[str, Any] = {
    "samples": {"weak": world.SAMPLES, "icl": world.SAMPLES | {"prompts": "shown"}},
    "prompts": {"train": world.PROMPTS, "shown": world.PROMPTS},
    "predictions": {
        "weak": {"samples": "weak", "prompts": "train", "problems": "train"},
        "icl": {"samples": "icl", "prompts": "shown", "problems": "train"},
    },
}
Answers = dict[tuple[int, int], str | None]
"""(number of a problem, index of a sample) -> the answer that it states."""


def write_run(name: str, answers: Answers, finish: str = "stop") -> list[Sample]:
    asked = ASKED if name == "weak" else SHOWN
    samples = [
        world.sample(asked[p], i, "" if text == "" else f"{name}: {text}", finish) for (p, i), text in answers.items()
    ]
    rows = [
        Prediction(
            sample_id=s.sample_id, extracted=a or None, normalised=a or None, extractor="n", extractor_version="1"
        )
        for s, a in zip(samples, [a or None for a in answers.values()], strict=True)
    ]
    world.write("samples", name, sorted(samples, key=lambda s: s.sample_id))
    world.write("predictions", name, sorted(rows, key=lambda r: r.sample_id))
    return samples


def run_consistency(weak: Answers, icl: Answers, **config: Any) -> list[dict[str, Any]]:
    world.write_params(**RUNS, consistency={"first": {"a": "weak", "b": "icl"} | config})
    world.write("problems", "train", PROBLEMS)
    world.write("prompts", "train", ASKED)
    for name, answers in (("weak", weak), ("icl", icl)):
        write_run(name, answers)
    execute("consistency", "first", consistency.run)
    return world.read("agreements", "first")


def run_demos(**config: Any) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(prompt id, sample id) of the demos, and sample id -> reason of the rejects."""
    for table in ("samples", "agreements"):
        world.write(table, "none", [])
    settings = {"samples": "weak", "other": "none", "prompts": "train", "agreements": "first"} | config
    world.write_params(**RUNS, consistency={"first": {"a": "weak", "b": "icl"}}, demos_consistent={"ft": settings})
    execute("demos_consistent", "ft", demos_consistent.run)
    rejected = {sample: reason for _, sample, reason, _ in world.rejects("demos_consistent", "ft") if sample}
    return [(row["prompt_id"], row["sample_id"]) for row in world.read("demos", "ft")], rejected


def test_answers_agree_where_both_state_the_same(workspace: Path) -> None:
    weak: Answers = {(0, 0): "1", (1, 0): "2", (2, 0): None, (3, 0): None, (4, 0): "5"}
    icl: Answers = {(0, 0): "1", (1, 0): "3", (2, 0): None, (3, 0): "4", (5, 0): "6"}
    rows = run_consistency(weak, icl)
    assert [(r["problem_id"], r["a_answer"], r["b_answer"], r["agrees"], r["kept"]) for r in rows] == [
        (PROBLEMS[0].problem_id, "1", "1", True, True),
        (PROBLEMS[1].problem_id, "2", "3", False, False),
        (PROBLEMS[2].problem_id, None, None, False, False),
        (PROBLEMS[3].problem_id, None, "4", False, False),
    ]
    assert rows[0]["a_sample_id"] == world.sample(ASKED[0], 0, "").sample_id
    assert rows[0]["b_sample_id"] == world.sample(SHOWN[0], 0, "").sample_id
    assert world.rejects("consistency", "first") == [
        (PROBLEMS[4].problem_id, world.sample(ASKED[4], 0, "").sample_id, "unpaired", "run icl has no sample of it"),
        (PROBLEMS[5].problem_id, world.sample(SHOWN[5], 0, "").sample_id, "unpaired", "run weak has no sample of it"),
    ]


def test_of_several_samples_the_first_is_compared(workspace: Path) -> None:
    rows = run_consistency({(0, 0): "1", (0, 1): "2"}, {(0, 0): "2", (0, 1): "2"})
    assert [(r["a_answer"], r["b_answer"], r["agrees"]) for r in rows] == [("1", "2", False)]
    reasons = [(sample[-4:], reason) for _, sample, reason, _ in world.rejects("consistency", "first") if sample]
    assert reasons == [("0001", "capped")] * 2


Stated = dict[int, str | None]
STATED = st.dictionaries(st.integers(0, 7), st.sampled_from(["1", "2", None]), max_size=8)


@settings(max_examples=10)
@given(weak=STATED, icl=STATED, least=st.integers(1, 10), seed=st.integers(0, 3))
def test_a_top_up_adds_answered_problems_up_to_its_number(
    tmp_path_factory: pytest.TempPathFactory,
    weak: dict[int, str | None],
    icl: dict[int, str | None],
    least: int,
    seed: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("workspace"))
        patch.setenv("PAIRWRIGHT_LEDGER", "ledger")
        given_ = [{(p, 0): a for p, a in answers.items()} for answers in (weak, icl)]
        plain = run_consistency(*given_)
        rows = run_consistency(*given_, top_up=least, seed=seed)
    assert [{**r, "kept": r["agrees"]} for r in rows] == plain
    agreeing = sum(r["agrees"] for r in rows)
    stated = sum(r["a_answer"] is not None and r["b_answer"] is not None for r in rows)
    assert sum(r["kept"] for r in rows) == max(agreeing, min(least, stated))
    assert all(r["a_answer"] and r["b_answer"] for r in rows if r["kept"])


def test_another_seed_adds_other_problems(workspace: Path) -> None:
    weak: Answers = {(p, 0): "1" for p in range(8)}
    icl: Answers = {(p, 0): "2" for p in range(8)}
    kept = {
        seed: tuple(r["problem_id"] for r in run_consistency(weak, icl, top_up=3, seed=seed) if r["kept"])
        for seed in range(4)
    }
    assert len(set(kept.values())) > 1
    assert {len(found) for found in kept.values()} == {3}


WEAK: Answers = {(0, 0): "1", (1, 0): "2", (2, 0): "3"}
ICL: Answers = {(0, 0): "1", (1, 0): "9", (2, 0): "3"}


def ids(asked: list[Any], *numbers: int) -> list[str]:
    return [world.sample(asked[n], 0, "").sample_id for n in numbers]


@pytest.mark.parametrize(
    ("config", "taken", "dropped"),
    [
        ({}, ids(ASKED, 0, 2), ids(ASKED, 1)),
        ({"samples": "icl"}, ids(SHOWN, 0, 2), ids(SHOWN, 1)),
        ({"other": "icl"}, ids(ASKED, 0, 2) + ids(SHOWN, 0, 2), ids(ASKED, 1) + ids(SHOWN, 1)),
        ({"agreements": "none"}, ids(ASKED, 0, 1, 2), []),
    ],
    ids=["weak-ft", "ICL-ft", "hybrid-ft", "full-weak-ft"],
)
def test_consistent_samples_go_under_zero_shot_prompts(
    workspace: Path, config: dict[str, Any], taken: list[str], dropped: list[str]
) -> None:
    run_consistency(WEAK, ICL)
    demos, rejected = run_demos(**config)
    prompts = {prompt.problem_id: prompt.prompt_id for prompt in ASKED}
    assert demos == sorted((prompts[sample[:16]], sample) for sample in taken)
    assert rejected == dict.fromkeys(dropped, "disagreeing")


def test_every_sample_that_is_no_demo_says_why(workspace: Path) -> None:
    run_consistency({(0, 0): "1", (0, 1): "1", (1, 0): "2", (3, 0): "4"}, {(0, 0): "1", (1, 0): "2"})
    world.write("prompts", "train", [ASKED[0]])
    assert run_demos() == (
        [(ASKED[0].prompt_id, ids(ASKED, 0)[0])],
        {
            world.sample(ASKED[0], 1, "").sample_id: "capped",
            ids(ASKED, 1)[0]: "unknown_prompt",
            ids(ASKED, 3)[0]: "unpaired",
        },
    )


@pytest.mark.parametrize(("text", "finish", "reason"), [("x", "length", "truncated"), ("", "stop", "empty")])
def test_what_has_no_ending_or_no_text_is_no_demo(workspace: Path, text: str, finish: str, reason: str) -> None:
    run_consistency(WEAK, ICL)
    write_run("weak", {(0, 0): text}, finish)
    assert run_demos(agreements="none") == ([], {ids(ASKED, 0)[0]: reason})


def test_a_sample_that_both_runs_have_is_one_demo(workspace: Path) -> None:
    """Models with the same weights write the same samples."""
    run_consistency({(0, 0): "1", (1, 0): None}, {}, b="weak")
    demos, rejected = run_demos(other="weak")
    assert demos == [(ASKED[0].prompt_id, world.sample(ASKED[0], 0, "").sample_id)]
    assert list(rejected.values()) == ["disagreeing"]


def test_agreements_of_other_samples_are_an_error(workspace: Path) -> None:
    run_consistency(WEAK, ICL)
    write_run("weak", {(0, 1): "1"})
    with pytest.raises(ValueError, match=r"demos_consistent\.ft\.samples: agreements run 'first' compares none of the"):
        run_demos()


def test_two_samples_with_one_id_are_an_error(workspace: Path) -> None:
    run_consistency(WEAK, ICL)
    world.write("samples", "icl", [world.sample(ASKED[0], 0, "another text")])
    with pytest.raises(ValueError, match=r"ft\.other: runs .* both have a sample .*; map `model` in their"):
        run_demos(other="icl")


def test_a_limit_needs_lengths_and_drops_what_is_longer(workspace: Path) -> None:
    run_consistency(WEAK, ICL)
    with pytest.raises(ValueError, match=r"ft\.max_tokens: the tokens of sample .* are not known; name a `model`"):
        run_demos(max_tokens=3)
    long = world.sample(ASKED[0], 0, "a").model_copy(update={"n_tokens": 4})
    fits = world.sample(ASKED[1], 0, "a").model_copy(update={"n_tokens": 3})
    world.write("samples", "weak", [long, fits])
    demos, rejected = run_demos(max_tokens=3, agreements="none")
    assert (demos, rejected) == ([(ASKED[1].prompt_id, fits.sample_id)], {long.sample_id: "over_long"})
    assert run_dir("demos", "ft").is_dir()
