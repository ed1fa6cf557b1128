"""Problems to solve. Gold answers live apart, in `answers`."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.base import ProblemId, Row

AnswerKind = Literal["number", "latex", "choice", "program"]


class Problem(Row):
    """One row per problem; it holds no gold answer."""

    table: ClassVar = "problems"
    key: ClassVar = ("problem_id",)
    dictionary: ClassVar = ("source", "split", "answer_kind", "level", "subject", "licence")

    problem_id: ProblemId = Field(description="hash of source, question and choices (16 hex digits)")
    source: str = Field(description="data set that the problem comes from")
    split: str = Field(description="split of the source: train, validation, test, …")
    question: str = Field(description="the question, as the source has it")
    choices: list[str] | None = Field(description="options of a multiple-choice question, in order")
    answer_kind: AnswerKind = Field(description="which checker compares answers")
    level: str | None = Field(description="difficulty, as the source states it; generated problems: number of steps")
    subject: str | None = Field(description="subject, as the source states it")
    licence: str = Field(description="licence of the source (SPDX where there is one)")
