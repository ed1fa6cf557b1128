"""What is counted while a config's rows are written: they pass by once."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BINS = np.concatenate([[0], np.unique(np.logspace(0, 6, 121).astype(np.int64))])
"""Edges of the bins that lengths are counted in, in code points: twenty to a power of ten."""
_RATE = ["asked", "right_sum", "n_sum"]


class Tally:
    """Counts over one config of a release."""

    def __init__(self) -> None:
        self.rows = 0
        self.by_run: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.licences: Counter[tuple[str, str]] = Counter()
        self.models: set[tuple[str, str]] = set()
        self.templates: set[str] = set()
        self.lengths: dict[str, np.ndarray] = {}
        self._rates: dict[str, Counter[tuple[int, int]]] = {}
        self._open: dict[str, tuple[str, int, int]] = {}
        self._texts: Any = None

    @property
    def texts(self) -> str | None:
        """A hash over the texts of all rows, in order; None where there are none."""
        return self._texts.hexdigest()[:16] if self._texts else None

    def count_rows(self, run: str, count: int) -> None:
        self.rows += count
        self.by_run[run] += count

    def count_licences(self, about: pa.Table) -> None:
        """`source` and `licence` of some rows."""
        self.licences.update(_counts(about, ["source", "licence"]))

    def count_models(self, samples: pa.Table) -> None:
        """`model` and `model_fingerprint` of some rows."""
        self.models.update(_counts(samples, ["model", "model_fingerprint"]))

    def count_templates(self, prompts: pa.Table) -> None:
        self.templates.update(key for (key,) in _counts(prompts, ["template"]))

    def hash_texts(self, *hashes: pa.Array) -> None:
        """The texts' hashes, row by row: of a pair those of both sides."""
        joined = pc.binary_join_element_wise(*hashes, "") if len(hashes) > 1 else hashes[0]
        self._texts = self._texts or hashlib.sha256()
        self._texts.update("".join(joined.to_pylist()).encode())

    def count_lengths(self, side: str, lengths: pa.Array | np.ndarray) -> None:
        """Lengths of texts in code points."""
        found, _ = np.histogram(np.asarray(lengths), BINS)
        self.lengths[side] = self.lengths.get(side, 0) + found

    def count_verdicts(self, run: str, samples: pa.Array, verdicts: pa.Array) -> None:
        """How many of how many decided samples of each prompt are correct; a prompt's samples come together."""
        asked = pc.utf8_slice_codeunits(samples, 0, -14)
        decided = pc.not_equal(verdicts, "undecided").cast(pa.int64())
        right = pc.equal(verdicts, "correct").cast(pa.int64())
        table = pa.table({"asked": asked, "right": right, "n": decided})
        grouped = table.group_by("asked", use_threads=False).aggregate([("right", "sum"), ("n", "sum")])
        found = list(zip(*(column.to_pylist() for column in grouped.select(_RATE).itercolumns()), strict=True))
        last = self._open.pop(run, None)
        if last and found and found[0][0] == last[0]:
            found[0] = last[0], found[0][1] + last[1], found[0][2] + last[2]
        elif last:
            found.insert(0, last)
        if found:
            self._open[run] = found.pop()
        self._rates.setdefault(run, Counter()).update((right, n) for _, right, n in found)

    def pass_rates(self) -> dict[str, Counter[tuple[int, int]]]:
        """Run -> (correct, decided) samples of a prompt -> prompts."""
        ends = {run: Counter([(right, n)]) for run, (_, right, n) in self._open.items()}
        return {run: rates + ends.get(run, Counter()) for run, rates in self._rates.items()}


def _counts(table: pa.Table, columns: list[str]) -> dict[tuple, int]:
    grouped = table.select(columns).group_by(columns).aggregate([([], "count_all")])
    keys = zip(*(grouped[name].to_pylist() for name in columns), strict=True)
    return dict(zip(keys, grouped["count_all"].to_pylist(), strict=True))
