"""The sections of `params.yaml` that make pairs of whole samples, and put pairs together."""

from typing import Annotated, ClassVar, Literal

import annotated_types as at
from pydantic import Field, model_validator

from schemas.slots import (
    NONE,
    PairsName,
    PairsOrNone,
    Positive,
    ProblemsOrNone,
    RewardsName,
    SamplesName,
    SamplesOrNone,
    Section,
    StepLabelsOrNone,
)


class OutcomePairsRun(Section):
    """Pairs of a correct and a wrong sample of one prompt (Iterative RPO)."""

    writes: ClassVar = ("pairs",)

    samples: SamplesName
    rewards: RewardsName
    step_labels: StepLabelsOrNone = Field(
        description="right samples whose process these call wrong are on neither side; samples without a label stay"
    )
    gold: SamplesOrNone = Field(description="gold solutions that join every prompt's winners, after its own")
    k: Positive = Field(description="pairs per prompt")
    margin: Annotated[float, at.Gt(0)] = Field(
        default=1.0, description="least difference of rewards; 1 with 0/1 rewards: correct against wrong"
    )
    max_tokens: Positive | None = Field(default=None, description="limit of prompt and completion, in tokens")
    max_pairs: Positive | None = Field(default=None, description="cap by seeded subsampling (the paper: 60,000)")
    deduplicate: bool = Field(default=False, description="drop samples whose text an earlier one of the prompt has")
    repeat_pairs: bool = Field(default=True, description="the paper's rule: K above lcm(winners, losers) repeats pairs")
    chosen: Literal["correct", "gold"] = Field(
        default="correct",
        description="gold: gold solutions against all samples, whatever their verdict (SPIN, arXiv 2401.01335)",
    )

    @model_validator(mode="after")
    def _gold_is_named(self) -> "OutcomePairsRun":
        if self.chosen == "gold" and self.gold == NONE:
            raise ValueError("`chosen: gold` needs gold solutions; name a run of samples_gold in `gold`")
        return self


class UnionPairsRun(Section):
    """The pairs of up to four runs together, or those of one run that are of some problems."""

    writes: ClassVar = ("pairs",)

    a: PairsName
    b: PairsOrNone
    c: PairsOrNone
    d: PairsOrNone
    problems: ProblemsOrNone = Field(description="only pairs of these problems; the others are held out")
    deduplicate: bool = Field(default=False, description="drop a pair of the same two spans as an earlier one")

    @property
    def members(self) -> list[str]:
        """The runs that come together, in order."""
        return [run for run in (self.a, self.b, self.c, self.d) if run != NONE]

    @model_validator(mode="after")
    def _named_once(self) -> "UnionPairsRun":
        for run in self.members:
            if self.members.count(run) > 1:
                raise ValueError(f"'{run}' is named twice, and its pairs would only be repeated; name each run once")
        return self
