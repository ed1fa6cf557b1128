"""Verdicts on samples: predictions joined with gold answers."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.base import Row, SampleId

Verdict = Literal["correct", "wrong", "no_answer", "undecided"]


class Reward(Row):
    """One row per sample: its verdict and reward."""

    table: ClassVar = "rewards"
    key: ClassVar = ("sample_id",)
    references: ClassVar = {"sample_id": "predictions"}
    dictionary: ClassVar = ("verdict", "reward", "checker", "checker_version")
    sql_checks: ClassVar = {"reward is null iff undecided": "(reward is null) = (verdict = 'undecided')"}

    sample_id: SampleId = Field(description="the sample")
    verdict: Verdict = Field(description="undecided: the checker timed out or crashed; never treated as wrong")
    reward: float | None = Field(description="1 correct, 0 (or a part) wrong, 0 no answer, null undecided")
    checker: str = Field(description="checker that compared the answers")
    checker_version: str = Field(description="version of the checker and of the library behind it")
