"""What a reward model says of samples."""

from typing import Annotated, ClassVar

import annotated_types as at
from pydantic import Field

from schemas.base import Row, SampleId


class Score(Row):
    """One row per sample: how sure a reward model is that it is correct. A run is of one reward model."""

    table: ClassVar = "scores"
    key: ClassVar = ("sample_id",)
    references: ClassVar = {"sample_id": "samples"}
    dictionary: ClassVar = ("fingerprint",)

    sample_id: SampleId = Field(description="the sample")
    score: Annotated[float, at.Ge(0), at.Le(1)] = Field(description="P(correct) under the reward model")
    fingerprint: str = Field(description="hash of the reward model, its precision, code path and libraries")
