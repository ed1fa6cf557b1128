"""The texts of a pairs or demos run of the workspace: its ids, resolved through params.

Tables of ids are joined here in memory, keeping only the rows that are referred to. Nothing may be lost on the way: an
id that no input run holds is an error.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.params import table_runs
from stores.parquet import texts_digest
from stores.sources import run_sources
from stores.stage import Stage
from train.texts import Asked, PairText, Span, Text, demo_name, pair_name, spread

Found = dict[str, dict[str, Any]]


class Tables:
    """A run of `pairs` or `demos` in the workspace of a stage (see `train.texts.Source`)."""

    def __init__(self, stage: Stage, table: str, run: str):
        self.stage, self.table, self.run, self.name = stage, table, run, f"{table} run '{run}'"
        self.section = table_runs(stage.params, table)[run]
        place = f"{self.section}.{run}"
        self.shorten = f"set {place}.max_tokens to at most that" if table == "pairs" else f"leave it out of {place}"
        self._samples: Found = {}
        self._prompts: Found = {}

    @property
    def record(self) -> dict[str, Any]:
        digest = texts_digest(self.stage.dir(self.table, self.run))
        return {"table": self.table, "run": self.run, "texts": digest}

    def pairs(self, limit: int | None = None) -> list[PairText]:
        rows = self._rows(limit)
        self._resolve(rows, ("chosen_sample_id", "rejected_sample_id"))
        return [self._pair(row) for row in rows]

    def demos(self) -> list[Text]:
        rows = self._rows(None)
        self._resolve(rows, ("sample_id",))
        return [self._demo(**row) for row in rows]

    def prompt(self, prompt_id: str) -> Asked:
        row = self._found("prompt", self._prompts, prompt_id)
        return Asked(row["messages"], row["prefill"], row["rendering"])

    def _rows(self, limit: int | None) -> list[dict[str, Any]]:
        table = self.stage.read(self.table, self.run)
        if not len(table):
            raise ValueError(
                f"{self.name} is empty: nothing to train on; see why in"
                f" data/rejects/stage={self.section}/run={self.run}, and change {self.section}.{self.run} or the"
                " samples that it reads"
            )
        return (table if limit is None else table.take(spread(len(table), limit))).to_pylist()

    def _resolve(self, rows: list[dict[str, Any]], sample_columns: tuple[str, ...]) -> None:
        """Reads the prompts and samples that the rows refer to."""
        wanted = {row[column] for row in rows for column in sample_columns}
        self._samples = self._referenced("samples", "sample_id", ["text", "finish_reason"], wanted)
        wanted = {row["prompt_id"] for row in rows}
        self._prompts = self._referenced("prompts", "prompt_id", ["messages", "prefill", "rendering"], wanted)

    def _referenced(self, table: str, key: str, columns: list[str], wanted: set[str]) -> Found:
        """Key -> row, for the rows that are wanted of the runs behind this one; the store's views and releases, too,
        take the first run by name that has a key.
        """
        keys, runs = pa.array(sorted(wanted), pa.string()), sorted(self.source_runs(table), reverse=True)
        scans = (self.stage.scan(table, run, [key, *columns]) for run in runs)
        return {row[key]: row for batches in scans for row in _matching(batches, key, keys)}

    def source_runs(self, input_table: str) -> list[str]:
        """The runs that ids of `input_table` are found in."""
        wanted = (self.table, self.run, input_table)
        return [source.input_run for source in run_sources(self.stage.params) if source[:3] == wanted]

    def _pair(self, row: dict[str, Any]) -> PairText:
        name = pair_name(row["prompt_id"], row["rank"])
        chosen, rejected = (
            self._text(Span(row["prompt_id"], *(row[f"{side}_{field}"] for field in Span._fields[1:])), name)
            for side in ("chosen", "rejected")
        )
        return PairText(row["rank"], chosen, rejected)

    def _demo(self, prompt_id: str, sample_id: str) -> Text:
        sample = self._sample(sample_id)
        span = Span(prompt_id, sample_id, 0, len(sample["text"]), sample["finish_reason"] == "stop")
        return self._text(span, demo_name(span))

    def _text(self, span: Span, name: str) -> Text:
        text = self._sample(span.sample_id)["text"]
        if not 0 <= span.start <= span.end <= len(text):
            place = f"{self.name}: {name}: span {span.start}:{span.end} is not inside sample {span.sample_id}"
            raise ValueError(f"{place} ({len(text)} code points); rebuild it with `dvc repro`")
        return Text(span, text[span.start : span.end])

    def _sample(self, sample_id: str) -> dict[str, Any]:
        return self._found("sample", self._samples, sample_id)

    def _found(self, kind: str, rows: Found, key: str) -> dict[str, Any]:
        if key not in rows:
            runs = ", ".join(f"'{run}'" for run in self.source_runs(f"{kind}s")) or "no run"
            raise ValueError(
                f"{self.name}: {kind} {key} is not in its {kind}s ({runs}); rebuild the run with `dvc repro`, or"
                " restore what it was made from with `dvc checkout`"
            )
        return rows[key]


def _matching(batches: Iterable[pa.Table], key: str, keys: pa.Array) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.filter(pc.is_in(batch[key], value_set=keys)).to_pylist()
