"""Findings about a run of problems: each kind, within the run and against each test set."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from builders.overlap import near
from builders.overlap.shared import Grams, Shared, shared
from builders.overlap.sketches import Array, Sketches
from schemas.findings import FindingKind

_NONE = np.array([], np.int64)


class Found(NamedTuple):
    """Findings of one kind and one other run, one entry per problem: its place, the other's, and how alike they are.

    `start` and `length` are the shared passage in words of the other problem, 0 where the kind has none. `unsure` are
    the places of problems without a finding that were not compared with all of the other run's that may be like them.
    """

    kind: FindingKind
    other_run: str
    text: Array
    other: Array
    similarity: Array
    start: Array
    length: Array
    unsure: Array = _NONE


def copies(name: str, own: Sketches, tests: Mapping[str, Sketches], least: float) -> Iterator[Found]:
    """Duplicates and near-duplicates in the run, of a problem before, and in the test sets.

    Which has a duplicate is not searched for near-duplicates in the same place.
    """
    text, first = _equal(own, own)
    again = np.flatnonzero(text != first)
    yield _found("duplicate", name, text[again], first[again])
    firsts = np.setdiff1d(np.arange(len(own.ids)), text[again])
    yield _found("near_duplicate", name, *near.within(own, firsts, least))
    for other_run, other in tests.items():
        text, twin = _equal(own, other)
        yield _found("duplicate", other_run, text, twin)
        others = np.setdiff1d(np.arange(len(own.ids)), text)
        yield _found("near_duplicate", other_run, *near.between(own, others, other, least))


def contaminated(part: Sketches, at: int, grams: Mapping[str, list[Grams]], tests: Mapping[str, Sketches],
                 least: float) -> Iterator[Found]:  # fmt: skip
    """Shared n-grams of a part of the run, which begins at a place, with each test set."""
    for other_run, other in tests.items():
        found: Shared = shared(part, grams[other_run], other, least)
        yield Found("shared_ngram", other_run, found.text + at, *found[1:])


def _equal(run: Sketches, other: Sketches) -> tuple[Array, Array]:
    """Places of texts that are in the other run, and of the first there that is equal."""
    hashes, first = np.unique(other.exact, return_index=True)
    place = np.minimum(np.searchsorted(hashes, run.exact), max(len(hashes) - 1, 0))
    text = np.flatnonzero(hashes[place] == run.exact) if len(hashes) else np.array([], np.int64)
    return text, first[place[text]] if len(hashes) else text


def _found(
    kind: FindingKind, other_run: str, text: Array, other: Array, similarity: Array | None = None, unsure: Array = _NONE
) -> Found:
    zeros = np.zeros(len(text), np.int64)
    alike = np.ones(len(text)) if similarity is None else similarity
    return Found(kind, other_run, text, other, alike, zeros, zeros, unsure)
