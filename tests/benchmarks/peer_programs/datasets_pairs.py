"""Pairs with `datasets.map`: whole prompts at a time, since each has 30 samples, one after the other."""

import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from datasets import Dataset

PER_PROMPT = 30


def pair_up(batch: dict[str, Sequence[Any]], column: str, k: int) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {"prompt_id": [], "rank": [], "chosen": [], "rejected": []}
    rows = zip(batch["prompt_id"], batch["correct"], batch[column], strict=True)
    for prompt, group in groupby(rows, key=lambda row: row[0]):
        samples = list(group)
        chosen = [sample for _, correct, sample in samples if correct is True]
        rejected = [sample for _, correct, sample in samples if correct is False]
        for rank in range(k) if chosen and rejected else ():
            made["prompt_id"].append(prompt)
            made["rank"].append(rank)
            made["chosen"].append(chosen[rank % len(chosen)])
            made["rejected"].append(rejected[rank % len(rejected)])
    return made


if __name__ == "__main__":
    _, source, target, kept, count = sys.argv
    with tempfile.TemporaryDirectory(dir=target.rpartition("/")[0]) as cache:
        samples = Dataset.from_parquet(source, columns=["prompt_id", "correct", kept], cache_dir=cache)
        assert isinstance(samples, Dataset)
        pairs = samples.map(
            pair_up,
            batched=True,
            batch_size=PER_PROMPT * 100,
            remove_columns=samples.column_names,
            fn_kwargs={"column": kept, "k": int(count)},
        )
        assert isinstance(pairs, Dataset)
        pairs.to_parquet(target)
