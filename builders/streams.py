"""Sorted tables read side by side in bounded memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PROBLEM = 16
"""Characters of a problem's id, with which all ids below it begin."""


class RowStream:
    """A stream of batches from which any number of rows can be taken, in order."""

    def __init__(self, batches: Iterable[pa.Table]):
        self._batches, self._rest = iter(batches), None

    def take(self, count: int) -> pa.Table:
        """The next `count` rows, or fewer at the end."""
        parts, have = ([self._rest] if self._rest is not None else []), len(self._rest or ())
        while have < count and (batch := next(self._batches, None)) is not None:
            parts.append(batch)
            have += len(batch)
        if not parts:
            return pa.table({})
        rows = pa.concat_tables(parts)
        self._rest = rows.slice(count)
        return rows.slice(0, count)


class ProblemStream:
    """A stream of batches in the order of a column that starts with the problem's id, read problem by problem."""

    def __init__(self, batches: Iterable[pa.Table], column: str):
        self._batches, self._column = iter(batches), column
        self._held: list[pa.Table] = []

    def between(self, first: str, last: str) -> pa.Table | None:
        """The rows of the problems from `first` to `last`, both included; None if the stream has none at all.

        Calls go forward: neither end is ever before that of an earlier call.
        """
        while not self._held or self._held[-1][self._column][-1].as_py()[:PROBLEM] <= last:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._held += [batch] if len(batch) else []
        if not self._held:
            return None
        rows = pa.concat_tables(self._held)
        problems = pc.utf8_slice_codeunits(rows[self._column], 0, PROBLEM)
        rows = rows.filter(pc.greater_equal(problems, first))
        self._held = [rows] if len(rows) else self._held[-1:]
        return rows.filter(pc.less_equal(pc.utf8_slice_codeunits(rows[self._column], 0, PROBLEM), last))


def lookup(stream: ProblemStream, ends: dict[str, str], key: str, *values: str) -> dict[str, tuple]:
    """`key` -> `values` of the problems from `ends["min"]` to `ends["max"]`."""
    rows = stream.between(ends["min"], ends["max"])
    if rows is None:
        return {}
    found = zip(*(rows[value].to_pylist() for value in values), strict=True)
    return dict(zip(rows[key].to_pylist(), found, strict=True))


def whole_groups(batches: Iterable[pa.Table], column: str) -> Iterator[pa.Table]:
    """The same rows, cut so that equal neighbouring values of `column` (nulls too) stay together."""
    rest: pa.Table | None = None
    for batch in batches:
        rows = batch if rest is None else pa.concat_tables([rest, batch])
        if not len(rows):
            continue
        differs = np.flatnonzero(~_equals(rows[column], rows[column][-1]))
        cut = int(differs[-1]) + 1 if len(differs) else 0
        if cut:
            yield rows.slice(0, cut).combine_chunks()
        rest = rows.slice(cut)
    if rest is not None and len(rest):
        yield rest.combine_chunks()


def _equals(values: pa.ChunkedArray, value: pa.Scalar) -> np.ndarray:
    same = pc.fill_null(pc.equal(values, value), False) if value.is_valid else pc.is_null(values)
    return same.to_numpy()
