"""Candidates that a stage dropped, with the reason: the funnel is a query."""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.base import Row

Reason = Literal[
    "duplicate",  # the same problem, text or pair was already there
    "no_answer",  # the source states no final answer
    "empty",  # no text
    "unknown_problem",  # an imported row answers no problem of the run
    "unknown_prompt",  # no prompt of the run asks this problem
    "over_long",  # prompt and completion exceed the token limit
    "truncated",  # a completion without an ending, where one is needed
    "no_chosen",  # no correct sample
    "no_rejected",  # no wrong sample
    "undecided",  # the checker could not tell
    "wrong",  # a wrong sample, where correct ones are wanted
    "held_out",  # the problem is not among those that a run is restricted to
    "capped",  # above the limit per problem or per run
    "no_solution",  # the problem has no human solution
    "refused",  # the server will not answer this request, however often it is asked
    "correct",  # a correct sample, where wrong ones are wanted
    "no_error",  # no step is wrong
    "invalid",  # the labeler's answer does not say which step is wrong
    "disputed",  # labels of one sample name different steps
    "unlabeled",  # no label where one is needed
    "wrong_step",  # a right answer with a wrong step on the way
    "low_accuracy",  # too few continuations of a prefix are correct
    "no_correction",  # the labeler did not write the step as it should be
    "near_duplicate",  # a problem before it is almost the same
    "contaminated",  # a problem of a test set is the same, almost the same, or shares an n-gram with it
    "unpaired",  # the other run has no sample of the problem
    "disagreeing",  # the two answers differ, or one is missing
    "unsupported_answer",  # no checker compares answers of this type
    "other_language",  # the source is read in one language, and this row is in another
    "low_confidence",  # too few of the samples state the majority's answer
]


class Reject(Row):
    """One row per dropped candidate."""

    table: ClassVar = "rejects"
    key: ClassVar = ("problem_id", "prompt_id", "sample_id", "reason", "detail")
    unique: ClassVar = False
    dictionary: ClassVar = ("reason", "detail")

    problem_id: str | None = Field(default=None, description="the problem, where there is one")
    prompt_id: str | None = Field(default=None, description="the prompt, where there is one")
    sample_id: str | None = Field(default=None, description="the sample, where there is one")
    reason: Reason = Field(description="why it was dropped")
    detail: str = Field(default="", description="what a person needs to find and mend it")
