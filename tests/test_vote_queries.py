"""The queries `vote_thresholds` and `agreement_quality`, and that rewards by votes are never taken for gold."""

from pathlib import Path
from typing import Any

import pytest

from builders import consistency
from schemas import Reject, Reward
from stores.parquet import write_table
from stores.paths import rejects_dir
from stores.stage import execute
from stores.store import Store
from tests import stage_world as world
from tests import voting_world as voting
from tests.voting_world import Answered, drawn, weak

ASKED = [world.prompt(world.problem(f"{i} + 1?")) for i in range(4)]
RIGHT = ["1", "2", "3", "4"]
ANSWERS: list[list[str | None]] = [
    [*["1"] * 10],  # all right
    [*["2"] * 8, *["9"] * 2],  # confident and right
    [*["9"] * 6, *["3"] * 4],  # wrong
    [*[None] * 7, *["4"] * 3],  # most state none
]
WEAK: list[str | None] = ["1", "7", "9", "4"]


def gold(rows: list[Answered]) -> list[Reward]:
    """Rewards by the answers that are right."""
    right = {prompt.problem_id: answer for prompt, answer in zip(ASKED, RIGHT, strict=True)}
    found = []
    for one in sorted(rows, key=lambda one: one.sample.sample_id):
        correct = one.answer == right[one.sample.problem_id]
        verdict = "correct" if correct else "wrong" if one.answer else "no_answer"
        found.append(Reward.model_validate({
            "sample_id": one.sample.sample_id, "verdict": verdict, "reward": float(correct), "checker": "number",
            "checker_version": "1",
        }))  # fmt: skip
    return found


@pytest.fixture
def store(workspace: Path) -> Path:
    """Votes on four prompts, weak answers, and gold rewards of both."""
    rows = [one for prompt, answers in zip(ASKED, ANSWERS, strict=True) for one in drawn(prompt, answers)]
    weakly = [weak(prompt, answer) for prompt, answer in zip(ASKED, WEAK, strict=True)]
    voting.verdicts(rows)
    voting.write_params(
        rewards={run: {"predictions": of, "problems": "train"} for run, of in (("gold", "p"), ("weak", "weak"))},
        consistency={"both": {"a": "weak", "b": "first"}},
        predictions={"p": voting.OF_SAMPLES, "weak": voting.OF_SAMPLES | {"samples": "weak"},
                     "first": voting.OF_SAMPLES},
    )  # fmt: skip
    voting.write_answered("weak", "weak", weakly)
    first = sorted((one for one in rows if one.sample.index == 0), key=lambda one: one.sample.sample_id)
    world.write("predictions", "first", [voting.prediction(one) for one in first])
    execute("consistency", "both", consistency.run)
    world.write("rewards", "gold", gold(rows))
    world.write("rewards", "weak", gold(weakly))
    for run in ("gold", "weak"):
        write_table(rejects_dir("rewards", run), Reject, [])
    return workspace


def ask(name: str, **params: Any) -> list[dict[str, Any]]:
    with Store.open() as opened:
        result = opened.query(name, **params)
        return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def test_thresholds_are_swept_without_a_run(store: Path) -> None:
    rows = ask("vote_thresholds")
    assert [(r["threshold"], r["n_prompts"], r["n_kept"], r["share_right"]) for r in rows] == [
        *((i / 10, 4, 3, round(2 / 3, 6)) for i in range(7)),
        (0.7, 4, 2, 1.0),
        (0.8, 4, 2, 1.0),
        (0.9, 4, 1, 1.0),
        (1.0, 4, 1, 1.0),
    ]
    assert {r["n_weak_chosen"] for r in rows} == {None}
    assert [r["share_others_wrong"] for r in rows] == [0.5] * 7 + [1.0] * 2 + [None] * 2  # of the second and third


def test_pairs_of_a_threshold_are_those_that_the_stage_makes(store: Path) -> None:
    """Weak answers: all samples agree with the first (too easy), 7 against a confident 2, 9 as the wrong majority."""
    rows = {r["threshold"]: r for r in ask("vote_thresholds", weak="weak")}
    counts = {t: (r["n_weak_chosen"], r["n_weak_rejected"]) for t, r in rows.items()}
    assert counts == {i / 10: (int(i <= 6), int(i <= 8)) for i in range(11)}
    assert rows[0.6]["share_chosen_right"] == 0.5
    assert rows[0.7]["share_chosen_right"] == rows[0.7]["share_weak_rejected_wrong"] == 1.0
    assert (rows[0.6]["share_others_wrong"], rows[0.7]["share_others_wrong"]) == (0.0, None)  # 3 is right, 9 is not
    one = {r["threshold"]: r["n_weak_rejected"] for r in ask("vote_thresholds", weak="weak", reject_threshold=0.9)}
    assert set(one.values()) == {0}


def test_a_sample_without_an_answer_can_be_rejected_though_it_does_not_vote(store: Path) -> None:
    """The last problem: three of three voters agree with the weak model, and seven samples state nothing."""
    voting.vote([one for p, a in zip(ASKED, ANSWERS, strict=True) for one in drawn(p, a)], empty_counts=False)
    found = ask("vote_thresholds", weak="weak")[-1]
    assert (found["threshold"], found["n_kept"], found["n_weak_chosen"]) == (1.0, 2, 1)


def test_what_agreement_keeps_is_judged_by_gold(store: Path) -> None:
    """Kept are the first problem (right) and the third, where both are wrong."""
    sides = {row.pop("side"): row for row in ask("agreement_quality")}
    assert sides["a"] == {
        "run": "both", "n": 4, "n_agreeing": 2, "n_kept": 2, "n_judged": 4, "share_right_before": 0.5,
        "precision": 0.5, "recall": 0.5,
    }  # fmt: skip
    assert (sides["b"]["share_right_before"], sides["b"]["precision"], sides["b"]["recall"]) == (0.5, 0.5, 0.5)


def test_rewards_by_votes_are_no_gold(store: Path) -> None:
    """`rv` finds all confident majorities right; where it is the only judge, nothing is measured."""
    assert {row["run"] for row in ask("accuracy")} == {"gold", "weak"}
    assert {row["run"] for row in ask("pass_rate_bands")} == {"gold", "weak"}
    assert {row["run"] for row in ask("accuracy", run="rv")} == {"rv"}
    assert {row["run"] for row in ask("pass_rate_bands", run="rv")} == {"rv"}
    for run in ("gold", "weak"):
        world.write("rewards", run, [])
    assert {row["n_judged"] for row in ask("vote_thresholds")} == {0}
    assert {(row["n_judged"], row["precision"]) for row in ask("agreement_quality")} == {(0, None)}
