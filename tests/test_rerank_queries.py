"""The queries `voting`, `pass_at_k` and `rerank`: figures by hand, and random samples against plain Python."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from builders.reporting.statistics import wilson
from schemas import Reward, Sample, Score
from stores.store import Store
from tests import stage_world as world
from tests import voting_world as voting
from tests.voting_world import Answered, drawn

ASKED = [world.prompt(world.problem(f"{i} + 1?")) for i in range(3)]
ANSWERS: list[list[str | None]] = [["1", "2", "2", None], ["9", None, "2", "9"], [None, None, None, None]]
VERDICTS = [["correct", "wrong", "wrong", "no_answer"], ["wrong", "no_answer", "correct", "wrong"], ["no_answer"] * 4]
SCORES = [[0.9, 0.2, 0.6, 1.0], [0.5, 0.9, 0.5, 0.5], [0.9] * 4]
MODEL = {"model": "base", "samples": "drawn", "rewards": "gold", "optimizer": {"lr": 0.1, "batch_size": 1, "steps": 1}}
GOLD = {"gold": {"predictions": "p", "problems": "train"}}


def build(
    answers: Sequence[Sequence[str | None]],
    verdicts: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float | None]] = (),
    **sections: Any,
) -> list[Answered]:
    """Writes samples with these answers, verdicts and scores: one list per prompt."""
    asked = [world.prompt(world.problem(f"{i} + 1?")) for i in range(len(answers))]
    rows = [drawn(prompt, given) for prompt, given in zip(asked, answers, strict=True)]
    voting.write_params(
        rewards=GOLD, reward_model={"rm": MODEL}, scores={"s": {"samples": "drawn", "model": "rm"}}, **sections
    )
    flat = list(itertools.chain(*rows))
    voting.write_answered("drawn", "p", flat)
    world.write("rewards", "gold", by_id(judged(rows, verdicts)))
    if scores:
        found = zip(flat, itertools.chain(*scores), strict=True)
        kept = [Score(sample_id=a.sample.sample_id, score=s, fingerprint="f") for a, s in found if s is not None]
        world.write("scores", "s", by_id(kept))
    return flat


def judged(rows: Sequence[Sequence[Answered]], verdicts: Sequence[Sequence[str]]) -> list[Reward]:
    pairs = zip(itertools.chain(*rows), itertools.chain(*verdicts), strict=True)
    return [verdict(answered.sample, given) for answered, given in pairs]


def verdict(sample: Sample, given: str) -> Reward:
    value = None if given == "undecided" else float(given == "correct")
    row = {"sample_id": sample.sample_id, "verdict": given, "reward": value}
    return Reward.model_validate(row | {"checker": "number", "checker_version": "1"})


def by_id(rows: Sequence[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: row.sample_id)


def ask(name: str, **params: Any) -> list[dict[str, Any]]:
    with Store.open() as opened:
        result = opened.query(name, **params)
        return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def test_votes_of_the_first_samples(workspace: Path) -> None:
    """First prompt: 1, then a tie that 1 wins, then 2. Second: 9, 9, a tie that 9 wins, 9. Third: nobody votes."""
    build(ANSWERS, VERDICTS)
    rows = ask("voting")
    third = round(1 / 3, 6)
    assert [(r["run"], r["setting"], r["k"], r["n_prompts"], r["majority"]) for r in rows] == [
        ("gold", "abcdef01", 1, 3, third), ("gold", "abcdef01", 2, 3, third), ("gold", "abcdef01", 3, 3, 0.0),
        ("gold", "abcdef01", 4, 3, 0.0),
    ]  # fmt: skip
    assert [rows[0][end] for end in ("ci_low", "ci_high")] == pytest.approx(wilson(1, 3), abs=1e-6)
    assert ask("voting", run="another") == []


def test_pass_at_k_by_hand(workspace: Path) -> None:
    """Of four samples one, one and none are correct: the chance that k of them hold it is k/4."""
    build(ANSWERS, VERDICTS)
    rows = ask("pass_at_k")
    assert [(r["k"], r["n_prompts"], r["pass"]) for r in rows] == [
        (k, 3, round(2 / 3 * k / 4, 6)) for k in (1, 2, 3, 4)
    ]
    mean, passes = 1 / 6, [0.25, 0.25, 0]
    error = math.sqrt(sum((p - mean) ** 2 for p in passes) / 2 / 3)
    assert rows[0]["ci_high"] == pytest.approx(mean + 1.96 * error, abs=1e-6)


def test_reranking_by_hand(workspace: Path) -> None:
    """The empty sample of score 1 is no candidate; of three 0.5s the first wins; the third prompt has no candidate."""
    build(ANSWERS, VERDICTS, SCORES)
    rows = ask("rerank")
    third, most = round(1 / 3, 6), round(2 / 3, 6)
    assert [(r["k"], r["rerank"], r["weighted"], r["majority"], r["any_right"]) for r in rows] == [
        (1, third, third, third, third),
        (2, third, third, third, third),
        (3, third, third, 0.0, most),  # 1 weighs 0.9, 2 weighs 0.8
        (4, third, third, 0.0, most),
    ]
    assert {(r["run"], r["rewards"], r["setting"], r["n_prompts"]) for r in rows} == {("s", "gold", "abcdef01", 3)}
    assert [rows[0][end] for end in ("ci_low", "ci_high")] == pytest.approx(wilson(1, 3), abs=1e-6)
    assert ask("rerank", run="another") == []


def test_a_sample_without_a_score_is_not_chosen_and_weighs_nothing(workspace: Path) -> None:
    build([["1", "2"], ["2", "2"]], [["correct", "wrong"], ["correct", "correct"]], [[None, 0.1], [None, None]])
    assert [(r["k"], r["rerank"], r["weighted"], r["majority"]) for r in ask("rerank")] == [
        (1, 0.0, 0.0, 1.0), (2, 0.0, 0.0, 1.0),
    ]  # fmt: skip


def test_what_a_program_did_not_come_to_is_no_answer(workspace: Path) -> None:
    """The reason stands where an answer would, and is the same for every program that lacks the same."""
    lacking = "undecided: no module sympy"
    build([[lacking, lacking, "1"]], [["undecided", "undecided", "correct"]], [[0.9, 0.8, 0.1]])
    assert [r["majority"] for r in ask("voting")] == [0.0, 0.0, 1.0]
    assert [(r["rerank"], r["weighted"], r["majority"]) for r in ask("rerank")] == [(0.0,) * 3, (0.0,) * 3, (1.0,) * 3]


def test_prompts_with_fewer_samples_are_left_out(workspace: Path) -> None:
    build([["1"], ["2", "2"]], [["correct"], ["wrong", "correct"]], [[0.5], [0.25, 0.75]])
    for name, column in (("voting", "majority"), ("pass_at_k", "pass"), ("rerank", "rerank")):
        found = [(r["k"], r["n_prompts"], r[column]) for r in ask(name)]
        assert found[1] == (2, 1, 1.0), name


def test_rewards_by_votes_are_no_gold(workspace: Path) -> None:
    """They call the majority right; nothing is measured by them, even if they are named."""
    rows = build(ANSWERS, VERDICTS, SCORES, votes={"v": voting.VOTES})
    world.write("rewards", "rv", by_id([verdict(row.sample, "correct") for row in rows]))
    for name, place in (("voting", "run"), ("pass_at_k", "run"), ("rerank", "rewards")):
        assert {row[place] for row in ask(name)} == {"gold"}
    assert ask("voting", run="rv") == ask("pass_at_k", run="rv") == []


def test_an_evaluation_and_rollouts_are_measured_too(workspace: Path) -> None:
    """Their samples, predictions and rewards have one name."""
    rows = build([["1", "2"]], [["correct", "wrong"]])
    evaluation = {"model": "base", "prompts": "train", "problems": "train", "engine": "scripted", "greedy": "explore",
                  "explore": "explore", "k": 2}  # fmt: skip
    voting.write_params(
        rewards={}, votes={}, rewards_votes={}, pairs_contrast={}, predictions={}, samples={},
        evaluate={"e": evaluation},
        reward_model={"rm": MODEL | {"samples": "e", "rewards": "e"}}, scores={"s": {"samples": "e", "model": "rm"}},
    )  # fmt: skip
    voting.write_answered("e", "e", rows)
    world.write(
        "rewards",
        "e",
        by_id([verdict(row.sample, "correct" if row.answer == "1" else "wrong") for row in rows]),
    )
    world.write(
        "scores", "s", by_id([Score(sample_id=row.sample.sample_id, score=0.5, fingerprint="f") for row in rows])
    )
    assert [(r["run"], r["k"], r["majority"]) for r in ask("voting")] == [("e", 1, 1.0), ("e", 2, 1.0)]
    assert [(r["run"], r["k"], r["pass"]) for r in ask("pass_at_k")] == [("e", 1, 0.5), ("e", 2, 1.0)]
    assert [(r["run"], r["rewards"], r["k"], r["rerank"]) for r in ask("rerank")] == [
        ("s", "e", 1, 1.0),
        ("s", "e", 2, 1.0),
    ]


def best(weights: Mapping[str, float], order: list[str]) -> str | None:
    """The heaviest answer; ties to the first given."""
    return max(order, key=lambda a: (weights[a], -order.index(a)), default=None)


def by_hand(answers: list[Any], right: str, scores: list[float], k: int) -> tuple[bool, bool, bool, float]:
    """(rerank, weighted, majority, pass@k) of one prompt."""
    given, n, c = answers[:k], len(answers), answers.count(right)
    order = [a for a in given if a is not None]
    weights: dict[str, float] = dict.fromkeys(order, 0.0)
    for answer, score in zip(given, scores, strict=False):
        if answer is not None:
            weights[answer] += score
    candidates = [i for i in range(k) if given[i] is not None]
    surest = max(candidates, key=lambda i: (scores[i], -i), default=None)
    reranked = surest is not None and given[surest] == right
    passes = 1 - math.comb(n - c, k) / math.comb(n, k)
    return reranked, best(weights, order) == right, best(Counter(order), order) == right, passes


def test_random_samples_against_plain_python(workspace: Path) -> None:
    draw, n = random.Random(5), 7
    answers = [[draw.choice(["1", "2", "3", None]) for _ in range(n)] for _ in range(25)]
    scores = [[draw.choice([0.125, 0.25, 0.5, 0.875]) for _ in range(n)] for _ in range(25)]
    verdicts = [["no_answer" if a is None else "correct" if a == "1" else "wrong" for a in row] for row in answers]
    build(answers, verdicts, scores)
    found = [(r["rerank"], r["weighted"], r["majority"]) for r in ask("rerank")]
    voted, passed = [r["majority"] for r in ask("voting")], [r["pass"] for r in ask("pass_at_k")]
    assert len(found) == len(voted) == len(passed) == n
    for k in range(1, n + 1):
        each = [by_hand(a, "1", s, k) for a, s in zip(answers, scores, strict=True)]
        means = [sum(column) / 25 for column in zip(*each, strict=True)]
        assert [*found[k - 1], passed[k - 1]] == pytest.approx(means, abs=1e-6)
        assert voted[k - 1] == found[k - 1][2]
