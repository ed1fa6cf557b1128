"""Summed log-probs of completions, from the hidden states of scored positions only.

The language-model head is applied in float32, in chunks that are recomputed in the backward pass: logits of whole
sequences never exist, and how many exist at once depends neither on the sequences nor, but for a least chunk, on the
vocabulary.

Deliberately absent: a fused kernel for CUDA. Liger's computes gradients in its forward pass, before DPO or PPO have
said how much a token weighs. Apple's cut-cross-entropy gives losses of single tokens, but leaves small gradients out
unless asked not to, knows no scaled logits, and is not released on a package index by its authors. Where prompts are
not scored, the head is a small part of the work.

Legend: S scored tokens of all sequences, U those that differ, d hidden size, V vocabulary, n sequences.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from train.packing import Batch

_CHUNK_LOGITS = 1 << 26
"""Float32 logits that exist at once (256 MiB), a few times over."""
_CHUNK_LOGITS_CPU = 1 << 22
"""The same on the CPU (16 MiB), where larger chunks are no faster."""


def sequence_logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Summed log-prob of each sequence's completion under the model, in nats: (n,).

    Sums are float64 (float32 where the device has no float64), so that they hardly depend on a batch's order.
    """
    tokens = batch.spread(token_logprobs(model, hidden_states(model, batch), batch.targets))
    wide = torch.float32 if tokens.device.type == "mps" else torch.float64
    return tokens.new_zeros(batch.n_sequences, dtype=wide).index_add(0, batch.owners, tokens.to(wide))


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states at the scored positions: (U, d).

    Indexing adds their gradients in a fixed order on every device, where `index_select` would not on CUDA.
    """
    out = model.base_model(**batch.inputs, use_cache=False).last_hidden_state
    return out.flatten(0, 1)[batch.scored]


def token_logprobs(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-prob of each target after its hidden state: (S, d), (S,) -> (S,)."""
    score = partial(_chunk_logprobs, model)
    chunks = _chunks(model, hidden, targets)
    if not torch.is_grad_enabled():
        return torch.cat([score(h, t) for h, t in chunks])
    return torch.cat([checkpoint(score, h, t, use_reentrant=False, preserve_rng_state=False) for h, t in chunks])


@torch.no_grad()
def token_logprobs_and_entropies(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each target, and the entropy of the distribution that it was drawn from, in nats: (S,) twice, from
    the same logits and without gradients.
    """
    logprobs, entropies = zip(*(_chunk_both(model, h, t) for h, t in _chunks(model, hidden, targets)), strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _chunks(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    most = _CHUNK_LOGITS_CPU if hidden.device.type == "cpu" else _CHUNK_LOGITS
    rows = max(256, most // _head(model).weight.shape[0])
    return list(zip(hidden.split(rows), targets.split(rows), strict=True))


def _chunk_both(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs = logits(model, hidden.to(_head(model).weight.dtype)).log_softmax(-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None]).squeeze(-1), entropies


def _chunk_logprobs(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return -cross_entropy(logits(model, hidden.to(_head(model).weight.dtype)), targets, reduction="none")


def logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The model's logits, with the scale and soft-cap that its configuration states: (…, d) -> (…, V)."""
    config = model.config.get_text_config()
    out = _head(model)(hidden)
    if (multiplier := getattr(config, "logit_scale", None)) is not None:  # Cohere
        out = out * multiplier
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        out = out / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma
        out = cap * torch.tanh(out / cap)
    return out


def _head(model: PreTrainedModel) -> nn.Linear:
    head: Any = model.get_output_embeddings()
    return head
