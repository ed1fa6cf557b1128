"""First wrong steps, as a judge, a rule or a human found them."""

from typing import Annotated, ClassVar, Literal

import annotated_types as at
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from schemas.base import Int32, Row, SampleId

StepLabel = Literal["correct", "neutral", "incorrect"]
LabelVerdict = Literal["error", "no_error", "invalid"]
LabelerKind = Literal["judge", "human", "rule"]


class StepSpan(BaseModel):
    """One step of a sample: a half-open range of code points of its text, without the marker that opens it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Int32
    end: Int32


class StepLabels(Row):
    """One row per (sample, labeler, repeat): the steps of the sample, and which is the first wrong one."""

    table: ClassVar = "step_labels"
    key: ClassVar = ("sample_id", "labeler", "repeat")
    references: ClassVar = {"sample_id": "samples"}
    dictionary: ClassVar = ("labeler", "repeat", "kind", "verdict", "model", "labeler_version", "template")
    sql_checks: ClassVar = {
        "first_error iff verdict is error": "(first_error is not null) = (verdict = 'error')",
        "first_error is one of the steps": "first_error between 0 and len(steps) - 1",
        "no more labels than steps": "len(labels) <= len(steps)",
        "a label is correct, neutral or incorrect": "list_has_all(['correct', 'neutral', 'incorrect'], labels)",
        "an invalid answer labels nothing": "verdict <> 'invalid' or (len(labels) = 0 and correction is null)",
        "steps are in order": (
            'list_bool_and(list_transform(range(1, len(steps)), lambda i: steps[i]."end" <= steps[i + 1]."start"))'
            " is not false"
        ),
    }

    sample_id: SampleId = Field(description="the sample whose steps are labelled")
    labeler: Annotated[str, at.MinLen(1)] = Field(description="who labelled: model, person or rule")
    repeat: Annotated[Int32, at.Ge(0)] = Field(description="0-based number of the labelling by the same labeler")
    kind: LabelerKind = Field(description="what the labeler is")
    steps: list[StepSpan] = Field(description="spans of the steps in samples.text, in order")
    labels: list[StepLabel] = Field(
        description="labels of the steps, up to where the labeler stopped: correct, neutral, incorrect"
    )
    first_error: Annotated[int | None, pa.int32()] = Field(description="0-based first wrong step; null: none")
    verdict: LabelVerdict = Field(description="error, no_error, or invalid: the labeler's answer says neither")
    model: str | None = Field(description="judge: model and version that answered")
    labeler_version: str = Field(description="version of the labeler's code: parser of answers, or rule")
    template: str | None = Field(description="judge: name and hash of the template file")
    ledger_key: str | None = Field(description="judge: key of the answer in the ledger")
    rationale: str | None = Field(description="why, in the labeler's words")
    correction: str | None = Field(description="the first wrong step as it should be, in the labeler's words")
    labeled_at: str | None = Field(description="when, as ISO 8601 in UTC; null for a rule")
