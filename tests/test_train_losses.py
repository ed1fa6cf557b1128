"""The losses of preference training on whole batches, against independent paths through the model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train.preference
from builders.model_files import load_model, load_tokenizer
from builders.rendering import completion_ids, render
from stores.stage import Stage
from tests import training_world as world
from tests.training_world import independent_logprob, rows, run
from train.data import Reader, load_pairs
from train.policy import Policy
from train.reference_source import references_of
from train.tables import Tables

KTO = {"loss": "kto"}
Sides = tuple[torch.Tensor, torch.Tensor]


def irpo(logprobs: Sides, moved: Sides, lengths: list[int]) -> torch.Tensor:
    return torch.log1p(torch.exp(-0.3 * (moved[0] - moved[1]))) - 0.7 * logprobs[0] / lengths[0]


def orpo(logprobs: Sides, moved: Sides, lengths: list[int]) -> torch.Tensor:
    p, q = (torch.exp(logprob / length) for logprob, length in zip(logprobs, lengths, strict=True))
    return -torch.log(p) - 0.4 * torch.log(1 / (1 + q / (1 - q) / (p / (1 - p))))


def ipo(logprobs: Sides, moved: Sides, lengths: list[int]) -> torch.Tensor:
    return (moved[0] - moved[1] - 1 / (2 * 0.3)) ** 2


def kto(logprobs: Sides, moved: Sides, lengths: list[int]) -> torch.Tensor:
    return (1.2 - 1.2 * torch.sigmoid(0.3 * moved[0]) + 0.9 - 0.9 * torch.sigmoid(-0.3 * moved[1])) / 2


BY_HAND = {
    "irpo": (irpo, {"loss": "dpo_nll", "alpha": 0.7, "beta": 0.3}),
    "orpo": (orpo, {"loss": "orpo", "reference": "none", "lambda_orpo": 0.4}),
    "ipo": (ipo, {"loss": "ipo", "beta": 0.3}),
    "kto": (kto, KTO | {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.9}),
}
"""Loss of a pair from log-probs, their log-ratios to the reference and lengths of both sides, and the settings."""


def by_hand(root: Path, batch: list[int], loss: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients at step 0, where the policy is the reference, with whole float64 logits: an independent path."""
    directory = root / "data/models/tiny"
    model, tokenizer = load_model(directory).double(), load_tokenizer(directory)
    total = torch.zeros(())
    for i in batch:
        sides = []
        for index in (0, 1):
            rendered = render(tokenizer, [m.model_dump() for m in world.ask(i).messages], "", "text")
            prompt, completion = rendered.ids, completion_ids(tokenizer, rendered, world.completion(i, index), 1)
            logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
            sides.append(torch.stack([logprobs[len(prompt) + t - 1, token] for t, token in enumerate(completion)]))
        sums = [side.sum() for side in sides]
        total = total + loss(sums, [s - s.detach() for s in sums], [len(side) for side in sides]) / len(batch)
    total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", BY_HAND)
def test_gradients_of_a_batch_equal_an_independent_float64_path(workspace, name):
    loss, settings = BY_HAND[name]
    changes = {f"preference.dpo.{key}": value for key, value in settings.items()}
    world.build(workspace, changes=changes | {"reference.sums.mismatched": True})
    run(workspace, "reference.sums")
    stage = Stage("preference", "dpo", workspace)
    pairs = world.load(workspace)
    policy = Policy.load(workspace / "data/models/tiny", [s for p in pairs for s in p.sequences])
    references = references_of(stage, pairs, None)
    train.preference.pair_losses(policy, pairs, references, stage.config)["loss"].mean().backward()
    expected = by_hand(workspace, list(range(10)), loss)
    assert set(policy.trainable()) == set(expected)
    for parameter, p in policy.trainable().items():
        assert p.grad is not None
        torch.testing.assert_close(p.grad.double(), expected[parameter], rtol=1e-3, atol=1e-6)


def following(i: int) -> int:
    """The sum whose completions are scored under the prompt of sum `i`: the next one in the order of ids."""
    order = sorted(range(10), key=lambda i: world.ask(i).prompt_id)
    return order[(order.index(i) + 1) % 10]


def test_the_reference_scores_completions_of_other_problems_where_it_is_asked_to(workspace):
    world.build(workspace, changes={"reference.sums.mismatched": True})
    run(workspace, "reference.sums")
    found = {
        (row["prompt_id"], row["sample_id"]): row["logprob"] for row in rows(workspace, "reference_logprobs", "sums")
    }
    expected = {
        (world.ask(i).prompt_id, sample.sample_id): independent_logprob(workspace, i, sample.index, of=j)
        for i in range(10)
        for j in (i, following(i))
        for sample in world.drawn(j)
    }
    assert len(expected) == 40
    assert found == pytest.approx(expected, abs=1e-4)


def test_ktos_reference_point_is_how_far_the_policy_has_moved_on_other_completions(workspace):
    """Of the whole batch, however it is split; the policy is another model than the reference."""
    changes = {"reference.sums.mismatched": True, "preference.dpo.loss": "kto", "preference.dpo.model": "warm"}
    world.build(workspace, changes=changes)
    run(workspace, "reference.sums", "sft.warm")
    stage = Stage("preference", "dpo", workspace)
    source = Tables(stage, "pairs", "sums")
    pairs = load_pairs(source, Reader.of(stage), mismatched=True)
    policy = Policy.load(workspace / "data/models/warm", [s for p in pairs for s in p.sequences])
    z0 = train.preference.reference_point(policy, pairs, references_of(stage, pairs, None), stage.config, 1000)
    moved = [
        independent_logprob(workspace, i, index, "warm", following(i))
        - independent_logprob(workspace, i, index, of=following(i))
        for i in range(10)
        for index in (0, 1)
    ]
    assert sum(moved) > 1
    assert float(z0) == pytest.approx(sum(moved) / 20, abs=1e-4)


def test_pairs_of_one_problem_are_no_kto(workspace):
    world.build(workspace, changes={"reference.sums.mismatched": True})
    world.write(workspace, "sums", [world.pair(0), world.pair(0, rank=1)])
    with pytest.raises(ValueError, match=r"pairs run 'sums': all pairs are of one problem, and kto .*another loss"):
        run(workspace, "reference.sums")


def test_pairs_of_problems_with_several_are_matched_with_other_problems(workspace):
    world.build(workspace)
    several = [world.pair(i, rank=rank) for i in range(3) for rank in range(i + 1)]
    world.write(workspace, "sums", sorted(several, key=lambda pair: (pair.prompt_id, pair.rank)))
    stage = Stage("preference", "dpo", workspace)
    for pair in load_pairs(Tables(stage, "pairs", "sums"), Reader.of(stage), mismatched=True):
        for span, tokens in pair.mismatched:
            assert span.prompt_id == pair.chosen_span.prompt_id
            assert span.sample_id[:16] != span.prompt_id[:16]
            assert list(tokens.prompt) == list(pair.chosen.prompt)


def test_a_completion_that_is_too_long_under_another_prompt_is_named_with_both_pairs(workspace, monkeypatch):
    """One pair has a long prompt and the other long completions: each fits by itself."""
    question, completion = world.question, world.completion
    monkeypatch.setattr(world, "question", lambda i: question(i) + " Really?" * (12 * (i == 0)))
    monkeypatch.setattr(world, "completion", lambda i, index: completion(i, index) + " Really?" * (12 * (i == 1)))
    world.build(workspace, 2)
    stage = Stage("preference", "dpo", workspace)
    source, reader = Tables(stage, "pairs", "sums"), Reader.of(stage)
    longest = max(s.length for pair in load_pairs(source, reader) for s in pair.sequences)
    within = reader._replace(max_tokens=longest)
    assert len(load_pairs(source, within)) == 2
    with pytest.raises(
        ValueError, match=r"^pair \(\S+, rank 0\) with the completions of pair \(\S+, rank 0\): prompt and"
    ):
        load_pairs(source, within, mismatched=True)


def test_orpo_trains_without_a_reference_run(workspace):
    changes = {"preference.dpo.loss": "orpo", "preference.dpo.reference": "none", "reference": {}}
    world.build(workspace, changes=changes)
    run(workspace, "preference.dpo")
    first, *_, last = rows(workspace, "training", "dpo")
    assert first["loss"] == pytest.approx(first["nll_loss"] + 0.1 * first["preference_loss"])
    assert last["chosen_logprob"] > first["chosen_logprob"]
    assert last["margin"] > first["margin"]
