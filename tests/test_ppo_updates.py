"""The updates of `ppo` against an independent float64 path; what splits a batch changes nothing; options of a step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stores.stage import Stage
from tests import padded_ppo, ppo_world
from train import losses_ppo
from train.experience import Reference, experience, look
from train.packing import Tokens
from train.policy import Policy
from train.ppo import rollout_losses
from train.updates import mini_batches
from train.value import Value

SCORES = [1.0, 0.0, 0.1, 1.0, 0.0, 0.0]
CHANGED = {"beta": 0.3, "gamma": 0.95, "lam": 0.8, "value_coefficient": 2.0, "clip": 0.05, "value_clip": 0.5}


def sequences(count: int, seed: int = 0) -> list[Tokens]:
    """Rollouts of three prompts, which are long enough to be shared."""
    random = np.random.default_rng(seed)
    prompts = [random.integers(3, 40, 18 + i).astype(np.int32) for i in range(3)]
    return [Tokens(prompts[i % 3], random.integers(3, 40, 1 + 2 * i).astype(np.int32)) for i in range(count)]


def float64(root: Path, given: Sequence[Tokens], **settings: Any) -> Policy:
    policy = Policy.load(root / "data/models/tiny", given, **settings)
    policy.model.double()
    return policy


@torch.no_grad()
def moved(policy: Policy, value: Value) -> None:
    """As after some updates: the policy is not its reference any more, and the head says something."""
    torch.manual_seed(1)
    for parameter in policy.trainable().values():
        parameter += 0.05 * torch.randn_like(parameter)
    for parameter in value.head.parameters():
        parameter += 0.3 * torch.randn_like(parameter)


class Step:
    """Six rollouts after some updates: policy and value have moved, so that ratios and values are clipped."""

    def __init__(self, root: Path, separate: bool = False, **changes: Any):
        ppo_world.build(root, CHANGED | changes)
        self.config = Stage("ppo", "reft", root).config
        self.given = sequences(6)
        self.policy = float64(root, self.given)
        self.value = Value(self.policy, float64(root, self.given) if separate else None).double()
        reference = Reference(self.policy)
        moved(self.policy, self.value)
        self.seen = look(self.policy, self.value, reference, self.given, 1000)
        moved(self.policy, self.value)

    def learnt(self, scores: Sequence[float | None] = SCORES, trained: Sequence[int] = range(6)):
        return experience(self.config, self.given, list("abcdef"), self.seen, scores, list(trained), 0.3)

    def gradients(self, numbers: Sequence[Sequence[int]], warming: bool = False, **learnt: Any) -> dict[str, Tensor]:
        """Of the mean loss of some rollouts, in micro-batches of these numbers."""
        self.forget()
        given, total = self.learnt(**learnt), sum(map(len, numbers))
        for micro in numbers:
            losses = rollout_losses(self.policy, self.value, given, list(micro), self.config, warming)
            (losses["loss"].sum() / total).backward()
        return self.found()

    def forget(self) -> None:
        for parameter in self.parameters().values():
            parameter.grad = None

    def found(self) -> dict[str, Tensor]:
        return {name: p.grad.clone() for name, p in self.parameters().items() if p.grad is not None}

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.policy.trainable() | {f"value.{name}": p for name, p in self.value.named_parameters()}

    def padded(self, whiten: bool = True) -> dict[str, Tensor]:
        """The same gradients by the padded path, of all six."""
        rows = padded_ppo.pad([s.prompt for s in self.given], [s.completion for s in self.given])

        def wide(values: Tensor | None) -> Tensor:
            assert values is not None
            empty = torch.zeros(rows.actions.shape, dtype=torch.float64)
            return empty.masked_scatter(rows.actions, values[self.seen.mask])

        old, reference, values = map(wide, (self.seen.logprobs, self.seen.reference, self.seen.values))
        expected = padded_ppo.learn(rows, old, reference, values, SCORES, 0.3, 0.95, 0.8, whiten)
        self.forget()
        shared = self.value.trunk is None
        logprobs, said = padded_ppo.forward(self.policy.model, self.value.head if shared else None, rows)
        if self.value.trunk is not None:
            _, said = padded_ppo.forward(self.value.trunk, self.value.head, rows)
        assert said is not None
        (padded_ppo.loss(rows, expected, logprobs, said, 0.05, 0.5, 2.0) / 6).backward()
        return self.found()


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Up to the rounding of norms and rotations, which the model computes in float32 whatever its weights are."""
    assert set(found) == set(expected)
    for name, grad in expected.items():
        gap, largest = float((found[name] - grad).abs().max()), float(grad.abs().max())
        assert gap <= 1e-5 * largest, f"{name}: {gap:.1g} of {largest:.1g}"


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("separate", [False, True], ids=["shared trunk", "model of its own"])
def test_the_gradient_of_an_update_equals_a_padded_path_in_float64(workspace, separate, whiten):
    step = Step(workspace, separate, whiten=whiten)
    losses = rollout_losses(step.policy, step.value, step.learnt(), list(range(6)), step.config)
    for share in ("clip_fraction", "value_clip_fraction"):
        assert 0 < float(losses[share].detach().mean()) < 1, "some tokens are clipped, some are not"
    assert_equal(step.gradients([range(6)]), step.padded(whiten))


def test_micro_batches_change_no_gradient(workspace):
    step = Step(workspace)
    whole = step.gradients([range(6)])
    assert_equal(step.gradients([[5, 0], [3], [1, 4, 2]]), whole)
    assert_equal(step.gradients([[i] for i in range(6)]), whole)


def test_what_is_not_trained_on_changes_neither_whitening_nor_gradient(workspace):
    """An undecided rollout is in the step, but not in what is learnt."""
    step = Step(workspace)
    some = [0, 2, 3, 5]
    without = step.gradients([some], trained=some)
    scores = [score if i in some else None for i, score in enumerate(SCORES)]
    assert_equal(step.gradients([some], scores=scores, trained=some), without)
    learnt = step.learnt(trained=some)
    kept = learnt.advantages[some][step.seen.mask[some]]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-12)
    assert float(kept.var(correction=0)) == pytest.approx(1, abs=1e-6)


def test_returns_are_formed_before_whitening_and_may_have_a_lambda_of_their_own(workspace):
    step = Step(workspace)
    mask, values = step.seen.mask, step.seen.values
    assert values is not None
    plain, own = step.learnt(), None
    given = torch.tensor(SCORES, dtype=torch.float64)
    rewards = losses_ppo.token_rewards(given, step.seen.logprobs, step.seen.reference, mask, 0.3)
    raw = losses_ppo.gae(rewards, values, mask, 0.95, 0.8)
    torch.testing.assert_close(plain.returns, raw + values)
    torch.testing.assert_close(plain.advantages, losses_ppo.whiten(raw, mask))
    step.config = step.config.model_copy(update={"value_lam": 1.0})
    own = step.learnt()
    torch.testing.assert_close(own.advantages, plain.advantages)
    torch.testing.assert_close(own.returns, losses_ppo.gae(rewards, values, mask, 0.95, 1.0) + values)


@pytest.mark.parametrize("separate", [False, True], ids=["shared trunk", "model of its own"])
def test_while_the_critic_warms_up_the_policy_learns_nothing(workspace, separate):
    step = Step(workspace, separate)
    found = step.gradients([range(6)], warming=True)
    expected = {name for name in step.parameters() if name.startswith("value.")} if separate else set()
    assert set(found) == {"value.head.weight", "value.head.bias"} | (expected - {"value.trunk.lm_head.weight"})
    head = ("value.head.weight", "value.head.bias")
    both = step.gradients([range(6)])
    assert_equal({name: found[name] for name in head}, {name: both[name] for name in head})


def test_entropies_and_log_probs_come_from_the_same_logits(workspace):
    step = Step(workspace)
    rows = padded_ppo.pad([s.prompt for s in step.given], [s.completion for s in step.given])
    seen = look(step.policy, step.value, Reference(step.policy), step.given, 20)
    step.policy.model.set_attn_implementation("eager")
    with torch.no_grad():
        distribution = step.policy.model(rows.ids, attention_mask=rows.attended).logits[:, :-1].log_softmax(-1)
    entropies = -(distribution.exp() * distribution).sum(-1)
    torch.testing.assert_close(seen.entropies[seen.mask], entropies[rows.actions])
    assert float(seen.kl.abs().max()) < 1e-9, "the reference was made just now"


def test_mini_batches_are_a_partition_that_the_seed_decides():
    numbers = [3, 1, 4, 15, 9, 2, 6]
    assert list(mini_batches(numbers, None, (0,))) == list(mini_batches(numbers, 7, (0,))) == [numbers]
    cut = list(mini_batches(numbers, 3, (0, 1)))
    assert [len(part) for part in cut] == [3, 3, 1]
    assert sorted(number for part in cut for number in part) == sorted(numbers)
    assert list(mini_batches(numbers, 3, (0, 1))) == cut
    assert list(mini_batches(numbers, 3, (0, 2))) != cut
