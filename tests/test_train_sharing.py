"""Shared prefixes against unshared computation: log-probs and gradients of many architectures, all in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from train import attention, layout, packing
from train.attention import packable
from train.logprobs import sequence_logprobs
from train.packing import Tokens
from train.policy import Policy

V = 61
SIZES = {
    "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
WINDOW = {"sliding_window": 16}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen2": {}, "qwen3": {"head_dim": 8}, "mistral": WINDOW, "phi3": {}, "olmo2": {}, "gemma": GEMMA,
    "gemma2": GEMMA | WINDOW | {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 3.0},
    "gemma3_text": GEMMA | WINDOW, "smollm3": {}, "granite": {"logits_scaling": 4.0}, "starcoder2": WINDOW,
    "cohere": {"logit_scale": 0.3}, "cohere2": {"logit_scale": 0.3} | WINDOW, "glm": {"head_dim": 8}, "gpt_neox": {},
    "gpt2": {}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "qwen3_moe": EXPERTS | {"head_dim": 8},
    "mixtral": EXPERTS, "gpt_oss": EXPERTS | {"head_dim": 8} | WINDOW, "deepseek_v3": EXPERTS | LATENT,
    "exaone4": WINDOW,
}  # fmt: skip
EXPERTS_IN_HALF = "qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3"
"""Their kernels know no float64, their plain loops do."""
WITHOUT = {"gpt2": ("num_key_value_heads", "intermediate_size"), "opt": ("num_key_value_heads", "intermediate_size")}


@pytest.fixture
def wide(monkeypatch):
    """Norms, rotations and softmaxes that transformers computes in float32 are computed in float64."""
    to, softmax = torch.Tensor.to, torch.nn.functional.softmax

    def doubled(x: Any) -> Any:
        return torch.float64 if x is torch.float32 else x

    def to_double(self, *args, **named):
        return to(self, *map(doubled, args), **{name: doubled(x) for name, x in named.items()})

    def softmax_double(*args, **named):
        return softmax(*args, **{name: doubled(x) for name, x in named.items()})

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch.Tensor, "to", to_double)
    monkeypatch.setattr(torch.nn.functional, "softmax", softmax_double)


def tiny(kind: str, **changes: Any):
    """A random model in float64 whose weights are large, so that a wrong mask shows."""
    sizes = {name: size for name, size in SIZES.items() if name not in WITHOUT.get(kind, ())}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | FAMILIES.get(kind, {}) | changes))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4.0 if p.ndim > 1 else 1.0)
    model.set_attn_implementation("eager")
    if kind in EXPERTS_IN_HALF:
        model.set_experts_implementation("eager")
    return model.double().eval()


def draw(random: np.random.Generator, n: int) -> np.ndarray:
    return random.integers(3, V, n).astype(np.int32)


def pairs(seed: int = 0) -> list[Tokens]:
    """Chosen and rejected of five prompts, with all there is to share: prompts, beginnings of completions, a few-shot
    prompt of two problems, a completion that begins another, one that is there twice, and a prompt too short to share.
    """
    random = np.random.default_rng(seed)
    long, step, shots, short = (draw(random, n) for n in (40, 60, 30, 4))
    begun, other = draw(random, 20), draw(random, 25)
    found = [Tokens(long, draw(random, n)) for n in (30, 12)]
    found += [Tokens(step, np.concatenate([begun, draw(random, n)])) for n in (9, 14)]
    found += [Tokens(np.concatenate([shots, draw(random, 5)]), draw(random, n)) for n in (7, 21)]
    found += [Tokens(long, other), Tokens(long, np.concatenate([other, draw(random, 8)]))]
    found += [found[0], Tokens(long, draw(random, 1)), Tokens(short, draw(random, 6)), Tokens(short, draw(random, 50))]
    return found


def one_by_one(model, sequences) -> torch.Tensor:
    """Summed log-probs from whole logits of each sequence alone."""
    found = []
    for prompt, completion in sequences:
        ids = torch.from_numpy(np.concatenate([prompt, completion])).long()[None]
        logprobs = torch.log_softmax(model(ids, use_cache=False).logits[0], -1)
        scored = range(len(prompt), ids.shape[1])
        found.append(torch.stack([logprobs[t - 1, ids[0, t]] for t in scored]).sum())
    return torch.stack(found)


def policy_of(model, sequences: list[Tokens], **settings) -> Policy:
    no_tokenizer: Any = None  # scoring needs none
    return Policy(model, no_tokenizer, sequences, **settings)


def shared(model, sequences, **settings) -> torch.Tensor:
    model.set_attn_implementation(attention.NAME)
    return sequence_logprobs(model, packing.pack(sequences, **settings))


def gradients(model, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a weighted sum of log-probs, by parameter."""
    model.zero_grad()
    (logprobs * torch.linspace(-1, 2, len(logprobs), dtype=logprobs.dtype)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected) -> None:
    assert set(found) == set(expected)
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in expected.items():
        bound = max(float(grad.abs().max()), 1e-3 * largest)
        assert float((found[name] - grad).abs().max()) <= 1e-5 * bound, name


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", FAMILIES)
def test_shared_prefixes_equal_unshared_computation(kind, wide):
    model, sequences = tiny(kind), pairs()
    assert packable(model)
    expected = one_by_one(model, sequences)
    expected_gradients = gradients(model, expected)
    found = shared(model, sequences)
    assert float((found - expected).detach().abs().max()) <= 1e-6
    assert_same_gradients(gradients(model, found), expected_gradients)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "change"),
    [("mistral", {"sliding_window": 255}), ("gemma2", {"attn_logit_softcapping": None})],
)
def test_windows_and_caps_matter_for_these_pairs(kind, change):
    gap = one_by_one(tiny(kind), pairs()) - one_by_one(tiny(kind, **change), pairs())
    assert float(gap.abs().max()) > 0.01


def test_every_token_in_common_lies_in_the_row_once():
    sequences = pairs()
    batch = packing.pack(sequences)
    row, places = batch.inputs["input_ids"][0].numpy(), batch.inputs["position_ids"][0].numpy()
    prompts = 40 + 60 + 20 + (30 + 5) + 5 + 2 * 4  # the last is too short to share
    completions = 30 + 12 + (9 + 14) + (7 + 21) + 25 + 8 + 0 + 1 + (6 + 50)
    assert len(row) == prompts + completions
    for sequence, path in zip(sequences, layout.grow([s.ids for s in sequences]).paths, strict=True):
        assert row[path].tolist() == sequence.ids.tolist()
        assert places[path].tolist() == list(range(sequence.length))


def test_a_token_in_common_is_scored_once_and_counts_for_all_that_have_it():
    sequences = pairs()
    batch = packing.pack(sequences)
    assert len(batch.owners) == sum(len(s.completion) for s in sequences)
    assert len(batch.targets) == len(batch.owners) - 20 - 25 - 30
    for i, sequence in enumerate(sequences):
        assert batch.spread(batch.targets)[batch.owners == i].tolist() == sequence.completion.tolist()
    row = batch.inputs["input_ids"][0]
    assert batch.load == packing.Load(sum(s.length for s in sequences), len(row), len(row))
    assert row[batch.last].tolist() == [s.ids[-1] for s in sequences]


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=12))
def test_rows_hold_all_sequences_and_attention_sees_their_past(lists):
    ids = [np.array(one, dtype=np.int32) for one in lists]
    tree = layout.grow(ids)
    row = np.concatenate([ids[s.sequence][s.begin :] for s in tree.segments])
    assert all(row[path].tolist() == one for path, one in zip(tree.paths, lists, strict=True))
    assert len(row) <= sum(map(len, lists))
    laid = layout.lay_out(tree.segments, "cpu")
    keys = torch.arange(len(row), dtype=torch.float64)[:, None, None].requires_grad_()
    taken = laid.keys.take(keys)
    at = 0
    for number, (block, slots) in enumerate(zip(laid.blocks, taken.split(laid.slots), strict=True)):
        mask = laid.mask(number, 7)
        seen = torch.ones(1, 1, block.length, block.length).tril().bool() if mask is None else mask
        seen = seen.expand(block.n, -1, -1, -1)
        for length, slot, sees in zip(block.lengths, slots.view(block.n, -1), seen[:, 0], strict=True):
            segment = tree.segments[at]
            path = tree.paths[segment.sequence]
            for i in range(length):
                end = segment.begin + i + 1
                assert slot[sees[i]].tolist() == path[max(end - 7, 0) : end].tolist()
            at += 1
    taken.sum().backward()
    assert keys.grad is not None
    index = torch.bincount(laid.keys.index, minlength=len(row)) - _repeats(laid)
    assert torch.equal(keys.grad[:, 0, 0].long(), index)


def _repeats(laid: layout.Layout) -> torch.Tensor:
    """How often empty slots repeat each token: they carry no gradient."""
    filled = torch.zeros(len(laid.keys.index), dtype=torch.bool)
    filled[laid.keys.own] = True
    for _, slot, length in laid.keys.copies:
        filled[slot : slot + length] = True
    return torch.bincount(laid.keys.index[~filled], minlength=len(laid.keys.own))


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_gradient_checkpointing_and_repetition_change_no_bit(kind):
    sequences, found = pairs(), []
    for checkpointing in (False, False, True):
        model = tiny(kind).float()
        policy = policy_of(model, sequences, gradient_checkpointing=checkpointing)
        assert policy.path == "packed"
        found.append(gradients(model, policy.logprobs(sequences)))
    for other in found[1:]:
        assert all(torch.equal(other[name], grad) for name, grad in found[0].items())


@torch.no_grad()
def test_the_self_check_compares_two_pairs_that_share(monkeypatch):
    seen, pack = [], packing.pack

    def watched(sequences, *more):
        seen.append(sequences)
        return pack(sequences, *more)

    monkeypatch.setattr(packing, "pack", watched)
    sequences = pairs()
    policy_of(tiny("llama"), sequences)
    (probe,) = seen
    assert len(probe) == 4
    assert packing.pack(probe).inputs["input_ids"].shape[1] < sum(s.length for s in probe)
    assert probe[0] is max(sequences, key=lambda s: s.length)
    alone = Tokens(sequences[0].prompt, sequences[0].completion)
    other = packing.partner(alone, [alone])
    assert other.completion.tolist() != alone.completion.tolist()
    assert other.completion[:15].tolist() == alone.completion[:15].tolist()


def test_a_prefix_that_is_attended_to_wrongly_is_noticed(monkeypatch, capsys):
    mask = layout._mask

    def short(block, *more):
        return mask(block, *more).logical_and(torch.arange(block.prefix + block.length) > 0)

    monkeypatch.setattr(layout, "_mask", short)
    assert policy_of(tiny("llama"), pairs()).path == "padded"
    assert "differ from plain ones" in capsys.readouterr().err


def test_a_model_that_loses_the_layout_is_scored_as_padded_rows(capsys):
    model = tiny("nemotron")
    assert packable(model)
    policy = policy_of(model, pairs())
    assert policy.path == "padded"
    assert "does not hand its keyword arguments" in capsys.readouterr().err
    torch.testing.assert_close(policy.logprobs(pairs()), one_by_one(model, pairs()), rtol=1e-5, atol=1e-5)


def lower_right(q, k, v, query_ends, key_ends, longest_query, longest_key, *, scale, window_size=(-1, 0), enable_gqa):
    """What `varlen_attn` documents, written with a mask, for a device without its kernel."""
    out = []
    for a, b, c, d in zip(query_ends, query_ends[1:], key_ends, key_ends[1:], strict=False):
        assert b - a <= longest_query
        assert d - c <= longest_key
        apart = (d - c - (b - a)) + torch.arange(b - a)[:, None] - torch.arange(d - c)
        mask = (apart >= 0) & ((apart <= window_size[0]) if window_size[0] >= 0 else True)
        one, keys, values = (x[s:e].transpose(0, 1)[None] for x, s, e in ((q, a, b), (k, c, d), (v, c, d)))
        found = scaled_dot_product_attention(one, keys, values, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        out.append(found[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gpt2", "gemma2", "gpt_oss", "deepseek_v3"])
def test_the_kernel_for_any_length_is_asked_for_the_same(kind, wide, monkeypatch):
    """Caps, sinks and heads of two sizes go block by block."""
    calls = []

    def kernel(*args, enable_gqa=False, **named):
        calls.append(named)
        return lower_right(*args, enable_gqa=enable_gqa, **named)

    names = frozenset({"window_size", "enable_gqa"})
    monkeypatch.setattr(attention, "_kernel", lambda: (kernel, names))
    monkeypatch.setattr(attention, "_HALF", (torch.float64,))
    model, sequences = tiny(kind), pairs()
    expected = one_by_one(model, sequences)
    expected_gradients = gradients(model, expected)
    found = shared(model, sequences, varlen=True)
    assert float((found - expected).detach().abs().max()) <= 1e-6
    assert_same_gradients(gradients(model, found), expected_gradients)
    assert bool(calls) == (kind in ("qwen3", "mistral", "gpt2"))


def test_the_kernel_of_an_earlier_torch_has_other_names(monkeypatch):
    calls: list[dict[str, Any]] = []

    def kernel(q, k, v, *_, **named):
        calls.append(named | {"heads": (q.shape[1], k.shape[1])})
        return q

    q, k = torch.zeros(3, 4, 8), torch.zeros(3, 2, 8)
    ends = torch.tensor([0, 3], dtype=torch.int32)
    monkeypatch.setattr(attention, "_kernel", lambda: (kernel, frozenset({"is_causal"})))
    attention._varlen(q, k, k, layout.Ends(ends, ends, 3, 3), 0.5, None)
    assert calls == [{"scale": 0.5, "is_causal": True, "heads": (4, 4)}]


def test_the_kernel_of_this_torch_has_the_names_that_are_used():
    assert {"window_size", "enable_gqa", "scale"} <= attention._kernel()[1]


def test_micro_batches_count_what_is_left_after_sharing():
    random = np.random.default_rng(3)
    prompts = [draw(random, 100) for _ in range(3)]
    differ = [np.array([first, *draw(random, 9)], dtype=np.int32) for first in range(18)]
    examples = [[Tokens(prompts[i % 3], differ[2 * i + side]) for side in range(2)] for i in range(9)]
    alone = packing.micro_batches([[s] for example in examples for s in example], 120)
    assert {frozenset(group) for group in packing.micro_batches(examples, 160)} == {
        frozenset({0, 3, 6}), frozenset({1, 4, 7}), frozenset({2, 5, 8}),
    }  # fmt: skip
    assert max(packing.pack([examples[i // 2][i % 2] for i in g]).inputs["input_ids"].shape[1] for g in alone) == 120
    assert [len(group) for group in packing.micro_batches(examples, 159)] == [2, 1] * 3
    assert len(packing.micro_batches(examples, 480)) == 1
    assert len(packing.micro_batches([*examples, *examples], 480)) == 1
    assert len(packing.micro_batches(examples, 480, padded=True)) == 5


LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0, "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4, "original_max_position_embeddings": 32,
}  # fmt: skip


def test_a_model_that_reads_a_text_by_what_lies_beside_it_is_refused():
    """Its rotary embedding changes for a whole batch where one position is beyond 32."""
    first, second = (tiny("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=32) for _ in range(2))
    random = np.random.default_rng(0)
    shorter = [Tokens(prompt, draw(random, n)) for prompt in (draw(random, 8), draw(random, 9)) for n in (9, 12)]
    assert policy_of(first, shorter).path == "packed"
    longer = [Tokens(draw(random, 12), draw(random, 60)), *shorter]
    with pytest.raises(ValueError, match=r"model type 'phi3': a sequence's log-probs move by .* of those beside it"):
        policy_of(second, longer)
