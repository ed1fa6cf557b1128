"""Unfinished training, kept outside the workspace: `<ledger>/checkpoints/<fingerprint>/`, or in
`$PAIRWRIGHT_CHECKPOINTS`.

The fingerprint covers everything that decides the run, so a checkpoint is only ever found by a run that would have made
it. Each checkpoint is a directory `step-<n>` (trained weights, optimizer state and random state as safetensors, the
rest as JSON; nothing is pickled) that is written aside and renamed; only the last is kept, and beside it the weights of
the best validation so far. A killed run continues from it with the same bits (on the CPU, at the same thread count).

Of several processes each writes and reads its part (`train.sharding`), into one directory that all see. As many as
wrote it continue with the same bits; any other number, one included, continues from the same weights and optimizer,
with sums in another order and other dropout.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, zeros_like

from stores.paths import ledger_dir
from train import parallel, sharding
from train.policy import Policy
from train.random_state import random_state, restore
from train.saving import LAST_IS_INTACT, disk_errors

DIRECTORY = "PAIRWRIGHT_CHECKPOINTS"
_LIMIT = "micro_tokens-"
"""A file of each process that met a limit of memory."""
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """Where a run stands; everything else is a function of `step`, or tensors."""

    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_accuracy: float | None = None
    tokens: int = 0
    device_s: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)
    """What one kind of training remembers beside these."""


class Checkpoints:
    """The checkpoints of one run, for a policy and its optimizer."""

    def __init__(self, fingerprint: str, policy: Policy, optimizer: torch.optim.AdamW):
        self.directory = Path(os.environ.get(DIRECTORY) or ledger_dir() / "checkpoints").expanduser() / fingerprint
        self.policy, self.optimizer = policy, optimizer
        self.journal = self.directory / "journal"
        """A file that a run may append to; it stays until all is removed."""

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the directory; of several processes the first one does, for all. The operating system releases it when
        the holder ends, however it ends.

        Raises ValueError if another process trains this very run.
        """
        with self._locked() if parallel.leads() else contextlib.nullcontext():
            parallel.wait()
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            remedy = f"set {DIRECTORY} to a directory that can be written"
            raise ValueError(
                f"{self.directory.parent}: no place for checkpoints ({error.strerror}); {remedy}"
            ) from None
        with (self.directory / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{self.directory}: another process trains this run; wait until it has ended"
                ) from None
            yield

    def resume(self) -> TrainingState:
        """Restores weights, optimizer and random state of the last checkpoint; a fresh state if there is none.

        Raises ValueError for a damaged checkpoint.
        """
        last = parallel.agreed(max(self.directory.glob("step-*"), default=None))
        if last is None:
            return TrainingState()
        with self._intact(last):
            state = TrainingState(**json.loads((last / "state.json").read_text(encoding="utf-8")))
            if self._is_whole(last):
                self.policy.load_weights(load_file(last / "weights.safetensors"))
                self._load_optimizer(load_file(last / "optimizer.safetensors"))
                restore(load_file(last / "random.safetensors"), self.policy.device)
            else:
                self._load_divided(last)
            return state

    def save(self, state: TrainingState) -> None:
        """Writes a checkpoint and then removes what it replaces; one of this step that is there is of the same run, and
        stays.

        Raises OSError if the disk is full; the checkpoint before is intact.
        """
        final = self.directory / f"step-{state.step:08d}"
        if parallel.agreed(final.exists()):
            return
        with self._written(final) as aside:
            if parallel.active():
                sharding.save(self._weights() | self._optimizer_state() | self._numbered_random_state(), aside)
            else:
                write_tensors(self._weights(), aside / "weights.safetensors")
                write_tensors(self._optimizer_state(), aside / "optimizer.safetensors")
                write_tensors(random_state(self.policy.device), aside / "random.safetensors")
            if parallel.leads():
                (aside / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
        if parallel.leads():
            best, lock = self._best_path(state.best_step or 0), self.directory / "lock"
            self._remove_others({final, best, self.journal, lock, *self._limits()})

    def micro_tokens(self) -> int | None:
        """Tokens of a forward that memory turned out to have room for, on all devices; None where nothing is known."""
        return min((int(path.read_text()) for path in self._limits()), default=None)

    def keep_micro_tokens(self, tokens: int) -> None:
        """Remembers that, until all is removed; every process that met the limit does it."""
        aside = self.directory / f"aside-{_LIMIT}{parallel.rank()}"
        aside.write_text(str(tokens))
        _sync(aside)
        aside.replace(self.directory / f"{_LIMIT}{parallel.rank()}")

    def _limits(self) -> list[Path]:
        return list(self.directory.glob(f"{_LIMIT}*"))

    @contextlib.contextmanager
    def _written(self, final: Path) -> Iterator[Path]:
        """An empty directory that all processes fill, and the first one then moves to its place, durably, before any
        goes on. What is there is of an abandoned attempt, and is replaced.
        """
        aside, replaced = self.directory / "aside", self.directory / "aside-replaced"
        if parallel.leads():
            for left in (aside, replaced):
                shutil.rmtree(left, ignore_errors=True)
            aside.mkdir()
        parallel.wait()
        yield aside
        parallel.wait()
        if parallel.leads():
            for path in (*aside.iterdir(), aside):
                _sync(path)
            with contextlib.suppress(FileNotFoundError):
                final.replace(replaced)
            aside.replace(final)
            _sync(self.directory)  # what is there survives a power failure before what it replaces is removed
            shutil.rmtree(replaced, ignore_errors=True)
        parallel.wait()

    def save_best(self, step: int) -> None:
        """Keeps the present weights as the best so far."""
        with self._written(self._best_path(step)) as aside:
            if parallel.active():
                sharding.save(self._weights(), aside)
            else:
                write_tensors(self._weights(), aside / "weights.safetensors")

    def load_best(self, step: int) -> None:
        """Puts back the weights that `save_best` kept. Raises ValueError for damaged ones."""
        path = self._best_path(step)
        with self._intact(path):
            if self._is_whole(path):
                self.policy.load_weights(load_file(path / "weights.safetensors"))
            else:
                sharding.load(self._weights(), path)

    @contextlib.contextmanager
    def _intact(self, path: Path) -> Iterator[None]:
        """Raises ValueError where the block cannot read a checkpoint."""
        try:
            yield
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            remedy = f"remove {self.directory} to train from the start"
            raise ValueError(f"{path}: damaged checkpoint ({reason}); {remedy}") from None

    def _is_whole(self, path: Path) -> bool:
        """Whether one process reads what one process wrote."""
        return not parallel.active() and (path / "weights.safetensors").exists()

    def remove(self) -> None:
        """Removes all of it, when the run's outputs are in place: where that fails, the run has not."""
        gone = self.directory.with_name(f"{self.directory.name}.gone")  # a kill in the middle leaves no half checkpoint
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        for left in (path for path in (self.directory, gone) if path.exists()):
            print(f"{left}: cannot be removed; do it yourself", file=sys.stderr)

    def _best_path(self, step: int) -> Path:
        return self.directory / f"best-{step:08d}"

    def _remove_others(self, kept: set[Path]) -> None:
        for path in set(self.directory.iterdir()) - kept:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.policy.trainable().items()}

    def _optimizer_state(self) -> dict[str, Tensor]:
        moments = {name: self.optimizer.state[p] for name, p in self.policy.trainable().items()}
        return {f"{name}:{key}": state[key] for name, state in moments.items() if state for key in _MOMENTS}

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        for name, p in self.policy.trainable().items():
            if f"{name}:step" in tensors:  # a parameter without gradients has no state
                self.optimizer.state[p] = {key: tensors[f"{name}:{key}"].to(p.device) for key in _MOMENTS}

    def _load_divided(self, path: Path) -> None:
        """A checkpoint of any number of processes, by any number."""
        saved = sharding.names(path)
        for p in (p for name, p in self.policy.trainable().items() if f"{name}:step" in saved):
            step = torch.zeros((), device=p.device)
            self.optimizer.state[p] = {"step": step, "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}
        random, processes = self._numbered_random_state(), sum(name.endswith(":cpu") for name in saved)
        same = processes == parallel.count() and saved.issuperset(random)
        sharding.load(self._weights() | self._optimizer_state() | (random if same else {}), path)
        if same:
            restore({name.partition(":")[2]: state for name, state in random.items()}, self.policy.device)

    def _numbered_random_state(self) -> dict[str, Tensor]:
        state = random_state(self.policy.device)
        return {f"random-{parallel.rank()}:{name}": tensor for name, tensor in state.items()}


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Has tensors on the disk. Raises OSError where it is full."""
    with disk_errors(path, LAST_IS_INTACT):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    _sync(path)


def _sync(path: Path) -> None:
    """Has a file, or a directory's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
