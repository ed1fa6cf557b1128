"""Packed rows against one-by-one, unpadded forwards of the unmodified models: log-probs and gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from train import attention, packing
from train.attention import packable
from train.logprobs import sequence_logprobs
from train.packing import Load, Tokens
from train.policy import Policy

V = 61
SIZES = {
    "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GEMMA2 = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16, "attn_logit_softcapping": 0.5}
MODELS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 16},
    "gemma2": GEMMA2 | {"final_logit_softcapping": 3.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
    "gpt_oss": {"head_dim": 8, "sliding_window": 16, "num_local_experts": 2, "num_experts_per_tok": 1},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
QUIET = pytest.mark.filterwarnings("ignore::UserWarning")


def tokens(seed: int, *lengths: tuple[int, int]) -> list[Tokens]:
    draw = np.random.default_rng(seed)
    return [Tokens(*(draw.integers(3, V, n).astype(np.int32) for n in pair)) for pair in lengths]


LENGTHS = ((5, 40), (1, 1), (30, 9), (7, 12), (3, 30), (1, 25), (20, 1), (9, 9))


def tiny(kind: str, **changes):
    """A random model in float64 (float32 where its kernels know no other), with plain eager attention."""
    dropped = ("num_key_value_heads", "intermediate_size") if kind == "opt" else ()
    sizes = {k: v for k, v in SIZES.items() if k not in dropped}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | MODELS.get(kind, {}) | changes))
    with torch.no_grad():
        for p in model.parameters():  # larger weights, so that a wrong mask shows
            p.mul_(4.0 if p.ndim > 1 else 1.0)
    model.set_attn_implementation("eager")
    return model.eval() if kind in ("gpt_oss", "qwen2_moe") else model.double().eval()


def policy_of(model, sequences: list[Tokens], **settings) -> Policy:
    no_tokenizer: Any = None  # scoring needs none
    return Policy(model, no_tokenizer, sequences, **settings)


def one_by_one(model, sequences) -> torch.Tensor:
    """Summed log-probs from whole logits of each sequence alone, in float64."""
    found = []
    for prompt, completion in sequences:
        ids = torch.from_numpy(np.concatenate([prompt, completion])).long()[None]
        logprobs = torch.log_softmax(model(ids, use_cache=False).logits[0], -1)
        scored = range(len(prompt), ids.shape[1])
        found.append(sum((logprobs[t - 1, ids[0, t]].double() for t in scored), torch.zeros(())))
    return torch.stack(found)


def test_transformers_sdpa_that_drops_a_soft_cap_is_not_trusted():
    sequences = tokens(1, *LENGTHS)
    expected = one_by_one(tiny("gemma2"), sequences)
    model = tiny("gemma2")
    model.set_attn_implementation("sdpa")
    policy = policy_of(model, sequences)
    assert policy.path == "packed"
    torch.testing.assert_close(policy.logprobs(sequences), expected, rtol=1e-6, atol=1e-5)


def gradients(model, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@QUIET
@pytest.mark.parametrize("kind", MODELS)
def test_packed_rows_equal_sequences_alone(kind):
    model, sequences = tiny(kind), tokens(1, *LENGTHS)
    weights = torch.linspace(-1, 2, len(sequences), dtype=torch.float64)
    expected = one_by_one(model, sequences)
    expected_gradient = gradients(model, (expected * weights).sum())
    policy = policy_of(model, sequences)
    found = policy.logprobs(sequences)
    gradient = gradients(model, (found * weights).sum())
    assert policy.path == "packed"
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)  # HF's norms and rotations are float32
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5 * float(expected_gradient.abs().max()))


@torch.no_grad()
def test_the_window_and_the_caps_matter_in_these_tests():
    sequences = tokens(1, *LENGTHS)
    for change in ({"sliding_window": 255}, {"attn_logit_softcapping": None}, {"final_logit_softcapping": None}):
        difference = one_by_one(tiny("gemma2"), sequences) - one_by_one(tiny("gemma2", **change), sequences)
        assert float(difference.abs().max()) > 0.01


def test_the_fused_kernel_is_asked_for_a_mask_or_grouped_heads_but_not_both(monkeypatch):
    """With both, torch falls back to a kernel that holds all scores."""
    kernel, asked = attention.scaled_dot_product_attention, set()

    def watched(q, k, v, *, attn_mask=None, enable_gqa=False, **settings):
        asked.add((attn_mask is not None, enable_gqa))
        return kernel(q, k, v, attn_mask=attn_mask, enable_gqa=enable_gqa, **settings)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", watched)
    sequences = tokens(1, *LENGTHS)
    policy_of(tiny("mistral", sliding_window=16), sequences).logprobs(sequences)
    assert asked == {(True, False), (False, True)}


def test_neighbours_do_not_leak():
    model, (first, *rest) = tiny("llama"), tokens(1, *LENGTHS)
    policy = policy_of(model, [first, *rest])
    alone = policy.logprobs([first])
    for others in (rest, tokens(2, *LENGTHS)[1:]):
        torch.testing.assert_close(policy.logprobs([first, *others])[:1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "changes", "packs"),
    [
        ("llama", {}, True),
        ("mamba", {"state_size": 4}, False),
        ("bloom", {}, False),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, False),
    ],
)
def test_layers_that_carry_state_are_scored_as_padded_rows(kind, changes, packs, capsys):
    keep = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "pad_token_id")
    sizes = SIZES if kind in ("llama", "lfm2") else {k: SIZES[k] for k in keep}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | changes)).double().eval()
    sequences = tokens(1, *LENGTHS)
    expected = one_by_one(model, sequences)
    policy = policy_of(model, sequences)
    assert packable(model) == packs
    assert policy.path == ("packed" if packs else "padded")
    assert capsys.readouterr().err.count("padded rows instead") == (not packs)
    torch.testing.assert_close(policy.logprobs(sequences), expected, rtol=1e-5, atol=1e-4)


def test_a_window_that_a_model_keeps_from_the_attention_function_is_noticed(capsys):
    experts = {
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    }
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    model, sequences = tiny("qwen2_moe", **experts | window), tokens(1, *LENGTHS)
    expected = one_by_one(model, sequences)
    policy = policy_of(model, sequences)
    assert policy.path == "padded"
    assert "differ from plain ones" in capsys.readouterr().err
    torch.testing.assert_close(policy.logprobs(sequences), expected, rtol=1e-5, atol=1e-5)


def test_logits_that_this_code_does_not_reproduce_are_refused():
    model = tiny("llama")
    forward = model.forward

    def scaled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out

    model.forward = scaled
    with pytest.raises(ValueError, match="'llama': log-probs computed from its hidden states differ"):
        policy_of(model, tokens(1, (3, 4)))


def test_gradient_checkpointing_changes_no_bit():
    sequences = tokens(1, *LENGTHS)
    found = []
    for checkpointing in (False, True):
        model = tiny("gemma2")
        policy = policy_of(model, sequences, gradient_checkpointing=checkpointing)
        calls = []
        model.model.layers[0].mlp.register_forward_hook(lambda *_, seen=calls: seen.append(1))
        found.append(gradients(model, policy.logprobs(sequences).sum()))
        assert len(calls) == (2 if checkpointing else 1)
    assert torch.equal(*found)


def test_rows_hold_no_padding_and_score_completions_only():
    sequences = tokens(1, *LENGTHS)
    batch = packing.pack(sequences)
    assert batch.inputs["input_ids"].shape == (1, sum(s.length for s in sequences))
    assert len(batch.scored) == sum(len(s.completion) for s in sequences)
    for i, sequence in enumerate(sequences):
        assert batch.targets[batch.owners == i].tolist() == sequence.completion.tolist()
    padding = sum(b.n * b.length for b in batch.inputs["layout"].blocks) / batch.inputs["input_ids"].numel()
    assert padding < 1.5


def test_chunks_of_the_head_change_nothing(monkeypatch):
    model, sequences = tiny("llama"), tokens(1, *LENGTHS)
    policy = policy_of(model, sequences)
    whole = gradients(model, policy.logprobs(sequences).sum())
    monkeypatch.setattr("train.logprobs._CHUNK_LOGITS_CPU", 0)
    many = tokens(1, *LENGTHS * 5)
    assert sum(len(s.completion) for s in many) > 2 * 256
    apart = torch.cat([policy.logprobs(many[i : i + 8]) for i in range(0, 40, 8)])
    expected = gradients(model, apart.sum())
    torch.testing.assert_close(gradients(model, policy.logprobs(many).sum()), expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(gradients(model, policy.logprobs(sequences).sum()), whole, rtol=1e-9, atol=1e-9)


def test_padded_and_packed_batches_score_the_same_tokens():
    model, sequences = tiny("llama"), tokens(1, *LENGTHS)
    with torch.no_grad():
        padded = sequence_logprobs(model, packing.pad(sequences))
        model.set_attn_implementation(attention.NAME)
        packed = sequence_logprobs(model, packing.pack(sequences))
    torch.testing.assert_close(packed, padded, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("lengths", "budget", "padded", "expected"),
    [
        ([[3], [9], [5]], 100, False, [[1, 2, 0]]),
        ([[3], [9], [5]], 14, False, [[1, 2], [0]]),
        ([[3], [9], [5]], 14, True, [[1], [2, 0]]),
        ([[3], [9], [5]], 1, False, [[1], [2], [0]]),
        ([[3, 4], [9, 1], [5, 5]], 18, False, [[1], [2, 0]]),
        ([], 10, False, []),
    ],
)
def test_micro_batches_respect_the_budget(lengths, budget, padded, expected):
    draw = iter(range(10_000))
    examples = [[Tokens(*(np.array([next(draw)] * m) for m in (1, n - 1))) for n in some] for some in lengths]
    assert packing.micro_batches(examples, budget, padded) == expected


def test_a_load_says_what_rows_are_for_and_what_they_compute():
    sequences = [Tokens(*(np.zeros(n, np.int32) for n in sizes)) for sizes in ((3, 4), (3, 1), (5, 5))]
    packed, padded = packing.pack(sequences).load, packing.pad(sequences).load
    assert (packed, padded) == (Load(21, 21, 21), Load(21, 21, 30))
    assert (packed.padding, padded.padding, padded.sharing) == (0, pytest.approx(0.3), 1)
    assert Load(20, 10, 10).plus(padded) == Load(41, 31, 40)
    assert Load(20, 10, 10).sharing == 2
    assert (Load().sharing, Load().padding) == (None, None)


def test_only_batches_with_gradients_count_as_trained_on():
    sequences = tokens(1, *LENGTHS)
    policy = policy_of(tiny("llama"), sequences)
    with torch.no_grad():
        policy.logprobs(sequences)
    assert policy.trained == Load()
    policy.logprobs(sequences[:3])
    policy.frozen().logprobs(sequences)
    assert policy.trained == Load(*[sum(s.length for s in sequences[:3])] * 3)
