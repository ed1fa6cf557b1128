"""The section `report` of `params.yaml`: what the report shows beside what is built."""

from typing import Annotated

import annotated_types as at
from pydantic import Field

from schemas.slots import ReferenceName, Section, StepLabelsName


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


class Report(Section):
    """What `builders.report` shows."""

    iterations: list[str] = Field(default=[], description="evaluated models in order of iteration, the first is M_0")
    comparisons: list[Comparison] = Field(default=[], description="pairs of models to compare")
    training: list[str] = Field(default=[], description="training runs whose log-probs are plotted together")
    judging: list[Judging] = Field(default=[], description="trained models whose judging of pairs is measured")
    calibrations: list[Calibration] = Field(default=[], description="step labels to score against those of humans")
    audits: list[StepLabelsName] = Field(
        default=[], description="step labels of right answers: the share whose process is right"
    )
    saturated_below: float = Field(default=0.5, description="gain in points under which an iteration has saturated")
