"""Rows on disk in equal ranges of problem ids, so that any number of them is sorted a range at a time."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

IN_MEMORY = 64 << 20
"""Bytes of rows that are held in memory; more of them go to files."""
RANGES = 64
"""Of the hash space, by the first two hex digits of an id: 10 GB of rows are sorted by 160 MB."""


class TextSpool:
    """Takes rows in any order and gives them back by ranges of `problem_id`, in the order of the ranges.

    A context manager: its files lie in the system's temporary directory (`$TMPDIR`) and are removed at the end.
    """

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        self._pending: list[pa.Table] = []
        self._writers: list[pq.ParquetWriter] = []
        self._directory: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def add(self, rows: pa.Table) -> None:
        self._pending.append(rows.select(self.schema.names))
        if sum(table.nbytes for table in self._pending) > IN_MEMORY:
            self._spill()

    def ranges(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows, the ranges one after the other; those that were never spilled are one range."""
        if self._directory is None:
            yield pa.concat_tables([self.schema.empty_table(), *self._pending]).select(columns)
            return
        self._spill()
        self._close()
        for number in range(RANGES):
            yield pq.read_table(self._directory / f"{number:02d}.parquet", columns=list(columns))

    def _spill(self) -> None:
        """Writes what is pending: one row group per range."""
        if not self._pending:
            return
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="pairwright-"))
            files = (self._directory / f"{number:02d}.parquet" for number in range(RANGES))
            self._writers = [pq.ParquetWriter(file, self.schema, use_dictionary=False) for file in files]
        rows = pa.concat_tables(self._pending)
        self._pending = []
        numbers = np.array([int(identity[:2], 16) * RANGES // 256 for identity in rows["problem_id"].to_pylist()])
        rows = rows.take(np.argsort(numbers, kind="stable"))
        ends = np.cumsum(np.bincount(numbers, minlength=RANGES)).tolist()
        for writer, start, end in zip(self._writers, [0, *ends], ends, strict=False):
            writer.write_table(rows.slice(start, end - start))

    def _close(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers = []
