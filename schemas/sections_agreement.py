"""The sections of `params.yaml` that work without gold: agreement, votes, and what is chosen by them."""

from typing import Annotated, ClassVar, Literal

import annotated_types as at
from pydantic import Field, model_validator

from schemas.slots import (
    NONE,
    AgreementsOrNone,
    Checker,
    Natural,
    Positive,
    PredictionsName,
    PredictionsOrNone,
    ProblemsName,
    PromptsName,
    SamplesName,
    SamplesOrNone,
    Section,
    VotesName,
)

Share = Annotated[float, at.Ge(0), at.Le(1)]


class ImportedPredictionsRun(Section):
    """Answers that were found elsewhere, in a user's file, as the predictions of an imported samples run."""

    writes: ClassVar = ("predictions",)

    samples: SamplesName
    problems: ProblemsName
    path: str = Field(description="JSONL (also .gz), CSV or Parquet")
    columns: dict[Literal["question", "problem_id", "text", "index", "prediction"], str] = Field(
        description="our name -> the file's column; `prediction`, `text` and one of `question`, `problem_id` are needed"
    )

    checker: Checker = Field(default="auto", description="what compares them with gold; auto: by the answer_kind")

    @model_validator(mode="after")
    def _columns(self) -> "ImportedPredictionsRun":
        if not {"text", "prediction"} <= set(self.columns) or not {"question", "problem_id"} & set(self.columns):
            raise ValueError("columns: `prediction`, `text` and one of `question`, `problem_id` must be mapped")
        return self


class ConsistencyRun(Section):
    """Final-answer agreement of two runs of predictions, problem by problem."""

    writes: ClassVar = ("agreements",)

    a: PredictionsName = Field(description="answers of the weak model")
    b: PredictionsName = Field(description="answers of the strong model with demonstrations; or of any other run")
    top_up: Positive | None = Field(
        default=None,
        description="keep at least so many problems: where fewer agree, others that both runs answer are added in a"
        " seeded order (the paper adds some on MATH, and does not say which)",
    )
    seed: Natural = Field(default=0, description="of the order in which `top_up` adds problems")


class VotesRun(Section):
    """The majority answer of every prompt's samples."""

    writes: ClassVar = ("votes",)

    samples: SamplesName
    predictions: PredictionsName
    empty_counts: bool = Field(
        default=True, description="whether samples that state no answer vote, for none (the paper's rule)"
    )


class VoteRewardsRun(Section):
    """Rewards by the majority's answer in the place of gold."""

    writes: ClassVar = ("rewards",)

    predictions: PredictionsName
    votes: VotesName
    threshold: Share = Field(default=0.6, description="least confidence; below it all samples are undecided")


class ConsistentDemosRun(Section):
    """Samples of the problems whose answers agree, as fine-tuning examples under the prompts of one run."""

    writes: ClassVar = ("demos",)

    samples: SamplesName
    other: SamplesOrNone = Field(description="further samples, for a hybrid: two demos per problem")
    prompts: PromptsName = Field(description="zero-shot prompts that the demos are put under")
    agreements: AgreementsOrNone = Field(description="none: all samples (full-weak-ft; gold samples: the ceiling)")
    max_tokens: Positive | None = Field(default=None, description="limit of the completion, in tokens")


class ContrastPairsRun(Section):
    """Pairs of a weak model's sample and one of the strong model's, by the strong model's own majority."""

    writes: ClassVar = ("pairs",)

    samples: SamplesName
    predictions: PredictionsName
    votes: VotesName
    weak: SamplesOrNone = Field(description="the weak model's samples; none: both sides are the strong model's")
    weak_predictions: PredictionsOrNone
    k: Positive = Field(default=1, description="pairs per prompt (the paper: 1 on GSM8K, up to 3 on MATH)")
    threshold: Share = Field(default=0.6, description="least confidence of the majority (τ)")
    reject_threshold: Share = Field(
        default=0.8, description="least confidence to reject the weak sample; as `threshold`: the paper's one threshold"
    )
    max_tokens: Positive | None = Field(default=None, description="limit of prompt and completion, in tokens")

    @model_validator(mode="after")
    def _weak_side(self) -> "ContrastPairsRun":
        if (self.weak == NONE) != (self.weak_predictions == NONE):
            raise ValueError("weak: samples and `weak_predictions` go together; name both, or write `none` for both")
        if self.reject_threshold < self.threshold:
            raise ValueError("reject_threshold: below `threshold`, which pairs are made from first; raise it")
        return self
