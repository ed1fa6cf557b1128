"""Preference pairs, as ids and spans."""

from typing import Annotated, ClassVar

import annotated_types as at
from pydantic import Field

from schemas.base import Int32, ProblemId, PromptId, Row, SampleId

Offset = Annotated[Int32, at.Ge(0)]


class Pair(Row):
    """One row per (prompt, rank): two spans of samples of one problem, scored under one prompt.

    Spans are half-open ranges of code points of `samples.text`. A sample's own prompt may differ from the pair's.
    """

    table: ClassVar = "pairs"
    key: ClassVar = ("prompt_id", "rank")
    references: ClassVar = {
        "problem_id": "problems",
        "prompt_id": "prompts",
        "chosen_sample_id": "samples",
        "rejected_sample_id": "samples",
    }
    dictionary: ClassVar = ("chosen_eos", "rejected_eos")
    sql_checks: ClassVar = {
        "chosen span is not empty": "chosen_start < chosen_end",
        "rejected span is not empty or ends": "rejected_start < rejected_end or rejected_eos",
        "both samples answer the problem": (
            "starts_with(prompt_id, problem_id) and starts_with(chosen_sample_id, problem_id)"
            " and starts_with(rejected_sample_id, problem_id)"
        ),
    }

    prompt_id: PromptId = Field(description="the prompt that both spans are scored under")
    rank: Offset = Field(description="0-based number of the pair among its prompt's")
    problem_id: ProblemId = Field(description="the problem")
    chosen_sample_id: SampleId = Field(description="the preferred sample")
    chosen_start: Offset = Field(description="first code point of the span")
    chosen_end: Offset = Field(description="code point after the span")
    chosen_eos: bool = Field(description="whether the end-of-sequence token follows and is scored")
    rejected_sample_id: SampleId = Field(description="the other sample")
    rejected_start: Offset = Field(description="first code point of the span")
    rejected_end: Offset = Field(description="code point after the span")
    rejected_eos: bool = Field(description="whether the end-of-sequence token follows and is scored")
