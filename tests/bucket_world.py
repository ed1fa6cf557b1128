"""A small workspace with every run that can be built by bucket, and what the runs weigh in bytes."""

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders.model_files import write_record
from builders.models import write_script
from schemas import Prediction, Prompt, Sample, StepLabels
from schemas.params import STAGES
from stores.paths import rejects_dir, run_dir
from stores.stage import Partitioned, execute
from tests import stage_world as world
from tests import step_world as steps

PROBLEMS = [world.problem(f"What is {i} + 4?") for i in range(60)]
SCRIPT = ["A: 5", "A: 6", "It is 6.", "no idea", "A: 17\n", "First 3 + 4 = 8.\nThe answer is 7."]
RUNS = {
    "prompts": ("train", {"problems": "train", "template": "question_answer", "rendering": "text",
                          "demo_samples": "gold", "demo_problems": "train", "shots": 1}),
    "samples": ("drawn", world.SAMPLES | {"n": 6, "batch_size": 7}),
    "samples_gold": ("gold", {"problems": "train", "ending": "\nA: {answer}", "model": "none"}),
    "predictions": ("p", {"samples": "drawn", "prompts": "train", "problems": "train"}),
    "rewards": ("r", {"predictions": "p", "problems": "train"}),
    "votes": ("v", {"samples": "drawn", "predictions": "p"}),
    "rewards_votes": ("rv", {"predictions": "p", "votes": "v", "threshold": 0.4}),
    "demos_gold": ("g", {"samples": "gold", "prompts": "train"}),
    "demos_correct": ("c", {"samples": "drawn", "rewards": "r", "step_labels": "some", "sample_prompts": "train",
                            "prompts": "train", "max_per_problem": 1}),
    "consistency": ("y", {"a": "p", "b": "stated", "top_up": 20}),
    "demos_consistent": ("dc", {"samples": "drawn", "other": "gold", "prompts": "train", "agreements": "y"}),
    "demos_union": ("d", {"a": "c", "b": "g", "c": "none", "d": "none"}),
    "pairs_outcome": ("o", {"samples": "drawn", "rewards": "r", "step_labels": "given", "gold": "gold", "k": 5,
                            "max_pairs": 100}),
    "pairs_contrast": ("w", {"samples": "drawn", "predictions": "p", "votes": "v", "weak": "gold",
                             "weak_predictions": "stated", "threshold": 0.4, "reject_threshold": 0.5, "k": 2}),
    "step_labels": ("l", {"samples": "drawn", "prompts": "train", "problems": "train", "rewards": "r",
                          "labeler": "rule", "model": "none", "path": "data/none", "neutral_is_error": False,
                          "select": "wrong", "limit": 90}),
    "prompts_step": ("s", {"samples": "drawn", "prompts": "train", "step_labels": "given"}),
    "samples_corrections": ("k", {"samples": "drawn", "prompts": "train", "step_labels": "given", "step_prompts": "s",
                                  "model": "none"}),
    "pairs_step": ("ps", {"rejected": "drawn", "rejected_prompts": "train", "step_labels": "given", "prompts": "s",
                          "chosen": "continued", "rewards": "continued", "judged": "none", "max_per_prompt": 3}),
    "pairs_union": ("u", {"a": "o", "b": "none", "c": "none", "d": "none", "problems": "train"}),
}  # fmt: skip
"""Section -> the run that it has, and its params."""
GIVEN: dict[str, dict[str, Any]] = {
    "samples": {"continued": world.SAMPLES | {"prompts": "s"}},
    "predictions": {
        "continued": {"samples": "continued", "prompts": "s", "problems": "train"},
        "stated": {"samples": "gold", "prompts": "none", "problems": "train"},
    },
    "rewards": {"continued": {"predictions": "continued", "problems": "train"}},
    "step_labels": dict.fromkeys(("given", "some"), RUNS["step_labels"][1]),
}
"""Further runs, which are written by hand."""
ORDER = ("samples_gold", "prompts", *(s for s in RUNS if s not in ("samples_gold", "prompts")))


def write_params(**sections: Any) -> None:
    """The params of all runs, some of them replaced."""
    runs: dict[str, Any] = {section: {name: run} for section, (name, run) in RUNS.items()} | sections
    world.write_params(**runs | {section: runs[section] | given for section, given in GIVEN.items()})


def stage_of(section: str) -> Partitioned:
    found = importlib.import_module(f"builders.{section}").run
    assert isinstance(found, Partitioned)
    return found


def build(section: str) -> None:
    execute(section, RUNS[section][0], stage_of(section))


def make() -> None:
    """Builds everything in the current directory, without buckets."""
    world.write("problems", "train", PROBLEMS)
    world.write("answers", "train", [world.answer(p, str(4 + i % 4)) for i, p in enumerate(PROBLEMS) if i % 9])
    world.write("solutions", "train", [world.solution(p, f"{i} and 4.") for i, p in enumerate(PROBLEMS) if i % 7])
    model = run_dir("models", "base")
    model.mkdir(parents=True)
    write_script(model, SCRIPT)
    write_record(model, {"source": "script"})
    for table in ("pairs", "demos", "samples", "prompts", "problems", "agreements", "predictions"):
        world.write(table, "none", [])
    write_params()
    for section in ORDER:
        if section == "prompts":
            world.write("predictions", "stated", list(_stated()))
        if section == "demos_gold":
            labels = list(_labels())
            world.write("step_labels", "given", labels)
            world.write("step_labels", "some", [row for row in labels if row.sample_id < "6"])
        if section == "pairs_step":
            continued = [
                s for asked in world.read("prompts", "s") for s in _continuations(Prompt.model_validate(asked))
            ]
            world.write("samples", "continued", continued)
            world.write("rewards", "continued", [steps.reward(s, "++-?"[s.index]) for s in continued])
        build(section)


def _stated() -> Iterator[Prediction]:
    """What the gold samples say, of which some state nothing: the other side of agreements, and of contrasts."""
    for row in world.read("samples", "gold"):
        answer = row["text"].rpartition("A: ")[2] if row["sample_id"] < "e" else None
        yield Prediction(
            sample_id=row["sample_id"], extracted=answer, normalised=answer, extractor="number:made",
            extractor_version="1",
        )  # fmt: skip


def _labels() -> Iterator[StepLabels]:
    """Wrong first and second steps, none, disputed ones, and samples without a label."""
    errors = {"A: 5": 0, "It is 6.": 0, "A: 17\n": None, SCRIPT[-1]: 1}
    for row in world.read("samples", "drawn"):
        drawn = Sample.model_validate(row)
        if drawn.text in errors:
            yield steps.label(drawn, errors[drawn.text], prefill="", correction=None if drawn.text == "A: 5" else "8.")
        if drawn.text == "It is 6." and drawn.sample_id < "8":
            yield steps.label(drawn, None, labeler="other", prefill="")


def _continuations(asked: Prompt) -> list[Sample]:
    return [world.sample(asked, i, f"So {i % 3}.\nThen {i}.") for i in range(4)]


def outputs(section: str) -> dict[str, bytes]:
    """What a run wrote: the bytes of its tables and of its rejects."""
    name = RUNS[section][0]
    directories = [run_dir(table, name) for table in STAGES[section].writes] + [rejects_dir(section, name)]
    return {str(file): file.read_bytes() for directory in directories for file in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which everything was built once."""
    root = tmp_path_factory.mktemp("built")
    before, ledger = Path.cwd(), os.environ.get("PAIRWRIGHT_LEDGER")
    os.chdir(root)
    os.environ["PAIRWRIGHT_LEDGER"] = str(root / "ledger")
    try:
        make()
    finally:
        os.chdir(before)
        os.environ.pop("PAIRWRIGHT_LEDGER")
        if ledger is not None:
            os.environ["PAIRWRIGHT_LEDGER"] = ledger
    return root


@pytest.fixture
def copy(workspace: Path, built: Path) -> Path:
    """A copy of it as the current directory, with a ledger that has everything."""
    shutil.copytree(built, workspace, dirs_exist_ok=True)
    shutil.copytree(built / "ledger", os.environ["PAIRWRIGHT_LEDGER"])
    return workspace
