"""Step labels on one imported samples run, written as tables from short rows, for tests of what scores them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from schemas import Problem
from schemas.ids import problem_id, sample_id
from schemas.step_labels import LabelerKind, StepLabels, StepSpan
from stores.parquet import rows_to_table, write_table
from stores.paths import run_dir
from tests.pipeline import EMPTY

NONE, INVALID = -1, -2
"""Instead of a step: the labeler finds none wrong, or does not answer as asked."""


class Label(NamedTuple):
    """One labelling of a sample, which is the one sample of its problem; `step` is 0-based."""

    sample: str
    labeler: str
    step: int
    repeat: int = 0
    n_steps: int = 8


def sample_of(source: str, name: str) -> str:
    return sample_id(problem_id(source, name, None), "0" * 8, 0)


def label_row(sample: str, label: Label, kind: LabelerKind, **columns: Any) -> StepLabels:
    """The row of a label of the sample with this id; `columns` replace what a label does not say."""
    wrong = label.step >= 0
    labels = ["correct"] * label.step + ["incorrect"] if wrong else ["correct"] * label.n_steps
    row: dict[str, Any] = {
        "sample_id": sample,
        "labeler": label.labeler,
        "repeat": label.repeat,
        "kind": kind,
        "steps": [StepSpan(start=10 * i, end=10 * i + 9) for i in range(label.n_steps)],
        "labels": [] if label.step == INVALID else labels,
        "first_error": label.step if wrong else None,
        "verdict": "error" if wrong else "invalid" if label.step == INVALID else "no_error",
        "labeler_version": "1",
    }
    nothing = dict.fromkeys(("model", "template", "ledger_key", "rationale", "correction", "labeled_at"))
    return StepLabels.model_validate(row | nothing | columns)


def put_labels(root: Path, run: str, rows: Iterable[StepLabels]) -> None:
    """Writes a run of step_labels, in the order of its key."""
    ordered = sorted(rows, key=lambda row: (row.sample_id, row.labeler, row.repeat))
    write_table(run_dir("step_labels", run, root), StepLabels, [rows_to_table(StepLabels, ordered)])


def params(kinds: Mapping[str, str]) -> dict[str, Any]:
    """Params with runs of step labels (run -> labeler) on one imported samples run."""
    base = {"samples": "all", "prompts": "none", "problems": "all", "rewards": "none"}
    own = {
        "judge": {"model": "judge", "path": "data/none"},
        "rule": {"model": "none", "path": "data/none", "neutral_is_error": False},
        "human": {"model": "none", "path": "labels.jsonl"},
    }
    problems = {"source": "file", "path": "p.jsonl", "split": "test", "answer_kind": "number", "licence": "MIT"}
    samples = {"problems": "all", "prompts": "none", "path": "s.jsonl", "model": "none"}
    return EMPTY | {
        "problems": {"all": problems | {"columns": {"question": "q", "answer": "a"}}},
        "models": {"judge": {"path": "data/none", "hosted": "judge-1", "vocabulary": "none"}},
        "samples_import": {"all": samples | {"columns": {"question": "q", "text": "t"}}},
        "step_labels": {run: base | {"labeler": kind} | own[kind] for run, kind in kinds.items()},
    }


def write_runs(root: Path, runs: Mapping[str, tuple[LabelerKind, Mapping[str, Sequence[Label]]]]) -> None:
    """Writes params, problems, and step labels: run -> (kind, source -> labels)."""
    (root / "params.yaml").write_text(yaml.safe_dump(params({run: kind for run, (kind, _) in runs.items()})))
    names = sorted({(source, la.sample) for _, given in runs.values() for source in given for la in given[source]})
    problems = [
        Problem(
            problem_id=problem_id(source, name, None),
            source=source,
            split="test",
            question=name,
            choices=None,
            answer_kind="number",
            level=None,
            subject=None,
            licence="unknown",
        )
        for source, name in names
    ]
    problems.sort(key=lambda row: row.problem_id)
    write_table(run_dir("problems", "all", root), Problem, [rows_to_table(Problem, problems)])
    for run, (kind, given) in runs.items():
        put_labels(root, run, [label_row(sample_of(s, la.sample), la, kind) for s in given for la in given[s]])
