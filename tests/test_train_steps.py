"""Training on a step alone: what is scored, where it starts, and how it compares with whole solutions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from builders.model_files import load_model, load_tokenizer
from builders.rendering import completion_ids, render
from builders.steps import split_steps
from tests import training_world as world
from tests.step_training_world import COUNT, build, ending, start, step_prompts
from tests.training_world import rows, run
from train import losses
from train.data import Pair
from train.packing import Tokens


@pytest.fixture
def root(workspace: Path) -> Path:
    build(workspace)
    return workspace


def pairs_of(root: Path, name: str) -> list[Pair]:
    """In the order of their sums."""
    place = {asked.prompt_id: i for i, asked in enumerate(step_prompts(root))}
    return sorted(world.load(root, run=name), key=lambda pair: place[pair.chosen_span.prompt_id])


def text(root: Path, ids: np.ndarray) -> str:
    return str(load_tokenizer(root / "data/models/tiny").decode(ids.tolist()))


def test_only_the_step_is_scored_and_no_ending(root: Path) -> None:
    pairs = pairs_of(root, "steps")
    assert len(pairs) == COUNT
    for i, pair in enumerate(pairs):
        assert text(root, pair.chosen.prompt) == f"Question: {world.question(i)}\nAnswer:{start(i)}"
        assert pair.chosen.prompt.tolist() == pair.rejected.prompt.tolist()
        assert text(root, pair.chosen.completion) == f" That is {2 * i + 3}."
        assert text(root, pair.rejected.completion) == f" That is {2 * i + 4}."
        assert (pair.chosen_span.eos, pair.rejected_span.eos) == (False, False)
    eos = load_tokenizer(root / "data/models/tiny").eos_token_id
    assert not any(eos in side.completion for pair in pairs for side in pair.sequences)


def test_whole_solutions_go_on_from_the_same_place_to_their_end(root: Path) -> None:
    for i, pair in enumerate(pairs_of(root, "whole")):
        assert text(root, pair.chosen.prompt) == f"Question: {world.question(i)}\nAnswer:{start(i)}"
        assert text(root, pair.chosen.completion) == ending(i, 0) + "<eos>"
        assert text(root, pair.rejected.completion) == ending(i, 1) + "<eos>"


def test_a_rejected_sample_was_asked_another_prompt(root: Path) -> None:
    """Both runs of prompts are found; the pair's is the one that the step is scored under."""
    pairs, own = pairs_of(root, "steps"), {row["sample_id"]: row for row in rows(root, "samples", "drawn")}
    for i, pair in enumerate(pairs):
        sample = own[pair.rejected_span.sample_id]
        assert sample["prompt_id"] == world.ask(i).prompt_id != pair.rejected_span.prompt_id
        assert sample["text"][: pair.rejected_span.start] == start(i)
        second = split_steps("", sample["text"])[1]
        assert (pair.rejected_span.start, pair.rejected_span.end) == (second.start, second.end)


def test_at_step_0_the_loss_of_a_step_pair_is_log_2(root: Path) -> None:
    run(root, "reference.steps", "preference.dpo")
    first, *_, last = rows(root, "training", "dpo")
    assert first["loss"] == first["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["margin"] == pytest.approx(0, abs=1e-6)
    assert last["margin"] > 0.001
    scored = rows(root, "reference_logprobs", "steps")
    assert {row["n_tokens"] for row in scored} == {4, 5}, "two words, one or two digits, a period"
    assert {row["eos"] for row in scored} == {False}


def float64(root: Path, seed: int | None = None) -> PreTrainedModel:
    """The store's model; with a seed, one that has moved away from it."""
    model = load_model(root / "data/models/tiny").double().eval()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@torch.no_grad()
def logprob(model: PreTrainedModel, tokens: Tokens) -> torch.Tensor:
    ids = torch.tensor([[*tokens.prompt.tolist(), *tokens.completion.tolist()]])
    places = torch.arange(len(tokens.prompt) - 1, ids.shape[1] - 1)
    return model(ids).logits[0].log_softmax(-1)[places, ids[0, 1:][places]].sum()


def margin(policy: PreTrainedModel, reference: PreTrainedModel, chosen: Tokens, rejected: Tokens) -> float:
    sides = [logprob(model, tokens)[None] for model in (policy, reference) for tokens in (chosen, rejected)]
    return losses.dpo_margin(*sides, beta=0.3).item()


def whole_solution(root: Path, i: int, off: int) -> Tokens:
    """A full solution as plain DPO has it: all of it scored, under the problem's own prompt."""
    tokenizer, asked = load_tokenizer(root / "data/models/tiny"), world.ask(i)
    rendered = render(tokenizer, [m.model_dump() for m in asked.messages], asked.prefill, asked.rendering)
    ids = completion_ids(tokenizer, rendered, start(i) + ending(i, off), tokenizer.eos_token_id)
    return Tokens(np.array(rendered.ids, np.int32), np.array(ids, np.int32))


def test_the_shared_start_cancels_in_the_margin_of_whole_solutions(root: Path) -> None:
    """So `span: completion` is plain DPO on full solutions, though it never scores their correct steps."""
    policy, reference = float64(root, seed=1), float64(root)
    steps, whole = pairs_of(root, "steps"), pairs_of(root, "whole")
    for i, pair in enumerate(whole[:3]):
        full = [whole_solution(root, i, off) for off in (0, 1)]
        assert len(full[0].completion) > len(pair.chosen.completion)
        found = margin(policy, reference, pair.chosen, pair.rejected)
        assert found == pytest.approx(margin(policy, reference, *full), abs=1e-9)
        assert abs(found) > 1e-4
        assert logprob(policy, full[0]) < logprob(policy, pair.chosen) - 1
        assert margin(policy, reference, steps[i].chosen, steps[i].rejected) != pytest.approx(found, abs=1e-4)
