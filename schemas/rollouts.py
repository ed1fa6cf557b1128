"""What reinforcement learning knew of each completion that it sampled, beside the sample and its reward."""

from typing import Annotated, ClassVar

import annotated_types as at
from pydantic import Field

from schemas.base import Int32, Row, SampleId


class Rollout(Row):
    """One row per rollout: the step that drew it, and its log-probs, value and return before the step's updates.

    Log-probs are sums over the completion's scored tokens, in nats.
    """

    table: ClassVar = "rollouts"
    key: ClassVar = ("sample_id",)
    references: ClassVar = {"sample_id": "samples"}
    dictionary: ClassVar = ("step",)

    sample_id: SampleId = Field(description="the completion")
    step: Annotated[Int32, at.Ge(0)] = Field(description="0-based step of the run that drew it")
    score: float | None = Field(description="reward as it was trained on; null: undecided, which trains nothing")
    n_tokens: Annotated[Int32, at.Ge(1)] = Field(description="scored tokens")
    logprob: float = Field(description="under the policy that drew it, as the trainer computes it")
    reference_logprob: float = Field(description="under the frozen reference")
    sampler_gap: float | None = Field(
        description="mean over tokens of |log-prob by the sampler - by the trainer|; null: the sampler gives none"
    )
    value: float | None = Field(description="value of the prompt, before the first token; null: no value model")
    reward_to_go: float | None = Field(
        description="return of the first token, KL penalties included; null: no value model, or undecided"
    )
