"""What is wrong with problems: copies of each other, and of problems of test sets."""

from typing import Annotated, ClassVar, Literal

import annotated_types as at
from pydantic import Field

from schemas.base import ProblemId, Row

FindingKind = Literal["duplicate", "near_duplicate", "shared_ngram"]
FindingReason = Literal["duplicate", "near_duplicate", "contaminated"]


class Finding(Row):
    """One row per (problem, kind, run of the other problem): a problem that is like another one, and that other one."""

    table: ClassVar = "findings"
    key: ClassVar = ("problem_id", "kind", "other_run")
    references: ClassVar = {"problem_id": "problems", "other_problem_id": "problems"}
    dictionary: ClassVar = ("kind", "reason", "other_run", "similarity", "dropped")

    problem_id: ProblemId = Field(description="the problem")
    kind: FindingKind = Field(
        description="duplicate: the same normalised text; near_duplicate: similar sets of word 3-grams; shared_ngram:"
        " a test problem's n-gram"
    )
    other_run: str = Field(description="problems run that the other problem is of: the problem's own, or a test set")
    other_problem_id: ProblemId = Field(description="the problem that it is like; in its own run one before it")
    reason: FindingReason = Field(
        description="why it would be dropped: contaminated, where the other problem is of a test set, else the kind"
    )
    similarity: Annotated[float, at.Ge(0), at.Le(1)] = Field(
        description="1 of duplicates; Jaccard similarity of word 3-grams; share of the test problem that is shared"
    )
    passage: str | None = Field(description="longest shared passage in normalised words, of shared n-grams")
    dropped: bool = Field(description="whether the run drops problems for this reason")
