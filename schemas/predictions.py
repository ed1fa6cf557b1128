"""Final answers extracted from samples, without looking at gold."""

from typing import ClassVar

from pydantic import Field

from schemas.base import Row, SampleId


class Prediction(Row):
    """One row per sample: the final answer that it states. Reads no gold."""

    table: ClassVar = "predictions"
    key: ClassVar = ("sample_id",)
    references: ClassVar = {"sample_id": "samples"}
    dictionary: ClassVar = ("extractor", "extractor_version")

    sample_id: SampleId = Field(description="the sample")
    extracted: str | None = Field(description="the answer as written; null if none was found")
    normalised: str | None = Field(description="canonical form, equal for equal answers of the simple kinds")
    extractor: str = Field(description="checker and extraction rule")
    extractor_version: str = Field(description="version of the rule")
