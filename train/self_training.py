"""Online self-training, ReFT's baseline: the policy imitates its own correct rollouts, and gold chains beside them.

The loss is ½·SFT(correct rollouts) + ½·SFT(gold chains of the same prompts), for as many passes as PPO makes; without
KL penalty, value and wrong rollouts (arXiv 2401.08967, §4.2; `train_rl_sl.py`). Each half is the mean per token of a
sequence, and then over the sequences of the update; the authors' code takes both over tokens. Where no rollout is
correct, the gold half remains, as it does there.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from schemas.sections_reinforcement import PpoRun
from train import losses, memory
from train.experience import SHORTER
from train.packing import Tokens
from train.policy import Policy
from train.rollouts import Drawn
from train.session import Session
from train.updates import Columns, Parts, mini_batches


def imitate(session: Session, step: int, drawn: Sequence[Drawn], correct: list[int]) -> Columns:
    """`ppo_epochs` passes over a step's rollouts; `correct` numbers those to imitate. Returns columns of the table."""
    config: PpoRun = session.stage.config
    parts, everything = Parts(), range(len(drawn))
    for epoch in range(config.ppo_epochs):
        for mini in mini_batches(everything, config.mini_batch, (session.stage.params.seed, step, epoch)):
            _update(session, step, examples(drawn, mini, set(correct)), parts)
    return parts.means()


_SHORTER = f"{SHORTER} if it was drawn, leave it out if it is a demo"


def examples(drawn: Sequence[Drawn], mini: Sequence[int], correct: set[int]) -> list[tuple[str, Tokens, float]]:
    """(name, tokens, weight) of what an update imitates; the weights of each half add up to ½."""
    own = [i for i in mini if i in correct]
    gold = [drawn[i].task.demos[drawn[i].index % len(drawn[i].task.demos)] for i in mini]
    return [(drawn[i].sample_id, drawn[i].tokens, 0.5 / len(own)) for i in own] + [
        (demo.name, demo.tokens, 0.5 / len(gold)) for demo in gold
    ]


def _update(session: Session, step: int, given: list[tuple[str, Tokens, float]], parts: Parts) -> None:
    """One optimizer step."""
    total, names = session.within_memory(step, partial(gradients, session.policy, given))
    parts.add({"loss": total.sum()[None], "nll_loss": total.sum()[None]})
    parts.taken = session.update(step, total, names, sum(tokens.length for _, tokens, _ in given))


def gradients(policy: Policy, given: list[tuple[str, Tokens, float]], budget: int) -> tuple[Tensor, list[str]]:
    """Adds up an update's gradients; returns each sequence's share of the loss (n,), and their names in that order."""
    found: list[Tensor] = []
    names: list[str] = []
    for numbers in policy.micro_batches([[tokens] for _, tokens, _ in given], budget):
        micro_names, sequences, weights = zip(*(given[i] for i in numbers), strict=True)
        with memory.of(micro_names, sequences, _SHORTER):
            logprobs = policy.logprobs(sequences)
            lengths = torch.tensor([len(s.completion) for s in sequences], device=logprobs.device)
            loss = losses.nll(logprobs, lengths) * torch.tensor(weights, device=logprobs.device, dtype=logprobs.dtype)
            loss.sum().backward()
        found.append(loss.detach())
        names += micro_names
    return torch.cat(found), names
