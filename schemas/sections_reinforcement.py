"""The sections of `params.yaml` for reinforcement learning on the pipeline's own rewards, and for reward models."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import annotated_types as at
from pydantic import Field, model_validator

from schemas.sections_training import LearningRun, TrainingRun
from schemas.slots import (
    NONE,
    AnsweredName,
    Checker,
    DemosOrNone,
    ModelName,
    ModelOrNone,
    Natural,
    PartialReward,
    PartialRule,
    Positive,
    PromptsName,
    RewardsName,
    SamplesName,
    SamplingName,
    Section,
)

if TYPE_CHECKING:
    from schemas.params import Params, Reference


class AdaptiveKl(Section):
    """β follows the KL to a target (Ziegler et al. 2019, arXiv 1909.08593, §2.2)."""

    target: Annotated[float, at.Gt(0)] = Field(description="mean summed KL per rollout, in nats")
    horizon: Positive = Field(description="rollouts in which β adapts")


class Stops(Section):
    """When training ends with an error rather than go on from what cannot recover."""

    max_kl: Annotated[float, at.Gt(0)] = Field(default=50.0, description="mean summed KL per rollout, in nats")
    min_entropy: Annotated[float, at.Ge(0)] = Field(default=0.0, description="mean entropy of a token, in nats; 0: off")
    constant_reward: Natural = Field(
        default=50, description="steps in a row whose rewards are all the same, so that nothing is learnt; 0: off"
    )


_PPO_ONLY = {
    "beta", "adaptive_kl", "gamma", "lam", "value_lam", "clip", "value_clip", "value_coefficient", "whiten",
    "critic_warmup",
}  # fmt: skip


class PpoRun(TrainingRun):
    """Online learning from rewards of a model's own completions: PPO as ReFT has it, or online self-training.

    `optimizer.batch_size` counts the rollouts of a step, `optimizer.epochs` the passes over the prompts.
    """

    writes: ClassVar = ("models", "training", "samples", "predictions", "rewards", "rollouts")

    prompts: PromptsName
    problems: AnsweredName
    algorithm: Literal["ppo", "online_st"] = Field(
        default="ppo", description="online_st: imitates its correct rollouts and gold chains instead (ReFT's baseline)"
    )
    demos: DemosOrNone = Field(description="gold chains of the same prompts (online_st)")
    value_model: ModelOrNone = Field(description="none: a value head on the policy's own trunk")
    engine: Literal["hf", "vllm"]
    sampling: SamplingName = Field(description="of rollouts: temperature 1 and top_p 1, or ratios are wrong")
    rollout_batch: Positive = Field(default=256, description="completions that the engine draws together")
    checker: Checker = "auto"
    partial: PartialRule = "paper"
    partial_reward: PartialReward = 0.1
    wrong_steps: Literal["auto", "ignore", "log", "zero"] = Field(
        default="auto",
        description="right answers with a wrong step, by rule: logged, or rewarded like no answer; auto: logged where"
        " questions have options",
    )
    ppo_epochs: Positive = Field(default=2, description="passes over each step's rollouts (U)")
    mini_batch: Positive | None = Field(default=None, description="rollouts of one update; none: all of a step's")
    beta: Annotated[float, at.Ge(0)] = Field(default=0.05, description="weight of the KL penalty in the reward")
    adaptive_kl: AdaptiveKl | None = None
    gamma: Annotated[float, at.Gt(0), at.Le(1)] = 1.0
    lam: Annotated[float, at.Ge(0), at.Le(1)] = Field(default=0.95, description="λ of the advantages (GAE)")
    value_lam: Annotated[float, at.Ge(0), at.Le(1)] | None = Field(
        default=None, description="λ of the returns that the value learns; none: as `lam`"
    )
    clip: Annotated[float, at.Gt(0)] = 0.2
    value_clip: Annotated[float, at.Gt(0)] = 0.2
    value_coefficient: Annotated[float, at.Ge(0)] = 5.0
    whiten: bool = Field(default=True, description="advantages to mean 0 and variance 1 over a step's tokens")
    critic_warmup: Natural = Field(default=0, description="first steps that train the value alone")
    mask_truncated: bool = Field(default=False, description="train nothing on rollouts that the token limit cut")
    stops: Stops = Stops()

    @model_validator(mode="after")
    def _algorithm(self) -> "PpoRun":
        if (self.algorithm == "online_st") != (self.demos != NONE):
            raise ValueError("demos: gold chains are for `algorithm: online_st`, which needs them; else write `none`")
        if self.algorithm == "online_st" and self.value_model != NONE:
            raise ValueError("value_model: `online_st` has no value; write `none`")
        if self.algorithm == "online_st" and (unused := sorted(_PPO_ONLY & self.model_fields_set)):
            raise ValueError(f"{unused[0]}: `online_st` has neither KL penalty nor advantages; remove it")
        if self.mini_batch and self.mini_batch > self.optimizer.batch_size:
            raise ValueError("mini_batch: more than optimizer.batch_size, the rollouts of a step; lower it")
        if self.algorithm == "ppo" and self.lora and self.lora.dropout:
            raise ValueError("lora.dropout: ratios would be those of the dropout; set it to 0")
        return self


class RewardModelRun(LearningRun):
    """A classifier of samples, correct or not: a two-class head on a completion's last token (ReFT, §4.3).

    `optimizer.batch_size` counts samples. Samples that are too long for `max_tokens` are rejects.
    """

    writes: ClassVar = ("models", "training")

    samples: SamplesName
    rewards: RewardsName
    deduplicate: bool = Field(default=True, description="drop samples whose text an earlier one of the prompt has")


class ScoresRun(Section):
    """P(correct) of samples under a reward model."""

    writes: ClassVar = ("scores",)

    samples: SamplesName
    model: ModelName = Field(description="a model of `reward_model`")
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_tokens: Positive = 16384
    max_tokens: Positive = 1024


def samplings(params: "Params") -> Iterator[str]:
    """Sampling of rollouts from another distribution than the policy's own: then ratios would be wrong."""
    for name, run in params.ppo.items():
        sampling = params.sampling.get(run.sampling)
        if sampling and (sampling.temperature != 1 or sampling.top_p != 1):
            found = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}"
            yield (
                f"ppo.{name}.sampling: '{run.sampling}' has {found}, but what is learnt from must be drawn from the"
                " policy itself; name an entry with temperature 1 and top_p 1"
            )


_LEARN = ("sft", "preference", "ppo")
"""Sections whose runs are language models."""


def mistakes(models: Mapping[str, str], named: Iterable["Reference"]) -> Iterator[str]:
    """Reward models where a language model is needed, and the other way around.

    `models`: run -> the section that makes it; `named`: all references to models. A model that is made elsewhere may be
    either; the stage that loads it tells.
    """
    for ref in named:
        made, scoring = models.get(ref.value), ref.place[0] == "scores"
        if made == "reward_model" and ref.place[0] not in ("reward_model", "scores"):
            yield f"{ref.where}: '{ref.value}' is a reward model, which only scores texts; name a language model"
        if scoring and made in _LEARN:
            yield f"{ref.where}: '{ref.value}' is a language model, of {made}; name a run of reward_model"
