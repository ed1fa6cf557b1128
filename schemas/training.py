"""What training logged."""

from typing import Annotated, ClassVar

import annotated_types as at
import pyarrow as pa
from pydantic import Field

from schemas.base import Int32, Row


class TrainingStep(Row):
    """One row per logged training step. No timings: those depend on the machine and live beside the ledger, from where
    the view `training_speed` gives them by run and step.

    A step of `ppo` is one batch of rollouts, with all updates on it. What it says of rollouts is of the policy that
    drew them, before these updates; losses and shares of clipped tokens are means over the updates.

    Log-probs, margin and accuracy of preference training are means over the step's batch; in the last row, which no
    batch follows, over at most 128 evenly spaced training pairs. Fine-tuning measures the watched pairs in every row. A
    reward model's loss and accuracy are of samples in place of pairs.
    """

    table: ClassVar = "training"
    version: ClassVar = 3
    key: ClassVar = ("step",)

    step: Annotated[Int32, at.Ge(0)] = Field(
        description="optimizer steps taken when this was measured (ppo: batches of rollouts)"
    )
    epoch: float = Field(description="passes over the data so far")
    loss: float | None = Field(description="mean loss of the step's batch; null where only validation ran")
    preference_loss: float | None = Field(description="its preference part: DPO, IPO, or ORPO before λ")
    nll_loss: float | None = Field(description="its negative log-likelihood part, before α")
    chosen_logprob: float | None = Field(description="mean summed log-prob of chosen spans under the policy, nats")
    rejected_logprob: float | None = Field(description="the same for the rejected spans")
    margin: float | None = Field(description="mean β-scaled reward margin, chosen minus rejected; orpo: log odds ratio")
    accuracy: float | None = Field(
        description="share of pairs whose margin is positive; reward model: of samples classified right"
    )
    validation_accuracy: float | None = Field(
        description="greedy accuracy on the validation problems; with labels: agreement"
    )
    lr: float | None = Field(description="learning rate of the step")
    grad_norm: float | None = Field(description="gradient norm before clipping")
    n_sequences: Int32 = Field(description="completions in the step's batch")
    n_tokens: int = Field(description="scored tokens in the step's batch")
    reward: float | None = Field(default=None, description="mean reward of the step's rollouts, as trained on")
    correct: float | None = Field(default=None, description="share of correct ones among the decided rollouts")
    kl: float | None = Field(default=None, description="mean summed KL of a rollout from the reference, nats (k1)")
    kl_k3: float | None = Field(default=None, description="the same by k3, which is never negative")
    entropy: float | None = Field(default=None, description="mean entropy of a token's distribution, nats")
    policy_loss: float | None = Field(default=None, description="clipped policy loss")
    value_loss: float | None = Field(default=None, description="clipped value loss, before its coefficient")
    clip_fraction: float | None = Field(default=None, description="share of tokens whose ratio is outside of the clip")
    value_clip_fraction: float | None = Field(default=None, description="the same for values")
    explained_variance: float | None = Field(
        default=None, description="1 - Var(return - value)/Var(return) over tokens; null where returns do not vary"
    )
    sampler_gap: float | None = Field(
        default=None, description="mean |log-prob by the sampler - by the trainer| of a token, nats"
    )
    beta: float | None = Field(default=None, description="weight of the KL penalty")
    wrong_steps: float | None = Field(
        default=None, description="share with a wrong step, by rule, of correct rollouts that were looked at"
    )
    n_truncated: Annotated[int | None, pa.int32()] = Field(default=None, description="rollouts that the limit cut")
    n_undecided: Annotated[int | None, pa.int32()] = Field(
        default=None, description="rollouts without a verdict, which train nothing"
    )
    n_useful_tokens: int | None = Field(
        default=None, description="tokens trained on, each sequence with a prompt of its own (ppo: over all updates)"
    )
    n_computed_tokens: int | None = Field(
        default=None, description="places of their rows: what is shared once, and padding"
    )
    sharing: float | None = Field(default=None, description="useful tokens per token that is in the rows")
    padding: float | None = Field(default=None, description="share of the computed places that hold no token")
