"""How long the problems of each run are, and in which languages."""

from typing import Annotated, ClassVar

import annotated_types as at
from pydantic import Field

from schemas.base import Row

Count = Annotated[int, at.Ge(0)]


class TextStatistics(Row):
    """One row per (problems run, source, language): how many problems there are, and how long they are."""

    table: ClassVar = "text_statistics"
    key: ClassVar = ("problems_run", "source", "language")
    dictionary: ClassVar = ("problems_run", "source", "language")

    problems_run: str = Field(description="run of problems that was read: what is examined, or a test set")
    source: str = Field(description="data set that the problems come from")
    language: str = Field(description="ISO 639 code that py3langid gives the words; `und`: they do not say")
    n: Count = Field(description="problems")
    n_dropped: Count = Field(description="those that the run of quality drops")
    n_unsure: Count = Field(
        description="those without a near-duplicate in a test set of which too many problems were candidates to compare"
    )
    chars_median: Count = Field(description="code points of question and choices: the lower median")
    chars_p90: Count = Field(description="90 % are no longer")
    chars_max: Count = Field(description="the longest")
    words_median: Count = Field(description="words: the lower median")
    words_p90: Count = Field(description="90 % have no more")
    words_max: Count = Field(description="the most")
