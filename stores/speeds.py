"""How fast runs trained, step by step. Beside the ledger, not in DVC's outputs: timings differ on every machine."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from schemas.ids import digest
from stores.paths import ledger_dir


class StepSpeed(NamedTuple):
    """One row per logged step of a run's last training here (finished or not): speed of updates since the row before.

    `step` is the table `training`'s where that is what was trained last. Validation and checkpoints are left out.
    Examples are pairs, demos, samples or rollouts. Useful tokens are those of all sequences, each with a prompt of its
    own; computed ones the places that forwards with gradients ran over: what is shared once, and padding. `mfu` is null
    where the devices' peak is not known (`train.meter` says what it counts). Peak memory is what tensors took on a CUDA
    device, else the process's, in bytes; of several devices the largest.
    """

    run: str
    step: int
    seconds: float
    examples_per_s: float
    useful_tokens_per_s: float
    computed_tokens_per_s: float
    mfu: float | None
    peak_memory: int
    device: str
    n_devices: int


class SpeedLog:
    """The rows of one run of a workspace: a file of one JSON object per line."""

    def __init__(self, root: Path, run: str):
        self.run = run
        self.path = ledger_dir() / "speeds" / f"{digest([str(root.resolve()), run])}.jsonl"

    def begin(self, step: int) -> None:
        """Forgets the rows from a step on: a run that goes on from a checkpoint measures them again."""
        kept = [row for row in self.rows() if row.step < step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f"{self.path.name}-{os.getpid()}")
        aside.write_text("".join(map(_line, kept)), encoding="utf-8")
        aside.replace(self.path)

    def append(self, row: StepSpeed) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))

    def rows(self) -> Iterator[StepSpeed]:
        """In the order of their steps. Lines that are none (cut off by a kill, of another version) are passed over."""
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, TypeError):
                    yield StepSpeed(**json.loads(line))


def training_speeds(root: Path, runs: Iterable[str]) -> list[StepSpeed]:
    """What was measured of some training runs in a workspace."""
    return [row for run in sorted(set(runs)) for row in SpeedLog(root, run).rows()]


def _line(row: StepSpeed) -> str:
    return json.dumps(row._asdict()) + "\n"
