"""The majority among the answers of several samples."""

from typing import Annotated, ClassVar

import annotated_types as at
from pydantic import Field

from schemas.base import Int32, ProblemId, PromptId, Row, SampleId


class Vote(Row):
    """One row per prompt with votes: the answer that most of its samples state."""

    table: ClassVar = "votes"
    key: ClassVar = ("prompt_id",)
    references: ClassVar = {"prompt_id": "prompts", "problem_id": "problems", "sample_id": "predictions"}
    sql_checks: ClassVar = {
        "no more votes for one answer than votes": "count <= n",
        "confidence is the share of the votes": "confidence = count / n",
        "the prompt asks the problem": "starts_with(prompt_id, problem_id)",
    }

    prompt_id: PromptId = Field(description="the prompt")
    problem_id: ProblemId = Field(description="the problem")
    sample_id: SampleId = Field(description="the first sample with the majority's answer, by index")
    answer: str | None = Field(description="normalised answer of the majority; null: most samples state none")
    count: Annotated[Int32, at.Ge(1)] = Field(description="samples that state it; of equal counts, the first wins")
    n: Annotated[Int32, at.Ge(1)] = Field(description="samples that vote")
    confidence: float = Field(description="count / n")
