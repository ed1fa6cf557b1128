"""Human (or source-given) solutions."""

from typing import Annotated, ClassVar, Literal

import annotated_types as at
from pydantic import Field

from schemas.base import Int32, ProblemId, Row


class Solution(Row):
    """One row per human solution."""

    table: ClassVar = "solutions"
    key: ClassVar = ("problem_id", "style", "index")
    references: ClassVar = {"problem_id": "problems"}
    dictionary: ClassVar = ("style",)

    problem_id: ProblemId = Field(description="the problem")
    style: Literal["natural", "program"] = Field(description="chain of thought in words, or a program")
    index: Annotated[Int32, at.Ge(0)] = Field(description="position among the problem's solutions of this style")
    text: str = Field(description="the solution without its final-answer line and calculator marks")
