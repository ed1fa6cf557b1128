"""Losses as the papers state them: pure functions of log-probs, no models and no data.

Every function returns one value per pair (or sequence), except the reductions, which return the share of a batch's mean
that some of its rows contribute: they divide by counts of the *whole* batch, so that splitting a batch into
micro-batches changes nothing.

Shapes: n pairs or sequences. Log-probs are in nats, summed over the scored tokens of a span.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_LEAST = 2.0**-24
"""How near to 0 a mean log-prob counts in ORPO's odds: float32 log-probs, which policies give, say no more."""


def dpo_margin(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """β times how much more the policy has moved towards the chosen than towards the rejected span: (n,).

    The argument of σ in DPO (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7) and in Iterative RPO (Pang et al. 2024,
    arXiv 2404.19733, Eq. 1). All four are *summed* log-probs (n,), not divided by length.
    """
    return beta * ((chosen - reference_chosen) - (rejected - reference_rejected))


def dpo(margin: Tensor) -> Tensor:
    """−log σ(margin), per pair: (n,). log 2 where policy and reference are the same model (arXiv 2305.18290, Eq. 7)."""
    return -logsigmoid(margin)


def nll(logprob: Tensor, n_tokens: Tensor) -> Tensor:
    """Negative log-likelihood of each sequence divided by its own number of scored tokens: (n,).

    The second term of Iterative RPO's loss before α (arXiv 2404.19733, Eq. 1: the response's length |c_w|+|y_w|;
    prompt tokens do not count).
    """
    return -logprob / n_tokens


def dpo_nll(margin: Tensor, chosen: Tensor, chosen_tokens: Tensor, alpha: float) -> Tensor:
    """DPO + α · NLL of the chosen span, per pair: (n,) (Iterative RPO, arXiv 2404.19733 v3, Eq. 1)."""
    return dpo(margin) + alpha * nll(chosen, chosen_tokens)


def ipo(margin: Tensor, tau: float) -> Tensor:
    """(h − 1/(2τ))², per pair: (n,) (IPO, Azar et al. 2023, arXiv 2310.12036, Eq. 17); margin is τ·h, as in DPO.

    h is made of *summed* log-probs, as the paper writes it, and so is `dpo_margin` with β = τ. TRL 1.16 divides each
    side by its number of tokens first, which the paper does not state.
    """
    return ((margin - 0.5) / tau) ** 2


def log_odds(logprob: Tensor, n_tokens: Tensor) -> Tensor:
    """log p − log(1 − p) of each sequence: (n,), where log p is its mean log-prob per token (ORPO, Hong et al. 2024,
    arXiv 2403.07691, Eq. 3 and 4).

    Finite where p rounds to 1 (or above): p is then shifted just below, and the gradient 1/(1 − p) with it.
    """
    mean = logprob / n_tokens
    mean = mean - (mean.detach() + _LEAST).clamp(min=0)  # a constant, so that a sure rejected span is still lowered
    return mean - _log1mexp(mean)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − e^x) for x < 0, by the form that loses no digits on its side of −log 2.

    The form for the other side is not asked about a sure sequence: where e^x rounds to 1, as some devices' exp has it
    just below 0, its gradient is infinite, and infinity times `where`'s 0 is no number.
    """
    near = x > -math.log(2)
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, torch.log(-torch.expm1(x)), far)


def orpo(log_odds_ratio: Tensor, chosen: Tensor, chosen_tokens: Tensor, weight: float) -> Tensor:
    """NLL of the chosen span + λ · −log σ(log odds ratio), per pair: (n,) (ORPO, arXiv 2403.07691, Eq. 5 to 7).

    `log_odds_ratio` is `log_odds` of the chosen minus that of the rejected span; `weight` is λ. There is no reference
    model. The NLL is of the completion, per token of its own sequence, and then a mean over pairs, as the expectation
    of Eq. 6 says; TRL 1.16 takes it over prompt and completion, and over all tokens of a micro-batch.
    """
    return nll(chosen, chosen_tokens) + weight * -logsigmoid(log_odds_ratio)


def reference_point(moved: Tensor) -> Tensor:
    """KTO's z0: the mean of some log-ratios log π/π_ref (m,) of completions under prompts of other problems, at least
    0, and without a gradient. A scalar (KTO, Ethayarajh et al. 2024, arXiv 2402.01306, Section 4).
    """
    return moved.detach().mean().clamp(min=0)


def kto(
    chosen_moved: Tensor,
    rejected_moved: Tensor,
    z0: Tensor | float,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Tensor:
    """λ_y − v(x, y), the mean over a pair's chosen span as a desirable and its rejected span as an undesirable example:
    (n,) (KTO, arXiv 2402.01306, Section 4).

    The first two are log-ratios log π/π_ref of summed log-probs (n,), z0 is `reference_point`, the weights are λ_D
    and λ_U. λ_D − λ_D·σ(β(r − z0)) is written as λ_D·σ(β(z0 − r)), which keeps its digits where it is small.
    """
    desirable = desirable_weight * torch.sigmoid(beta * (z0 - chosen_moved))
    undesirable = undesirable_weight * torch.sigmoid(beta * (rejected_moved - z0))
    return (desirable + undesirable) / 2


def share_of_mean(values: Tensor, batch_count: int) -> Tensor:
    """What some rows add to the mean over the whole batch: their sum divided by the batch's count. A scalar."""
    return values.sum() / batch_count


def sft(
    logprob: Tensor, n_tokens: Tensor, reduction: Literal["sequence", "token"], batch_sequences: int, batch_tokens: int
) -> Tensor:
    """What some sequences add to the batch's fine-tuning loss. A scalar.

    `sequence`: the mean over sequences of each one's mean per token, as in `nll`; `token`: the mean over all scored
    tokens of the batch, where a long sequence weighs more.
    """
    if reduction == "sequence":
        return share_of_mean(nll(logprob, n_tokens), batch_sequences)
    return -logprob.sum() / batch_tokens


def accuracy(margin: Tensor) -> Tensor:
    """1.0 for each pair whose margin is positive, else 0.0: (n,)."""
    return (margin > 0).to(margin.dtype)
