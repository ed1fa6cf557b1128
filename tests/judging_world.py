"""A workspace with solutions to judge and a judge that is asked for labels; a server that keeps its own accounts."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from builders import models, step_labels
from builders.engines.prices import price_usd
from schemas import StepLabels
from stores.ledger import Ledger
from stores.stage import execute
from tests import stage_world as world
from tests.fault_server import MODEL, Act, Asked
from tests.replaying_judge import sample_of, seen, verdict, write_params, write_tables

TEXT = "Step 1: It has {} legs.\nStep 2: And {} eyes.\nStep 3: The answer is 8."
GOOD = verdict(["correct", "correct", "incorrect"], "because")
WORST_TOKENS = 64


def write(count: int, text: str = TEXT, model: str = MODEL, seed: int = 0, **judge: Any) -> None:
    """So many samples, each of a problem of its own, and the model; `judge` are the settings of the judge."""
    problems = [world.problem(f"Legs of {i} cats?") for i in range(count)]
    samples = [sample_of(problem, 0, text.replace("{}", str(i))) for i, problem in enumerate(problems)]
    write_tables(problems, samples, [world.answer(problem, "8") for problem in problems])
    set_judge(model, seed, **judge)


def set_judge(model: str = MODEL, seed: int = 0, neutral_is_error: bool = True, **judge: Any) -> None:
    """Params with these settings of the judge, and the model."""
    write_params(model, seed, judge={"max_new_tokens": WORST_TOKENS} | judge, neutral_is_error=neutral_is_error)
    execute("models", "judge", models.run)


def judge() -> list[StepLabels]:
    """Runs the stage; its rows."""
    execute("step_labels", "judged", step_labels.run)
    return [StepLabels.model_validate(row) for row in world.read("step_labels", "judged")]


def ledger_sql(query: str) -> list[tuple]:
    ledger = Ledger()
    try:
        return ledger.sql(query)[1]
    finally:
        ledger.close()


class Meter:
    """A plan that charges for what it answers: a prompt token for every four bytes, and up to all tokens allowed.

    Whatever may have been answered is charged: answers that are cut or come too late too.
    """

    def __init__(self, faults: Sequence[Act] = (), every: int = 4):
        self.faults, self.every, self.charged, self.answered = faults, every, 0.0, 0
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Act:
        usage = usage_of(asked)
        price = price_usd(MODEL, "", usage)
        assert price is not None
        fails = bool(self.faults) and asked.number % self.every == 1
        act = self.faults[asked.number // self.every % len(self.faults)] if fails else Act(text=GOOD)
        with self._lock:
            self.charged += price * (act.status == 200)
            self.answered += not fails
        return replace(act, fields={"usage": usage})


def usage_of(asked: Asked) -> dict[str, int]:
    said = asked.body.get("messages") or asked.body["prompt"]
    size = len(json.dumps(said, ensure_ascii=False).encode())
    limit = asked.body["max_tokens"]
    spent = 1 + (asked.number * 7919) % limit
    return {"prompt_tokens": size // 4, "completion_tokens": spent, "total_tokens": size // 4 + spent}


def number_of(asked: Asked) -> int:
    """Which of the samples a question is about."""
    return int(seen(asked.question).problem.split()[2])


def ledger_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]
