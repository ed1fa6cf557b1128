"""Many sequences as one row without padding, what they have in common once; or as padded rows.

`train.layout` states how a packed row is made, `train.attention` how its parts are kept together and apart. Positions
count within each sequence. Micro-batches are cut by the tokens that are left after sharing.

Legend: T tokens of the row, S scored tokens of all sequences, U those of them that differ, n sequences.
"""

from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from train.layout import Device, common, grow, lay_out, sort_key, to_tensor


class Tokens(NamedTuple):
    """A prompt and the span that is scored under it, as arrays of token ids (int32)."""

    prompt: np.ndarray
    completion: np.ndarray

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate(self)


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

    def minus(self, other: "Load") -> "Load":
        """What came since the other."""
        return Load(*(a - b for a, b in zip(self, other, strict=True)))

    @property
    def sharing(self) -> float | None:
        """Useful tokens per distinct one: 1 where nothing is shared; None of nothing."""
        return self.useful / self.distinct if self.distinct else None

    @property
    def padding(self) -> float | None:
        """Share of the computed places that hold no token; None of nothing."""
        return 1 - self.distinct / self.computed if self.computed else None


@dataclass(frozen=True)
class Batch:
    """Sequences ready for a model: its inputs, and which of its hidden states are scored against what.

    A token that several sequences share is scored once.
    """

    inputs: dict[str, Any] = field(repr=False)
    scored: Tensor
    """(U,) flat places whose hidden state predicts a completion's token."""
    targets: Tensor
    """(U,) those tokens."""
    tokens: Tensor | None
    """(S,) which of these each token of each completion is; None: they are all different, and in order."""
    owners: Tensor
    """(S,) number of the sequence, in the order given; a sequence's tokens lie together and in order."""
    n_sequences: int
    last: Tensor
    """(n,) flat place of each sequence's last token, in the order given."""
    load: Load
    """What its forward computes, and what for."""

    def spread(self, scores: Tensor) -> Tensor:
        """Of different tokens -> of all: (U,) -> (S,)."""
        return scores if self.tokens is None else scores[self.tokens]


def pack(sequences: Sequence[Tokens], device: Device = "cpu", varlen: bool = False) -> Batch:
    """One row without padding. `varlen`: the kernel for sequences of any length may be used.

    Every prompt has at least one token: it predicts the completion's first.
    """
    ids = [s.ids for s in sequences]
    tree = grow(ids)
    row = np.concatenate([ids[s.sequence][s.begin :] for s in tree.segments]).astype(np.int64)
    positions = np.concatenate([np.arange(s.begin, len(ids[s.sequence])) for s in tree.segments])
    inputs = {
        "input_ids": to_tensor(row[None], device),
        "position_ids": to_tensor(positions[None], device),
        "layout": lay_out(tree.segments, device, varlen),
    }
    return _batch(sequences, tree.paths, inputs, len(row), device)


def pad(sequences: Sequence[Tokens], device: Device = "cpu") -> Batch:
    """Right-padded rows and an ordinary attention mask: for models whose layers carry state along a row."""
    lengths = np.array([s.length for s in sequences])
    width = lengths.max()
    mask = np.arange(width)[None] < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate([s.ids for s in sequences])
    inputs = {"input_ids": to_tensor(ids, device), "attention_mask": to_tensor(mask, device)}
    paths = [i * width + np.arange(n) for i, n in enumerate(lengths)]
    return _batch(sequences, paths, inputs, int(lengths.sum()), device)


def _batch(
    sequences: Sequence[Tokens], paths: Sequence[np.ndarray], inputs: dict[str, Any], distinct: int, device: Device
) -> Batch:
    """`paths`: the flat place of each token of each sequence, `distinct` places of them all."""
    prompts = [len(s.prompt) for s in sequences]
    assert min(prompts) > 0, "a completion's first token needs something that predicts it"
    places = np.concatenate([path[n - 1 : -1] for path, n in zip(paths, prompts, strict=True)])
    targets = np.concatenate([s.completion for s in sequences]).astype(np.int64)
    owners = np.repeat(np.arange(len(sequences)), [len(s.completion) for s in sequences])
    _, first, tokens = np.unique((places << 32) + targets, return_index=True, return_inverse=True)
    scored, tokens = (slice(None), None) if len(first) == len(places) else (first, to_tensor(tokens, device))
    places, targets, owners = (to_tensor(x, device) for x in (places[scored], targets[scored], owners))
    last = to_tensor(np.array([path[-1] for path in paths]), device)
    load = Load(sum(s.length for s in sequences), distinct, inputs["input_ids"].numel())
    return Batch(inputs, places, targets, tokens, owners, len(sequences), last, load)


def partner(one: Tokens, others: Sequence[Tokens]) -> Tokens:
    """A sequence that begins as one does: another of its prompt if there is one, else one whose second half is turned
    round.
    """
    for other in others:
        prompt = other.prompt is one.prompt or np.array_equal(other.prompt, one.prompt)
        if prompt and not np.array_equal(other.completion, one.completion):
            return other
    half = len(one.completion) // 2
    return one._replace(completion=np.concatenate([one.completion[:half], one.completion[half:][::-1]]))


def micro_batches(examples: Sequence[Sequence[Tokens]], budget: int, padded: bool = False) -> list[list[int]]:
    """Splits examples into groups of at most `budget` tokens (at least one example each), longest first.

    An example's sequences stay together, and examples of one prompt follow each other. Tokens count once that a group
    shares; `padded` counts every sequence as long as its group's longest. The split depends only on the tokens.
    """
    groups: list[list[int]] = []
    group: _Padded | _Shared | None = None
    for i in _order(examples):
        if group is None or group.with_(examples[i]) > budget:
            group = _Padded() if padded else _Shared()
            groups.append([])
        group.add(examples[i])
        groups[-1].append(i)
    return groups


def load_of(groups: Iterable[Sequence[Sequence[Tokens]]], padded: bool = False) -> Load:
    """What forwards of such groups of examples compute, without laying them out."""
    total = Load()
    for group in groups:
        count = _Padded() if padded else _Shared()
        for example in group:
            count.add(example)
        useful = sum(s.length for example in group for s in example)
        total = total.plus(Load(useful, useful if padded else count.tokens, count.tokens))
    return total


def require_fit(examples: Iterable[tuple[str, Sequence[Tokens]]], budget: int, setting: str, padded: bool) -> None:
    """Raises ValueError where a forward of one example alone is beyond the budget, which the `setting` gives."""
    for name, example in examples:
        most = max(s.length for s in example) * len(example)
        if most > budget and (tokens := (_Padded() if padded else _Shared()).with_(example)) > budget:
            raise ValueError(
                f"{name}: {tokens:,} tokens with its prompt, and a forward is of at most {budget:,}; set {setting} to"
                f" {tokens:,} or more, or leave such examples out"
            )


def _order(examples: Sequence[Sequence[Tokens]]) -> list[int]:
    """Longest first, but those of one prompt where its longest is."""
    prompts = [example[0].prompt.tobytes() for example in examples]
    longest = [max(s.length for s in example) for example in examples]
    most: dict[bytes, int] = {}
    first: dict[bytes, int] = {}
    for i, (prompt, length) in enumerate(zip(prompts, longest, strict=True)):
        most[prompt] = max(length, most.get(prompt, 0))
        first.setdefault(prompt, i)
    return sorted(range(len(examples)), key=lambda i: (-most[prompts[i]], first[prompts[i]], -longest[i], i))


class _Padded:
    """Counts the tokens of padded rows."""

    def __init__(self) -> None:
        self.rows = self.widest = 0

    @property
    def tokens(self) -> int:
        return self.rows * self.widest

    def with_(self, example: Sequence[Tokens]) -> int:
        return max(self.widest, *(s.length for s in example)) * (self.rows + len(example))

    def add(self, example: Sequence[Tokens]) -> None:
        self.widest, self.rows = max(self.widest, *(s.length for s in example)), self.rows + len(example)


class _Shared:
    """Counts the tokens of a packed row."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.tokens = 0

    def with_(self, example: Sequence[Tokens]) -> int:
        trial = _Shared()
        trial.keys, trial.tokens = list(self.keys), self.tokens
        trial.add(example)
        return trial.tokens

    def add(self, example: Sequence[Tokens]) -> None:
        for sequence in example:
            key = sort_key(sequence.ids)
            at = bisect(self.keys, key)
            beside = self.keys[max(at - 1, 0) : at + 1]
            self.tokens += sequence.length - max((common(key, other) for other in beside), default=0)
            self.keys.insert(at, key)
