"""PPO's update as one would write it first: padded rows, whole logits, one masked tensor per quantity.

An independent path for tests and the benchmark. It shares no code with `train`: loops over tokens where the arithmetic
is, TRL's layout (Hugging Face's `AutoModelForCausalLMWithValueHead`: states of all places, then a slice) where the
model is. Rows are right-padded [prompt | completion]; column t of an action tensor is the place that predicts token
t + 1.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Rows(NamedTuple):
    """Padded token ids (n, L), the places that are tokens, and those (n, L − 1) that predict a completion's token."""

    ids: Tensor
    attended: Tensor
    actions: Tensor


def pad(prompts: Sequence[np.ndarray], completions: Sequence[np.ndarray]) -> Rows:
    longest = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    attended, actions = torch.zeros_like(ids), torch.zeros(len(prompts), longest - 1, dtype=torch.bool)
    for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        ids[i, : len(p) + len(c)] = torch.tensor(np.concatenate([p, c]))
        attended[i, : len(p) + len(c)] = 1
        actions[i, len(p) - 1 : len(p) + len(c) - 1] = True
    return Rows(ids, attended, actions)


def forward(model: Any, head: nn.Module | None, rows: Rows, attention: str = "eager") -> tuple[Tensor, Tensor | None]:
    """Log-probs and values of all places: (n, L − 1), by attention as transformers has it."""
    model.set_attn_implementation(attention)
    out = model(rows.ids, attention_mask=rows.attended, output_hidden_states=True, use_cache=False)
    logprobs = out.logits[:, :-1].log_softmax(-1).gather(-1, rows.ids[:, 1:, None]).squeeze(-1)
    values = None if head is None else head(out.hidden_states[-1][:, :-1]).squeeze(-1)
    return logprobs, values


class Learnt(NamedTuple):
    """Old log-probs and values, advantages and returns of all places: (n, L − 1)."""

    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def learn(
    rows: Rows,
    logprobs: Tensor,
    reference: Tensor,
    values: Tensor,
    scores: Sequence[float],
    beta: float,
    gamma: float,
    lam: float,
    whiten: bool = True,
) -> Learnt:
    """By the recursion of each sequence by itself, in Python's floats."""
    advantages, returns = (
        torch.zeros_like(logprobs, dtype=torch.float64),
        torch.zeros_like(logprobs, dtype=torch.float64),
    )
    for i, score in enumerate(scores):
        places = rows.actions[i].nonzero().squeeze(1).tolist()
        kl = (logprobs[i] - reference[i]).double().tolist()
        value = values[i].double().tolist()
        ahead, following = 0.0, 0.0
        for place in reversed(places):
            reward = -beta * kl[place] + (score if place == places[-1] else 0.0)
            ahead = reward + gamma * following - value[place] + gamma * lam * ahead
            following = value[place]
            advantages[i, place], returns[i, place] = ahead, ahead + value[place]
    if whiten:
        flat = advantages[rows.actions].numpy()
        advantages = (advantages - flat.mean()) / np.sqrt(flat.var() + 1e-8)
    return Learnt(logprobs, values, advantages, returns)


def loss(
    rows: Rows, learnt: Learnt, logprobs: Tensor, values: Tensor, clip: float, value_clip: float, coefficient: float
) -> Tensor:
    """The sum over these sequences of Lπ + c·Lv, each a mean over the sequence's tokens. A scalar."""
    ratio, advantages = (logprobs - learnt.logprobs).exp(), learnt.advantages.to(logprobs)
    policy = -torch.min(advantages * ratio, advantages * torch.clamp(ratio, 1 - clip, 1 + clip))
    returns = learnt.returns.to(values)
    clipped = learnt.values + torch.clamp(values - learnt.values, -value_clip, value_clip)
    value = 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2)
    lengths = rows.actions.sum(1)
    each = torch.where(rows.actions, policy + coefficient * value, 0.0).sum(1) / lengths
    return each.sum()
