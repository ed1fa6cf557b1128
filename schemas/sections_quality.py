"""The section `quality` of `params.yaml`: copies among problems, and copies of test problems."""

from typing import Annotated, ClassVar

import annotated_types as at
from pydantic import Field, model_validator

from schemas.findings import FindingReason
from schemas.slots import NONE, ProblemsName, ProblemsOrNone, Section


class Against(Section):
    """Up to four problems runs that nobody should train on."""

    a: ProblemsOrNone
    b: ProblemsOrNone
    c: ProblemsOrNone
    d: ProblemsOrNone

    @property
    def runs(self) -> list[str]:
        """Those that are named, in order."""
        return [run for run in (self.a, self.b, self.c, self.d) if run != NONE]


class QualityRun(Section):
    """The problems of a run that are kept, and what was found among all of them. Without answers."""

    writes: ClassVar = ("problems", "findings", "text_statistics")

    problems: ProblemsName
    against: Against
    drop: list[FindingReason] = Field(default=[], description="findings for which a problem is dropped")
    similarity: Annotated[float, at.Ge(0.3), at.Le(1)] = Field(
        default=0.6, description="least Jaccard similarity of the word 3-grams of near-duplicates"
    )
    ngram: Annotated[int, at.Ge(5)] = Field(default=13, description="words of an n-gram that contaminates")
    coverage: Annotated[float, at.Ge(0), at.Le(1)] = Field(
        default=0.5, description="least share of a test problem's words in shared n-grams; 0: one n-gram is enough"
    )

    @model_validator(mode="after")
    def _named_once(self) -> "QualityRun":
        for run in self.against.runs:
            if run == self.problems:
                raise ValueError(f"against: '{run}' is what is examined; every problem would contaminate itself")
            if self.against.runs.count(run) > 1:
                raise ValueError(f"against: '{run}' is named twice; name each run once")
        return self
