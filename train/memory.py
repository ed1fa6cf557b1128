"""What happens when the device's memory is full: a forward says of which examples it was."""

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from train import parallel
from train.packing import Tokens

MORE_DEVICES = "use more devices (torchrun)"


class OutOfMemoryError(Exception):
    """A micro-batch did not fit: the names of its examples, their tokens, whether gradients were taken, and what helps
    where one example alone has no room.
    """

    def __init__(self, names: Sequence[str], tokens: int, gradients: bool = False, way: str = ""):
        super().__init__(f"out of memory at {', '.join(names)}")
        self.names, self.tokens, self.gradients, self.way = list(names), tokens, gradients, way


@contextlib.contextmanager
def of(names: Sequence[str], sequences: Iterable[Tokens], way: str = "leave it out") -> Iterator[None]:
    """Names the examples whose forward (and backward) the block is, if memory is full."""
    gradients = torch.is_grad_enabled()
    try:
        yield
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(names, sum(s.length for s in sequences), gradients, way) from None


@contextlib.contextmanager
def needed(said: str, *ways: str) -> Iterator[None]:
    """Raises ValueError with what is `said` and what helps if memory is full in the block, which cannot be done in
    smaller pieces.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise ValueError(f"{said}; {', or '.join(ways)}") from None


@contextlib.contextmanager
def lowered(setting: str, section: str, name: Callable[[str], str], more: str = "") -> Iterator[None]:
    """Raises ValueError for an `OutOfMemoryError` in the block, whose forwards are of as many tokens as a setting says.

    `name` says what a name of the error stands for; `more` ends the message.
    """
    try:
        yield
    except OutOfMemoryError as error:
        first, n, alone = name(error.names[0]), len(error.names), len(error.names) == 1
        said = f"memory is full, at {first}{'' if alone else f' and {n - 1} more'}, {error.tokens:,} tokens"
        ways = [f"{said} alone; {error.way}" if alone else f"{said}; lower {setting}", *more_devices(section)]
        raise ValueError(", or ".join(ways) + more) from None


def loading(section: str, model: str) -> contextlib.AbstractContextManager[None]:
    """`needed` around a model's loading, and the forwards in which it is tried on the longest sequences."""
    ways = "leave out the longest sequences", "use a device with more memory"
    return needed(f"memory is full, where '{model}' is loaded and tried", *ways, *more_devices(section))


def more_devices(section: str) -> list[str]:
    """What helps a stage that trains on several, as a list of one or none."""
    return [MORE_DEVICES] if section in parallel.SECTIONS else []


def free() -> None:
    """Gives back what a failed forward held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
