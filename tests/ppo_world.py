"""A store in which a tiny model learns sums by PPO: `training_world`, with runs of `ppo`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from builders.checkers.base import PureChecker
from stores.ledger import Ledger
from tests import training_world as world
from train.rollouts import Rollouts, Visit

OPTIMIZER = {"lr": 1e-3, "batch_size": 4, "steps": 6}
PPO: dict[str, Any] = {
    "model": "tiny",
    "prompts": "train",
    "problems": "train",
    "demos": "none",
    "value_model": "none",
    "engine": "hf",
    "sampling": "explore",
    "steps_from": "none",
    "optimizer": OPTIMIZER,
    "validation": world.VALIDATION,
    "log_every": 1,
}


def build(root: Path, changes: dict[str, Any] | None = None, count: int = 10) -> None:
    """The store, with a run `reft` changed by `changes` (dotted path within it, or with a section in front)."""
    given = {"ppo.reft": PPO}
    for path, value in (changes or {}).items():
        given[path if path.partition(".")[0] in world.PARAMS else f"ppo.reft.{path}"] = value
    world.build(root, count, given)


def committed() -> set[str]:
    """Keys of the completions in the ledger."""
    return {key for (key,) in Ledger().db.execute("select key from completions")}


def watch_draws(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ledger's keys of what runs ask their sampler for, from now on."""
    asked: list[str] = []
    commit = Rollouts._commit

    def committing(rollouts: Rollouts, visits: Sequence[Visit]) -> None:
        asked.extend(map(rollouts._key, visits))
        commit(rollouts, visits)

    monkeypatch.setattr(Rollouts, "_commit", committing)
    return asked


DIGITS = "tests.ppo_world:Digits@1"


class Digits(PureChecker):
    """Says that a completion is right if it starts with a digit, whatever the gold answer: a bandit."""

    def extract(self, prefill: str, text: str) -> str | None:
        return text.strip()[:1] or "nothing"

    def equal(self, extracted: str, gold: str) -> bool | None:
        return extracted.isdigit()


class Silent(Digits):
    """Decides nothing, as if it always ran out of time."""

    def equal(self, extracted: str, gold: str) -> bool | None:
        return None


class Lucky(Digits):
    """Says that everything is right."""

    def equal(self, extracted: str, gold: str) -> bool | None:
        return True


class Never(Digits):
    """Says that everything is wrong."""

    def equal(self, extracted: str, gold: str) -> bool | None:
        return False


class Letters(Digits):
    """Says that a completion is right if it starts with a letter: about every other one of random words."""

    def equal(self, extracted: str, gold: str) -> bool | None:
        return extracted.isalpha()
