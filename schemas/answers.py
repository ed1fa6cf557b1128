"""Gold answers, apart from the problems so that a stage that must not see them does not."""

from typing import ClassVar

from pydantic import Field

from schemas.base import ProblemId, Row


class Answer(Row):
    """One row per problem with a known answer."""

    table: ClassVar = "answers"
    key: ClassVar = ("problem_id",)
    references: ClassVar = {"problem_id": "problems"}

    problem_id: ProblemId = Field(description="the problem")
    answer: str = Field(description="gold answer, as the source has it")
