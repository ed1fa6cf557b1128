"""All pairs of a prompt in one step, and what rows then share: preference, reference, rollouts; no logits of rows."""

import weakref
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stores.stage import Stage
from tests import training_world as world
from tests.training_world import assert_same_weights, rows, run, weights
from train import preference
from train.data import Reader, load_pairs
from train.experience import Reference, look
from train.layout import SHORTEST_PREFIX
from train.logprobs import token_logprobs, token_logprobs_and_entropies
from train.packing import Tokens
from train.policy import Policy
from train.reference import spans
from train.tables import Tables

GROUPED = {"preference.dpo.group_prompts": True, "preference.dpo.optimizer.batch_size": 2}


def build(root, changes) -> None:
    """Four prompts with three pairs each, of the same two sides cut in three places, and six with one."""
    world.build(root, changes=changes)
    more = [world.pair(i, rank=rank, rejected_end=6 + 3 * rank) for i in range(4) for rank in (1, 2)]
    world.write(root, "sums", sorted([world.pair(i) for i in range(10)] + more, key=lambda p: (p.prompt_id, p.rank)))


def pairs_of(root):
    stage = Stage("preference", "dpo", root)
    return load_pairs(Tables(stage, "pairs", "sums"), Reader.of(stage)), stage.config


def test_a_step_draws_pairs_or_prompts_with_all_of_theirs(workspace):
    build(workspace, {})
    pairs, config = pairs_of(workspace)
    assert preference.groups(pairs, config) == [[pair] for pair in pairs]
    grouped = preference.groups(pairs, config.model_copy(update={"group_prompts": True}))
    assert sorted(len(group) for group in grouped) == [1] * 6 + [3] * 4
    assert [pair for group in grouped for pair in group] == pairs
    assert all(len({pair.chosen_span.prompt_id for pair in group}) == 1 for group in grouped)


def test_grouped_steps_have_all_pairs_of_their_prompts_and_a_mean_over_pairs(workspace):
    changes = GROUPED | {"preference.dpo.optimizer.epochs": 1.0, "preference.dpo.optimizer.steps": None}
    build(workspace, changes)
    run(workspace, "reference.sums", "preference.dpo")
    table, saved = rows(workspace, "training", "dpo"), weights(workspace, "dpo")
    assert [row["step"] for row in table] == [0, 1, 2, 3, 4, 5]
    assert sum(row["n_sequences"] for row in table) == 2 * 18
    assert {row["n_sequences"] for row in table[:-1]} <= {4, 8, 12}
    assert table[0]["preference_loss"] == pytest.approx(np.log(2), abs=1e-6)
    world.set_params(workspace, changes | {"preference.dpo.optimizer.micro_tokens": 60})
    run(workspace, "preference.dpo")
    assert_same_weights(weights(workspace, "dpo"), saved, 2e-5)
    for row, expected in zip(rows(workspace, "training", "dpo")[:-1], table[:-1], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_a_response_of_several_pairs_is_computed_once(workspace):
    build(workspace, {})
    pairs, _ = pairs_of(workspace)
    policy = Policy.load(workspace / "data/models/tiny", [s for pair in pairs for s in pair.sequences])
    by_prompt = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.chosen_span.prompt_id].append(pair)
    group = max(by_prompt.values(), key=len)
    load = policy.batch([s for pair in group for s in pair.sequences]).load
    chosen, rejected = group[0].chosen, max((pair.rejected for pair in group), key=lambda s: s.length)
    assert len(chosen.prompt) >= SHORTEST_PREFIX
    assert load.distinct <= chosen.length + rejected.length - len(chosen.prompt) + 2  # cut spans end with EOS
    together = policy.logprobs([s for pair in group for s in pair.sequences])
    apart = torch.cat([policy.logprobs(pair.sequences) for pair in group])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def test_reference_spans_of_a_prompt_share_it(workspace):
    build(workspace, {})
    pairs, config = pairs_of(workspace)
    scored = list(spans(pairs).values())
    policy = Policy.load(workspace / "data/models/tiny", scored)
    (numbers,) = policy.micro_batches([[s] for s in scored], config.optimizer.micro_tokens)
    load = policy.batch([scored[i] for i in numbers]).load
    prompts = {s.prompt.tobytes(): len(s.prompt) for s in scored}
    assert load.useful - load.distinct >= sum(len(s.prompt) for s in scored) - sum(prompts.values())


def test_rollouts_of_a_prompt_share_it_and_are_looked_at_alike(workspace):
    world.build(workspace)
    random = np.random.default_rng(0)
    prompt, other = (random.integers(3, 30, n).astype(np.int32) for n in (20, 25))
    given = [Tokens(p, random.integers(3, 30, n).astype(np.int32)) for p, n in ((prompt, 9), (other, 5), (prompt, 14))]
    policy = Policy.load(workspace / "data/models/tiny", given)
    assert list(policy.micro_batches([[s] for s in given], 60)) == [[2, 0], [1]]
    assert policy.batch([given[0], given[2]]).load.distinct == 20 + 9 + 14
    together, apart = (look(policy, None, Reference(policy), given, budget) for budget in (1000, 1))
    for name in ("mask", "logprobs", "reference", "entropies"):
        torch.testing.assert_close(getattr(together, name), getattr(apart, name), rtol=1e-5, atol=1e-5)


class Wide(TorchDispatchMode):
    """Notes how many numbers live at once in tensors that are as wide as the vocabulary."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary, self.most = vocabulary, 0
        self.seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 2 and tensor.shape[-1] == self.vocabulary:
                storage = tensor.untyped_storage()
                self.seen[storage.data_ptr()] = weakref.ref(storage)
        alive = {pointer: ref() for pointer, ref in self.seen.items()}
        self.most = max(self.most, sum(s.nbytes() // 4 for s in alive.values() if s is not None))
        return out


@pytest.mark.parametrize("gradient", [True, False])
def test_logits_at_once_depend_neither_on_length_nor_on_vocabulary(monkeypatch, gradient):
    monkeypatch.setattr("train.logprobs._CHUNK_LOGITS_CPU", 300 * 2000)
    most = {}
    for vocabulary in (1000, 2000):
        for length in (1200, 4800):
            most[vocabulary, length] = _most_logits(vocabulary, length, gradient)
    assert max(most.values()) <= 4 * 300 * 2000
    assert max(most.values()) <= 1.1 * min(most.values())
    assert min(most.values()) >= 300 * 2000, "a chunk was seen"


def _most_logits(vocabulary: int, length: int, gradient: bool) -> int:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes))
    hidden, targets = torch.randn(length, 8, requires_grad=gradient), torch.randint(vocabulary, (length,))
    model.requires_grad_(False)
    with Wide(vocabulary) as wide:
        if gradient:
            token_logprobs(model, hidden, targets).sum().backward()
        else:
            token_logprobs_and_entropies(model, hidden, targets)
    return wide.most
