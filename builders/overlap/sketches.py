"""What is kept of each text: hashes of its words, its shingles, a MinHash sketch in bands, language and lengths.

Shingles are `SHINGLE` consecutive words (all of them, where a text has fewer). Signatures are datasketch's (scheme
`affine32`, a seed of its own), computed for many texts at once. Texts are placed one after the other in flat arrays;
`…_ends` says where each ends.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from builders.overlap.words import tokens, words

SHINGLE = 3
N_PERM = 128
_SEED = 1
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MATHS = re.compile(r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[A-Za-z]+|[^\W\d_]*[\d_][\w]*", re.DOTALL)
"""What says nothing about the language: mathematics, commands, and numbers."""
_SPOKEN = 240
"""Characters that say the language: more only take time."""
MIN_CONFIDENCE = 0.5
UNKNOWN = "und"
_TOP = 0.95
"""datasketch has no bands for thresholds near 1; what is a candidate by those of this one is checked all the same."""

Array = np.ndarray[Any, np.dtype[Any]]


class Bands(NamedTuple):
    """How signatures are cut for LSH: texts are candidates if all `rows` values of one of `count` bands are equal."""

    count: int
    rows: int


class Sketches(NamedTuple):
    """One entry per text, in the order of the run; `words` and `shingles` (sorted, distinct) are flat."""

    ids: Array
    exact: Array
    """Hash of all tokens: equal texts."""
    words: Array
    word_ends: Array
    shingles: Array
    shingle_ends: Array
    bands: Array
    """(texts, bands): equal values make two texts candidates."""
    languages: Array
    sources: Array
    chars: Array


def bands_for(similarity: float) -> Bands:
    """datasketch's choice for a threshold, where a miss weighs nine times a false candidate: those are checked."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=min(similarity, _TOP), num_perm=N_PERM, weights=(0.1, 0.9))
    return Bands(index.b, index.r)


def sketch(ids: Sequence[str], texts: Sequence[str], sources: Sequence[str], bands: Bands) -> Sketches:
    """The sketches of some texts."""
    known: dict[str, int] = {}
    exact, flat, counts = [], list[int](), []
    for text in texts:
        found = tokens(text)
        exact.append(_hash64("\x1f".join(found)))
        of_text = words(found)
        counts.append(len(of_text))
        for word in of_text:
            if word not in known:
                known[word] = _hash64(word)
            flat.append(known[word])
    hashes, ends = np.array(flat, np.uint64), np.cumsum(counts, dtype=np.int64)
    shingles, shingle_ends = _shingles(hashes, ends)
    return Sketches(
        np.array(ids, "S16"),
        np.array(exact, np.uint64),
        hashes,
        ends,
        shingles,
        shingle_ends,
        banded(signatures(shingles, shingle_ends), bands),
        np.array([language(text) for text in texts], "U8"),
        np.array(sources, str),
        np.array([len(text) for text in texts], np.int32),
    )


def joined(parts: Sequence[Sketches]) -> Sketches:
    """The texts of several parts, one after the other (without words where a part has dropped them)."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    for at in (Sketches._fields.index("word_ends"), Sketches._fields.index("shingle_ends")):
        sizes = [part[at][-1] if len(part[at]) else 0 for part in parts]
        shifts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        columns[at] = np.concatenate([part[at] + shift for part, shift in zip(parts, shifts, strict=True)])
    return Sketches(*columns)


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def ngrams(hashes: Array, ends: Array, size: int) -> tuple[Array, Array]:
    """Hashes of all runs of `size` words of each text, and the flat position that each begins at."""
    if len(hashes) < size:
        return np.array([], np.uint64), np.array([], np.int64)
    count = len(hashes) - size + 1
    found = np.zeros(count, np.uint64)
    for k in range(size):
        found = found * _MIX + hashes[k : k + count]
    found ^= found >> np.uint64(29)
    found *= _MIX
    begins = np.arange(count)
    inside = begins + size <= ends[np.searchsorted(ends, begins, side="right")]
    return found[inside], begins[inside]


def text_at(ends: Array, positions: Array) -> Array:
    """The text that each flat position lies in."""
    return np.searchsorted(ends, positions, side="right")


def ragged(first: Array, count: Array) -> Array:
    """first[0], first[0] + 1, … (count[0] of them), first[1], …"""
    ends = np.cumsum(count)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + count, count)


def _shingles(hashes: Array, ends: Array) -> tuple[Array, Array]:
    """Distinct 32-bit shingles of each text, sorted."""
    sizes = np.diff(ends, prepend=0)
    keys, owners = list[Array](), list[Array]()
    for size in range(1, SHINGLE + 1):
        grams, begins = ngrams(hashes, ends, size)
        owner = text_at(ends, begins)
        wanted = (sizes[owner] == size) | (size == SHINGLE)
        keys.append(grams[wanted] >> np.uint64(32))
        owners.append(owner[wanted].astype(np.uint64) << np.uint64(32))
    distinct = np.unique(np.concatenate(owners) | np.concatenate(keys))
    per_text = np.bincount((distinct >> np.uint64(32)).astype(np.int64), minlength=len(ends))
    return distinct.astype(np.uint32), np.cumsum(per_text, dtype=np.int64)


@functools.cache
def _permutations() -> tuple[Array, Array]:
    from datasketch import MinHash

    a, b = MinHash(num_perm=N_PERM, seed=_SEED, scheme="affine32").permutations
    return a, b


def signatures(shingles: Array, ends: Array) -> Array:
    """(texts, N_PERM): datasketch's hash values of each text's shingles; of a text without any, the largest value."""
    found = np.full((len(ends), N_PERM), np.uint32(0xFFFFFFFF), np.uint32)
    starts = np.concatenate([[0], ends[:-1]])
    filled = np.flatnonzero(ends > starts)
    if not len(filled):
        return found
    mixed = _mixed(shingles)
    for k, (a, b) in enumerate(zip(*_permutations(), strict=True)):
        found[filled, k] = np.minimum.reduceat(mixed * a + b, starts[filled])
    return found


def _mixed(values: Array) -> Array:
    """MurmurHash3's finaliser for 32 bits, with which datasketch mixes what goes into its permutations."""
    h = values.copy()
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    return h ^ h >> np.uint32(16)


def banded(found: Array, bands: Bands) -> Array:
    """(texts, bands): one hash per band."""
    values = found[:, : bands.count * bands.rows].reshape(len(found), bands.count, bands.rows).astype(np.uint64)
    hashes = np.zeros((len(found), bands.count), np.uint64)
    for k in range(bands.rows):
        hashes = hashes * _MIX + values[:, :, k] + np.uint64(1)
    return hashes


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=MIN_CONFIDENCE)


def language(text: str) -> str:
    """ISO 639-1 code of the language of a text's words, `und` where they do not say (py3langid, offline)."""
    spoken = _MATHS.sub(" ", text)[:_SPOKEN]
    return _identifier().classify(spoken)[0] if any(map(str.isalpha, spoken)) else UNKNOWN
