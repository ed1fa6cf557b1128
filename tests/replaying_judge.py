"""A judge that says what humans said of the same solutions, for servers in tests: the mode `online` and batches.

It finds the problem and the steps in the question as a model would see them, so a question that garbles them gets no
answer. One question in ten, by a hash of it, is answered in one of the ways of `MALFORMED`, which say nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from schemas import Answer, Problem, Sample, Solution
from schemas.ids import problem_id, sample_id, text_hash
from tests import stage_world as world
from tests.fault_server import MODEL, Act, Asked
from tests.first_error_rows import LabelledRow

FINGERPRINT = "abcdef0123456789"
_PROBLEM = re.compile(r"<problem ([0-9a-f]{8})>\n(.*?)\n</problem \1>", re.DOTALL)
_STEP = re.compile(r"<step (\d+) ([0-9a-f]{8})>\n(.*?)\n</step \1 \2>", re.DOTALL)
LABELS = {"samples": "drawn", "prompts": "none", "problems": "train", "rewards": "none", "labeler": "judge",
          "model": "judge", "path": "data/none"}  # fmt: skip


def verdict(labels: Sequence[str], analysis: str = "as the human says") -> str:
    """The structured answer."""
    steps = [{"step": number, "label": label} for number, label in enumerate(labels, 1)]
    return json.dumps({"analysis": analysis, "steps": steps})


def labels_of(first_error: int | None, n_steps: int) -> list[str]:
    return ["correct"] * (n_steps if first_error is None else first_error) + ["incorrect"] * (first_error is not None)


MALFORMED: tuple[Callable[[list[str]], tuple[str, str]], ...] = (
    lambda labels: ("", "stop"),
    lambda labels: ("The solution looks fine to me.", "stop"),
    lambda labels: (verdict(labels)[:-2], "length"),
    lambda labels: (verdict([label.replace("correct", "right") for label in labels]), "stop"),
    lambda labels: (verdict(["correct"] * 999), "stop"),
    lambda labels: (f"{verdict(['incorrect'])}\n{verdict(['neutral'])}", "stop"),
    lambda labels: ('{"analysis": "none", "steps": "all correct"}', "stop"),
    lambda labels: ('{"analysis": "none"}', "stop"),
    lambda labels: ('{"steps": []}', "stop"),
    lambda labels: ("Final Decision:\nStep one: incorrect", "stop"),
    lambda labels: ("Final Decision:\nStep 1: correct Step 2: incorrect", "stop"),
    lambda labels: ("Final Decision:\nStep 1: incorrect\nOr is it?", "stop"),
    lambda labels: ("Final Decision:\nStep 2: correct; Step 1: incorrect", "stop"),
    lambda labels: ('{"steps": [{"step": 1.5, "label": "incorrect"}]}', "stop"),
    lambda labels: ('{"steps": [{"step": 0, "label": "incorrect"}]}', "stop"),
)


class Seen(NamedTuple):
    """A solution as the question shows it."""

    problem: str
    steps: tuple[str, ...]


def seen(content: str) -> Seen:
    """The problem and the steps of a question."""
    problem = _PROBLEM.search(content)
    assert problem is not None, content
    steps = [match for match in _STEP.findall(content) if match[1] == problem[1]]
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1)), content
    return Seen(problem[2], tuple(step for _, _, step in steps))


def is_malformed(content: str) -> bool:
    return _number(content) % 10 == 0


def _number(content: str) -> int:
    return int(hashlib.sha256(content.encode()).hexdigest()[:8], 16)


class ReplayingJudge:
    """Answers questions about some labelled solutions; of equal ones the first label counts."""

    def __init__(self, labelled: Iterable[LabelledRow]):
        self.labels: dict[Seen, list[str]] = {}
        for row in labelled:
            self.labels.setdefault(shown(row), labels_of(row.first_error, len(row.steps)))

    def answer(self, body: Mapping[str, Any]) -> tuple[str, str]:
        """(text, finish_reason) for the body of a request."""
        content = body["messages"][-1]["content"]
        labels = self.labels[seen(content)]
        if is_malformed(content):
            return MALFORMED[_number(content) // 10 % len(MALFORMED)](labels)
        return verdict(labels), "stop"

    def plan(self, asked: Asked) -> Act:
        """What the `FaultServer` does."""
        text, finish_reason = self.answer(asked.body)
        return Act(text=text, finish_reason=finish_reason)


def shown(row: LabelledRow) -> Seen:
    """How a question shows a solution."""
    options = "".join(f"\n({chr(ord('A') + i)}) {option}" for i, option in enumerate(row.options or ()))
    return Seen(row.problem + ("\n" + options if options else ""), tuple(row.steps))


def write_rows(labelled: Iterable[LabelledRow], **judge: Any) -> dict[str, LabelledRow]:
    """A workspace with labelled solutions as samples `drawn`, and params; returns sample_id -> row.

    `judge` are fields of `step_labels.judged`. Models are not built.
    """
    problems: dict[str, Problem] = {}
    answers, solutions, rows = {}, {}, {}
    samples: list[Sample] = []
    for number, row in enumerate(labelled):
        problem = problem_of(row)
        problems[problem.problem_id] = problem
        if row.gold_answer is not None:
            answers[problem.problem_id] = Answer(problem_id=problem.problem_id, answer=row.gold_answer)
        if row.gold_solution:
            solutions[problem.problem_id] = world.solution(problem, row.gold_solution)
        samples.append(sample_of(problem, number, row.text))
        rows[samples[-1].sample_id] = row
    write_tables(list(problems.values()), samples, list(answers.values()), list(solutions.values()))
    write_params(**judge)
    return rows


def write_tables(
    problems: Sequence[Problem], samples: Sequence[Sample], answers: Sequence[Answer] = (),
    solutions: Sequence[Solution] = (),
) -> None:  # fmt: skip
    """What a run of `step_labels` reads."""
    for table, run, rows in (
        ("problems", "train", problems), ("answers", "train", answers), ("solutions", "train", solutions),
        ("samples", "drawn", samples), ("prompts", "none", []), ("rewards", "none", []),
    ):  # fmt: skip
        world.write(table, run, rows)
    (Path("data") / "none").mkdir(exist_ok=True)


def write_params(model: str = MODEL, seed: int = 0, **labels: Any) -> None:
    """Params with one run `step_labels.judged`."""
    world.write_params(
        seed=seed,
        models=world.COMMON["models"] | {"judge": {"path": "data/none", "vocabulary": "none", "hosted": model}},
        step_labels={"judged": LABELS | labels},
    )


def problem_of(row: LabelledRow) -> Problem:
    made = world.problem(row.problem).model_dump()
    identity = problem_id(row.source, row.problem, row.options)
    return Problem.model_validate(made | {"problem_id": identity, "source": row.source, "choices": row.options})


def sample_of(problem: Problem, number: int, text: str) -> Sample:
    """A sample that answers no prompt."""
    fields = dict.fromkeys(Sample.model_fields) | {
        "sample_id": sample_id(problem.problem_id, FINGERPRINT, number), "problem_id": problem.problem_id,
        "model": "base", "model_fingerprint": FINGERPRINT, "index": number, "text": text, "text_hash": text_hash(text),
        "n_chars": len(text), "finish_reason": "stop",
    }  # fmt: skip
    return Sample.model_validate(fields)
