"""A small workspace with every run that can be built by bucket, and what the runs weigh in bytes."""

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from builders.model_files import write_record
from builders.models import write_script
from schemas.params import STAGES
from stores.paths import rejects_dir, run_dir
from stores.stage import Partitioned, execute
from tests import stage_world as world

PROBLEMS = [world.problem(f"What is {i} + 4?") for i in range(60)]
SCRIPT = ["A: 5", "A: 6", "It is 6.", "no idea", "A: 17\n", "The answer is 7."]
RUNS = {
    "prompts": ("train", {"problems": "train", "template": "question_answer", "rendering": "text",
                          "demo_samples": "gold", "demo_problems": "train", "shots": 1}),
    "samples": ("drawn", world.SAMPLES | {"n": 6, "batch_size": 7}),
    "samples_gold": ("gold", {"problems": "train", "ending": "\nA: {answer}", "model": "none"}),
    "predictions": ("p", {"samples": "drawn", "prompts": "train", "problems": "train"}),
    "rewards": ("r", {"predictions": "p", "problems": "train"}),
    "demos_gold": ("g", {"samples": "gold", "prompts": "train"}),
    "demos_correct": ("c", {"samples": "drawn", "rewards": "r", "max_per_problem": 1}),
    "demos_union": ("d", {"a": "c", "b": "g", "c": "none", "d": "none"}),
    "pairs_outcome": ("o", {"samples": "drawn", "rewards": "r", "gold": "gold", "k": 5, "max_pairs": 100}),
    "pairs_union": ("u", {"a": "o", "b": "none", "c": "none", "d": "none", "problems": "train"}),
}  # fmt: skip
"""Section -> the run that it has, and its params."""
ORDER = ("samples_gold", "prompts", *(s for s in RUNS if s not in ("samples_gold", "prompts")))


def write_params(**sections: Any) -> None:
    """The params of all runs, some of them replaced."""
    world.write_params(**{section: {name: run} for section, (name, run) in RUNS.items()} | sections)


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
    for table in ("pairs", "demos", "samples", "prompts", "problems"):
        world.write(table, "none", [])
    write_params()
    for section in ORDER:
        build(section)


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
