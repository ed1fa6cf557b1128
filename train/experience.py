"""What a step's rollouts teach: log-probs, values, rewards, advantages and returns of their tokens, before any update.

One pass of policy and value and one of the reference, without gradients. Numbers per token are rows (n, T), one
sequence each, filled up with zeros; `mask` says which are tokens.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from schemas.sections_reinforcement import PpoRun
from train import losses_ppo, memory
from train.packing import Tokens
from train.policy import Policy
from train.value import Scored, Value, score

SHORTER = "lower max_new_tokens of its sampling"
"""What helps where one rollout alone has no room."""


class Reference:
    """The policy as it was when this was made: a frozen copy; with adapters, the same model without them."""

    def __init__(self, policy: Policy):
        self._adapted = policy if policy.has_adapters else None
        self._policy = policy if policy.has_adapters else policy.frozen()

    def score(self, sequences: Sequence[Tokens]) -> Scored:
        """Log-probs under the frozen weights."""
        with self._adapted.without_adapters() if self._adapted else nullcontext():
            return score(self._policy, sequences)


class Seen(NamedTuple):
    """A step's sequences under policy, value and reference, as they were drawn: (n, T) each."""

    mask: Tensor
    logprobs: Tensor
    reference: Tensor
    entropies: Tensor
    values: Tensor | None

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sequence: (n,)."""
        return self.mask.sum(1)

    @property
    def kl(self) -> Tensor:
        """Summed k1 of each sequence, in nats: (n,)."""
        return (self.logprobs - self.reference).sum(1)


def look(
    policy: Policy, value: Value | None, reference: Reference, sequences: Sequence[Tokens], micro_tokens: int
) -> Seen:
    """Scores the sequences, in forwards of at most so many tokens, in float64 where the device has it."""
    rows: dict[str, Tensor] = {}
    n, longest = len(sequences), max(len(s.completion) for s in sequences)
    wide = torch.float32 if policy.device.type == "mps" else torch.float64
    with policy.measuring():
        for numbers in policy.micro_batches([[s] for s in sequences], micro_tokens):
            micro, at = [sequences[i] for i in numbers], torch.tensor(numbers, device=policy.device)
            with memory.of([f"rollout {i}" for i in numbers], micro, SHORTER):
                own, other = score(policy, micro, value, entropies=True), reference.score(micro)
            columns = {
                "mask": torch.ones_like(own.logprobs, dtype=torch.bool),
                "logprobs": own.logprobs,
                "reference": other.logprobs,
                "entropies": own.entropies,
                "values": own.values,
            }
            for name, column in columns.items():
                if column is not None:
                    dtype = torch.bool if name == "mask" else wide
                    row = rows.setdefault(name, torch.zeros(n, longest, dtype=dtype, device=policy.device))
                    row[at[own.owners], own.places] = column.to(dtype)
    return Seen(rows["mask"], rows["logprobs"], rows["reference"], rows["entropies"], rows.get("values"))


class Experience(NamedTuple):
    """What the updates of a step learn from. `trained` numbers the sequences that give a gradient."""

    sequences: Sequence[Tokens]
    names: Sequence[str]
    trained: list[int]
    seen: Seen
    advantages: Tensor
    """(n, T), whitened if the run whitens."""
    returns: Tensor
    """(n, T), of the advantages before they were whitened."""

    def columns(self) -> dict[str, Any]:
        """How well the value foresaw the returns that are learnt from."""
        learnt = _only(self.seen.mask, self.trained)
        if self.seen.values is None or not self.trained:
            return {}
        return {
            "explained_variance": losses_ppo.explained_variance(self.seen.values[learnt], self.returns[learnt]),
        }


def experience(
    config: PpoRun,
    sequences: Sequence[Tokens],
    names: Sequence[str],
    seen: Seen,
    scores: Sequence[float | None],
    trained: list[int],
    beta: float,
) -> Experience:
    """Rewards, advantages, returns, and only then whitening, over the tokens of all sequences that are trained on.

    A sequence without a score trains nothing, so its rewards do not matter.
    """
    assert seen.values is not None, "advantages need values"
    given = torch.tensor([0.0 if s is None else s for s in scores], dtype=seen.logprobs.dtype).to(seen.logprobs.device)
    rewards = losses_ppo.token_rewards(given, seen.logprobs, seen.reference, seen.mask, beta)
    advantages = losses_ppo.gae(rewards, seen.values, seen.mask, config.gamma, config.lam)
    learnt = advantages
    if config.value_lam is not None:
        learnt = losses_ppo.gae(rewards, seen.values, seen.mask, config.gamma, config.value_lam)
    returns = learnt + seen.values
    if config.whiten and trained:
        advantages = losses_ppo.whiten(advantages, _only(seen.mask, trained))
    return Experience(sequences, names, trained, seen, advantages, returns)


def _only(mask: Tensor, trained: list[int]) -> Tensor:
    """The tokens of some sequences: (n, T)."""
    rows = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    rows[trained] = True
    return mask & rows[:, None]
