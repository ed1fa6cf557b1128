"""PPO's arithmetic: by hand on three tokens, and against loops over tokens in float64."""

import math

import numpy as np
import pytest
import torch

from tests import padded_ppo
from train import losses_ppo

NONE_CUT = torch.ones(1, 3, dtype=torch.bool)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_the_score_is_on_the_last_token_and_the_penalty_on_every_one():
    old, reference = row(-1.0, -2.0, -3.0), row(-1.5, -1.5, -3.25)
    rewards = losses_ppo.token_rewards(torch.tensor([1.0]), old, reference, NONE_CUT, 0.1)
    torch.testing.assert_close(rewards, row(-0.05, 0.05, 1 - 0.025))


def test_a_shorter_sequence_has_its_score_on_its_own_last_token_and_nothing_after_it():
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    old = torch.full((3, 3), 5.0)  # what lies outside does not count
    rewards = losses_ppo.token_rewards(torch.tensor([1.0, 0.1, 0.5]), old, old - 1.0, mask, 0.2)
    expected = torch.tensor([[-0.2, 0.8, 0.0], [-0.2, -0.2, -0.1], [0.3, 0.0, 0.0]])
    torch.testing.assert_close(rewards, expected)


def test_gae_by_hand():
    rewards, values = row(-0.1, 0.2, 1.0), row(0.5, 0.4, 0.8)
    gamma, lam = 0.9, 0.5
    last = 1.0 - 0.8
    middle = 0.2 + 0.9 * 0.8 - 0.4 + 0.45 * last
    first = -0.1 + 0.9 * 0.4 - 0.5 + 0.45 * middle
    torch.testing.assert_close(losses_ppo.gae(rewards, values, NONE_CUT, gamma, lam), row(first, middle, last))


def test_gae_with_lambda_one_is_the_return_minus_the_value_and_with_zero_the_error_of_one_step():
    rewards, values = row(0.0, 0.0, 1.0), row(0.25, 0.5, 0.75)
    torch.testing.assert_close(losses_ppo.gae(rewards, values, NONE_CUT, 1.0, 1.0), row(0.75, 0.5, 0.25))
    torch.testing.assert_close(losses_ppo.gae(rewards, values, NONE_CUT, 1.0, 0.0), row(0.25, 0.25, 0.25))


def test_whitening_is_over_all_tokens_together_and_only_over_them():
    values = torch.tensor([[1.0, 3.0, 99.0], [5.0, 99.0, 99.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = losses_ppo.whiten(values, mask)
    deviation = math.sqrt(8 / 3 + 1e-8)
    torch.testing.assert_close(found, torch.tensor([[-2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]).double() / deviation)
    assert losses_ppo.whiten(row(4.0, 4.0, 4.0), NONE_CUT).abs().max() == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # clipped: a good token is pushed up no further
        (1.5, -2.0, 3.0, 3.0),  # a bad one that became likelier is pushed down all the way
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -2.0, 1.6, 0.0),
    ],
)
def test_policy_loss_by_hand(ratio, advantage, expected, slope):
    logprob = torch.tensor([math.log(ratio) - 3.0], dtype=torch.float64, requires_grad=True)
    old, given = torch.tensor([-3.0], dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    loss = losses_ppo.policy_losses(logprob, old, given, 0.2)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(expected)
    assert logprob.grad is not None
    assert float(logprob.grad) == pytest.approx(slope)


@pytest.mark.parametrize(
    ("value", "old", "target", "expected", "slope"),
    [
        (0.5, 0.5, 1.0, 0.125, -0.5),
        (0.9, 0.5, 1.0, 0.5 * 0.3**2, 0.0),  # moved by more than 0.2 towards the return: no further
        (0.1, 0.5, 1.0, 0.5 * 0.9**2, -0.9),  # away from it: all the way back
        (0.6, 0.5, 1.0, 0.5 * 0.4**2, -0.4),
    ],
)
def test_value_loss_by_hand(value, old, target, expected, slope):
    given = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    before, aim = (torch.tensor([x], dtype=torch.float64) for x in (old, target))
    loss = losses_ppo.value_losses(given, before, aim, 0.2)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(expected)
    assert given.grad is not None
    assert float(given.grad) == pytest.approx(slope)


def test_means_are_taken_within_each_sequence():
    tokens, owners = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([1, 1, 1, 0])
    found = losses_ppo.sequence_means(tokens, owners, torch.tensor([1, 3]))
    torch.testing.assert_close(found, torch.tensor([10.0, 2.0]))


def test_kl_estimators():
    logprobs, reference = row(-1.0, -2.0), row(-1.5, -1.5)
    expected = row(math.exp(-0.5) - 1 + 0.5, math.exp(0.5) - 1 - 0.5)
    torch.testing.assert_close(losses_ppo.k3(logprobs, reference), expected)
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
    k3 = losses_ppo.k3(torch.tensor(np.log(p)), torch.tensor(np.log(q))).numpy()
    assert (p * k3).sum() == pytest.approx((p * np.log(p / q)).sum())


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (12.0, 1.02), (0.0, 0.98), (6.6, 1.01)])
def test_beta_follows_the_kl_by_at_most_a_fifth(kl, factor):
    assert losses_ppo.adapted_beta(0.3, kl, 6.0, 320, 32) == pytest.approx(0.3 * factor)


def test_explained_variance():
    returns = torch.tensor([0.0, 1.0, 2.0])
    assert losses_ppo.explained_variance(returns.clone(), returns) == pytest.approx(1.0)
    assert losses_ppo.explained_variance(torch.zeros(3), returns) == pytest.approx(0.0)
    assert losses_ppo.explained_variance(torch.zeros(3), torch.ones(3)) is None


@pytest.mark.parametrize(("beta", "gamma", "lam"), [(0.05, 1.0, 0.95), (0.3, 0.9, 0.5), (0.0, 1.0, 1.0)])
def test_many_sequences_against_loops_over_tokens(beta, gamma, lam):
    random = np.random.default_rng(0)
    lengths = random.integers(1, 12, 7)
    prompts = [np.arange(n) for n in random.integers(1, 5, 7)]
    padded = padded_ppo.pad(prompts, [np.zeros(n, dtype=np.int64) for n in lengths])
    numbers = {name: random.normal(size=(7, 12)) for name in ("logprobs", "reference", "values")}
    scores = [float(x) for x in random.normal(size=7)]
    wide = {name: torch.zeros(padded.actions.shape, dtype=torch.float64) for name in numbers}
    for name, values in numbers.items():
        for i, n in enumerate(lengths):
            wide[name][i, padded.actions[i]] = torch.tensor(values[i, :n])
    expected = padded_ppo.learn(padded, wide["logprobs"], wide["reference"], wide["values"], scores, beta, gamma, lam)
    mask = torch.arange(12)[None] < torch.tensor(lengths)[:, None]
    ours = {name: torch.tensor(values) for name, values in numbers.items()}
    given = torch.tensor(scores, dtype=torch.float64)
    rewards = losses_ppo.token_rewards(given, ours["logprobs"], ours["reference"], mask, beta)
    advantages = losses_ppo.gae(rewards, ours["values"], mask, gamma, lam)
    returns = advantages + ours["values"]
    whitened = losses_ppo.whiten(advantages, mask)
    for found, wanted in ((whitened, expected.advantages), (returns, expected.returns)):
        torch.testing.assert_close(found[mask], wanted[padded.actions], rtol=1e-12, atol=1e-12)
