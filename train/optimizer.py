"""AdamW, its learning rate by step, and which examples each step sees."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from schemas.sections_training import Optimizer
from train.sharding import whole


class Schedule:
    """The steps of a run: how many, which examples and what learning rate each has. A function of step and seed alone,
    so a resumed run continues it.

    Examples are drawn in epochs, each a permutation of all; a batch may span two epochs. With `epochs` (fractions
    allowed) every example drawn is used: the last batch may be smaller. With `steps` all batches are full.
    """

    def __init__(self, config: Optimizer, n_examples: int, seed: int):
        self.config, self.n, self.seed = config, n_examples, seed
        size = config.batch_size
        drawn = config.steps * size if config.steps else max(1, round((config.epochs or 0) * n_examples))
        self.drawn, self.steps = drawn, -(-drawn // size)
        self._permutation: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def batch(self, step: int) -> list[int]:
        """Numbers of the examples of a step (0-based)."""
        return [number for number, _ in self.visits(step)]

    def visits(self, step: int) -> list[tuple[int, int]]:
        """(number of an example, how often it was drawn before) of a step: in each epoch it is drawn once."""
        size = self.config.batch_size
        return [(self._draw(i), i // self.n) for i in range(step * size, min((step + 1) * size, self.drawn))]

    def epoch(self, step: int) -> float:
        """Passes over the data before a step."""
        return min(step * self.config.batch_size, self.drawn) / self.n

    def lr(self, step: int) -> float:
        """The learning rate of a step.

        It rises linearly over the warm-up's share of the steps, to the full rate on its last; then it is constant, or
        falls to 0 after the last step, linearly or as a cosine.
        """
        warmup = round(self.config.warmup * self.steps)
        if step < warmup:
            return self.config.lr * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        falls = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.config.lr * falls[self.config.schedule]

    def _draw(self, place: int) -> int:
        epoch, index = divmod(place, self.n)
        if self._permutation[0] != epoch:
            self._permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.n)
        return int(self._permutation[1][index])


def adamw(model: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101) on the model's trainable matrices.

    Biases, norms and embeddings (and a head tied to them) do not decay. Its state is float32.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decays = [p.ndim >= 2 and id(p) not in embeddings for p in trained]
    groups = [
        {"params": [p for p, does in zip(trained, decays, strict=True) if does], "weight_decay": config.weight_decay},
        {"params": [p for p, does in zip(trained, decays, strict=True) if not does], "weight_decay": 0.0},
    ]
    fused = trained[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=fused)


def update(optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter], lr: float, clip: float) -> Tensor:
    """One step with clipped gradients, which are then dropped. Returns their norm before clipping."""
    norm = whole(nn.utils.clip_grad_norm_(list(parameters.values()), clip))
    if bool(torch.isfinite(norm)):  # the caller reports the others
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
