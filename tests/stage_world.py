"""A workspace with a params file in which single stages run: unused sections are `{}`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from schemas import TABLES, Answer, Problem, Prompt, Row, Sample, Solution
from schemas.ids import problem_id, prompt_id, sample_id, text_hash
from schemas.params import STAGES
from stores.parquet import read_table, rows_to_table, write_table
from stores.paths import rejects_dir, run_dir

PROBLEMS = {"source": "arithmetic", "path": "data/none", "split": "train", "limit": 2, "steps": [1, 2]}
PROMPTS = {
    "problems": "train", "template": "qa", "rendering": "text", "demo_samples": "none", "demo_problems": "none",
}  # fmt: skip
SAMPLES = {"prompts": "train", "model": "base", "engine": "scripted", "sampling": "explore", "n": 3}
UNMOVED = {"step_labels": "none", "sample_prompts": "none", "prompts": "none"}
"""What a run of `demos_correct` does without."""
COMMON: dict[str, Any] = {
    "seed": 0,
    "sampling": {"explore": {"temperature": 1.0, "max_new_tokens": 32}},
    "problems": {"train": PROBLEMS},
    "models": {"base": {"path": "data/none", "vocabulary": "none", "script": ["8"]}},
    "prompts": {"train": PROMPTS},
    "samples": {"drawn": SAMPLES},
    "report": {},
}
"""Runs that stand for what a test writes by hand: problems and prompts `train`, model `base`, samples `drawn`."""


def write_params(**sections: Any) -> None:
    """`params.yaml` of the common runs and these sections (or another `seed`)."""
    params = {section: {} for section in STAGES} | COMMON | sections
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def write(table: str, run: str, rows: Sequence[Row]) -> None:
    """Writes (or replaces) one run of a table."""
    write_table(run_dir(table, run), TABLES[table], [rows_to_table(TABLES[table], rows)])


def read(table: str, run: str) -> list[dict[str, Any]]:
    """The rows of one run of a table."""
    return read_table(run_dir(table, run), TABLES[table]).to_pylist()


def rejects(stage: str, run: str) -> list[tuple[str | None, str | None, str, str]]:
    """(problem_id, sample_id, reason, detail) of one run's rejects."""
    found = read_table(rejects_dir(stage, run), TABLES["rejects"]).to_pylist()
    return [(row["problem_id"], row["sample_id"], row["reason"], row["detail"]) for row in found]


def problem(question: str, kind: str = "number") -> Problem:
    return Problem.model_validate(
        {
            "problem_id": problem_id("made", question, None), "source": "made", "split": "train", "question": question,
            "choices": None, "answer_kind": kind, "level": None, "subject": None, "licence": "CC0-1.0",
        }
    )  # fmt: skip


def answer(asked: Problem, gold: str) -> Answer:
    return Answer(problem_id=asked.problem_id, answer=gold)


def solution(asked: Problem, text: str, index: int = 0) -> Solution:
    return Solution(problem_id=asked.problem_id, style="natural", index=index, text=text)


def prompt(asked: Problem, prefill: str = "", words: str = "") -> Prompt:
    message = {"role": "user", "content": asked.question + words}
    return Prompt.model_validate(
        {
            "prompt_id": prompt_id(asked.problem_id, [message], prefill, "text"), "problem_id": asked.problem_id,
            "messages": [message], "prefill": prefill, "rendering": "text", "style": "natural", "template": "qa-1",
            "demo_sample_ids": None,
        }
    )  # fmt: skip


def sample(asked: Prompt, index: int, text: str, finish_reason: str = "stop") -> Sample:
    return Sample.model_validate(
        dict.fromkeys(Sample.model_fields)
        | {
            "sample_id": sample_id(asked.prompt_id, "abcdef0123456789", index), "prompt_id": asked.prompt_id,
            "problem_id": asked.problem_id, "model": "base", "model_fingerprint": "abcdef0123456789", "index": index,
            "text": text, "text_hash": text_hash(text), "n_chars": len(text), "finish_reason": finish_reason,
        }
    )  # fmt: skip
