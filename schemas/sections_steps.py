"""The sections of `params.yaml` that find first wrong steps and make pairs of them (Step-DPO, arXiv 2406.18629)."""

from typing import Annotated, ClassVar, Literal

import annotated_types as at
from pydantic import Field, model_validator

from schemas.slots import (
    NO_FILE,
    NONE,
    ModelOrNone,
    Natural,
    Positive,
    PromptsName,
    PromptsOrNone,
    RewardsOrNone,
    SamplesName,
    Section,
    SolvedName,
    StepLabelsName,
    StepLabelsOrNone,
)

MAX_REPEATS = 100


class Judge(Section):
    """How a model is asked which step is wrong. All but `mode` is part of every question's key."""

    template: str = Field(
        default="step_judge", description="file of builders/judging/templates, or package:file@hash of one's own"
    )
    answer: Literal["schema", "text"] = Field(
        default="schema", description="schema: a structured answer is asked for; text: labels are read from the text"
    )
    temperature: Annotated[float, at.Ge(0)] = 0.0
    top_p: Annotated[float, at.Gt(0), at.Le(1)] = 1.0
    max_new_tokens: Positive = 2048
    repeats: Annotated[int, at.Ge(1), at.Le(MAX_REPEATS)] = Field(
        default=1, description="answers per sample, each with a seed of its own: how far the judge agrees with itself"
    )
    retries: Annotated[int, at.Ge(0), at.Lt(MAX_REPEATS)] = Field(
        default=0, description="how often an invalid answer is asked for again"
    )
    corrections: bool = Field(default=False, description="the judge also writes the wrong step as it should be")
    mode: Literal["online", "batch"] = Field(default="online", description="batch: the OpenAI Batch API")


class StepLabelsRun(Section):
    """First wrong steps of some samples, by a judge, a rule or humans."""

    writes: ClassVar = ("step_labels",)

    samples: SamplesName
    prompts: PromptsOrNone = Field(
        description="the samples' prompts, whose prefill begins their first step; none: for samples that answer none"
    )
    problems: SolvedName
    rewards: RewardsOrNone = Field(description="verdicts of the samples, where `select` needs them")
    labeler: Literal["judge", "rule", "human"]
    model: ModelOrNone = Field(description="the judge: a `hosted` model")
    path: str = Field(description=f"human: exported labels, or a directory of them; else {NO_FILE}")
    select: Literal["all", "wrong", "correct"] = Field(default="all", description="samples of this verdict only")
    limit: Positive | None = Field(
        default=None, description="so many samples of each source, drawn with `seed` (an audit: 30 correct ones)"
    )
    seed: int = 0
    neutral_is_error: bool = Field(
        default=True, description="a step labelled neutral counts as the first wrong one (the authors' code does that)"
    )
    judge: Judge | None = Field(default=None, description="judge: how it is asked (default: all defaults)")

    @model_validator(mode="after")
    def _labeler(self) -> "StepLabelsRun":
        if (self.labeler == "judge") != (self.model != NONE):
            raise ValueError("a judge needs a `model`, others `model: none`")
        if (self.labeler == "human") != (self.path != NO_FILE):
            raise ValueError(f"human labels need the `path` of their file, others `path: {NO_FILE}`")
        if self.labeler != "judge" and self.judge is not None:
            raise ValueError(f"judge: the labeler is `{self.labeler}`; remove it")
        if self.labeler == "rule" and self.neutral_is_error:
            raise ValueError(
                "neutral_is_error: the rule calls every step without an equation neutral; say `neutral_is_error: false`"
            )
        if self.select != "all" and self.rewards == NONE:
            raise ValueError(f"rewards: `select: {self.select}` needs the verdicts of the samples; name their run")
        return self


class StepPromptsRun(Section):
    """Prompts that stop before the first wrong step: the correct steps and its marker are the start of the answer."""

    writes: ClassVar = ("prompts",)

    samples: SamplesName
    prompts: PromptsName = Field(description="the samples' own prompts")
    step_labels: StepLabelsName


class CorrectionsRun(Section):
    """Corrected steps that labelers wrote, as samples of the step prompts (Step-DPO's out-of-distribution pairs)."""

    writes: ClassVar = ("samples",)

    samples: SamplesName = Field(description="the samples with a wrong step")
    prompts: PromptsName = Field(description="their own prompts")
    step_labels: StepLabelsName
    step_prompts: PromptsName = Field(description="the run of `prompts_step` that was made of them")
    model: ModelOrNone = Field(description="whose tokenizer counts tokens")


class StepPairsRun(Section):
    """Pairs of one step: its correction against the first wrong step, after the same correct steps."""

    writes: ClassVar = ("pairs",)

    rejected: SamplesName = Field(description="the samples with a wrong step")
    rejected_prompts: PromptsName = Field(description="their own prompts")
    step_labels: StepLabelsName
    prompts: PromptsName = Field(description="the run of `prompts_step` that was made of them")
    chosen: SamplesName = Field(description="continuations of these prompts, or corrections")
    rewards: RewardsOrNone = Field(description="verdicts of the continuations; none: all count as correct")
    judged: StepLabelsOrNone = Field(description="labels of the continuations: those with a wrong step are dropped")
    span: Literal["step", "completion"] = Field(
        default="step", description="completion: both sides to their ends, as plain DPO on the same problems has them"
    )
    min_accuracy: Annotated[float, at.Ge(0), at.Le(1)] = Field(
        default=0.0, description="least share of a prefix's continuations that are correct"
    )
    max_per_prompt: Positive | None = Field(default=None, description="pairs per prefix, the first ones by index")
    max_tokens: Positive | None = Field(default=None, description="limit of prompt and completion, in tokens")


class ImportedPairsRun(Section):
    """Step pairs in the columns of the published Math-Step-DPO-10K."""

    writes: ClassVar = ("problems", "answers", "prompts", "samples", "pairs")

    path: str = Field(description=f"Parquet or JSONL file; {NO_FILE}: from the Hub")
    revision: str | None = Field(default=None, description="pinned revision of the Hub data set")
    hub: str | None = Field(default=None, description="Hub data set of these columns, instead of the authors' own")
    files: str = Field(default="data/{split}-*.parquet", description="its files there")
    split: str = "train"
    template: str = Field(default="step_dpo", description="how the question is asked")
    rendering: Literal["chat", "text"] = "chat"
    licence: str = Field(default="unknown", description="licence of the rows")
    span: Literal["step", "completion"] = Field(
        default="step", description="completion: both sides to the ends of their full texts, as plain DPO has them"
    )
    skip: Natural = 0
    limit: Positive | None = None
