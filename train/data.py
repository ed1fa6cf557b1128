"""From ids to token arrays: the texts of a pairs or demos run, resolved through params and rendered for a tokenizer.

Tables of ids are joined here in memory, keeping only the rows that are referred to. Nothing may be lost on the way: an
id that no input run holds is an error.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from builders.model_files import load_limits
from builders.rendering import Rendered, completion_ids, ending_id, render
from schemas.params import table_runs
from stores.sources import run_sources
from stores.stage import Stage
from train.packing import Tokens


class Span(NamedTuple):
    """What is scored: a span of a sample under a prompt, and whether an ending follows. Reference log-probs' key."""

    prompt_id: str
    sample_id: str
    start: int
    end: int
    eos: bool


class Demo(NamedTuple):
    """A completion to imitate."""

    name: str
    tokens: Tokens


class Pair(NamedTuple):
    """A chosen and a rejected completion of one prompt."""

    name: str
    chosen_span: Span
    rejected_span: Span
    chosen: Tokens
    rejected: Tokens

    @property
    def sequences(self) -> tuple[Tokens, Tokens]:
        return self.chosen, self.rejected


def load_demos(stage: Stage, run: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[Demo]:
    """The demonstrations of a run, in the order of its table: whole texts, ended where the sample ended by itself.

    Raises ValueError for an empty run, an id that does not resolve, and a demonstration longer than `max_tokens`.
    """
    rows = stage.read("demos", run).to_pylist()
    section = _require_rows(stage, "demos", run, rows)
    texts = _Texts(stage, "demos", run, tokenizer, rows, ("sample_id",))
    demos = []
    for row in rows:
        sample = texts.sample(row["sample_id"])
        span = Span(row["prompt_id"], row["sample_id"], 0, len(sample.text), sample.finish_reason == "stop")
        name = f"demo ({span.prompt_id}, {span.sample_id})"
        demos.append(Demo(name, texts.tokens(span, name)))
    remedy = f"raise {stage.section}.{stage.name}.max_tokens, or leave the demo out of {section}.{run}"
    _refuse_long(((d.name, [d.tokens]) for d in demos), max_tokens, remedy)
    _refuse_beyond(((d.name, [d.tokens]) for d in demos), texts, f"leave the demo out of {section}.{run}")
    return demos


def load_pairs(
    stage: Stage, run: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int, limit: int | None = None
) -> list[Pair]:
    """The pairs of a run, in the order of its table; `limit`: only so many, evenly spaced.

    Raises ValueError for an empty run, an id that does not resolve, and a side longer than `max_tokens`.
    """
    table = stage.read("pairs", run)
    section = _require_rows(stage, "pairs", run, table)
    rows = (table if limit is None else table.take(spread(len(table), limit))).to_pylist()
    texts = _Texts(stage, "pairs", run, tokenizer, rows, ("chosen_sample_id", "rejected_sample_id"))
    pairs = [_pair(row, texts) for row in rows]
    remedy = f"set {section}.{run}.max_tokens to at most that, or raise {stage.section}.{stage.name}.max_tokens"
    _refuse_long(((p.name, p.sequences) for p in pairs), max_tokens, remedy)
    _refuse_beyond(((p.name, p.sequences) for p in pairs), texts, f"set {section}.{run}.max_tokens to at most that")
    return pairs


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` places, in order and evenly spaced, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(int).tolist()


def _pair(row: dict[str, Any], texts: "_Texts") -> Pair:
    name = f"pair ({row['prompt_id']}, rank {row['rank']})"
    chosen, rejected = (
        Span(row["prompt_id"], row[f"{side}_sample_id"], *(row[f"{side}_{field}"] for field in ("start", "end", "eos")))
        for side in ("chosen", "rejected")
    )
    return Pair(name, chosen, rejected, texts.tokens(chosen, name), texts.tokens(rejected, name))


def hash_tokens(sequences: Iterable[Tokens]) -> str:
    """A hash over token ids, in order: equal data give equal hashes, whatever files they came from."""
    hasher = hashlib.sha256()
    for sequence in sequences:
        for part in sequence:
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part.astype("<i4").tobytes())
    return hasher.hexdigest()[:16]


def source_runs(stage: Stage, table: str, run: str, input_table: str) -> list[str]:
    """The runs that the ids of `input_table` in a run are found in."""
    return [s.input_run for s in run_sources(stage.params) if s[:3] == (table, run, input_table)]


class _Sample(NamedTuple):
    text: str
    finish_reason: str


class _Texts:
    """The prompts and samples that some rows of a run refer to, tokenised once each."""

    def __init__(
        self,
        stage: Stage,
        table: str,
        run: str,
        tokenizer: PreTrainedTokenizerBase,
        rows: list[dict[str, Any]],
        sample_columns: tuple[str, ...],
    ):
        self.place, self.tokenizer = f"{table} run '{run}'", tokenizer
        samples, prompts = (source_runs(stage, table, run, behind) for behind in ("samples", "prompts"))
        wanted = {row[column] for row in rows for column in sample_columns}
        columns = ["sample_id", "text", "finish_reason"]
        found = _referenced(stage, "samples", samples, "sample_id", columns, wanted)
        self._samples = {i: _Sample(row["text"], row["finish_reason"]) for i, row in found.items()}
        columns = ["prompt_id", "messages", "prefill", "rendering"]
        self._prompts = _referenced(stage, "prompts", prompts, "prompt_id", columns, {row["prompt_id"] for row in rows})
        self._searched = {"sample": samples, "prompt": prompts}
        self.limits = load_limits(stage.dir("models", stage.config.model))
        self._rendered: dict[str, Rendered] = {}
        self._asked: dict[str, np.ndarray] = {}
        self._scored: dict[Span, np.ndarray] = {}
        self._endings: dict[str, int | None] = {}

    def sample(self, sample_id: str) -> _Sample:
        return self._found("sample", self._samples, sample_id)

    def tokens(self, span: Span, name: str) -> Tokens:
        """Prompt, and the completion as it is tokenised after it. `name` is the row's, for messages."""
        if span.prompt_id not in self._rendered:
            self._rendered[span.prompt_id] = rendered = self._render(span.prompt_id)
            self._asked[span.prompt_id] = np.array(rendered.ids, dtype=np.int32)
        if span not in self._scored:
            self._scored[span] = np.array(self._encode(span, name), dtype=np.int32)
        return Tokens(self._asked[span.prompt_id], self._scored[span])

    def _render(self, prompt_id: str) -> Rendered:
        prompt = self._found("prompt", self._prompts, prompt_id)
        rendered = render(self.tokenizer, prompt["messages"], prompt["prefill"], prompt["rendering"])
        if not rendered.ids:
            raise ValueError(
                f"{self.place}: prompt {prompt_id} renders to no tokens, so nothing predicts the first token of its"
                " completions; give its template a text, or use a tokenizer that starts texts with a BOS token"
            )
        return rendered

    def _ending(self, rendering: str) -> int:
        """The token that ends a completion. Raises ValueError if there is none."""
        if rendering not in self._endings:
            self._endings[rendering] = ending_id(self.tokenizer, rendering, self.limits.eos_ids)
        ending = self._endings[rendering]
        if ending is None:
            raise ValueError(f"{self.place}: the model's tokenizer has no end-of-sequence token to train on")
        return ending

    def _encode(self, span: Span, name: str) -> list[int]:
        text = self.sample(span.sample_id).text
        if not 0 <= span.start <= span.end <= len(text):
            place = f"{self.place}: {name}: span {span.start}:{span.end} is not inside sample {span.sample_id}"
            raise ValueError(f"{place} ({len(text)} code points); rebuild it with `dvc repro`")
        prompt = self._rendered[span.prompt_id]
        ending = self._ending(prompt.rendering) if span.eos else None
        ids = completion_ids(self.tokenizer, prompt, text[span.start : span.end], ending)
        if not ids:
            raise ValueError(f"{self.place}: {name}: span of sample {span.sample_id} has no tokens to score")
        return ids

    def _found(self, kind: str, rows: dict[str, Any], key: str) -> Any:
        if key not in rows:
            runs = ", ".join(f"'{r}'" for r in self._searched[kind]) or "no run"
            raise ValueError(
                f"{self.place}: {kind} {key} is not in its {kind}s ({runs}); rebuild the run with `dvc repro`, or"
                " restore what it was made from with `dvc checkout`"
            )
        return rows[key]


def _referenced(
    stage: Stage, table: str, runs: list[str], key: str, columns: list[str], wanted: set[str]
) -> dict[str, dict[str, Any]]:
    """Key -> row, for the rows of some runs that are wanted."""
    keys = pa.array(sorted(wanted), pa.string())
    return {row[key]: row for run in runs for row in _matching(stage.scan(table, run, columns), key, keys)}


def _matching(batches: Iterable[pa.Table], key: str, keys: pa.Array) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.filter(pc.is_in(batch[key], value_set=keys)).to_pylist()


def _require_rows(stage: Stage, table: str, run: str, rows: Any) -> str:
    """The section that makes the run.

    Raises ValueError if the run is empty.
    """
    section = table_runs(stage.params, table)[run]
    if not len(rows):
        raise ValueError(
            f"{table} run '{run}' is empty: nothing to train on; see why in data/rejects/stage={section}/run={run},"
            f" and change {section}.{run} or the samples that it reads"
        )
    return section


def _refuse_long(named: Iterable[tuple[str, Iterable[Tokens]]], max_tokens: int, remedy: str) -> None:
    for name, sequences in named:
        longest = max(s.length for s in sequences)
        if longest > max_tokens:
            raise ValueError(
                f"{name}: prompt and completion have {longest} tokens, the limit is {max_tokens}; {remedy}"
            )


def _refuse_beyond(named: Iterable[tuple[str, Iterable[Tokens]]], texts: _Texts, remedy: str) -> None:
    """Raises ValueError for a sequence longer than the model's positions."""
    if texts.limits.positions is not None:
        remedy += " (the model has no more positions: max_position_embeddings)"
        _refuse_long(named, texts.limits.positions, remedy)
