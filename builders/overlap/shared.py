"""Contamination: texts that share an n-gram of words with a problem of a test set.

N-grams are those of GPT-3 (arXiv 2005.14165, appendix C: 13-grams of lower-cased words without punctuation, fewer for
short texts but no fewer than 8, and none that are common phrases). How much of a test problem they must cover is as in
Tülu 3 (arXiv 2411.15124, section 3.2: more than half of its tokens, in one training instance); GPT-3's own rule, that
one n-gram is enough, is a coverage of 0. A test problem shorter than n words is one n-gram as a whole; one of fewer
than `SHORTEST` is found as a duplicate or near-duplicate only.
"""

from typing import NamedTuple

import numpy as np

from builders.overlap.sketches import Array, Sketches, ngrams, ragged, text_at

SHORTEST = 8
COMMON = 10
"""An n-gram of more problems of a test set than this is a phrase of that set, and says nothing of one of them."""


class Grams(NamedTuple):
    """One entry per (n-gram of `size` words, test problem, position in words), sorted."""

    size: int
    hashes: Array
    owners: Array
    positions: Array


class Shared(NamedTuple):
    """One entry per text that shares n-grams: the test problem that it covers most, how much of it, and where.

    `start` and `length` are the longest shared passage, in words of the test problem.
    """

    text: Array
    other: Array
    coverage: Array
    start: Array
    length: Array


def index(tests: Sketches, size: int) -> list[Grams]:
    """The n-grams of a test set, by size: `size`, and that of each whole problem which is shorter."""
    lengths = np.diff(tests.word_ends, prepend=0)
    sizes = [n for n in range(min(SHORTEST, size), size) if (lengths == n).any()]
    return [_grams(tests, n, lengths == n) for n in sizes] + [_grams(tests, size, lengths >= size)]


def _grams(tests: Sketches, size: int, of: Array) -> Grams:
    hashes, begins = ngrams(tests.words, tests.word_ends, size)
    owners = text_at(tests.word_ends, begins)
    wanted = of[owners]
    hashes, begins, owners = hashes[wanted], begins[wanted], owners[wanted]
    order = np.lexsort((begins, owners, hashes))
    hashes, begins, owners = hashes[order], begins[order], owners[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    _, gram = np.unique(hashes, return_inverse=True)
    rare = np.bincount(gram, weights=first, minlength=1)[gram] <= COMMON if len(gram) else np.array([], bool)
    starts = tests.word_ends - np.diff(tests.word_ends, prepend=0)
    return Grams(size, hashes[rare], owners[rare], (begins - starts[owners])[rare])


def shared(run: Sketches, grams: list[Grams], tests: Sketches, least: float) -> Shared:
    """Of a run's texts, those that share an n-gram with a test problem and cover at least `least` of it."""
    found = [_covered(*_matches(run, of_size), of_size.size) for of_size in grams]
    text, other, words, start, length = (np.concatenate(column) for column in zip(*found, strict=True))
    coverage = words / np.diff(tests.word_ends, prepend=0)[other]
    enough = np.flatnonzero(coverage >= least)
    order = enough[np.lexsort((other[enough], -coverage[enough], text[enough]))]
    best = order[np.diff(text[order], prepend=-1) > 0]
    return Shared(text[best], other[best], coverage[best], start[best], length[best])


def _matches(run: Sketches, grams: Grams) -> tuple[Array, Array, Array]:
    """(text, test problem, position in it) of every n-gram of the test set that a text has, each once and sorted."""
    hashes, begins = ngrams(run.words, run.word_ends, grams.size)
    first = np.searchsorted(grams.hashes, hashes, side="left")
    hit = np.flatnonzero(first < len(grams.hashes))
    hit = hit[grams.hashes[first[hit]] == hashes[hit]]
    first = first[hit]
    count = np.searchsorted(grams.hashes, hashes[hit], side="right") - first
    texts = np.repeat(text_at(run.word_ends, begins[hit]), count)
    entries = ragged(first, count)
    rows = np.unique(np.stack([texts, grams.owners[entries], grams.positions[entries]], axis=1), axis=0)
    return rows[:, 0], rows[:, 1], rows[:, 2]


def _covered(texts: Array, others: Array, positions: Array, size: int) -> tuple[Array, Array, Array, Array, Array]:
    """(text, test problem, words covered, start and length of the longest passage), one per text and test problem."""
    if not len(texts):
        return (np.array([], np.int64),) * 5
    begins_pair = np.ones(len(texts), bool)
    begins_pair[1:] = (texts[1:] != texts[:-1]) | (others[1:] != others[:-1])
    step = np.where(begins_pair, size, np.minimum(np.diff(positions, prepend=0), size))  # new words of each n-gram
    begins_passage = begins_pair | (np.diff(positions, prepend=0) != 1)
    passages = np.flatnonzero(begins_passage)
    lengths = np.diff(np.append(passages, len(texts))) + size - 1
    pairs = np.flatnonzero(begins_pair)
    of_pair = np.searchsorted(pairs, passages, side="right") - 1
    order = np.lexsort((-passages, lengths, of_pair))  # the longest last; of equals the first
    last = order[np.append(np.diff(of_pair[order]) > 0, True)]
    return texts[pairs], others[pairs], np.add.reduceat(step, pairs), positions[passages[last]], lengths[last]
