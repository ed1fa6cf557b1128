"""Attention within the segments of a packed row and to their prefixes, as a function registered with transformers.

The layout travels through the unmodified model as a keyword argument; each layer brings its own sliding window,
soft-cap, scaling and sinks. (A 4-D mask would replace per-layer masks, and transformers would read restarted
`position_ids` without a mask in its own way.) On the CPU, and in float32 anywhere, a block at a time goes through
`scaled_dot_product_attention`; in half precision on CUDA all segments go at once through the kernel of
`torch.nn.attention.varlen`. The latter was never run on a device: its plumbing is tested with a stand-in for the
kernel, and before a run `Policy` compares it with the former. Nothing in the backward here adds in any order.

Legend: T tokens of the row, n segments of a block, L its longest, W its longest prefix, H heads, K key-value heads, D
head size.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from train.layout import Ends, Layout

NAME = "packed"
_KINDS = {"full_attention", "sliding_attention"}
_HALF = torch.float16, torch.bfloat16
_LARGEST_HEAD = 256
"""Of the variable-length kernel, which knows no other precision."""


class LayoutLost(Exception):
    """Packed rows cannot be kept apart in such a model."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention of every segment to its prefix and causally to itself: (1, H, T, D), (1, K, T, D) twice ->
    (1, T, H, D).

    The layer's `scaling`, `sliding_window`, `softcap` and `s_aux` are honoured; its dropout is off.
    """
    if layout is None:
        raise LayoutLost("the model does not hand its keyword arguments to the attention function")
    assert attention_mask is None, "packed rows come without a mask"
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    attend = _all_segments if layout.varlen and _kernel_takes(q, v, **settings) else _blocks
    return attend(q, k, v, layout, **settings).unsqueeze(0), None


def _blocks(q: Tensor, k: Tensor, v: Tensor, layout: Layout, **settings: Any) -> Tensor:
    """(T, H, D), (T, K, D) twice -> (T, H, D), block by block."""
    queries, keys, values = q.split(layout.sizes), *(layout.keys.take(x).split(layout.slots) for x in (k, v))
    out: list[Tensor] = []
    for number, (block, own, mine, theirs) in enumerate(zip(layout.blocks, queries, keys, values, strict=True)):
        slots = block.places.take(own) if block.is_padded else own
        heads = [_heads(x, block.n) for x in (slots, mine, theirs)]
        found = _attend(heads[0], heads[1], heads[2], layout, number, **settings)
        flat = found.transpose(1, 2).flatten(0, 1)
        out.append(block.places.put(flat) if block.is_padded else flat)
    return torch.cat(out)


def _heads(x: Tensor, n: int) -> Tensor:
    """(n·slots, H, D) -> (n, H, slots, D)."""
    return x.unflatten(0, (n, -1)).transpose(1, 2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    number: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Of one block: (n, H, L, D), (n, K, W + L, D) twice -> (n, H, L, D)."""
    mask, groups = layout.mask(number, sliding_window), q.shape[1] // k.shape[1]
    if softcap is not None or s_aux is not None:
        return _plain_attention(q, k, v, mask, scaling or q.shape[-1] ** -0.5, softcap, s_aux)
    if mask is None:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=groups > 1)
    # No fused kernel takes a mask and grouped heads; the slow one would hold all scores. A group's heads have the same
    # keys, so they attend as more queries of one head.
    grouped = q.unflatten(1, (-1, groups)).flatten(2, 3)
    mask = layout.mask(number, sliding_window, groups)
    out = scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=scaling)
    return out.unflatten(2, (groups, -1)).flatten(1, 2)


def _plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Attention with what the fused kernels lack: capped scores (Gemma 2) and a learnt sink per head (gpt-oss)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        sink = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(v.dtype)
    return weights[..., : k.shape[2]] @ v


def _kernel_takes(q: Tensor, v: Tensor, softcap: float | None = None, s_aux: Tensor | None = None, **_: Any) -> bool:
    """Whether the variable-length kernel computes what the layer asks for: it knows no caps, sinks and odd heads."""
    return q.dtype in _HALF and softcap is None and s_aux is None and q.shape[-1] == v.shape[-1] <= _LARGEST_HEAD


def _all_segments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> Tensor:
    """(T, H, D), (T, K, D) twice -> (T, H, D), in one call: a segment's last query sees its last key."""
    keys, values = (layout.reached.take(x) for x in (k, v))
    return _varlen(q, keys, values, layout.ends, scaling, sliding_window)


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ends: Ends,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """`varlen_attn` under the names that this torch has for its arguments."""
    kernel, names = _kernel()
    named: dict[str, Any] = {"scale": scaling}
    if "window_size" in names:
        named["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        assert window is None, "a sliding window needs a later torch"
        named["is_causal"] = True
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in names:
            named["enable_gqa"] = True
        else:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return kernel(q, k, v, *ends, **named)


@lru_cache(maxsize=1)
def _kernel() -> tuple[Callable[..., Any], frozenset[str]]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)


def packable(model: PreTrainedModel) -> bool:
    """Whether the architecture allows several sequences in one row: attention of known kinds is all that mixes
    positions. Recurrent and convolutional layers would leak state from one sequence to the next."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    mixes = any(isinstance(module, nn.Conv1d) for module in model.modules())
    return model._supports_attention_backend and kinds <= _KINDS and not mixes
