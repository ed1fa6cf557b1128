"""The training sections of `params.yaml`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import annotated_types as at
from pydantic import Field, model_validator

from schemas.slots import (
    NONE,
    AnsweredOrNone,
    Checker,
    DemosName,
    ModelName,
    PairsName,
    PairsOrNone,
    Positive,
    PredictionsOrNone,
    ProblemsOrNone,
    PromptsOrNone,
    ReferenceOrNone,
    SamplingName,
    Section,
    TrainingOrNone,
    quoted,
)

if TYPE_CHECKING:
    from schemas.params import Params


class Optimizer(Section):
    """AdamW and its schedule."""

    lr: Annotated[float, at.Gt(0)]
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Annotated[float, at.Ge(0), at.Lt(1)] = Field(default=0.0, description="share of the steps")
    weight_decay: Annotated[float, at.Ge(0)] = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: Annotated[float, at.Gt(0)] = 1.0
    batch_size: Positive = Field(description="sequences (sft) or pairs (preference) per optimizer step")
    micro_tokens: Positive = Field(
        default=16384, description="tokens of one forward; splits a batch, changes no result"
    )
    epochs: Annotated[float, at.Gt(0)] | None = None
    steps: Positive | None = Field(
        default=None, description="optimizer steps; exactly one of `epochs`, `steps`, the run's `steps_from`"
    )


class Lora(Section):
    """Low-rank adapters (peft); the saved model has them merged."""

    rank: Positive = 8
    alpha: Annotated[float, at.Gt(0)] = 16.0
    dropout: Annotated[float, at.Ge(0), at.Lt(1)] = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"


class Validation(Section):
    """Greedy accuracy during training; the best checkpoint is kept. Never on a test split.

    With `labels` no gold is read: a completion is right where its normalised answer is the label's, found and
    normalised by the checker that made the labels.
    """

    prompts: PromptsOrNone
    problems: AnsweredOrNone = Field(description="problems with gold answers")
    questions: ProblemsOrNone = Field(description="problems of which no answer is read; with `labels`")
    labels: PredictionsOrNone = Field(description="answers that stand for gold, such as a weak model's")
    sampling: SamplingName
    every: Positive = Field(default=100, description="steps between validations; the last step is validated too")
    checker: Checker = "auto"

    @model_validator(mode="after")
    def _answers(self) -> "Validation":
        if self.prompts == NONE:
            return self
        gold, questions, labels = (name != NONE for name in (self.problems, self.questions, self.labels))
        if questions != labels:
            raise ValueError("questions: they and `labels` go together; name both, or write `none` for both")
        if gold == labels:
            raise ValueError(
                f"problems: name the problems run of prompts run '{self.prompts}' either here, for its gold answers, or"
                " in `questions`, with `labels` in their place; and `none` for the other"
            )
        if labels and self.checker != "auto":
            raise ValueError("checker: the one that made the labels decides; remove it")
        return self

    @property
    def asked(self) -> str:
        """The problems run that completions are compared on."""
        return self.problems if self.labels == NONE else self.questions


class LearningRun(Section):
    """What all stages share that train a model."""

    model: ModelName = Field(description="the model that training starts from")
    optimizer: Optimizer
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    max_tokens: Positive = Field(default=1024, description="longest prompt and completion; longer ones are errors")
    log_every: Positive = 10
    checkpoint_every: Positive = Field(default=200, description="steps between checkpoints that a killed run resumes")

    @model_validator(mode="after")
    def _length(self) -> Self:
        if len(_lengths(self.optimizer)) != 1:
            raise ValueError("optimizer: give exactly one of `epochs`, `steps`")
        return self


def _lengths(optimizer: Optimizer) -> list[str]:
    """What an optimizer says of how long to train."""
    return [name for name in ("epochs", "steps") if getattr(optimizer, name) is not None]


class TrainingRun(LearningRun):
    """What all stages share that train a language model: it can be validated, and the best checkpoint selected."""

    steps_from: TrainingOrNone = Field(
        description="train for as many steps as this run's best checkpoint had (it held problems out to select one)"
    )
    validation: Validation

    @model_validator(mode="after")
    def _length(self) -> Self:
        given = _lengths(self.optimizer)
        if self.steps_from != NONE and given:
            raise ValueError(f"`steps_from` says how long to train; remove optimizer.{given[0]}")
        if self.steps_from == NONE and len(given) != 1:
            raise ValueError("optimizer: give exactly one of `epochs`, `steps` (or name a run in `steps_from`)")
        return self


class SftRun(TrainingRun):
    """Supervised fine-tuning on demos."""

    writes: ClassVar = ("models", "training")

    demos: DemosName
    watch: PairsOrNone = Field(description="pairs whose chosen and rejected log-probs are logged")
    watch_limit: Positive = Field(default=128, description="pairs of `watch` that are scored, evenly spaced")
    reduction: Literal["sequence", "token"] = Field(
        default="sequence", description="mean per sequence, then over the batch; or mean over the batch's tokens"
    )


class ReferenceRun(Section):
    """Log-probs of a pairs run under a frozen model."""

    writes: ClassVar = ("reference_logprobs",)

    pairs: PairsName
    model: ModelName
    mismatched: bool = Field(
        default=False, description="whether each pair's prompt is scored with completions of another problem too (kto)"
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_tokens: Positive = 16384
    max_tokens: Positive = 1024


class PreferenceRun(TrainingRun):
    """Preference optimisation on pairs."""

    writes: ClassVar = ("models", "training")

    pairs: PairsName
    reference: ReferenceOrNone = Field(description="none: orpo, which has no reference model")
    loss: Literal["dpo", "dpo_nll", "orpo", "ipo", "kto"]
    beta: Annotated[float, at.Gt(0)] = Field(default=0.1, description="β of dpo, dpo_nll and kto; τ of ipo")
    alpha: Annotated[float, at.Ge(0)] = Field(default=1.0, description="weight of the NLL term (dpo_nll)")
    lambda_orpo: Annotated[float, at.Ge(0)] = Field(
        default=0.1, description="weight of the odds-ratio term (orpo); the default is ours, and TRL's"
    )
    desirable_weight: Annotated[float, at.Ge(0)] = Field(default=1.0, description="λ_D (kto): of chosen spans")
    undesirable_weight: Annotated[float, at.Ge(0)] = Field(default=1.0, description="λ_U (kto): of rejected spans")
    group_prompts: bool = Field(
        default=False, description="a step draws `batch_size` prompts, each with all of its pairs, instead of pairs"
    )

    @property
    def mismatched(self) -> bool:
        """Whether the loss compares with completions of other problems."""
        return self.loss == "kto"

    @model_validator(mode="after")
    def _reference(self) -> "PreferenceRun":
        if self.loss == "orpo" and self.reference != NONE:
            raise ValueError("reference: loss 'orpo' has no reference model; write `none`")
        if self.loss != "orpo" and self.reference == NONE:
            raise ValueError(f"reference: loss '{self.loss}' compares with a reference; name a run of `reference`")
        return self


def mistakes(params: "Params") -> Iterator[str]:
    """What is wrong with training runs beside each other."""
    yield from _references(params)
    yield from _selections(params)
    for section, runs in _training(params).items():
        for name, run in runs.items():
            if (labels := run.validation.labels) in params.predictions_import:
                yield (
                    f"{section}.{name}.validation.labels: the answers of '{labels}' were found elsewhere, by no checker"
                    " of these; name a run of `predictions` over its samples"
                )


def _training(params: "Params") -> dict[str, Mapping[str, TrainingRun]]:
    """Section -> its runs; reward models have neither validation nor `steps_from`."""
    sections = ("sft", "preference", "ppo")
    return {section: getattr(params, section) for section in sections}


def _references(params: "Params") -> Iterator[str]:
    """A loss starts where its reference is (dpo: at log 2) only where policy and reference are computed alike."""
    for name, run in params.preference.items():
        reference = params.reference.get(run.reference)
        if reference is None:
            continue
        if reference.precision != run.precision:
            yield (
                f"preference.{name}.precision: '{run.precision}', but reference.{run.reference}.precision is"
                f" '{reference.precision}'; set both to the same"
            )
        if run.mismatched and not reference.mismatched:
            yield (
                f"preference.{name}.reference: loss 'kto' needs log-probs of mismatched completions; set"
                f" reference.{run.reference}.mismatched to true"
            )


def _selections(params: "Params") -> Iterator[str]:
    """A number of steps means the same only in training of the same kind, with batches of the same size."""
    sections = _training(params)
    for section, runs in sections.items():
        for name, run in runs.items():
            place, source = f"{section}.{name}.steps_from", runs.get(run.steps_from)
            if run.steps_from == NONE:
                continue
            if run.steps_from == name:
                yield f"{place}: '{name}' cannot take its steps from itself; name the run that held problems out"
            elif source is None:
                if any(run.steps_from in others for others in sections.values()):
                    yield f"{place}: '{run.steps_from}' is no run of {section}; name one (have {quoted(runs)})"
            elif source.validation.prompts == NONE:
                yield f"{place}: '{run.steps_from}' selects no step: it has no validation.prompts; give it some"
            elif source.optimizer.batch_size != run.optimizer.batch_size:
                sizes = f"{source.optimizer.batch_size} against {run.optimizer.batch_size}"
                yield f"{place}: '{run.steps_from}' has another optimizer.batch_size ({sizes}); set both to the same"
