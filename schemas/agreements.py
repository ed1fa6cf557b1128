"""Whether two answers to one problem are the same: what takes the place of gold in weak-to-strong reasoning."""

from typing import ClassVar

from pydantic import Field

from schemas.base import ProblemId, Row, SampleId


class Agreement(Row):
    """One row per problem that two runs of predictions answer: a sample of each, and whether their answers agree."""

    table: ClassVar = "agreements"
    key: ClassVar = ("problem_id",)
    references: ClassVar = {"problem_id": "problems", "a_sample_id": "predictions", "b_sample_id": "predictions"}
    sql_checks: ClassVar = {
        "agrees iff the answers are the same and there is one": "agrees = coalesce(a_answer = b_answer, false)",
        "what agrees is kept": "kept or not agrees",
        "both samples answer the problem": (
            "starts_with(a_sample_id, problem_id) and starts_with(b_sample_id, problem_id)"
        ),
    }

    problem_id: ProblemId = Field(description="the problem")
    a_sample_id: SampleId = Field(description="sample of the first run (the weak model's)")
    b_sample_id: SampleId = Field(description="sample of the second run (the strong model's)")
    a_answer: str | None = Field(description="normalised answer of the first sample; null if it states none")
    b_answer: str | None = Field(description="normalised answer of the second sample; null if it states none")
    agrees: bool = Field(description="whether both state the same answer")
    kept: bool = Field(description="whether it agrees, or was added to reach the run's `top_up`")
