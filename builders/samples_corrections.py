"""`samples_corrections`: one row per corrected step that a labeler wrote, as a sample of the prompt before the step.

Step-DPO compares its pairs with ones whose chosen step the judge wrote (arXiv 2406.18629, §4.3, Table 4): their chosen
side is not from the policy's own distribution. Only the labels that name the step which most labels name count.
Rejects: samples without a wrong step, and labels that say nothing (`invalid`), name another step (`disputed`), or
come without a correction (`no_correction`, `empty`: nothing but a marker).
"""

import re
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from builders.given_samples import TokenCounter, given_samples
from builders.model_files import load_tokenizer
from builders.parts import Built, write_by_parts
from builders.rendering import render_ids
from builders.step_consensus import add_consensus, add_matches, require_prompts, unusable
from schemas import Reject, Sample
from schemas.ids import digest, sample_id
from schemas.sections_steps import CorrectionsRun
from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.parquet import rows_to_table, sort_table
from stores.stage import Stage, partitioned, run_stage

_MARKER = re.compile(r"\s*(?:#{1,6}[ \t]+)?(?:\*\*|__)?Step[ \t]+[0-9]+[ \t]*(?:\*\*|__)?:", re.IGNORECASE)
_LEAD = re.compile(r"(?:(?:\*\*|__)(?=\s))?\s*")
"""What stands between a marker's colon and the step: the end of what is bold, and space."""
_COLUMNS = pa.schema(
    [(name, pa.string()) for name in ("sample_id", "prompt_id", "problem_id", "model", "model_fingerprint", "text")]
    + [("finish_reason", pa.string()), ("index", pa.int32()), ("n_prompt_tokens", pa.int32())]
)


class Counter:
    """Counts the tokens of corrections and of the prompts before them, as engines and training do."""

    def __init__(self, stage: Stage, model: str):
        self.completions = TokenCounter(stage.dir("models", model))
        self.tokenizer = load_tokenizer(stage.dir("models", model))

    def prompt(self, row: dict[str, Any]) -> int:
        return len(render_ids(self.tokenizer, row["messages"], row["prefill"], row["rendering"]))


def fitted(correction: str, step: str) -> str:
    """A correction as it follows the marker of the wrong step: with the space that the step has there.

    Labelers see numbered steps, so some repeat the number; the prompt has it already. Empty if there is nothing else.
    """
    marker = _MARKER.match(correction)
    after = correction[marker.end() :] if marker else correction
    words = after[_lead(after) :].strip() if marker else after.strip()
    return step[: _lead(step)] + words if words else ""


def _lead(text: str) -> int:
    found = _LEAD.match(text)
    assert found is not None, "it matches nothing too"
    return found.end()


def numbered(rows: list[dict[str, Any]], counter: Counter | None) -> pa.Table:
    """`samples` rows of whole prompts, in order, of rows with the `text` of a correction of a prompt by a labeler.

    Corrections are numbered prompt by prompt, in the order given.
    """
    found: list[dict[str, Any]] = []
    for prompt, corrected in groupby(rows, itemgetter("prompt_id")):
        tokens: int | None = None
        for index, row in enumerate(corrected):
            tokens = counter.prompt(row) if counter and index == 0 else tokens
            fingerprint = digest(["correction", row["labeler"]])
            found.append(
                {
                    "sample_id": sample_id(prompt, fingerprint, index), "prompt_id": prompt, "index": index,
                    "problem_id": row["problem_id"], "model": row["labeler"], "model_fingerprint": fingerprint,
                    "text": row["text"], "n_prompt_tokens": tokens, "finish_reason": "stop",
                }
            )  # fmt: skip
    table = given_samples(pa.Table.from_pylist(found, _COLUMNS), counter.completions if counter else None)
    return sort_table(Sample, table)


def build(stage: Stage) -> Built:
    """The corrections of a scope.

    Raises ValueError for runs that do not belong together, naming the one to change.
    """
    config: CorrectionsRun = stage.config
    with Duck() as duck:
        for view, table, name in (
            ("samples", "samples", config.samples),
            ("prompts", "prompts", config.prompts),
            ("step_prompts", "prompts", config.step_prompts),
        ):
            duck.view(view, table, [stage.dir(table, name)], stage.scope)
        add_consensus(duck, stage, config.step_labels, "samples")
        require_prompts(duck, stage, "prompts")
        add_matches(duck, stage, "step_prompts")
        given, rejects = duck.table(sql_file(__file__, "samples_corrections")).to_pylist(), unusable(duck)
    texts = [fitted(row["correction"], row["step_text"]) if row["reason"] is None else "" for row in given]
    dropped = [_reject(row) for row, text in zip(given, texts, strict=True) if not text]
    kept = [row | {"text": text} for row, text in zip(given, texts, strict=True) if text]
    counter = None if config.model == NONE else Counter(stage, config.model)
    return Built(numbered(kept, counter), pa.concat_tables([rejects, rows_to_table(Reject, dropped)]))


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of corrections."""
    write_by_parts(stage, Sample, build, [("samples", stage.config.samples)])


def _reject(row: dict[str, Any]) -> Reject:
    return Reject(
        problem_id=row["problem_id"],
        prompt_id=row["prompt_id"],
        sample_id=row["sample_id"],
        reason=row["reason"] or "empty",
        detail=f"{row['labeler']}, repeat {row['repeat']}",
    )


if __name__ == "__main__":
    run_stage("samples_corrections", run)
