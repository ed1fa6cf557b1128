"""The cost of a generating stage is what its own execution generated."""

from pathlib import Path
from typing import Any

import pytest

from builders import evaluate, samples
from builders.model_files import write_record
from builders.models import write_script
from stores.paths import run_dir
from stores.run_log import RunLog
from stores.stage import execute
from tests import stage_world as world

CATS, SUM = world.problem("Legs of 2 cats?"), world.problem("What is 3 + 4?")
EVALUATE = {
    "model": "base", "prompts": "train", "problems": "train", "engine": "scripted", "greedy": "greedy",
    "explore": "explore", "k": 3,
}  # fmt: skip


@pytest.fixture
def prompts(workspace: Path) -> None:
    world.write("problems", "train", [CATS, SUM])
    world.write("answers", "train", [world.answer(CATS, "8"), world.answer(SUM, "7")])
    world.write("prompts", "train", [world.prompt(CATS), world.prompt(SUM)])
    model = run_dir("models", "base")
    model.mkdir(parents=True)
    write_script(model, ["8"])
    write_record(model, {"source": "script"})


def params(n: int) -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 32}
    world.write_params(
        samples={name: world.SAMPLES | {"n": n} for name in ("drawn", "again")},
        sampling={"explore": settings, "greedy": settings | {"temperature": 0.0}},
        evaluate={"base": EVALUATE},
    )


def tokens(stage: str, run: str) -> int:
    execute(stage, run, {"samples": samples, "evaluate": evaluate}[stage].run)
    return RunLog().latest(Path())[stage, run].tokens


def test_a_stage_costs_what_this_execution_generated(prompts: None) -> None:
    params(2)
    assert tokens("samples", "drawn") == 8, "two samples of two prompts, each a word and an ending"
    assert tokens("samples", "drawn") == 0, "all of it is in the ledger"
    assert tokens("samples", "again") == 0, "another run of the same setting"
    params(3)
    assert tokens("samples", "drawn") == 4, "the third sample of both prompts"


def test_evaluate_costs_greedy_and_sampled_completions(prompts: None) -> None:
    params(1)
    assert tokens("samples", "drawn") == 4
    assert tokens("evaluate", "base") == 4 + 8, "greedy, and the two samples that were not there"
