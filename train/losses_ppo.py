"""PPO's arithmetic as ReFT has it (arXiv 2401.08967, `mwp_ReFT@bdc844e`): pure functions of numbers per token.

Rows are sequences and columns their action tokens, filled up with anything; `mask` (n, T) says which places are tokens.
What is made from rewards comes in this order, and is made once per step, from all of its rollouts: KL penalties, the
score on the last token, advantages, returns, and only then whitening. Losses are of single tokens (S,); their mean is
taken within each sequence first, and then over the sequences of the whole batch.

The paper says λ = 1 and γ = 0.95 and explains λ as a discount of rewards: its symbols are swapped. Here γ discounts
rewards and λ is GAE's, as in the authors' code (γ = 1, λ = 0.95).

Legend: n sequences, T tokens of the longest, S tokens in one forward.
"""

import torch
from torch import Tensor


def token_rewards(scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """r_t = score·1[t is the last token] − β·(log π_old − log π_ref): (n, T), 0 outside of `mask` (ReFT, Eq. 3).

    The penalty is the estimator k1: signed, with mean KL. `scores` is (n,). The last token is the last one drawn,
    whether it is an ending or the one that the token limit fell on. Every sequence has a token.
    """
    rewards = (-beta * (logprobs - reference)).masked_fill(~mask, 0.0)
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores.to(rewards)[:, None])


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Â_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γV(s_{t+1}) − V(s_t): (n, T) (Schulman et al. 2016, arXiv 1506.02438,
    Eq. 16). The value after the last token is 0, also where the token limit cut the sequence. 0 outside of `mask`.
    """
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    deltas = rewards + gamma * following - values
    advantages, ahead = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for t in range(deltas.shape[1] - 1, -1, -1):
        ahead = deltas[:, t] + gamma * lam * ahead
        advantages[:, t] = ahead
    return advantages


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shifted and scaled to mean 0 and variance 1 over all places of `mask` together: (n, T), 0 outside.

    The variance is the population's, with 1e-8 added, as in the authors' code. Places outside never count.
    """
    found = values[mask]
    mean, variance = found.mean(), found.var(correction=0)
    return ((values - mean) * torch.rsqrt(variance + 1e-8)).masked_fill(~mask, 0.0)


def policy_losses(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """max(−Âρ, −Â·clip(ρ, 1 − ε, 1 + ε)) of each token: (S,), where ρ = π/π_old (Schulman et al. 2017, arXiv
    1707.06347, Eq. 7, as a loss).
    """
    ratio = torch.exp(logprobs - old)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def value_losses(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """½·max((V − R̂)², (clip(V, V_old ± ε) − R̂)²) of each token: (S,).

    The stored text of ReFT clips to Â ± ε; the code clips to V_old ± 0.2, as everywhere else, and so does this.
    """
    clipped = torch.maximum(torch.minimum(values, old + clip), old - clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def sequence_means(tokens: Tensor, owners: Tensor, lengths: Tensor) -> Tensor:
    """The mean over the tokens of each sequence: (n,). `owners` (S,) numbers the sequence of each token, `lengths` (n,)
    counts the tokens of each.
    """
    sums = tokens.new_zeros(len(lengths)).index_add(0, owners, tokens)
    return sums / lengths.to(sums)


def clipped_share(ratio_or_shift: Tensor, centre: float, clip: float) -> Tensor:
    """1.0 for each token that has moved from `centre` by more than `clip`, else 0.0: (S,)."""
    return ((ratio_or_shift - centre).abs() > clip).to(ratio_or_shift)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """e^d − 1 − d with d = log π_ref − log π, of each token: never negative, with mean KL, and of less variance than k1
    (Schulman, "Approximating KL Divergence").
    """
    moved = reference - logprobs
    return torch.expm1(moved) - moved


def adapted_beta(beta: float, kl: float, target: float, horizon: int, rollouts: int) -> float:
    """β·(1 + e·rollouts/horizon) with e = clip(KL/target − 1, ±0.2) (Ziegler et al. 2019, arXiv 1909.08593, §2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * rollouts / horizon)


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """1 − Var(R̂ − V)/Var(R̂) over some tokens (S,): 1 is perfect, 0 no better than a constant; None where returns do
    not vary.
    """
    spread = float(returns.var(correction=0))
    return None if spread <= 1e-12 else 1 - float((returns - values).var(correction=0)) / spread
