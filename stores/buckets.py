"""Equal ranges of the hash space: all rows of a problem lie in one, in every table, so a run can be built in parts.

Keys start with the 16 hex digits of a problem's hash and tables are sorted by them. A bucket is therefore one stretch
of each table, found through the statistics of row groups, and buckets one after the other are the whole table.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

COUNTS = (16, 256)
_PARTS = 256
_TEXT = re.compile(r"(\d{1,3})/(\d{1,3})")

Range = tuple[int, int]
"""Half-open, in 256ths of the hash space: first two hex digits."""
Scope = tuple[Range, ...]
"""Ranges in order, which neither overlap nor touch."""
WHOLE: Scope = ((0, _PARTS),)


class Bucket(NamedTuple):
    """One of `of` equal ranges of the hash space, counted from 0."""

    number: int
    of: int

    @property
    def range(self) -> Range:
        width = _PARTS // self.of
        return self.number * width, (self.number + 1) * width

    @property
    def name(self) -> str:
        """As a part of file names."""
        return f"{self.number}-of-{self.of}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_bucket(text: str) -> Bucket:
    """The bucket that `3/16` names.

    Raises ValueError for anything but B/16 and B/256.
    """
    match = _TEXT.fullmatch(text)
    bucket = Bucket(int(match[1]), int(match[2])) if match else None
    if bucket is None or bucket.of not in COUNTS or bucket.number >= bucket.of:
        raise ValueError(f"--bucket '{text}': give 0/16 to 15/16, or 0/256 to 255/256")
    return bucket


def bounds(of: Range) -> tuple[str, str | None]:
    """(first key, first key behind the range) in the order of strings; None: there is no end."""
    start, end = of
    return f"{start:02x}" if start else "", f"{end:02x}" if end < _PARTS else None


def uncovered(ranges: Iterable[Range]) -> Scope:
    """What is left of the hash space beside some ranges that do not overlap."""
    left, at = [], 0
    for start, end in [*sorted(ranges), (_PARTS, _PARTS)]:
        if start > at:
            left.append((at, start))
        at = end
    return tuple(left)


def divided(scope: Scope, count: int) -> list[Scope]:
    """A scope in at most `count` parts of about the same size, in order."""
    units = [(unit, unit + 1) for start, end in scope for unit in range(start, end)]
    width = math.ceil(len(units) / count)
    return [_merged(units[start : start + width]) for start in range(0, len(units), width)]


def _merged(ranges: list[Range]) -> Scope:
    merged: list[Range] = []
    for start, end in ranges:
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, end))
    return tuple(merged)


def overlaps(scope: Scope, low: str, high: str) -> bool:
    """Whether keys from `low` to `high` (inclusive) may lie in the scope."""
    return any(high >= first and (end is None or low < end) for first, end in map(bounds, scope))


def within(table: pa.Table, key: str, scope: Scope) -> pa.Table:
    """The rows of a table whose key lies in the scope."""
    if scope == WHOLE:
        return table
    mask: pa.ChunkedArray | None = None
    for first, end in map(bounds, scope):
        here = pc.greater_equal(table[key], first)
        here = here if end is None else pc.and_(here, pc.less(table[key], end))
        mask = here if mask is None else pc.or_(mask, here)
    return table.slice(0, 0) if mask is None else table.filter(mask)


def condition(key: str, scope: Scope) -> str:
    """The same as an SQL predicate, for which DuckDB leaves out row groups too."""
    if scope == WHOLE:
        return "true"
    ends = [(first, "true" if end is None else f"\"{key}\" < '{end}'") for first, end in map(bounds, scope)]
    return " or ".join(f"(\"{key}\" >= '{first}' and {end})" for first, end in ends) or "false"
