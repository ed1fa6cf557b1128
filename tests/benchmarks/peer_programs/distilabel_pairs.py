"""Pairs with distilabel: a loader and a step, in batches of whole prompts, since each has 30 samples in a row."""

import os
import sys
import tempfile
from typing import Any

from distilabel.pipeline import Pipeline  # pyrefly: ignore  # not a dependency of ours
from distilabel.steps import LoadDataFromFileSystem, Step, StepInput  # pyrefly: ignore
from distilabel.typing import StepOutput  # pyrefly: ignore

BATCH = 30 * 100


class PairUp(Step):
    """One row per pair."""

    column: str
    k: int

    @property
    def inputs(self) -> list[str]:
        return ["prompt_id", "correct", self.column]

    @property
    def outputs(self) -> list[str]:
        return ["rank", "chosen", "rejected"]

    def process(self, inputs: StepInput) -> StepOutput:
        prompts: dict[str, tuple[list[Any], list[Any]]] = {}
        for row in inputs:
            chosen, rejected = prompts.setdefault(row["prompt_id"], ([], []))
            if row["correct"] is not None:
                (chosen if row["correct"] else rejected).append(row[self.column])
        yield [
            {
                "prompt_id": prompt,
                "rank": rank,
                "chosen": chosen[rank % len(chosen)],
                "rejected": rejected[rank % len(rejected)],
            }
            for prompt, (chosen, rejected) in prompts.items()
            if chosen and rejected
            for rank in range(self.k)
        ]


if __name__ == "__main__":
    _, source, target, kept, count = sys.argv
    with tempfile.TemporaryDirectory(dir=target.rpartition("/")[0]) as cache:
        os.environ["HF_HOME"] = cache
        with Pipeline("pairs", cache_dir=cache) as pipeline:
            samples = LoadDataFromFileSystem(data_files=source, filetype="parquet", split="train", batch_size=BATCH)
            samples >> PairUp(column=kept, k=int(count), input_batch_size=BATCH)
        made = pipeline.run(use_cache=False)
        made["default"]["train"].select_columns(["prompt_id", "rank", "chosen", "rejected"]).to_parquet(target)
