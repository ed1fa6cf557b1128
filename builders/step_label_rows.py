"""A sample whose first wrong step is asked for, and the row that says which it is: the same for every labeler."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict, Unpack

from schemas.step_labels import LabelerKind, LabelVerdict, StepLabel, StepLabels, StepSpan


class Candidate(NamedTuple):
    """A sample to label: its steps, and what a labeler may know of its problem.

    `answer` is the gold answer and `solution` the problem's first human solution in natural language, where there are
    such; `prefill` is the start of the sample's answer, which its `text` and the spans in `steps` leave out.
    """

    sample_id: str
    problem_id: str
    source: str
    question: str
    choices: list[str] | None
    answer: str | None
    solution: str | None
    prefill: str
    text: str
    steps: tuple[StepSpan, ...]

    @property
    def step_texts(self) -> list[str]:
        """The steps without their markers and without white space around them."""
        return [self.text[step.start : step.end].strip() for step in self.steps]


class Labeling(TypedDict, total=False):
    """What a row says about its labeler, beside the labels; the columns of `StepLabels` of the same names."""

    kind: LabelerKind
    labeler: str
    labeler_version: str
    repeat: int
    model: str | None
    template: str | None
    ledger_key: str | None
    rationale: str | None
    correction: str | None
    labeled_at: str | None


def label_row(
    candidate: Candidate, labels: Sequence[StepLabel], neutral_is_error: bool, **labeling: Unpack[Labeling]
) -> StepLabels:
    """The row of a labeler who went through the steps in order.

    The first `incorrect` label (or `neutral` one, where that counts as an error) is the first wrong step; what was said
    of later steps is left out. Raises ValueError for more labels than steps.
    """
    if len(labels) > len(candidate.steps):
        raise ValueError(f"{candidate.sample_id}: {len(labels)} labels of {len(candidate.steps)} steps")
    wrong = ("incorrect", "neutral") if neutral_is_error else ("incorrect",)
    first_error = next((i for i, label in enumerate(labels) if label in wrong), None)
    upto = len(labels) if first_error is None else first_error + 1
    return _row(candidate, list(labels[:upto]), first_error, "no_error" if first_error is None else "error", labeling)


def invalid_row(candidate: Candidate, reason_text: str, **labeling: Unpack[Labeling]) -> StepLabels:
    """The row of an answer that does not say which step is wrong; `reason_text` says what is the matter with it."""
    return _row(candidate, [], None, "invalid", {**labeling, "rationale": reason_text, "correction": None})


def _row(
    candidate: Candidate, labels: list[StepLabel], first_error: int | None, verdict: LabelVerdict, labeling: Labeling
) -> StepLabels:
    given = _EMPTY | labeling
    return StepLabels(
        sample_id=candidate.sample_id,
        steps=list(candidate.steps),
        labels=labels,
        first_error=first_error,
        verdict=verdict,
        **given,
    )


_EMPTY: Labeling = {
    "repeat": 0, "model": None, "template": None, "ledger_key": None, "rationale": None, "correction": None,
    "labeled_at": None,
}  # fmt: skip
