"""A store in which a tiny model learns sums by PPO: `training_world`, with runs of `ppo`."""

from pathlib import Path
from typing import Any

from tests import training_world as world

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
