"""The schema of a structured answer: what a judge says of the steps of one solution."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from schemas.step_labels import StepLabel


class StepVerdict(BaseModel):
    """The label of one step; `step` is its number, from 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="StepVerdict")

    step: int
    label: StepLabel


class CorrectedStepVerdict(StepVerdict):
    """The label of one step, and the step as it should be where it is not correct."""

    correction: str | None


class Verdict(BaseModel):
    """An analysis, then the labels of the steps in order, up to the first incorrect one."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Verdict")

    analysis: str
    steps: list[StepVerdict]


class CorrectedVerdict(Verdict):
    """The same with corrections."""

    steps: list[CorrectedStepVerdict]  # pyrefly: ignore


def response_format(corrections: bool) -> dict[str, Any]:
    """The `response_format` field of a request for a structured answer."""
    kind = CorrectedVerdict if corrections else Verdict
    schema = _strict(kind.model_json_schema())
    return {"type": "json_schema", "json_schema": {"name": "step_verdict", "strict": True, "schema": schema}}


def _strict(schema: Any) -> Any:
    """Without the notes for people, which servers count as input."""
    if isinstance(schema, dict):
        return {name: _strict(value) for name, value in schema.items() if name not in ("title", "description")}
    return [_strict(value) for value in schema] if isinstance(schema, list) else schema
