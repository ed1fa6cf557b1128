"""The section `report` of `params.yaml`: what the report shows beside what is built."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import annotated_types as at
from pydantic import Field, model_validator

from schemas.slots import AgreementsName, PairsName, ReferenceName, Section, StepLabelsName, VotesName, quoted

if TYPE_CHECKING:
    from schemas.params import Params

NOISY = ("pairs_contrast", "pairs_outcome")
"""Sections of pairs whose label noise can be measured: each side is one whole sample, with predictions."""


class Comparison(Section):
    """Two evaluated models compared problem by problem."""

    baseline: str
    candidate: str


class Judging(Section):
    """How well a trained model tells chosen from rejected in pairs, by log-probs of two `reference` runs."""

    model: ReferenceName = Field(description="log-probs of the pairs under the trained model")
    start: ReferenceName = Field(description="log-probs of the same pairs under the model that it was trained from")
    beta: Annotated[float, at.Gt(0)] = Field(default=0.1, description="scale of the reward margin, as in training")


class Calibration(Section):
    """Step labels that are scored against those of humans."""

    labels: StepLabelsName
    humans: StepLabelsName


class WeakToStrong(Section):
    """How far supervision by a weak model brings a strong one, and how right the answers are that take gold's place."""

    floor: str = Field(description="evaluated model that supervises: the weak one, trained on its own problems")
    ceiling: str = Field(description="evaluated model that gold supervised: the strong one's most")
    models: list[str] = Field(default=[], description="evaluated models whose performance gap recovered is shown")
    consistency: list[AgreementsName] = Field(default=[], description="filters: their precision and recall")
    votes: list[VotesName] = Field(default=[], description="majorities: how often they are right, by threshold")
    pairs: list[PairsName] = Field(default=[], description="pairs made without gold: how many sides are right")

    @model_validator(mode="after")
    def _two_ends(self) -> "WeakToStrong":
        if self.floor == self.ceiling:
            raise ValueError(f"ceiling: '{self.ceiling}' is the floor, too; name a model that was trained with gold")
        return self


class Report(Section):
    """What `builders.report` shows."""

    iterations: list[str] = Field(default=[], description="evaluated models in order of iteration, the first is M_0")
    comparisons: list[Comparison] = Field(default=[], description="pairs of models to compare")
    training: list[str] = Field(
        default=[], description="training runs whose log-probs, or rollouts, are plotted together"
    )
    judging: list[Judging] = Field(default=[], description="trained models whose judging of pairs is measured")
    calibrations: list[Calibration] = Field(default=[], description="step labels to score against those of humans")
    audits: list[StepLabelsName] = Field(
        default=[], description="step labels of right answers: the share whose process is right"
    )
    weak_to_strong: list[WeakToStrong] = Field(
        default=[], description="what weak supervision recovers of the gap to gold's; one block per floor and ceiling"
    )
    saturated_below: float = Field(default=0.5, description="gain in points under which an iteration has saturated")


RunsOf = Callable[[str], Mapping[str, str]]
"""Table -> its runs, each with the section that writes it."""


def mistakes(params: "Params", runs_of: RunsOf) -> Iterator[str]:
    """What the report names that is not there, or that does not show what is asked of it."""
    report = params.report
    evaluated = [("iterations", n) for n in report.iterations]
    evaluated += [("comparisons", n) for c in report.comparisons for n in (c.baseline, c.candidate)]
    for place, name in evaluated:
        yield from _absent(f"report.{place}", name, "evaluate", params.evaluate)
    named = [("judging", "reference_logprobs", n) for j in report.judging for n in (j.model, j.start)]
    named += [("calibrations", "step_labels", n) for c in report.calibrations for n in (c.labels, c.humans)]
    named += [("audits", "step_labels", n) for n in report.audits]
    named += [("training", "training", n) for n in report.training]
    for place, table, name in named:
        yield from _absent(f"report.{place}", name, table, runs_of(table))
    yield from _audits(params)
    yield from _weak_to_strong(params, runs_of)


def _absent(place: str, name: str, under: str, known: Mapping[str, object]) -> Iterator[str]:
    if name not in known:
        yield f"{place}: no entry '{name}' under '{under}' (have {quoted(known)})"


def _audits(params: "Params") -> Iterator[str]:
    for name in params.report.audits:
        run = params.step_labels.get(name)
        if run is not None and run.select != "correct":
            remedy = f"(select: {run.select}); set its select to 'correct'"
            yield f"report.audits: '{name}' labels other samples too {remedy}"
        if run is not None and run.rewards in params.rewards_votes:
            yield (
                f"report.audits: '{name}' labels what a vote calls right (rewards_votes.{run.rewards}); name a run of"
                f" rewards in step_labels.{name}.rewards"
            )


def _weak_to_strong(params: "Params", runs_of: RunsOf) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for i, block in enumerate(params.report.weak_to_strong):
        place = f"report.weak_to_strong.{i}"
        named = [("floor", block.floor), ("ceiling", block.ceiling), *(("models", n) for n in block.models)]
        for field, name in named:
            yield from _absent(f"{place}.{field}", name, "evaluate", params.evaluate)
        for field, table in (("consistency", "agreements"), ("votes", "votes"), ("pairs", "pairs")):
            for name in getattr(block, field):
                yield from _absent(f"{place}.{field}", name, table, runs_of(table))
        for name in block.pairs:
            section = runs_of("pairs").get(name, NOISY[0])
            if section not in NOISY:
                yield f"{place}.pairs: '{name}' is of {section}; name runs of {' or '.join(NOISY)}"
        if (block.floor, block.ceiling) in seen:
            yield f"{place}: '{block.floor}' and '{block.ceiling}' have a block already; put these models into it"
        seen.add((block.floor, block.ceiling))
