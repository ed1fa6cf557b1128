"""What a forward does when the device's memory is full: it says of which examples it was."""

import contextlib
import gc
from collections.abc import Iterator, Sequence

import torch


class OutOfMemoryError(Exception):
    """A micro-batch did not fit: the names of its examples, and their tokens."""

    def __init__(self, names: Sequence[str], tokens: int):
        super().__init__(f"out of memory at {', '.join(names)}")
        self.names, self.tokens = list(names), tokens


@contextlib.contextmanager
def of(names: Sequence[str], tokens: int) -> Iterator[None]:
    """Names the examples whose forward and backward the block is, if memory is full."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(names, tokens) from None


def free() -> None:
    """Gives back what a failed forward held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
