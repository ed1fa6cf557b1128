"""The section `export` of `params.yaml`: data set releases, as directories that the Hub and trainers read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import annotated_types as at
from pydantic import Field, model_validator

from schemas.slots import NONE, ModelOrNone, Section, Slot

if TYPE_CHECKING:
    from schemas.params import Params

CONFIGS = ("pairs", "step_pairs", "demos", "samples", "rewards", "step_labels")
"""Configs of a release, in order: the first one that a release has is its default."""

TABLE_OF = {name: name for name in CONFIGS} | {"step_pairs": "pairs"}
"""Config -> the table that its rows come from."""


_LANGUAGE = "^([a-z]{2,3}|code|multilingual)$"
"""What the Hub takes for a language."""


class ExportRun(Section):
    """One release: the runs that it holds, with their texts."""

    rejects: ClassVar = False

    pairs: Annotated[list[str], Slot("pairs")] = Field(default=[], description="pairs of whole completions")
    step_pairs: Annotated[list[str], Slot("pairs")] = Field(default=[], description="pairs of single steps")
    demos: Annotated[list[str], Slot("demos")] = Field(default=[], description="fine-tuning examples")
    samples: Annotated[list[str], Slot("samples")] = Field(default=[], description="completions")
    rewards: Annotated[list[str], Slot("rewards")] = Field(default=[], description="verdicts")
    step_labels: Annotated[list[str], Slot("step_labels")] = Field(default=[], description="first wrong steps")
    format: Literal["standard", "conversational"] = Field(
        default="standard", description="prompts and completions of pairs and demos as strings, or as messages"
    )
    model: ModelOrNone = Field(description="whose chat template renders prompts of `rendering: chat` as strings")
    licence: str | None = Field(
        default=None, description="licence of the release; default: the one of a source that covers those of all"
    )
    pretty_name: str | None = Field(default=None, description="title of the card (default: the release's name)")
    description: str = Field(default="", description="first paragraph of the card")
    language: list[Annotated[str, Field(pattern=_LANGUAGE)]] = Field(default=["en"], description="ISO 639 codes")
    test_answers: bool = Field(
        default=False, description="keep rows of problems whose split is test; they give gold answers away"
    )
    shard_mb: Annotated[int, at.Ge(1), at.Le(5000)] = Field(default=500, description="largest shard, in megabytes")

    @model_validator(mode="after")
    def _runs(self) -> "ExportRun":
        if not any(self.runs(config) for config in CONFIGS):
            raise ValueError(f"a release of nothing; name runs under one of {', '.join(CONFIGS)}")
        for config in CONFIGS:
            twice = [name for name in self.runs(config) if self.runs(config).count(name) > 1]
            if twice:
                raise ValueError(f"{config}: '{twice[0]}' is named twice; name it once")
        return self

    def runs(self, config: str) -> list[str]:
        """The runs of one config, in order."""
        return getattr(self, config)


def messages_in(release: ExportRun, config: str) -> bool:
    """Whether prompts and completions of a config are messages. Steps never are: they end no turn."""
    return config in ("pairs", "demos") and release.format == "conversational"


def is_steps(params: "Params", run: str) -> bool:
    """Whether the pairs of a run are single steps; of a union, whether those of all its members are."""
    for section in ("pairs_outcome", "pairs_step", "pairs_import", "pairs_union"):
        made: Any = getattr(params, section).get(run)
        if made is not None:
            members = getattr(made, "members", None)
            return all(is_steps(params, m) for m in members) if members else getattr(made, "span", None) == "step"
    return False


def mistakes(params: "Params") -> Iterator[str]:
    """What is wrong with releases, where all references resolve."""
    for name, release in params.export.items():
        for run in release.pairs:
            if is_steps(params, run):
                yield f"export.{name}.pairs: '{run}' holds single steps; name it under `step_pairs`"
        for run in release.step_pairs:
            if not is_steps(params, run):
                yield f"export.{name}.step_pairs: '{run}' holds whole completions; name it under `pairs`"
        if release.format == "conversational" and not (release.pairs or release.demos):
            yield f"export.{name}.format: only pairs and demos can be conversational; remove it"
        if release.model != NONE and release.model in params.models and params.models[release.model].script:
            yield f"export.{name}.model: '{release.model}' is a script, which has no chat template; name another"
