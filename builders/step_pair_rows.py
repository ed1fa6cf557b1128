"""Step pairs as the authors of Step-DPO publish them, and the samples that hold what our tables cannot say otherwise.

Math-Step-DPO-10K (arXiv 2406.18629) has eight text columns. `initial_reason_steps` is the start of the answer up to and
including the marker `Step k:`, at k = 1 too; `chosen` and `rejected` are the step that follows it; `full_chosen` and
`full_rejected` go on from there to the end of the answer: they begin with the step and do not repeat the start. The
authors' pipeline writes other names for two of the columns and leaves `full_rejected` out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from builders.sources.base import text
from schemas.ids import MAX_INDEX, digest
from schemas.rejects import Reason

PUBLISHED = {
    name: name
    for name in (
        "dataset", "prompt", "initial_reason_steps", "chosen", "rejected", "full_chosen", "full_rejected", "answer",
    )
}  # fmt: skip
"""Column of the published data set -> name in a file of it."""
PIPELINE = {
    "dataset": "dataset", "prompt": "prompt", "initial_reason_steps": "prefix", "chosen": "chosen",
    "rejected": "rejected", "full_chosen": "original_chosen", "answer": "answer",
}  # fmt: skip
"""The same for what the authors' pipeline writes."""


class StepPair(NamedTuple):
    """One row of a file; `full_rejected` is None where the file has no such column."""

    dataset: str
    prompt: str
    initial_reason_steps: str
    chosen: str
    rejected: str
    full_chosen: str
    answer: str
    full_rejected: str | None = None


class Dropped(NamedTuple):
    """Why a row is no pair."""

    reason: Reason
    detail: str


def read_row(row: Mapping[str, Any], place: str) -> StepPair | Dropped:
    """A row of either shape, code point for code point.

    A row without a question, without a step on one side, or with a null is dropped: it is no pair. Raises ValueError,
    naming the row, for a column that is missing or holds no text.
    """
    columns = PIPELINE if "prefix" in row and "initial_reason_steps" not in row else PUBLISHED
    for ours, theirs in columns.items():
        if theirs in row and row[theirs] is None:
            return Dropped("no_answer" if ours == "answer" else "empty", f"no {theirs}")
    values = {ours: text(row, theirs, place) for ours, theirs in columns.items()}
    for name in ("chosen", "rejected"):
        if not values[name]:
            return Dropped("empty", f"no {name}")
    if not values["prompt"].strip():
        return Dropped("empty", "no prompt")
    return StepPair(**values)


class Side(NamedTuple):
    """One side of a pair as a sample: its text, the length of the step that begins it, and whether it has ended.

    `full` is the file's full text where the sample's is another one.
    """

    text: str
    step: int
    ended: bool
    full: str | None


def side(prefill: str, step: str, full: str | None) -> Side:
    """The sample of one side: the full text, which begins with the step, as all but a few published ones do.

    Where the full text repeats the start of the answer, it is the part after that. Where the step is not found there,
    it is the step alone.
    """
    if full is None:
        return Side(step, len(step), False, None)
    rest = full.removeprefix(prefill)
    if full.startswith(step):
        return Side(full, len(step), True, None)
    if rest.startswith(step):
        return Side(rest, len(step), True, full)
    return Side(step, len(step), False, full)


class Origin(NamedTuple):
    """Where a sample of an imported run comes from: the column that it holds, and the number of its pair in the file.

    Pairs are numbered from 0 in the order of the file. An index has four digits, so they are counted in blocks of
    10,000: the block is part of the model's name, and the place in it is the sample's index.
    """

    column: str
    number: int

    @property
    def model(self) -> str:
        return f"imported:{self.column}:{self.number // MAX_INDEX}"

    @property
    def fingerprint(self) -> str:
        return digest(["pairs_import", self.model])

    @property
    def place(self) -> int:
        return self.number % MAX_INDEX
