"""The report's small workspace with weak supervision in it: two filters, votes and pairs, all with random answers.

Everything that the report must find is returned as plain rows, which the tests count by hand. In the runs of
`rewards_votes` every sample is right, so that a figure that took them for gold would show.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from schemas import Agreement, Pair, Prediction, Reward, Sample, Vote
from tests.report_world import PROBLEMS, build_world, judged, prompt_of, put, sample, verdict_of

N = 5
"""Votes per prompt."""

EVALUATION = {"model": "base", "prompts": "test", "problems": "test", "engine": "scripted", "greedy": "greedy"}
BLOCK = {
    "floor": "m0",
    "ceiling": "m1",
    "models": ["dpo", "m2", "m1"],
    "consistency": ["filter", "blind", "unbuilt"],
    "votes": ["many", "blind", "unbuilt"],
    "pairs": ["contrast", "blind", "alone", "voted", "unbuilt"],
}

Answered = list[tuple[Sample, str | None]]


class Weak(NamedTuple):
    """What the workspace holds: answers of the samples, the filter's and the votes' rows, and the pairs by case."""

    evaluated: dict[str, dict[str, list[str | None]]]
    weak: dict[str, str | None]
    agreements: list[Agreement]
    votes: list[Vote]
    pairs: dict[str, list[tuple[str | None, str | None]]]
    answers: dict[str, str | None]


def params_with(raw: dict[str, Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Params of the report's world with weak supervision; `unmeasured` has the same samples as `weak`, and no gold."""
    names = ("weak", "strong", "many", "unmeasured")
    raw["samples"] |= dict.fromkeys(names, raw["samples"]["own"])
    raw["predictions"] |= {n: {"samples": n, "prompts": "test", "problems": "test"} for n in names}
    raw["predictions"]["again"] = {"samples": "weak", "prompts": "test", "problems": "test"}
    raw["rewards"] |= {f"{n}_gold": {"predictions": p, "problems": "test"}
                       for n, p in (("weak", "again"), ("strong", "strong"), ("many", "many"))}  # fmt: skip
    raw["consistency"] = {
        "filter": {"a": "weak", "b": "strong", "top_up": 9},
        "blind": {"a": "unmeasured", "b": "strong"},
        "unbuilt": {"a": "weak", "b": "strong"},
    }
    raw["votes"] = {
        "many": {"samples": "many", "predictions": "many"},
        "blind": {"samples": "unmeasured", "predictions": "unmeasured"},
        "unbuilt": {"samples": "many", "predictions": "many"},
    }
    raw["rewards_votes"] = {
        "voted": {"predictions": "many", "votes": "many"},
        "voted_blind": {"predictions": "unmeasured", "votes": "blind"},
        "voted_weak": {"predictions": "weak", "votes": "many"},
    }
    sides = {"samples": "many", "predictions": "many", "votes": "many"}
    raw["pairs_contrast"] = {
        "contrast": sides | {"weak": "weak", "weak_predictions": "weak"},
        "blind": sides | {"weak": "unmeasured", "weak_predictions": "unmeasured"},
        "alone": sides | {"weak": "none", "weak_predictions": "none"},
        "unbuilt": sides | {"weak": "none", "weak_predictions": "none"},
    }
    raw["pairs_outcome"]["voted"] = {
        "samples": "many",
        "rewards": "voted",
        "step_labels": "none",
        "gold": "none",
        "k": 1,
    }
    raw["report"]["weak_to_strong"] = blocks
    return raw


def write_params(root: Path, blocks: list[dict[str, Any]]) -> None:
    path = root / "params.yaml"
    raw = params_with(yaml.safe_load(path.read_text()), blocks)
    path.write_text(yaml.safe_dump(raw, sort_keys=False))


def build_weak(root: Path, seed: int = 5) -> Weak:
    """Builds the report's world and weak supervision, but for the runs called `unbuilt`."""
    evaluated = build_world(root)["given"]
    write_params(root, [BLOCK])
    draw = random.Random(seed)
    weak = answered(draw, "dddddddd", 1, ["7", "7", "1", "2", None, "t"])
    strong = answered(draw, "eeeeeeee", 1, ["7", "7", "7", "1", None, "t"])
    many = answered(draw, "ffffffff", N, ["7", "7", "7", "1", "2", None, "t"])
    unmeasured = [(s.model_copy(update={"sample_id": s.sample_id.replace("-dddddddd-", "-abababab-")}), a)
                  for s, a in weak]  # fmt: skip
    answers = {s.sample_id: a for s, a in [*weak, *strong, *many, *unmeasured]}
    for run, rows in (("weak", weak), ("strong", strong), ("many", many), ("unmeasured", unmeasured)):
        predicted(root, run, rows)
    predicted(root, "again", weak, samples=False)
    for run, rows in (("weak_gold", weak), ("strong_gold", strong), ("many_gold", many)):
        rewarded(root, run, [(s.sample_id, verdict_of(a)) for s, a in rows])
    for run, rows in (("voted", many), ("voted_blind", unmeasured), ("voted_weak", weak)):
        rewarded(root, run, [(s.sample_id, "correct") for s, _ in rows])
    agreements, votes = agree(draw, weak, strong), vote(many)
    put(root, "filter", Agreement, agreements)
    put(root, "blind", Agreement, agree(draw, unmeasured, strong))
    put(root, "many", Vote, votes)
    put(root, "blind", Vote, vote(unmeasured))
    pairs = {
        "contrast": contrast(root, "contrast", draw, weak, many),
        "blind": contrast(root, "blind", draw, unmeasured, many),
        "alone": contrast(root, "alone", draw, many[::N], many),
        "voted": contrast(root, "voted", draw, many[::N], many),
    }
    return Weak(evaluated, {s.problem_id: a for s, a in weak}, agreements, votes, pairs, answers)


def answered(draw: random.Random, setting: str, n: int, pool: list[str | None]) -> Answered:
    return [(sample(p, setting, i, f"text {i}", 0.8), draw.choice(pool)) for p in PROBLEMS for i in range(n)]


def predicted(root: Path, run: str, rows: Answered, samples: bool = True) -> None:
    if samples:
        put(root, run, Sample, [s for s, _ in rows])
    named = {"extractor": "number", "extractor_version": "1"}
    put(root, run, Prediction, [Prediction(sample_id=s.sample_id, extracted=a, normalised=a, **named) for s, a in rows])


def rewarded(root: Path, run: str, verdicts: list[tuple[str, str]]) -> None:
    value: dict[str, float | None] = {"correct": 1.0, "undecided": None}
    named = {"checker": "number", "checker_version": "1"}
    put(root, run, Reward, [Reward(sample_id=i, verdict=v, reward=value.get(v, 0.0), **named) for i, v in verdicts])  # type: ignore[arg-type]


def agree(draw: random.Random, a: Answered, b: Answered) -> list[Agreement]:
    """Agreements, and some of the others kept as well."""
    return [
        Agreement(
            problem_id=x.problem_id,
            a_sample_id=x.sample_id,
            b_sample_id=y.sample_id,
            a_answer=p,
            b_answer=q,
            agrees=p is not None and p == q,
            kept=(p is not None and p == q) or draw.random() < 0.2,
        )
        for (x, p), (y, q) in zip(a, b, strict=True)
    ]


def vote(rows: Answered) -> list[Vote]:
    """By hand: most votes, then the earliest; no answer is an answer."""
    found = []
    for problem in PROBLEMS:
        mine = [(s, a) for s, a in rows if s.problem_id == problem]
        given = [a for _, a in mine]
        count = Counter(given)
        answer = max(count, key=lambda a: (count[a], -given.index(a)))
        first = mine[given.index(answer)][0].sample_id
        n, most = len(given), count[answer]
        named = {"prompt_id": prompt_of(problem), "problem_id": problem, "sample_id": first, "answer": answer}
        found.append(Vote(**named, count=most, n=n, confidence=most / n))
    return found


def contrast(
    root: Path, run: str, draw: random.Random, weak: Answered, strong: Answered
) -> list[tuple[str | None, str | None]]:
    """Writes pairs of which the first side is now chosen, now rejected; returns the answers, chosen first."""
    rows, found = [], []
    for place, (first, answer) in enumerate(weak[:20]):
        other, second = draw.choice([(s, a) for s, a in strong if s.problem_id == first.problem_id and s != first])
        sides = [(first, answer), (other, second)][:: 1 if place % 3 else -1]
        spans: dict[str, Any] = {}
        for side, (s, _) in zip(("chosen", "rejected"), sides, strict=True):
            spans |= {
                f"{side}_sample_id": s.sample_id,
                f"{side}_start": 0,
                f"{side}_end": s.n_chars,
                f"{side}_eos": True,
            }
        rows.append(Pair(prompt_id=prompt_of(first.problem_id), rank=0, problem_id=first.problem_id, **spans))
        found.append((sides[0][1], sides[1][1]))
    put(root, run, Pair, rows)
    return found


def evaluate(root: Path, run: str, right: list[bool]) -> None:
    """Writes greedy completions of an evaluate run, right or wrong."""
    rows = [(sample(p, "aaaaaaaa", 0, "g", 0.0), "7" if r else "1") for p, r in zip(PROBLEMS, right, strict=True)]
    judged(root, run, [(s, a, verdict_of(a)) for s, a in rows])
