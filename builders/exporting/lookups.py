"""Rows of sorted tables by key, for keys that come in about the same order.

Every table is sorted by an id that begins with its problem's, so the rows behind some consecutive pairs lie in a few
neighbouring row groups. Those alone are read: their keys first, and other columns only of groups that hold a wanted
row. A join of any size then takes the memory of a few row groups, and reads nothing twice but the group that two
consecutive calls share.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import Row, arrow_schema
from stores.parquet import damaged, open_part

KEPT_KEYS = 1_000_000
"""Keys that a lookup holds at most, but for those of one group."""


class Found(NamedTuple):
    """Distinct rows of a table, and for every key asked for the place of its row among them."""

    rows: pa.Table
    places: np.ndarray

    def column(self, name: str) -> pa.Array:
        """A column's value for every key."""
        return whole(self.rows[name]).take(pa.array(self.places))

    def halves(self) -> list["Found"]:
        """Two, of keys that were asked for one after the other."""
        return [Found(self.rows, places) for places in np.split(self.places, 2)]


class Lookup:
    """Some columns of runs of a table, by key. Where several runs have a key, the first one's row is found.

    Rows are named by their number over all runs, in order.
    """

    def __init__(self, runs: Sequence[tuple[str, Sequence[Path]]], row_class: type[Row], columns: Sequence[str]):
        self.key, self.columns = row_class.key[0], list(columns)
        self._fields = [arrow_schema(row_class).field(name) for name in self.columns]
        self.names = [name for name, _ in runs]
        self._groups = [g for n, (_, parts) in enumerate(runs) for p in parts for g in _groups(p, row_class, n)]
        self._starts = np.cumsum([0, *(group.rows for group in self._groups)])
        self._weights = np.array([group.weight(self.columns) for group in self._groups])
        self._keys: dict[int, pa.Array] = {}
        self._held: dict[int, tuple[int, pa.Table]] = {}

    def find(self, keys: pa.Array) -> np.ndarray:
        """The rows of some keys; -1 where no run has one."""
        if not len(keys):
            return np.empty(0, dtype=np.int64)
        encoded = keys.dictionary_encode()
        wanted, rows = encoded.dictionary, np.full(len(encoded.dictionary), -1, dtype=np.int64)
        low, high = pc.min_max(wanted).as_py().values()
        for number, group in enumerate(self._groups):
            if group.may_hold(low, high) and rows.min() < 0:
                self._note(number, wanted, rows)
        return rows[encoded.indices.to_numpy()]

    def _note(self, group: int, wanted: pa.Array, rows: np.ndarray) -> None:
        """Writes the numbers of a group's rows to the places of their keys, where no earlier run has them."""
        at = pc.fill_null(pc.index_in(self._keys_of(group), value_set=wanted), -1).to_numpy(zero_copy_only=False)
        inside = np.flatnonzero(at >= 0)
        new = inside[rows[at[inside]] < 0]
        rows[at[new]] = self._starts[group] + new

    def _keys_of(self, group: int) -> pa.Array:
        """The keys of a group; those of the groups that were asked for last are kept."""
        keys = self._keys.pop(group, None)
        self._keys[group] = whole(self._groups[group].read([self.key])[self.key]) if keys is None else keys
        while sum(map(len, self._keys.values())) > KEPT_KEYS and len(self._keys) > 1:
            del self._keys[next(iter(self._keys))]
        return self._keys[group]

    def bytes_of(self, rows: np.ndarray) -> np.ndarray:
        """About how large each row is: the mean of its row group."""
        return self._weights[np.searchsorted(self._starts, rows, side="right") - 1]

    def take(self, rows: np.ndarray) -> Found:
        """The columns of some rows, each distinct one once. No row may be -1."""
        distinct, places = np.unique(rows, return_inverse=True)
        group_of = np.searchsorted(self._starts, distinct, side="right") - 1
        pieces = [pa.schema(self._fields).empty_table()]
        for group in np.unique(group_of).tolist():
            inside = distinct[group_of == group] - self._starts[group]
            pieces.append(self._columns_of(group).take(pa.array(inside)))
        return Found(pa.concat_tables(pieces).combine_chunks(), places)

    def _columns_of(self, group: int) -> pa.Table:
        """The last group read of each run is kept: consecutive calls share it."""
        run = self._groups[group].run
        held = self._held.get(run)
        if held is None or held[0] != group:
            self._held.pop(run, None)
            read = self._groups[group].read([n for n in self.columns if n in self._groups[group].stored])
            count = len(read)
            filled = [read[f.name] if f.name in read.column_names else pa.nulls(count, f.type) for f in self._fields]
            self._held[run] = group, pa.Table.from_arrays(filled, schema=pa.schema(self._fields))
        return self._held[run][1]


class _Group(NamedTuple):
    """One row group of one file."""

    path: Path
    file: pq.ParquetFile
    number: int
    run: int
    rows: int
    low: str
    high: str

    @property
    def stored(self) -> list[str]:
        return self.file.schema_arrow.names

    def may_hold(self, low: str, high: str) -> bool:
        return bool(self.rows) and self.low <= high and low <= self.high

    def read(self, columns: list[str]) -> pa.Table:
        """Raises ValueError for a damaged file, naming it."""
        try:
            return self.file.read_row_group(self.number, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(damaged(self.path, error)) from None

    def weight(self, columns: list[str]) -> float:
        """Mean bytes of a row of some columns, uncompressed."""
        metadata = self.file.metadata.row_group(self.number)
        parts = map(metadata.column, range(metadata.num_columns))
        return sum(c.total_uncompressed_size for c in parts if c.path_in_schema.split(".")[0] in columns) / self.rows


def _groups(path: Path, row_class: type[Row], run: int) -> Iterator[_Group]:
    """The row groups of a part that hold rows. Raises ValueError for a corrupt or foreign file."""
    file = open_part(path, row_class)
    for number in range(file.num_row_groups):
        metadata = file.metadata.row_group(number)
        columns = map(metadata.column, range(metadata.num_columns))
        key = next(c for c in columns if c.path_in_schema == row_class.key[0])
        known = key.statistics is not None and key.statistics.has_min_max
        low, high = (key.statistics.min, key.statistics.max) if known else ("", "\U0010ffff")
        if metadata.num_rows:
            yield _Group(path, file, number, run, metadata.num_rows, low, high)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
