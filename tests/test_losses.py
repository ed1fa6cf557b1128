"""Losses against hand-computed values, and against a float64 reference that is written here from the papers alone."""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from train import losses

LOG2 = math.log(2)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("chosen", "rejected", "ref_chosen", "ref_rejected", "beta", "margin", "loss"),
    [
        (-10.0, -20.0, -10.0, -20.0, 0.1, 0.0, LOG2),  # step 0: the policy is the reference
        (-8.0, -21.0, -10.0, -20.0, 0.1, 0.3, 0.554355),  # log(1 + e^-0.3)
        (-10.0, -10.0, -10.0, -20.0, 0.1, -1.0, 1.313262),  # log(1 + e)
        (-10.0, -30.0, -10.0, -20.0, 0.5, 5.0, 0.006715),
        (0.0, -2000.0, -1000.0, 0.0, 1.0, 3000.0, 0.0),  # no overflow at either end
        (-3000.0, 0.0, 0.0, 0.0, 1.0, -3000.0, 3000.0),
    ],
)
def test_dpo_by_hand(chosen, rejected, ref_chosen, ref_rejected, beta, margin, loss):
    found = losses.dpo_margin(tensor(chosen), tensor(rejected), tensor(ref_chosen), tensor(ref_rejected), beta)
    assert found.item() == pytest.approx(margin)
    assert losses.dpo(found).item() == pytest.approx(loss, abs=1e-6)


def test_nll_divides_each_sequence_by_its_own_length():
    # -6/3 = 2 nats and -1/1 = 1 nat per token: their mean is 1.5; over all four tokens it would be 1.75
    each = losses.nll(tensor(-6.0, -1.0), torch.tensor([3, 1]))
    assert each.tolist() == [2.0, 1.0]
    assert losses.share_of_mean(each, 2).item() == 1.5


@pytest.mark.parametrize(("reduction", "expected"), [("sequence", 1.5), ("token", 1.75)])
def test_sft_reductions_by_hand(reduction, expected):
    found = losses.sft(tensor(-6.0, -1.0), torch.tensor([3, 1]), reduction, 2, 4)
    assert found.item() == expected


def test_dpo_nll_adds_alpha_times_the_nll_of_the_chosen():
    # margin 0.3; NLL 8/4 = 2: 0.554355 + 0.5 * 2
    loss = losses.dpo_nll(tensor(0.3), tensor(-8.0), torch.tensor([4]), 0.5)
    assert loss.item() == pytest.approx(1.554355, abs=1e-6)


def test_accuracy_counts_positive_margins_only():
    assert losses.accuracy(tensor(0.1, 0.0, -0.1)).tolist() == [1.0, 0.0, 0.0]


class Reference:
    """Iterative RPO's Eq. 1 in plain float64 numpy, pair by pair."""

    def __init__(self, seed: int, n: int = 7):
        draw = np.random.default_rng(seed)
        self.policy, self.reference = -draw.uniform(1, 200, (n, 2)), -draw.uniform(1, 200, (n, 2))
        self.lengths = draw.integers(1, 300, n)
        self.beta, self.alpha = draw.uniform(0.01, 1), draw.uniform(0, 2)

    def loss(self, policy: np.ndarray) -> float:
        total = 0.0
        for (won, lost), (ref_won, ref_lost), length in zip(policy, self.reference, self.lengths, strict=True):
            x = self.beta * (won - ref_won) - self.beta * (lost - ref_lost)
            total += max(-x, 0) + math.log1p(math.exp(-abs(x))) + self.alpha * -won / length
        return total / len(policy)

    def gradient(self) -> np.ndarray:
        """From the formula: dL/dw = -β σ(-x) - α/|w|, dL/dl = β σ(-x), over the number of pairs."""
        x = self.beta * ((self.policy - self.reference) @ np.array([1.0, -1.0]))
        pull = self.beta / (1 + np.exp(x))
        return np.stack([-pull - self.alpha / self.lengths, pull], 1) / len(x)

    def finite_difference(self, step: float = 1e-5) -> np.ndarray:
        found = np.zeros_like(self.policy)
        for place in np.ndindex(found.shape):
            shift = np.zeros_like(found)
            shift[place] = step
            found[place] = (self.loss(self.policy + shift) - self.loss(self.policy - shift)) / (2 * step)
        return found


def ours(reference: Reference, policy: torch.Tensor, rows: slice, count: int) -> torch.Tensor:
    rw, rl = torch.from_numpy(reference.reference[rows]).unbind(1)
    chosen, rejected = policy[rows].unbind(1)
    margin = losses.dpo_margin(chosen, rejected, rw, rl, reference.beta)
    lengths = torch.from_numpy(reference.lengths[rows])
    return losses.share_of_mean(losses.dpo_nll(margin, chosen, lengths, reference.alpha), count)


@pytest.mark.parametrize("seed", range(5))
def test_dpo_nll_and_its_gradient_equal_an_independent_reference(seed):
    reference = Reference(seed)
    policy = torch.from_numpy(reference.policy).requires_grad_()
    loss = ours(reference, policy, slice(None), len(policy))
    loss.backward()
    assert policy.grad is not None
    assert loss.item() == pytest.approx(reference.loss(reference.policy), rel=1e-12)
    np.testing.assert_allclose(policy.grad.numpy(), reference.gradient(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(policy.grad.numpy(), reference.finite_difference(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_micro_batches_add_up_to_the_batch(size):
    reference = Reference(0)
    policy = torch.from_numpy(reference.policy).requires_grad_()
    parts = [ours(reference, policy, slice(s, s + size), 7) for s in range(0, 7, size)]
    assert sum(part.item() for part in parts) == pytest.approx(reference.loss(reference.policy), rel=1e-12)
    for part in parts:
        part.backward()
    assert policy.grad is not None
    np.testing.assert_allclose(policy.grad.numpy(), reference.gradient(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_sft_micro_batches_add_up_to_the_batch(reduction, size):
    logprob, lengths = tensor(-6.0, -1.0, -30.0, -2.5, -9.0), torch.tensor([3, 1, 20, 2, 4])
    parts = [
        losses.sft(logprob[s : s + size], lengths[s : s + size], reduction, 5, 30).item() for s in range(0, 5, size)
    ]
    by_hand = {"sequence": (2 + 1 + 1.5 + 1.25 + 2.25) / 5, "token": 48.5 / 30}
    assert sum(parts) == pytest.approx(by_hand[reduction], rel=1e-12)


def numeric_gradient(loss, at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[place] = step
        found[place] = (loss(at + shift) - loss(at - shift)) / (2 * step)
    return found


def assert_loss_is(ours, by_hand, at: np.ndarray) -> None:
    """`ours` maps a tensor, `by_hand` an array, to a scalar; their values are the same, and their gradients."""
    given = torch.from_numpy(at).requires_grad_()
    loss = ours(given)
    loss.backward()
    assert given.grad is not None
    assert loss.item() == pytest.approx(by_hand(at), rel=1e-10)
    np.testing.assert_allclose(given.grad.numpy(), numeric_gradient(by_hand, at), rtol=1e-5, atol=1e-8)


def draw_sides(seed: int, n: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probs and lengths of both sides of some pairs."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 300, (n, 2))
    return -draw.uniform(0.01, 3, (n, 2)) * lengths, lengths


def our_orpo(policy: torch.Tensor, lengths: np.ndarray, weight: float) -> torch.Tensor:
    (chosen, rejected), (n, m) = policy.unbind(1), torch.from_numpy(lengths).unbind(1)
    ratio = losses.log_odds(chosen, n) - losses.log_odds(rejected, m)
    return losses.orpo(ratio, chosen, n, weight).mean()


@pytest.mark.parametrize("seed", range(5))
def test_orpo_is_the_papers_equations_and_so_is_its_gradient(seed):
    policy, lengths = draw_sides(seed)

    def by_hand(policy: np.ndarray) -> float:
        p = np.exp(policy / lengths)  # Eq. 3
        odds = p / (1 - p)  # Eq. 4
        ratio = odds[:, 0] / odds[:, 1]  # Eq. 5
        preference = -np.log(1 / (1 + 1 / ratio))  # Eq. 7, with σ(log x) = 1/(1 + 1/x)
        return float(np.mean(-policy[:, 0] / lengths[:, 0] + 0.3 * preference))  # Eq. 6

    assert_loss_is(lambda given: our_orpo(given, lengths, 0.3), by_hand, policy)


def test_orpo_of_equal_spans_is_log_2_and_the_nll():
    loss = losses.orpo(losses.log_odds(tensor(-6.0), torch.tensor([3])) * 0, tensor(-6.0), torch.tensor([3]), 0.5)
    assert loss.item() == pytest.approx(2 + 0.5 * LOG2)


@pytest.mark.parametrize("gap", [1e-1, 1e-4, 3e-7])
def test_odds_of_a_nearly_sure_sequence_lose_no_digits(gap):
    """p = e^-gap: log(1 - p) = log(gap - gap²/2 + …), which 1 - p itself could not tell."""
    expected = -gap - math.log(sum((-1) ** (k + 1) * gap**k / math.factorial(k) for k in range(1, 12)))
    assert losses.log_odds(tensor(-gap * 50), torch.tensor([50])).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [(0.0, -5.0), (-5.0, 0.0), (0.0, 0.0), (1e-7, 1e-7), (-1e-300, -5.0), (-1e6, -5.0), (-5.0, -1e6), (-1e6, -1e6)],
)
def test_orpo_is_finite_for_sure_and_for_hopeless_spans(chosen, rejected):
    policy = torch.tensor([[chosen, rejected]], dtype=torch.float64, requires_grad=True)
    loss = our_orpo(policy, np.array([[4, 4]]), 0.1)
    loss.backward()
    assert policy.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(policy.grad).all()
    assert policy.grad[0, 0] < 0 <= policy.grad[0, 1]
    assert policy.grad[0, 1] > 0 or rejected < chosen, "a rejected span as sure as the chosen one is lowered"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logprob", [0.0, -(2.0**-24), -1e-7, -0.5, -0.7, -30.0])
def test_log_odds_have_a_gradient_whatever_exp_rounds_to(monkeypatch, dtype, logprob):
    """In bfloat16 e^x is 1 for all small x; a device's float32 exp may be a last place too high, as the one here."""
    exact = torch.exp
    monkeypatch.setattr(torch, "exp", lambda x: (exact(x.double()) + 3e-8).to(x.dtype))
    given = torch.full((3,), logprob, dtype=dtype).requires_grad_()
    found = losses.log_odds(given, torch.ones(3))
    found.sum().backward()
    assert given.grad is not None
    assert torch.isfinite(found).all()
    p = math.exp(min(logprob, -(2.0**-24)))
    assert given.grad.tolist() == pytest.approx([1 / (1 - p)] * 3, rel=2e-2)


def test_orpo_of_very_long_spans_depends_on_means_only():
    short = our_orpo(torch.tensor([[-1.5, -2.5]], dtype=torch.float64), np.array([[1, 1]]), 0.1)
    long = our_orpo(torch.tensor([[-1.5, -2.5]], dtype=torch.float64) * 100_000, np.array([[1, 1]]) * 100_000, 0.1)
    assert long.item() == pytest.approx(short.item(), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_odds_ratio_loss_is_trls(seed, monkeypatch):
    """The term alone: TRL's NLL is another one, and its odds are float32."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    trainer: Any = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))
    policy, lengths = draw_sides(seed)
    sides: Any = torch.from_numpy(policy / lengths).unbind(1)
    chosen, rejected = sides
    theirs = -ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0]
    n, m = torch.from_numpy(lengths).unbind(1)
    ratio = losses.log_odds(chosen * n, n) - losses.log_odds(rejected * m, m)
    ours = losses.orpo(ratio, torch.zeros(7, dtype=torch.float64), n, 0.1)
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_ipo_is_the_papers_square_of_summed_logprobs_and_so_is_its_gradient(seed):
    (policy, _), (reference, _), tau = draw_sides(seed), draw_sides(seed + 100), 0.05 * (seed + 1)

    def by_hand(policy: np.ndarray) -> float:
        h = (policy[:, 0] - reference[:, 0]) - (policy[:, 1] - reference[:, 1])  # log ratios of Eq. 12 and 17
        return float(np.mean((h - 1 / (2 * tau)) ** 2))

    def ours(given: torch.Tensor) -> torch.Tensor:
        chosen, rejected = (given - torch.from_numpy(reference)).unbind(1)
        margin = losses.dpo_margin(chosen, rejected, torch.zeros(7), torch.zeros(7), tau)
        return losses.ipo(margin, tau).mean()

    given = torch.from_numpy(policy).requires_grad_()
    ours(given).backward()
    assert given.grad is not None
    h = (policy - reference) @ np.array([1.0, -1.0])
    slope = 2 * (h - 1 / (2 * tau)) / len(h)
    np.testing.assert_allclose(given.grad.numpy(), np.stack([slope, -slope], 1), rtol=1e-10)
    assert ours(given).item() == pytest.approx(by_hand(policy), rel=1e-10)


def test_ipo_is_at_rest_where_the_margin_is_a_half_and_rises_beyond():
    """The paper's point: unlike DPO, it does not pull a pair apart for ever."""
    assert losses.ipo(tensor(0.5, 0.0, 1.0), 0.1).tolist() == [0.0, 25.0, 25.0]


def kto_by_hand(moved: np.ndarray, z0: float, beta: float, desirable: float, undesirable: float) -> float:
    """The mean over all examples of λ_y − v(x, y), with v as the paper writes it."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    chosen = desirable - desirable * sigmoid(beta * (moved[:, 0] - z0))
    rejected = undesirable - undesirable * sigmoid(beta * (z0 - moved[:, 1]))
    return float(np.mean(np.concatenate([chosen, rejected])))


@pytest.mark.parametrize("seed", range(5))
def test_kto_is_the_papers_value_of_both_sides_and_so_is_its_gradient(seed):
    draw = np.random.default_rng(seed)
    settings = draw.uniform(0, 5), draw.uniform(0.05, 0.5), draw.uniform(0.5, 2), draw.uniform(0.5, 2)
    assert_loss_is(
        lambda given: losses.kto(given[:, 0], given[:, 1], *settings).mean(),
        lambda moved: kto_by_hand(moved, *settings),
        draw.uniform(-20, 20, (7, 2)),
    )


def test_kto_where_nothing_has_moved_is_half_of_each_weight():
    assert losses.kto(tensor(0.0), tensor(0.0), 0.0, 0.1, 1.0, 1.5).item() == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize(("chosen", "rejected", "loss"), [(1e5, -1e5, 0.0), (-1e5, 1e5, 1.0), (1e5, 1e5, 0.5)])
def test_kto_saturates_and_stays_finite_for_very_long_spans(chosen, rejected, loss):
    moved = torch.tensor([[chosen, rejected]], dtype=torch.float64, requires_grad=True)
    found = losses.kto(moved[:, 0], moved[:, 1], 3.0, 0.5, 1.0, 1.0).mean()
    found.backward()
    assert found.item() == loss
    assert moved.grad is not None
    assert moved.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("moved", "expected"), [((1.0, -3.0, 5.0), 1.0), ((1.0, -3.0), 0.0)])
def test_the_reference_point_is_a_mean_that_is_not_below_0_and_has_no_gradient(moved, expected):
    found = losses.reference_point(tensor(*moved).requires_grad_())
    assert found.item() == expected
    assert not found.requires_grad


@pytest.mark.parametrize("seed", range(3))
def test_kto_is_trls(seed):
    """TRL's whole loss of the same log-probs: completions of one token, the two sides of pairs as unpaired examples."""
    from trl import KTOTrainer

    draw = np.random.default_rng(seed)
    logprobs, reference, apart, apart_reference = torch.from_numpy(-draw.uniform(0, 30, (4, 10)))
    trainer: Any = MagicMock(beta=0.2, desirable_weight=1.3, undesirable_weight=0.8, loss_type="kto", _tp_size=1)
    trainer.accelerator.device, trainer.accelerator.gather_for_metrics = "cpu", lambda x: x
    trainer.aux_loss_enabled, trainer._total_train_tokens, trainer._metrics = False, 0, {"train": defaultdict(list)}
    trainer._compute_kl_logps = lambda *_: apart
    ids, label = torch.ones(10, 2, dtype=torch.long), torch.tensor([True] * 5 + [False] * 5)
    batch = dict.fromkeys(("input_ids", "attention_mask", "completion_mask"), ids)
    batch |= {"label": label, "ref_logps": reference, "ref_KL_logps": apart_reference}
    each = SimpleNamespace(log_probs=logprobs[:, None], entropy=torch.zeros(10, 1), mean_logits=torch.zeros(10, 1))
    theirs = KTOTrainer._compute_loss(trainer, lambda **_: each, batch, False)
    z0, moved = losses.reference_point(apart - apart_reference), logprobs - reference
    ours = losses.kto(moved[:5], moved[5:], z0, 0.2, 1.3, 0.8).mean()
    assert ours.item() == pytest.approx(float(theirs), rel=1e-12)  # type: ignore[arg-type]
