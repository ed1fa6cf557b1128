"""Sequences as a tree in one row: every common prefix lies there once, and segments say who attends to what.

Sequences sorted by their tokens share most with their neighbour, so each is what it has in common with the one before
and a *segment* of its own. A segment's tokens lie side by side in the row; its queries attend to its prefix, which lies
in earlier segments, and causally to itself. What a pair has in common is followed by one side in the same segment, and
the other side is a segment with a prefix; a few-shot prompt of all sequences, or the words that some responses begin
with, are shared in the same way. Segments of similar lengths attend together as one padded *block*.

Legend: T tokens of the row, n segments of a block, L its longest, W its longest prefix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

SHORTEST_PREFIX = 8
"""Tokens in common below which sequences are kept apart: causal attention is cheaper than attention to a prefix."""
_SHORTEST_SHARE = 0.75  # of a block's longest segment: bounds its padding
_FREE_PADDING = 16  # tokens of padding that cost less than another block

_MOST_SEEN = 1 << 22
"""Places that the queries of a block with prefixes may look at: bounds its mask."""
Device = torch.device | str


class Segment(NamedTuple):
    """Tokens that follow each other in one sequence, from `begin` in it on; `prefix`: the row's places before them."""

    sequence: int
    begin: int
    length: int
    prefix: np.ndarray


class Tree(NamedTuple):
    """A row: its segments in order, and the place in it of every token of every sequence."""

    segments: list[Segment]
    paths: list[np.ndarray]


def grow(sequences: Sequence[np.ndarray]) -> Tree:
    """The row of some sequences of token ids; one that is there twice, or begins another, has no tokens of its own.

    Segments without a prefix come first, and longer ones before shorter ones.
    """
    order, shared = common_prefixes(sequences)
    before = dict(zip(order, [None, *order], strict=False))
    lengths = {i: len(sequences[i]) - shared[i] for i in order}
    at = 0
    starts: dict[int, int] = {}
    laid = sorted((i for i in order if lengths[i]), key=lambda i: (shared[i] > 0, -lengths[i], -shared[i]))
    for i in laid:
        starts[i], at = at, at + lengths[i]
    paths: list[np.ndarray] = [np.empty(0, np.int64)] * len(sequences)
    for i in order:
        previous = before[i]
        prefix = paths[previous][: shared[i]] if previous is not None else paths[i]
        paths[i] = np.concatenate([prefix, np.arange(lengths[i]) + starts.get(i, 0)])
    return Tree([Segment(i, shared[i], lengths[i], paths[i][: shared[i]]) for i in laid], paths)


def common_prefixes(sequences: Sequence[np.ndarray]) -> tuple[list[int], dict[int, int]]:
    """The sequences' numbers in the order of their tokens, and what each shares with the one before."""
    keys = [sort_key(ids) for ids in sequences]
    order = sorted(range(len(sequences)), key=lambda i: keys[i])
    shared = dict.fromkeys(order[:1], 0)
    shared |= {b: common(keys[a], keys[b]) for a, b in pairwise(order)}
    return order, shared


def sort_key(ids: np.ndarray) -> bytes:
    """Bytes that sort as the token ids do."""
    return ids.astype(">i4").tobytes()


def common(a: bytes, b: bytes) -> int:
    """Tokens that two keys begin with alike, if they are enough to be shared."""
    length = min(len(a), len(b)) // 4
    differ = np.frombuffer(a, ">i4", length) != np.frombuffer(b, ">i4", length)
    found = int(differ.argmax()) if differ.any() else length
    return found if found >= SHORTEST_PREFIX or len(a) == len(b) == 4 * found else 0


@dataclass(frozen=True)
class Gather:
    """Which places of a row fill some slots. A place is in one slot for itself, and in others as part of a prefix."""

    index: Tensor
    """(slots,) place of each; empty slots repeat a token."""
    own: Tensor
    """(T,) slot that each place fills for itself."""
    copies: tuple[tuple[int, int, int], ...]
    """(first place, first slot, length) of every stretch of a prefix."""

    def take(self, x: Tensor) -> Tensor:
        """(T, H, D) -> (slots, H, D)."""
        return _Take.apply(x, self)  # pyrefly: ignore

    def put(self, slots: Tensor) -> Tensor:
        """(slots, H, D) -> (T, H, D): what the slots hold that places fill for themselves."""
        return _Put.apply(slots, self)  # pyrefly: ignore


class _Take(torch.autograd.Function):
    """Its backward adds stretches in a fixed order, so that it is deterministic. Empty slots carry no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: Gather) -> Tensor:
        ctx.gather = gather
        return x.index_select(0, gather.index)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        slots: Tensor = grads[0]
        out = slots.index_select(0, ctx.gather.own)
        for place, slot, length in ctx.gather.copies:
            out[place : place + length] += slots[slot : slot + length]
        return out, None


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slots: Tensor, gather: Gather) -> Tensor:
        ctx.gather, ctx.n = gather, len(slots)
        return slots.index_select(0, gather.own)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        grad: Tensor = grads[0]
        return grad.new_zeros(ctx.n, *grad.shape[1:]).index_copy_(0, ctx.gather.own, grad), None


@dataclass(frozen=True)
class Block:
    """Segments that lie side by side in the row and attend together: (n, L) queries to (n, W + L) keys."""

    lengths: tuple[int, ...]
    prefixes: tuple[int, ...]
    places: Gather
    """(n·L) slots for the block's part of the row."""

    @property
    def n(self) -> int:
        return len(self.lengths)

    @property
    def length(self) -> int:
        return max(self.lengths)

    @property
    def prefix(self) -> int:
        return max(self.prefixes)

    @property
    def is_padded(self) -> bool:
        return min(self.lengths) < self.length


class Ends(NamedTuple):
    """Where segments end among the queries, and among keys without padding: (segments + 1,) each, from 0."""

    queries: Tensor
    keys: Tensor
    longest_query: int
    longest_key: int


@dataclass(frozen=True)
class Layout:
    """How a row divides into blocks, and where each finds its keys."""

    blocks: tuple[Block, ...]
    keys: Gather
    """n·(W + L) slots of each block, one block after the other: a segment's prefix, then itself."""
    segments: tuple[Segment, ...]
    device: Device
    varlen: bool = False
    """Whether attention may use the kernel for sequences of any length."""
    _masks: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each block."""
        return [sum(block.lengths) for block in self.blocks]

    @cached_property
    def reached(self) -> Gather:
        """What each segment attends to, side by side and without padding."""
        starts = _starts(self.segments)
        slots = [(s, at, len(s.prefix), s.length) for s, at in zip(self.segments, starts, strict=True)]
        return _gather(slots, self.device)

    @cached_property
    def ends(self) -> Ends:
        """For the kernel that takes segments of any length."""
        lengths = [s.length for s in self.segments]
        reaches = [len(s.prefix) + s.length for s in self.segments]
        queries, keys = (to_tensor(np.cumsum([0, *n], dtype=np.int32), self.device) for n in (lengths, reaches))
        return Ends(queries, keys, max(lengths), max(reaches))

    @property
    def slots(self) -> list[int]:
        """Key slots of each block."""
        return [block.n * (block.prefix + block.length) for block in self.blocks]

    def mask(self, number: int, window: int | None, groups: int = 1) -> Tensor | None:
        """Which keys the queries of a block see, `groups` times over: (1 or n, 1, groups·L, W + L); None: all up to
        their own.
        """
        block = self.blocks[number]
        if not block.prefix and (window is None or window >= block.length):
            return None
        key = number, window, groups
        if key not in self._masks:
            self._masks[key] = _mask(block, window, self.device).repeat(1, 1, groups, 1)
        return self._masks[key]


def _mask(block: Block, window: int | None, device: Device) -> Tensor:
    """Segments with equal prefixes, or without any, have one mask."""
    differ = min(block.prefixes) < block.prefix
    before = torch.tensor(block.prefixes if differ else block.prefixes[:1], device=device).view(-1, 1, 1, 1)
    own = torch.arange(block.length, device=device)
    ahead = torch.arange(block.prefix, device=device).view(1, 1, 1, -1)
    places = torch.cat([ahead.expand(len(before), -1, -1, -1), before + own], -1)
    filled = torch.cat([ahead < before, torch.ones_like(before + own, dtype=torch.bool)], -1)
    apart = (before + own).transpose(2, 3) - places
    seen = filled & (apart >= 0)
    return seen if window is None else seen & (apart < window)


def lay_out(segments: Sequence[Segment], device: Device, varlen: bool = False) -> Layout:
    """Cuts the segments of a row into blocks of similar ones."""
    blocks, starts = list(_cut(segments)), iter(_starts(segments))
    slots: list[tuple[Segment, int, int, int]] = []
    for block in blocks:
        width, length = max(len(s.prefix) for s in block), max(s.length for s in block)
        slots += [(s, next(starts), width, length) for s in block]
    made = tuple(_block(block, device) for block in blocks)
    return Layout(made, _gather(slots, device), tuple(segments), device, varlen)


def _starts(segments: Sequence[Segment]) -> list[int]:
    """The first place of each of some segments that follow each other."""
    return list(accumulate((s.length for s in segments[:-1]), initial=0))


def _cut(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    block: list[Segment] = []
    for segment in segments:
        if block and not _fits(block, segment):
            yield block
            block = []
        block.append(segment)
    if block:
        yield block


def _fits(block: list[Segment], segment: Segment) -> bool:
    """Whether a segment wastes little among those of a block, none of which is shorter."""
    prefixes = [len(s.prefix) for s in [*block, segment]]
    if bool(min(prefixes)) != bool(max(prefixes)):  # without a prefix no mask is needed
        return False
    seen = len(prefixes) * block[0].length * (max(prefixes) + block[0].length)
    if max(prefixes) and seen > _MOST_SEEN:
        return False
    pairs = (block[0].length, segment.length), (max(prefixes), min(prefixes))
    return all(least >= min(most * _SHORTEST_SHARE, most - _FREE_PADDING) for most, least in pairs)


def _block(segments: list[Segment], device: Device) -> Block:
    alone = [s._replace(prefix=s.prefix[:0]) for s in segments]
    slots = [(s, at, 0, alone[0].length) for s, at in zip(alone, _starts(alone), strict=True)]
    lengths, prefixes = (tuple(counts) for counts in zip(*((s.length, len(s.prefix)) for s in segments), strict=True))
    return Block(lengths, prefixes, _gather(slots, device))


def _gather(segments: Sequence[tuple[Segment, int, int, int]], device: Device) -> Gather:
    """Slots of segments, each given with its first place, the width of its prefix and its own."""
    index: list[np.ndarray] = []
    own: list[np.ndarray] = []
    copies: list[tuple[int, int, int]] = []
    at = 0
    for segment, start, width, length in segments:
        places = np.full(width + length, start)
        places[: len(segment.prefix)] = segment.prefix
        places[width : width + segment.length] += np.arange(segment.length)
        index.append(places)
        own.append(at + width + np.arange(segment.length))
        copies += [(place, at + offset, count) for place, offset, count in stretches(segment.prefix)]
        at += width + length
    return Gather(to_tensor(np.concatenate(index), device), to_tensor(np.concatenate(own), device), tuple(copies))


def stretches(places: np.ndarray) -> list[tuple[int, int, int]]:
    """(first place, offset, length) of each run of places that follow each other."""
    begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    ends = np.append(begins, len(places))[1:]
    return [(int(places[b]), int(b), int(e - b)) for b, e in zip(begins, ends, strict=True)]


def to_tensor(array: np.ndarray, device: Device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
