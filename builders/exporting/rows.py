"""Rows of a release, config by config, in the order of the tables that they come from, with their texts.

Nothing may be lost on the way: an id that no input run holds is an error. Rows of problems whose split is `test` are
left out, and counted, unless the release keeps them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builders.exporting.lookups import Found, Lookup, whole
from builders.exporting.tally import Tally
from builders.exporting.texts import Renderer
from schemas import TABLES
from stores.parquet import scan_parts
from stores.sources import run_sources
from stores.store import Store

SLICE_BYTES = 64 << 20
"""About how much text is joined at a time."""
TEST = "test"
_PROMPT = ("messages", "prefill", "rendering", "template")


class Context(NamedTuple):
    """What all runs of a release share."""

    store: Store
    place: str
    renderer: Renderer
    conversational: bool
    test_answers: bool


class Inputs:
    """One run of a table, batch by batch, and the rows of other tables behind it."""

    def __init__(self, context: Context, table: str, run: str, tally: Tally):
        self.context, self.table, self.run, self.tally = context, table, run, tally
        self._sources = run_sources(context.store.params)
        self._problems = self.lookup("problems", ("source", "licence", "split", "question"))
        several = self._problems.names if len(self._problems.names) > 1 else ()
        self._splits = [self._lookup("problems", [name], ("split",)) for name in several]

    def lookup(self, table: str, columns: tuple[str, ...]) -> Lookup:
        """The runs of another table that this run's ids are found in, as the store's views find them."""
        behind = sorted(s.input_run for s in self._sources if s[:3] == (self.table, self.run, table))
        return self._lookup(table, behind, columns)

    def _lookup(self, table: str, runs: Sequence[str], columns: tuple[str, ...]) -> Lookup:
        return Lookup([(run, self._parts(table, run)) for run in runs], TABLES[table], columns)

    def _parts(self, table: str, run: str) -> tuple:
        return parts_of(self.context.store, table, run)

    def batches(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """(rows, `source`, `licence` and `question` of their problems), without those of test problems."""
        for batch in scan_parts(self._parts(self.table, self.run), TABLES[self.table]):
            key = batch["problem_id" if "problem_id" in batch.column_names else TABLES[self.table].key[0]]
            ids = pc.utf8_slice_codeunits(whole(key), 0, 16)
            problems = self.found(self._problems, "problem", ids)
            keep = self._keep(ids, problems)
            if self.context.test_answers or pc.all(keep).as_py() is not False:
                yield batch, _about(problems)
                continue
            self.tally.left_out["test"] += len(batch) - (pc.sum(keep).as_py() or 0)
            yield batch.filter(keep), _about(problems).filter(keep)

    def _keep(self, ids: pa.Array, problems: Found) -> pa.Array:
        """Whether each problem is of no test split. Where several runs have it, none of them may say that it is."""
        keep = pc.not_equal(problems.column("split"), TEST)
        for other in self._splits:
            rows = other.find(ids)
            test = pa.array(rows >= 0)
            known = pc.equal(other.take(rows[rows >= 0]).column("split"), TEST)
            keep = pc.and_not(keep, pc.replace_with_mask(test, test, known))
        return keep

    def found(self, lookup: Lookup, kind: str, keys: pa.Array) -> Found:
        """The rows of some keys. Raises ValueError for one that is in none of the runs."""
        return lookup.take(self.rows(lookup, kind, keys))

    def rows(self, lookup: Lookup, kind: str, keys: pa.Array) -> np.ndarray:
        """Their numbers. Raises as `found` does."""
        rows = lookup.find(keys)
        if len(rows) and rows.min() < 0:
            key, runs = keys[int(np.argmin(rows))].as_py(), ", ".join(f"'{n}'" for n in lookup.names) or "no run"
            raise ValueError(
                f"{self.table} run '{self.run}': {kind} {key} is not in its {kind}s ({runs}); rebuild the run with `dvc"
                " repro`, or restore what it was made from with `dvc checkout`"
            )
        return rows

    def prompts(self) -> Lookup:
        return self.lookup("prompts", _PROMPT)


def _about(problems: Found) -> pa.Table:
    names = ("source", "licence", "question")
    return pa.table({name: problems.column(name) for name in names})


def parts_of(store: Store, table: str, run: str) -> tuple:
    """The files of a run. Raises ValueError if it is not built."""
    for files in store.files:
        if (files.table, files.run) == (table, run) and files.built and files.parts:
            return files.parts
    raise ValueError(f"{table} run '{run}' is not built; run `dvc repro`, or restore it with `dvc checkout`")


def sliced(sizes: np.ndarray) -> Iterator[slice]:
    """Consecutive rows whose sizes add up to about `SLICE_BYTES`; at least one at a time."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + SLICE_BYTES, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def window(table: pa.Table, part: slice) -> pa.Table:
    """Some consecutive rows, each column in one piece."""
    return table.slice(part.start, part.stop - part.start).combine_chunks()
