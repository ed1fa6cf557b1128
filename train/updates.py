"""What all updates of a step share: how its rollouts divide, and what is kept of their losses."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Columns = dict[str, Any]
"""Of the training table."""


class Parts:
    """Columns of the training table as they are measured of sequences, update by update."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[Tensor]] = defaultdict(list)
        self.taken: Columns = {}
        """What the last update took: learning rate and gradient norm."""

    def add(self, columns: dict[str, Tensor]) -> None:
        """Values of some sequences: (n,) each."""
        for name, values in columns.items():
            self.pieces[name].append(values.detach())

    def means(self) -> Columns:
        """The mean of every column over the sequences of all updates, and what the last update took."""
        return {name: float(torch.cat(pieces).mean()) for name, pieces in self.pieces.items()} | self.taken


def mini_batches(numbers: Sequence[int], size: int | None, seed: Sequence[int]) -> Iterator[list[int]]:
    """The numbers in batches of `size`, shuffled by `seed`; None: all of them at once, in order."""
    if size is None or size >= len(numbers):
        yield list(numbers)
        return
    order = np.random.default_rng(seed).permutation(len(numbers))
    for begin in range(0, len(numbers), size):
        yield [numbers[i] for i in order[begin : begin + size]]
