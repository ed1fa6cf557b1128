"""A workspace with samples to label, and what a judge said of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from builders.label_files import Label, task_hash
from builders.labelling.tasks import Task, run_tasks
from builders.step_label_rows import Candidate, label_row
from builders.steps import split_steps
from schemas import Sample
from schemas.step_labels import StepLabels
from tests.conftest import REPOSITORY
from tests.stage_world import answer, problem, prompt, sample, solution, write, write_params

PREFILL = "Let's think step by step.\nStep 1:"
RUN = {
    "samples": "drawn", "prompts": "train", "problems": "train", "rewards": "none", "model": "none",
    "path": "data/none", "neutral_is_error": False,
}  # fmt: skip
TEXTS = (
    " Tom has 3 apples.\nStep 2: He buys 4, so he has 8.\nStep 3: The answer is 8.",
    " $x^2 = 9$, so $x = \\frac{6}{2}$.\nStep 2: That costs $5 and $6 in all.\nStep 3: So it is 3.",
    " Half of 10 is 5.\nStep 2: Half of 5 is 3.\nStep 3: So 3.\nStep 4: The answer is 3.",
)
SECRET = "The judge thinks that this step is wrong."


def build(texts: tuple[str, ...] = TEXTS, said: str = SECRET, human: str = "labels") -> list[Sample]:
    """Tables of one sample per text; runs `people` (of the directory or file `human`) and `judged`, which is built."""
    problems = [problem(f"Problem {i}: what is it?") for i in range(len(texts))]
    prompts = [prompt(each, PREFILL) for each in problems]
    samples = [sample(asked, 0, text) for asked, text in zip(prompts, texts, strict=True)]
    write("problems", "train", problems)
    write("answers", "train", [answer(each, str(i)) for i, each in enumerate(problems)])
    write("solutions", "train", [solution(each, f"It is ${i}$.") for i, each in enumerate(problems)])
    write("prompts", "train", prompts)
    write("samples", "drawn", samples)
    write("rewards", "none", [])
    write("step_labels", "judged", [judged(each, said) for each in samples])
    people = RUN | {"labeler": "human", "path": human, "neutral_is_error": True}
    write_params(step_labels={"people": people, "judged": RUN | {"labeler": "rule"}})
    return sorted(samples, key=lambda each: each.sample_id)


def candidate(made: Sample) -> Candidate:
    steps = tuple(split_steps(PREFILL, made.text))
    return Candidate(made.sample_id, made.problem_id, "made", "q", None, None, None, PREFILL, made.text, steps)


def judged(made: Sample, said: str) -> StepLabels:
    """A judge's row: the second step is wrong."""
    return label_row(
        candidate(made), ["correct", "incorrect"], True, kind="judge", labeler="solomon", labeler_version="1",
        rationale=said, correction=f"{said} It should be another.",
    )  # fmt: skip


def label(made: Sample, first_error: int | None = 1, labeler: str = "Ada", **more: Any) -> Label:
    given = {"sample_id": made.sample_id, "labeler": labeler, "first_error": first_error, "hash": hash_of(made)}
    return Label.model_validate(given | more)


def hash_of(made: Sample) -> str:
    return task_hash(made.text, candidate(made).steps)


def keep(path: Path, *labels: Label) -> None:
    """Writes a file of labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(each.line() for each in labels), encoding="utf-8")


def tasks() -> list[Task]:
    return run_tasks("people")


_HEEDS = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("stores", run_name="__main__", alter_sys=True)
"""
"""`python -m stores` that can be interrupted, also where the tests run in the background of a shell."""


class Serving:
    """`pairwright label serve` in a process of its own."""

    def __init__(self, source: str = "people", *options: str):
        command = [sys.executable, "-c", _HEEDS, "label", "serve", source, "--labeler", "Ada", *options]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline().strip()
        self.url = self.process.stdout.readline().strip()

    def end(self, by: signal.Signals) -> tuple[int, str, str]:
        """(exit code, what it said last, its errors)."""
        self.process.send_signal(by)
        output, errors = self.process.communicate(timeout=300)
        return self.process.returncode, output, errors
