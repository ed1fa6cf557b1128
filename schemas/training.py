"""What training logged."""

from typing import Annotated, ClassVar

import annotated_types as at
from pydantic import Field

from schemas.base import Int32, Row


class TrainingStep(Row):
    """One row per logged training step. No timings: those depend on the machine and live beside the ledger.

    Log-probs, margin and accuracy of preference training are means over the step's batch; in the last row, which no
    batch follows, over at most 128 evenly spaced training pairs. Fine-tuning measures the watched pairs in every row.
    """

    table: ClassVar = "training"
    key: ClassVar = ("step",)

    step: Annotated[Int32, at.Ge(0)] = Field(description="optimizer steps taken when this was measured")
    epoch: float = Field(description="passes over the data so far")
    loss: float | None = Field(description="mean loss of the step's batch; null where only validation ran")
    preference_loss: float | None = Field(description="its preference part: DPO, IPO, or ORPO before λ")
    nll_loss: float | None = Field(description="its negative log-likelihood part, before α")
    chosen_logprob: float | None = Field(description="mean summed log-prob of chosen spans under the policy, nats")
    rejected_logprob: float | None = Field(description="the same for the rejected spans")
    margin: float | None = Field(description="mean β-scaled reward margin, chosen minus rejected; orpo: log odds ratio")
    accuracy: float | None = Field(description="share of pairs whose margin is positive")
    validation_accuracy: float | None = Field(
        description="greedy accuracy on the validation problems; with labels: agreement"
    )
    lr: float | None = Field(description="learning rate of the step")
    grad_norm: float | None = Field(description="gradient norm before clipping")
    n_sequences: Int32 = Field(description="completions in the step's batch")
    n_tokens: int = Field(description="scored tokens in the step's batch")
