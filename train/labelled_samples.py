"""Samples as a reward model reads them: prompt and completion as tokens, those that it cannot read as rejects.

Ids of prompts are resolved as everywhere in training (`train.tables`). One sample in memory is its tokens alone.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from schemas import Reject
from stores.stage import Stage
from train.data import Encoder, Reader
from train.packing import Tokens
from train.tables import Tables
from train.texts import Span, Text


class Drawn(NamedTuple):
    """One sample and the prompt that it answers."""

    sample_id: str
    prompt_id: str
    text_hash: str
    tokens: Tokens


class SampleTexts(Tables):
    """A samples run of the workspace, and the prompts that its samples answer."""

    def __init__(self, stage: Stage, run: str):
        super().__init__(stage, "samples", run)

    def batches(self) -> Iterator[pa.Table]:
        """The samples without tokens and log-probs, in the order of their ids."""
        asked = self.stage.read("samples", self.run, ["prompt_id"])["prompt_id"].unique().drop_null().to_pylist()
        self._prompts = self._referenced("prompts", "prompt_id", ["messages", "prefill", "rendering"], set(asked))
        yield from self.stage.scan("samples", self.run, ["sample_id", "prompt_id", "problem_id", "text", "text_hash"])


def read_samples(stage: Stage, run: str, reader: Reader) -> Iterator[Drawn]:
    """The samples that can be read; the others are rejects of the stage.

    Reasons are `unknown_prompt` (text that answers no prompt), `empty` (no text) and `over_long`.

    Raises ValueError for a prompt that no run behind the samples has.
    """
    source = SampleTexts(stage, run)
    encoder, limit = Encoder(source, reader), min(reader.max_tokens, reader.limits.positions or reader.max_tokens)
    for batch in source.batches():
        rejects: list[Reject] = []
        for row in batch.to_pylist():
            tokens, fault = _read(row, encoder, limit)
            if tokens is None:
                ids = {name: row[name] for name in ("problem_id", "prompt_id", "sample_id")}
                rejects.append(Reject.model_validate(ids | fault))
            else:
                yield Drawn(row["sample_id"], row["prompt_id"], row["text_hash"], tokens)
        stage.reject(rejects)


def _read(row: dict[str, Any], encoder: Encoder, limit: int) -> tuple[Tokens | None, dict[str, str]]:
    """A sample's tokens; or none, and the reason."""
    if row["prompt_id"] is None:
        return None, {"reason": "unknown_prompt", "detail": "it answers no prompt"}
    if not row["text"]:
        return None, {"reason": "empty", "detail": "it has no text to read"}
    span = Span(row["prompt_id"], row["sample_id"], 0, len(row["text"]), False)
    tokens = encoder.of(Text(span, row["text"]), f"sample {row['sample_id']}")
    if tokens.length <= limit:
        return tokens, {}
    detail = f"prompt and completion have {tokens.length} tokens, the limit is {limit}"
    return None, {"reason": "over_long", "detail": detail}
