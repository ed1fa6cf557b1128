"""Which problem sets a model was trained on, and its accuracy on those and on others."""

from collections.abc import Iterator
from typing import Any

from schemas.params import Params, RunInput, run_inputs
from schemas.sections import ProblemsRun

_NO_TRAINING = ("vocabulary", "watch", "validation", "reference", "steps_from", "demo_samples", "demo_problems")
"""Slots, or their first parts, through which a model learns nothing of the problems behind them."""


def domain_matrix(params: Params, models: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> problem set -> its greedy accuracy there, the evaluated run, and whether the set is in its domain.

    `domain` is `in`, `out`, or None for a model that was not trained here.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run, row in models.items():
        known = {_domain(params.problems[name]) for name in trained_on(params, row["model"])}
        domain = ("in" if _domain(params.problems[row["problems"]]) in known else "out") if known else None
        cell = {"run": run, "domain": domain} | {name: row[name] for name in ("accuracy", "ci95", "n")}
        found.setdefault(row["model"], {})[row["problems"]] = cell
    return found


def trained_on(params: Params, model: str) -> set[str]:
    """The problems runs that a model of params, or one that it was trained from, learnt from."""
    inputs: dict[tuple[str, str], list[RunInput]] = {}
    for edge in run_inputs(params):
        if edge.slot.split(".")[0] not in _NO_TRAINING:
            inputs.setdefault((edge.table, edge.run), []).append(edge)
    seen, level = set(), {("models", model)}
    while level:
        seen |= level
        level = {node for run in level for node in _behind(inputs.get(run, []))} - seen
    return {name for table, name in seen if table == "problems"}


def _behind(edges: list[RunInput]) -> Iterator[tuple[str, str]]:
    """A training run's data and the model that it started from; not the model that wrote samples."""
    for edge in edges:
        if edge.table == "models" or edge.input_table != "models":
            yield edge.input_table, edge.input_run


def _domain(run: ProblemsRun) -> tuple[object, ...]:
    """What two runs of one kind of problems share."""
    if run.source == "arithmetic":
        return run.source, run.steps, run.options
    return (run.source, run.name or run.hub or run.path) if run.source == "file" else (run.source,)
