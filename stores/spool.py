"""Dropped candidates of a stage: any number of them, a bounded part in memory."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import Reject, arrow_schema
from stores.parquet import sort_table

IN_MEMORY = 200_000
"""Rows; more of them go to files."""


class RejectSpool:
    """Takes rejects in any order and gives them back sorted. Files go to `directory`, which is made when needed."""

    def __init__(self, directory: Path):
        self.directory, self.schema = directory, arrow_schema(Reject)
        self.pending: list[pa.Table] = []
        self.rows = self.files = 0

    def add(self, rejects: pa.Table) -> None:
        self.pending.append(rejects.cast(self.schema))
        self.rows += len(rejects)
        if self.rows > IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        pq.write_table(self._in_memory(), self.directory / f"part-{self.files:05d}.parquet", compression="zstd")
        self.pending, self.rows, self.files = [], 0, self.files + 1

    def _in_memory(self) -> pa.Table:
        return pa.concat_tables([self.schema.empty_table(), *self.pending]).combine_chunks()

    def unsorted(self) -> Iterator[pa.Table]:
        """All rejects as they came."""
        for path in sorted(self.directory.glob("part-*.parquet")):
            yield from (pa.Table.from_batches([b], self.schema) for b in pq.ParquetFile(path).iter_batches())
        yield self._in_memory()

    def sorted(self) -> Iterator[pa.Table]:
        """All rejects in the order of their key, nulls last. Only what exceeds memory is sorted by DuckDB."""
        if not self.files:
            yield sort_table(Reject, self._in_memory())
            return
        from stores.duck import Duck

        self._spill()
        with Duck() as duck:
            duck.view("rejects", "rejects", [self.directory])
            yield from duck.batches("select * from rejects order by all nulls last")
