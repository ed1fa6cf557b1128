"""What happens when the device's memory is full: a forward says of which examples it was."""

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence

import torch

from train import parallel
from train.packing import Tokens


class OutOfMemoryError(Exception):
    """A micro-batch did not fit: the names of its examples, and their tokens."""

    def __init__(self, names: Sequence[str], tokens: int):
        super().__init__(f"out of memory at {', '.join(names)}")
        self.names, self.tokens = list(names), tokens


@contextlib.contextmanager
def of(names: Sequence[str], sequences: Iterable[Tokens]) -> Iterator[None]:
    """Names the examples whose forward (and backward) the block is, if memory is full."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(names, sum(s.length for s in sequences)) from None


@contextlib.contextmanager
def needed(said: str, section: str, *ways: str) -> Iterator[None]:
    """Raises ValueError with what is `said` and what helps if memory is full in the block, which cannot be done in
    smaller pieces.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise ValueError(f"{said}; {remedy(section, *ways)}") from None


def loading(section: str, model: str) -> contextlib.AbstractContextManager[None]:
    """`needed` around a model's loading, and the forwards in which it is tried on the longest sequences."""
    ways = "leave out the longest sequences", "use a device with more memory"
    return needed(f"memory is full, where '{model}' is loaded and tried", section, *ways)


def remedy(section: str, *ways: str) -> str:
    """What helps a stage whose memory is full: some ways, and more devices where it trains on several."""
    return ", or ".join([*ways, *(["use more devices (torchrun)"] if section in parallel.SECTIONS else [])])


def free() -> None:
    """Gives back what a failed forward held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
