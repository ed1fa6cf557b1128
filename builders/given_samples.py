"""Completions that no engine here generated, as samples: what gold solutions and imported files have in common."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from schemas import Sample, arrow_schema
from schemas.ids import text_hash


class TokenCounter:
    """Counts the tokens of completions as training will: no special tokens, one for the ending of a finished one."""

    def __init__(self, directory: Path):
        from tokenizers import Tokenizer

        path = directory / "tokenizer.json"
        if not path.exists():
            raise ValueError(f"{path}: not there; name a model with a tokenizer, or `model: none` for no token counts")
        self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def count(self, texts: Sequence[str], finish_reasons: Sequence[str]) -> list[int]:
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(e.ids) + (reason == "stop") for e, reason in zip(encoded, finish_reasons, strict=True)]


def given_samples(rows: pa.Table, counter: TokenCounter | None) -> pa.Table:
    """`samples` rows from a table with ids, model, model_fingerprint, index, text and finish_reason.

    `counter` gives `n_tokens` (None: null). What a given completion does not tell, such as its seed, is null.
    """
    texts = rows["text"].to_pylist()
    rows = rows.append_column("text_hash", pa.array(map(text_hash, texts), pa.string()))
    rows = rows.append_column("n_chars", pc.utf8_length(rows["text"]))
    if counter is not None:
        counts = counter.count(texts, rows["finish_reason"].to_pylist())
        rows = rows.append_column("n_tokens", pa.array(counts, pa.int32()))
    columns = [
        rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(len(rows), f.type)
        for f in arrow_schema(Sample)
    ]
    return pa.Table.from_arrays(columns, schema=arrow_schema(Sample))
