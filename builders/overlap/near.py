"""Near-duplicates: candidates whose sketches share a band, then the exact Jaccard similarity of their shingles.

So LSH only decides what is compared, and no false candidate is reported. In a crowded bucket (texts of one template)
not all pairs are compared: within a run each text with the `NEIGHBOURS` before it in the bucket, between runs with at
most `CROWD` of the other run's. A close copy has bands in common that the crowd does not share, so what may be missed
is little above the threshold; between runs such texts are named. A text leaves the search when a near-duplicate is
found, so the work stays linear.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from builders.overlap.sketches import Array, Sketches, ragged

NEIGHBOURS = 8
CROWD = 64
_AT_ONCE = 4_000_000
"""Shingles of pairs that are compared at once."""


class Alike(NamedTuple):
    """One entry per text that has a near-duplicate: its place, the other's place, and their similarity.

    `unsure` are the places of texts without one that had more candidates in another run than were compared.
    """

    text: Array
    other: Array
    similarity: Array
    unsure: Array


def within(run: Sketches, among: Array, least: float) -> Alike:
    """Of the texts `among` (places, ascending), those with a near-duplicate before them, and that one."""
    search = _Search(run, run, len(run.ids), least)
    for band in range(run.bands.shape[1]):
        rest = among[search.open(among) & (_sizes(run)[among] > 0)]
        values = run.bands[rest, band]
        order = np.argsort(values, kind="stable")
        placed, ranked = rest[order], values[order]
        for lag in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(ranked[lag:] == ranked[:-lag])
            search.compare(placed[same + lag], placed[same])
        search.settle()
    return search.found()


def between(run: Sketches, among: Array, other: Sketches, least: float) -> Alike:
    """Of the texts `among`, those with a near-duplicate in another run, and the most similar one that was compared."""
    search = _Search(run, other, len(run.ids), least)
    filled = np.flatnonzero(_sizes(other) > 0)
    for band in range(run.bands.shape[1]):
        rest = among[search.open(among) & (_sizes(run)[among] > 0)]
        order = filled[np.argsort(other.bands[filled, band], kind="stable")]
        ranked, values = other.bands[order, band], run.bands[rest, band]
        first = np.searchsorted(ranked, values, side="left")
        candidates = np.searchsorted(ranked, values, side="right") - first
        count = np.minimum(candidates, CROWD)
        search.unsure[rest[candidates > CROWD]] = True
        search.compare(np.repeat(rest, count), order[ragged(first, count)])
        search.settle()
    return search.found()


class _Search:
    """The best similarity found so far of each text; those above the threshold leave the search when settled."""

    def __init__(self, run: Sketches, other: Sketches, count: int, least: float):
        self.run, self.other, self.least = run, other, least
        self.best = np.zeros(count)
        self.partner = np.full(count, -1, np.int64)
        self.closed = np.zeros(count, bool)
        self.unsure = np.zeros(count, bool)

    def open(self, texts: Array) -> Array:
        return ~self.closed[texts]

    def compare(self, texts: Array, others: Array) -> None:
        for start, stop in _chunks(_sizes(self.run)[texts] + _sizes(self.other)[others]):
            text, other = texts[start:stop], others[start:stop]
            self._keep(text, other, jaccard(self.run, text, self.other, other))

    def _keep(self, text: Array, other: Array, similar: Array) -> None:
        better = (similar >= self.least) & (similar > self.best[text])
        text, other, similar = text[better], other[better], similar[better]
        order = np.lexsort((-other, similar))  # the most similar last, of equals the first in the run
        self.best[text[order]], self.partner[text[order]] = similar[order], other[order]

    def settle(self) -> None:
        self.closed |= self.partner >= 0

    def found(self) -> Alike:
        texts = np.flatnonzero(self.partner >= 0)
        return Alike(texts, self.partner[texts], self.best[texts], np.flatnonzero(self.unsure & (self.partner < 0)))


def _sizes(run: Sketches) -> Array:
    return np.diff(run.shingle_ends, prepend=0)


def _chunks(sizes: Array) -> Iterator[tuple[int, int]]:
    """Ranges of pairs whose shingles fit into memory together."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _AT_ONCE, side="right")), start + 1)
        yield start, stop
        start = stop


def jaccard(run: Sketches, texts: Array, other: Sketches, others: Array) -> Array:
    """The similarity of each pair: shared shingles / all distinct shingles of both."""
    keys = np.concatenate([_numbered(run, texts), _numbered(other, others)])
    keys.sort()
    shared = (keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)).astype(np.int64)
    both = np.bincount(shared, minlength=len(texts))
    return both / (_sizes(run)[texts] + _sizes(other)[others] - both)


def _numbered(run: Sketches, texts: Array) -> Array:
    """The shingles of some texts, each with the pair's number in its upper half."""
    sizes = _sizes(run)[texts]
    values = run.shingles[ragged(run.shingle_ends[texts] - sizes, sizes)].astype(np.uint64)
    return np.repeat(np.arange(len(texts), dtype=np.uint64) << np.uint64(32), sizes) | values
