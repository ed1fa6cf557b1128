"""The stage `step_labels`: which samples it labels, what labelers see of them, and what it writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from builders import step_labels
from builders.step_label_rows import Candidate, invalid_row, label_row
from builders.step_labels import Candidates, table_of
from schemas import Reward, Sample, StepLabels
from schemas.sections_steps import StepLabelsRun
from schemas.step_labels import StepSpan
from stores.parquet import rows_to_table
from stores.paths import rejects_dir, run_dir
from stores.stage import Stage, StopEarly, execute, parse_bucket
from tests import stage_world as world

PREFILL = "Let's think step by step.\nStep 1: "
CATS = world.problem("Legs of 2 cats?")
SUM = world.problem("3 + 4?")
PICK = world.problem("Which?").model_copy(
    update={"choices": ["one", "two"], "answer_kind": "choice", "source": "other"}
)
PROBLEMS = [CATS, SUM, PICK]
PROMPTS = {p.problem_id: world.prompt(p, PREFILL) for p in PROBLEMS}
GIVEN = [
    # problem, text, verdict, labels of the rule (None: not a candidate's)
    (CATS, "2 * 4 = 8\nStep 2: so 8", "correct", ["correct", "neutral"]),
    (CATS, "2 * 4 = 6\nStep 2: 6 + 1 = 7", "wrong", ["incorrect"]),
    (CATS, "", "no_answer", None),
    (CATS, " \n", "no_answer", None),
    (SUM, "3 + 4 = 7\nStep 2: 7 + 1 = 9", "wrong", ["correct", "incorrect"]),
    (SUM, "no idea", "no_answer", ["neutral"]),
    (SUM, "3 + 4 = 7", "undecided", ["correct"]),
    (SUM, "\nStep 2:\nStep 3: ", "wrong", None),
    (PICK, "two\nStep 2: 1 + 1 = 2", "correct", ["neutral", "correct"]),
]
SAMPLES = [world.sample(PROMPTS[p.problem_id], i, text) for i, (p, text, *_) in enumerate(GIVEN)]
EXPECTED = {s.sample_id: labels for s, (*_, labels) in zip(SAMPLES, GIVEN, strict=True) if labels is not None}
RUN: dict[str, Any] = {
    "samples": "drawn", "prompts": "train", "problems": "train", "rewards": "none", "labeler": "rule", "model": "none",
    "path": "data/none", "neutral_is_error": False,
}  # fmt: skip


def reward(sample: Sample, verdict: str) -> Reward:
    value = {"correct": 1.0, "undecided": None}.get(verdict, 0.0)
    given = {"sample_id": sample.sample_id, "verdict": verdict, "reward": value, "checker": "n", "checker_version": "1"}
    return Reward.model_validate(given)


@pytest.fixture
def made(workspace: Path) -> Path:
    params()
    world.write("problems", "train", PROBLEMS)
    world.write("answers", "train", [world.answer(CATS, "8"), world.answer(PICK, "B")])
    world.write("solutions", "train", [world.solution(CATS, "First.", 0), world.solution(CATS, "Second.", 1)])
    world.write("prompts", "train", list(PROMPTS.values()))
    world.write("samples", "drawn", SAMPLES)
    world.write("rewards", "judged", [reward(s, verdict) for s, (*_, verdict, _) in zip(SAMPLES, GIVEN, strict=True)])
    for table in ("prompts", "rewards"):
        world.write(table, "none", [])
    return workspace


def params(**changes: Any) -> None:
    rewards = {"judged": {"predictions": "p", "problems": "train"}}
    predictions = {"p": {"samples": "drawn", "prompts": "train", "problems": "train"}}
    world.write_params(step_labels={"found": RUN | changes}, rewards=rewards, predictions=predictions)


def label(**changes: Any) -> dict[str, dict[str, Any]]:
    """Runs the stage with these changes to its params; rows by sample."""
    params(**changes)
    execute("step_labels", "found", step_labels.run)
    return {row["sample_id"]: row for row in world.read("step_labels", "found")}


def reasons() -> list[tuple[int, str]]:
    """(place in GIVEN, reason) of the rejects."""
    places = {s.sample_id: place for place, s in enumerate(SAMPLES)}
    return sorted((places[sample or ""], reason) for _, sample, reason, _ in world.rejects("step_labels", "found"))


def test_every_sample_with_a_step_is_labelled(made: Path) -> None:
    found = label()
    assert {sample: row["labels"] for sample, row in found.items()} == EXPECTED
    assert reasons() == [(2, "empty"), (3, "empty"), (7, "empty")]
    row = found[SAMPLES[4].sample_id]
    assert (row["verdict"], row["first_error"], row["rationale"]) == ("error", 1, "7 + 1 is 8, not 9")
    assert [SAMPLES[4].text[step["start"] : step["end"]] for step in row["steps"]] == ["3 + 4 = 7", " 7 + 1 = 9"]


@pytest.mark.parametrize(
    ("select", "labelled", "rejected"),
    [
        ("wrong", [1, 4], [(0, "correct"), (2, "no_answer"), (3, "no_answer"), (5, "no_answer"), (6, "undecided"),
                           (7, "empty"), (8, "correct")]),
        ("correct", [0, 8], [(1, "wrong"), (2, "no_answer"), (3, "no_answer"), (4, "wrong"), (5, "no_answer"),
                             (6, "undecided"), (7, "wrong")]),
    ],
)  # fmt: skip
def test_samples_of_one_verdict(made: Path, select: str, labelled: list[int], rejected: list[tuple[int, str]]) -> None:
    assert sorted(label(select=select, rewards="judged")) == sorted(SAMPLES[i].sample_id for i in labelled)
    assert reasons() == rejected


def test_a_limit_draws_from_every_source_with_the_seed(made: Path) -> None:
    draws = {seed: set(label(limit=2, seed=seed)) for seed in range(6)}
    other = SAMPLES[8].sample_id
    assert all(len(draw) in (2, 3) and other in draw for draw in draws.values()), "2 of `made`, but one has no step"
    assert len(set(map(frozenset, draws.values()))) > 1, "another seed draws others"
    assert draws[3] == set(label(limit=2, seed=3))
    assert draws[3] <= set(label(limit=3, seed=3)), "a higher limit adds to a lower one's"
    kept = len(label(limit=2, seed=3))
    capped = [reason for _, reason in reasons()].count("capped")
    assert kept + capped + len([r for r in reasons() if r[1] == "empty"]) == len(SAMPLES)
    detail = next(detail for *_, reason, detail in world.rejects("step_labels", "found") if reason == "capped")
    assert detail == "above 2 samples of made"


def test_the_draw_is_the_same_for_every_labeler_and_run(made: Path) -> None:
    first = label(limit=1, seed=5)
    world.write_params(step_labels={"again": RUN | {"limit": 1, "seed": 5}})
    execute("step_labels", "again", step_labels.run)
    assert [row["sample_id"] for row in world.read("step_labels", "again")] == sorted(first)


def given_to(monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    """Has a labeler of the test's own label."""
    monkeypatch.setattr(step_labels, "labeler", lambda kind: rows)


KIND: dict[str, Any] = {"kind": "judge", "labeler": "j", "labeler_version": "1"}


def test_a_labeler_sees_the_problem_with_its_options_and_gold(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[list[Candidate]]] = []

    def rows(stage: Stage, candidates: Candidates) -> Iterator[list[StepLabels]]:
        seen.extend([list(candidates()), list(candidates())])
        yield from ([label_row(c, ["correct"], True, **KIND) for c in chunk] for chunk in seen[0])

    given_to(monkeypatch, rows)
    label(limit=9)
    assert seen[0] == seen[1], "candidates can be read several times"
    found = {candidate.sample_id: candidate for chunk in seen[0] for candidate in chunk}
    assert list(found) == sorted(EXPECTED)
    cats, pick, other = (found[SAMPLES[i].sample_id] for i in (0, 8, 5))
    assert cats[:7] == (cats.sample_id, CATS.problem_id, "made", CATS.question, None, "8", "First.")
    assert (cats.prefill, cats.text, cats.step_texts) == (PREFILL, SAMPLES[0].text, ["2 * 4 = 8", "so 8"])
    assert (pick.source, pick.choices, pick.answer, pick.solution) == ("other", ["one", "two"], "B", None)
    assert (other.answer, other.solution) == (None, None)


def test_an_invalid_answer_is_a_row_and_a_reject(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(stage: Stage, candidates: Candidates) -> Iterator[list[StepLabels]]:
        for chunk in candidates():
            yield [invalid_row(c, "no labels " * 99, repeat=n, **KIND) for c in chunk for n in range(2)]

    given_to(monkeypatch, rows)
    found = label()
    assert {(row["verdict"], row["first_error"]) for row in found.values()} == {("invalid", None)}
    dropped = [
        (sample, detail) for _, sample, reason, detail in world.rejects("step_labels", "found") if reason == "invalid"
    ]
    assert len(dropped) == 2 * len(EXPECTED)
    assert {sample for sample, _ in dropped} == set(EXPECTED)
    assert all(detail.startswith(("j, repeat 0: no labels", "j, repeat 1: no labels")) for _, detail in dropped)
    assert max(len(detail) for _, detail in dropped) == 300


def test_a_labeler_that_stops_leaves_no_table(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(stage: Stage, candidates: Candidates) -> Iterator[list[StepLabels]]:
        yield [label_row(c, ["correct"], True, **KIND) for chunk in candidates() for c in chunk][:1]
        raise StopEarly("the budget is spent")

    given_to(monkeypatch, rows)
    with pytest.raises(StopEarly, match="the budget is spent"):
        label()
    assert not run_dir("step_labels", "found").exists()
    assert not rejects_dir("step_labels", "found").exists()


@pytest.mark.parametrize("rewarded", [SAMPLES[:-1], [*SAMPLES, world.sample(PROMPTS[SUM.problem_id], 77, "x")]])
def test_rewards_of_other_samples_are_refused(made: Path, rewarded: list[Sample]) -> None:
    world.write("rewards", "judged", [reward(s, "wrong") for s in rewarded])
    with pytest.raises(
        ValueError, match=r"rewards: run 'judged' was not made from samples run 'drawn' .*name the rewards of"
    ):
        label(rewards="judged")


def test_problems_and_prompts_must_be_those_of_the_samples(made: Path) -> None:
    world.write("prompts", "train", [PROMPTS[CATS.problem_id], PROMPTS[SUM.problem_id]])
    with pytest.raises(ValueError, match=f"sample {PICK.problem_id}.*: its prompt is not in `prompts`"):
        label()
    with pytest.raises(ValueError, match=r"sample \S+: its prompt is not in `prompts`; name the run that it answers"):
        label(prompts="none")
    world.write("prompts", "train", list(PROMPTS.values()))
    world.write("problems", "train", [CATS, PICK])
    with pytest.raises(ValueError, match=f"sample {SUM.problem_id}.*: its problem is not in `problems`"):
        label()


def test_samples_without_prompts_have_no_prefill(made: Path) -> None:
    world.write("samples", "drawn", [s.model_copy(update={"prompt_id": None}) for s in SAMPLES])
    found = label(prompts="none")[SAMPLES[1].sample_id]
    assert [SAMPLES[1].text[s["start"] : s["end"]] for s in found["steps"]] == [" 6 + 1 = 7"], "only marked steps"


@pytest.mark.parametrize("changes", [{}, {"limit": 2, "seed": 1}, {"select": "wrong", "rewards": "judged"}])
def test_buckets_give_the_same_bytes(made: Path, changes: dict[str, Any]) -> None:
    def outputs() -> list[bytes]:
        directories = (run_dir("step_labels", "found"), rejects_dir("step_labels", "found"))
        return [file.read_bytes() for directory in directories for file in sorted(directory.iterdir())]

    label(**changes)
    whole = outputs()
    for problem in PROBLEMS:  # the others are built when all are joined
        bucket = parse_bucket(f"{int(problem.problem_id[0], 16)}/16")
        execute("step_labels", "found", step_labels.run, bucket=bucket)
    execute("step_labels", "found", step_labels.run)
    assert outputs() == whole


@pytest.mark.slow
def test_several_processes_give_the_same_rows(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = label()
    monkeypatch.setattr("builders.parallel.MIN_ROWS", 1)
    monkeypatch.setenv("PAIRWRIGHT_WORKERS", "2")
    assert label() == alone
    assert reasons() == [(2, "empty"), (3, "empty"), (7, "empty")]


def candidate(steps: int = 3) -> Candidate:
    spans = tuple(StepSpan(start=i, end=i + 1) for i in range(steps))
    return Candidate(SAMPLES[0].sample_id, CATS.problem_id, "made", "?", None, None, None, "", "abc", spans)


@pytest.mark.parametrize(
    ("labels", "neutral_is_error", "kept", "first_error"),
    [
        (["correct", "correct", "correct"], True, 3, None),
        (["correct", "incorrect"], True, 2, 1),
        (["correct", "incorrect", "correct"], True, 2, 1),
        (["neutral", "incorrect"], True, 1, 0),
        (["neutral", "incorrect"], False, 2, 1),
        (["neutral", "neutral", "correct"], False, 3, None),
        ([], True, 0, None),
    ],
)
def test_the_first_wrong_step(labels: list[Any], neutral_is_error: bool, kept: int, first_error: int | None) -> None:
    row = label_row(candidate(), labels, neutral_is_error, **KIND)
    assert (row.labels, row.first_error) == (labels[:kept], first_error)
    assert row.verdict == ("no_error" if first_error is None else "error")


def test_more_labels_than_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="4 labels of 3 steps"):
        label_row(candidate(), ["correct"] * 4, True, **KIND)


def test_an_invalid_row_says_why_and_labels_nothing() -> None:
    row = invalid_row(candidate(), "no JSON", correction="better", rationale="other", ledger_key="k", **KIND)
    assert (row.verdict, row.labels, row.first_error, row.correction) == ("invalid", [], None, None)
    assert (row.rationale, row.ledger_key, len(row.steps)) == ("no JSON", "k", 3)


def test_columns_are_those_of_the_rows() -> None:
    rows = [
        label_row(candidate(), ["correct", "incorrect"], True, rationale="why", correction="x", **KIND),
        invalid_row(candidate(1), "no JSON", repeat=1, **KIND),
        label_row(candidate(0), [], True, repeat=2, model="m", template="t", labeled_at="2026-01-01", **KIND),
    ]
    assert table_of(rows).equals(rows_to_table(StepLabels, rows))
    assert table_of([]).equals(pa.table(rows_to_table(StepLabels, [])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neutral_is_error": True}, "neutral_is_error: the rule calls every step .* say `neutral_is_error: false`"),
        ({"labeler": "judge"}, "a judge needs a `model`"),
        ({"model": "base"}, "others `model: none`"),
        ({"labeler": "human"}, "human labels need the `path`"),
        ({"judge": {}}, "judge: the labeler is `rule`; remove it"),
        ({"select": "wrong"}, "rewards: `select: wrong` needs the verdicts"),
        ({"limit": 0}, "limit"),
    ],
)
def test_params_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StepLabelsRun.model_validate(RUN | changes)
