"""Which problem sets a model was trained on, and its accuracy on those and on others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.params import Params, RunInput, run_inputs
from schemas.sections import ProblemsRun

_NO_TRAINING = (
    "vocabulary",
    "watch",
    "validation",
    "reference",
    "steps_from",
    "demo_samples",
    "demo_problems",
    "against",
)
"""Slots, or their first parts, through which a model learns nothing of the problems behind them."""


_MADE_OF = {
    "mathqa_numeric": ("mathqa",),
    "metamath": ("metamath", "gsm8k", "math"),
    "mmiqc": ("mmiqc", "metamath", "gsm8k", "math"),
}
"""Sources whose questions are those of others, as they stand or rewritten."""


def domain_matrix(params: Params, models: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> problem set -> its greedy accuracy there, the evaluated run, and whether the set is in its domain.

    `domain` is `in`, `out`, or None for a model that was not trained here. A model's name is that of `model_labels`.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    labels = model_labels(models)
    for run, row in models.items():
        known = {kind for name in trained_on(params, row["model"]) for kind in _domain(params.problems[name])}
        domain = ("in" if known & _domain(params.problems[row["problems"]]) else "out") if known else None
        cell = {"run": run, "domain": domain} | {name: row[name] for name in ("accuracy", "ci95", "n")}
        found.setdefault(labels[run], {})[row["problems"]] = cell
    return found


def model_labels(models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Evaluated run -> its model, with the run's name where an earlier run has the same model and problem set."""
    labels: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for run, row in models.items():
        pair = row["model"], row["problems"]
        labels[run] = f"{row['model']} ({run})" if pair in seen else row["model"]
        seen.add(pair)
    return labels


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
    return {name for table, name in seen if table == "problems" and name in params.problems}


def _behind(edges: list[RunInput]) -> Iterator[tuple[str, str]]:
    """A training run's data and the model that it started from; not the model that wrote samples."""
    for edge in edges:
        if edge.table == "models" or edge.input_table != "models":
            yield edge.input_table, edge.input_run


def _domain(run: ProblemsRun) -> set[tuple[object, ...]]:
    """The kinds of problems that a run has; two runs are of one domain if they share one."""
    if run.source == "arithmetic":
        return {(run.source, run.steps, run.options)}
    if run.source == "file":
        return {(run.source, run.name or run.hub or run.path)}
    # one source of several data sets, whose files begin with their names: gsm8k_nl.json
    name = Path(run.path).name.partition("_")[0].lower().replace("-", "_") if run.source == "reft" else run.source
    return {(kind,) for kind in _MADE_OF.get(name, (name,))}
