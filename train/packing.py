"""Many sequences as one row without padding, and the attention that keeps them apart.

Layout: `[prompt+completion | prompt+completion | …]`, longest first, positions restarting at each sequence. The layout
travels through the unmodified model as a keyword argument to an attention function registered with transformers; each
layer brings its own sliding window, soft-cap, scaling and sinks. (A 4-D mask would replace per-layer masks, and
transformers would read restarted `position_ids` without a mask in its own way.) Neighbours of similar length attend
together as one padded block; the indices are computed once per batch, not per layer.

Deliberately absent: sharing a prompt between its branches. A block would then hold the queries of one branch and the
keys of its prefix as well; layout, registration and scoring stay as they are.

Legend: T tokens of the row, n sequences of a block, L its longest, H heads, K key-value heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "packed"
_SHORTEST_SHARE = 0.75  # of a block's longest sequence: bounds its padding
_FREE_PADDING = 16  # tokens of padding that cost less than another block


class Tokens(NamedTuple):
    """A prompt and the span that is scored under it, as arrays of token ids (int32)."""

    prompt: np.ndarray
    completion: np.ndarray

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)


class Load(NamedTuple):
    """Tokens of some forwards. What they stand for is `useful`, what the rows hold `distinct`, what runs `computed`.

    Every way to lay sequences out says these of its `Batch`; speed, utilisation and the ratios below are of them alone.
    """

    useful: int = 0
    """Of all sequences, each with a prompt of its own."""
    distinct: int = 0
    """The same where what sequences share is counted once; without sharing they are equal."""
    computed: int = 0
    """Places of the rows, padding included."""

    def plus(self, other: "Load") -> "Load":
        """The load of both."""
        return Load(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def sharing(self) -> float | None:
        """Useful tokens per distinct one: 1 where nothing is shared; None of nothing."""
        return self.useful / self.distinct if self.distinct else None

    @property
    def padding(self) -> float | None:
        """Share of the computed places that hold no token; None of nothing."""
        return 1 - self.distinct / self.computed if self.computed else None


@dataclass(frozen=True)
class Block:
    """Sequences that lie side by side in the row and attend together, as (n, L) slots."""

    n: int
    length: int
    gather: Tensor
    """(n·L,) place in the block's part of the row that fills each slot; empty slots repeat a token."""
    scatter: Tensor
    """(tokens of the block,) slot of each place."""


@dataclass(frozen=True)
class Layout:
    """How a row divides into blocks."""

    blocks: tuple[Block, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Sequences ready for a model: its inputs, and which of its hidden states are scored against what."""

    inputs: dict[str, Any] = field(repr=False)
    scored: Tensor
    """(S,) flat places whose hidden state predicts a completion's token."""
    targets: Tensor
    """(S,) those tokens."""
    owners: Tensor
    """(S,) number of the sequence, in the order given."""
    n_sequences: int
    last: Tensor
    """(n,) flat place of each sequence's last token, in the order given."""
    load: Load
    """What its forward computes, and what for."""


def pack(sequences: Sequence[Tokens], device: torch.device | str = "cpu") -> Batch:
    """One row without padding. Sequences are laid out by length; `owners` keeps the order given.

    Every prompt has at least one token: it predicts the completion's first.
    """
    order = sorted(range(len(sequences)), key=lambda i: -sequences[i].length)
    placed = [sequences[i] for i in order]
    lengths = np.array([s.length for s in placed])
    ids = np.concatenate([part for s in placed for part in s]).astype(np.int64)
    positions = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    prompts = np.array([len(s.prompt) for s in placed])
    assert prompts.min() > 0, "a completion's first token needs something that predicts it"
    target = positions >= np.repeat(prompts, lengths)
    owners = np.repeat(order, lengths)
    places = np.flatnonzero(target)
    scored, targets, owners = (_tensor(x, device) for x in (places - 1, ids[places], owners[target]))
    inputs = {
        "input_ids": _tensor(ids[None], device),
        "position_ids": _tensor(positions[None], device),
        "layout": _layout(lengths, device),
    }
    last = _tensor((np.cumsum(lengths) - 1)[np.argsort(order)], device)
    return Batch(inputs, scored, targets, owners, len(sequences), last, Load(len(ids), len(ids), len(ids)))


def pad(sequences: Sequence[Tokens], device: torch.device | str = "cpu") -> Batch:
    """Right-padded rows and an ordinary attention mask: for models whose layers carry state along a row."""
    lengths = np.array([s.length for s in sequences])
    width = lengths.max()
    columns = np.arange(width)[None]
    mask = columns < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate([part for s in sequences for part in s])
    prompts = np.array([len(s.prompt) for s in sequences])
    assert prompts.min() > 0, "a completion's first token needs something that predicts it"
    places = np.flatnonzero(mask & (columns >= prompts[:, None]))
    inputs = {"input_ids": _tensor(ids, device), "attention_mask": _tensor(mask, device)}
    scored, targets, owners = (_tensor(x, device) for x in (places - 1, ids.ravel()[places], places // width))
    last = _tensor(np.arange(len(sequences)) * width + lengths - 1, device)
    tokens = int(lengths.sum())
    return Batch(inputs, scored, targets, owners, len(sequences), last, Load(tokens, tokens, mask.size))


def micro_batches(lengths: Sequence[Sequence[int]], budget: int, padded: bool = False) -> list[list[int]]:
    """Splits examples into groups of at most `budget` tokens (at least one example each), longest first.

    `lengths`: the lengths of each example's sequences, which stay together. `padded` counts every sequence as long as
    its group's longest. The split depends only on the lengths.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-max(lengths[i]), i))
    groups: list[list[int]] = []
    tokens = widest = 0
    for i in order:
        cost = len(lengths[i]) * widest if padded else sum(lengths[i])
        if not groups or tokens + cost > budget:
            widest = max(lengths[i])
            cost, tokens = len(lengths[i]) * widest if padded else sum(lengths[i]), 0
            groups.append([])
        groups[-1].append(i)
        tokens += cost
    return groups


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def _layout(lengths: np.ndarray, device: torch.device | str) -> Layout:
    """Cuts descending lengths into blocks of similar ones."""
    blocks, start = [], 0
    for end in range(1, len(lengths) + 1):
        longest = lengths[start]
        shortest_allowed = min(longest * _SHORTEST_SHARE, longest - _FREE_PADDING)
        if end == len(lengths) or lengths[end] < shortest_allowed:
            blocks.append(_block(lengths[start:end], device))
            start = end
    return Layout(tuple(blocks), tuple(len(block.scatter) for block in blocks))


def _block(lengths: np.ndarray, device: torch.device | str) -> Block:
    columns = np.arange(lengths[0])[None]
    filled = columns < lengths[:, None]
    starts = (np.cumsum(lengths) - lengths)[:, None]
    gather = np.where(filled, starts + columns, starts)
    return Block(
        len(lengths), int(lengths[0]), _tensor(gather.ravel(), device), _tensor(np.flatnonzero(filled), device)
    )


class _ToSlots(torch.autograd.Function):
    """(tokens, H, D) -> (n·L, H, D). Empty slots carry no gradient, so its backward is a plain selection."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block) -> Tensor:
        ctx.block = block
        return x.index_select(0, block.gather)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.block.scatter), None


class _FromSlots(torch.autograd.Function):
    """(n·L, H, D) -> (tokens, H, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block) -> Tensor:
        ctx.block = block
        return x.index_select(0, block.scatter)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        grad: Tensor = grads[0]
        slots = grad.new_zeros(ctx.block.n * ctx.block.length, *grad.shape[1:])
        return slots.index_copy_(0, ctx.block.scatter, grad), None


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a packed row: (1, H, T, D), (1, K, T, D) twice -> (1, T, H, D).

    The layer's `scaling`, `sliding_window`, `softcap` and `s_aux` are honoured; its dropout is off.
    """
    assert layout is not None, "packed rows come with their layout"
    assert attention_mask is None, "packed rows come without a mask"
    parts = [x[0].transpose(0, 1).to(value.dtype).split(layout.sizes) for x in (query, key, value)]
    out = [
        _FromSlots.apply(_block_attention(_slots(q, block), _slots(k, block), _slots(v, block), **settings), block)
        for block, q, k, v in zip(layout.blocks, *parts, strict=True)
    ]
    return torch.cat(out).unsqueeze(0), None


def _slots(x: Tensor, block: Block) -> Tensor:
    """(tokens, H, D) -> (n, H, L, D)"""
    return _ToSlots.apply(x, block).view(block.n, block.length, *x.shape[1:]).transpose(1, 2)


def _block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """(n, H, L, D), (n, K, L, D) twice -> (n·L, H, D)"""
    mask = _window_mask(q.shape[2], sliding_window, q.device)
    if softcap is None and s_aux is None:
        gqa = q.shape[1] != k.shape[1]
        if gqa and mask is not None:  # no fused kernel takes both; the slow one would hold all scores
            gqa, groups = False, q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=gqa
        )
    else:
        out = _plain_attention(q, k, v, mask, scaling or q.shape[-1] ** -0.5, softcap, s_aux)
    return out.transpose(1, 2).flatten(0, 1)


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """(L, L), true where a query sees a key; none where the window is wider than the block."""
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)


def _plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Attention with what the fused kernel lacks: capped scores (Gemma 2) and a learnt sink per head (gpt-oss)."""
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


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)
