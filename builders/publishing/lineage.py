"""What a model was made from, as the params of one version say: bases, training runs, data, licences, accuracies."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from builders.exporting.provenance import without_places
from schemas.params import Params, run_inputs, stage_runs, table_runs
from schemas.sections import ModelRun, ProblemsRun
from stores.revisions import Snapshot

METRICS = "data/report/metrics.json"
_DATA = ("pairs", "demos")


class Step(NamedTuple):
    """One run on a model's way from its base: a training run, or the `models` run that it began with."""

    section: str
    run: str
    config: BaseModel


def model_steps(params: Params, run: str) -> list[Step]:
    """The runs that made a model, itself first, back to the `models` run.

    Raises ValueError for an unknown model.
    """
    models = table_runs(params, "models")
    if run not in models:
        raise ValueError(f"no model '{run}' in params.yaml (have {', '.join(models) or 'none'})")
    configs = {(section, name): config for section, name, config in stage_runs(params)}
    steps = [Step(models[run], run, configs[models[run], run])]
    while (base := getattr(steps[-1].config, "model", None)) is not None:
        steps.append(Step(models[base], base, configs[models[base], base]))
    return steps


def data_of(step: Step) -> tuple[str, str] | None:
    """(table, run) that a training run was trained on; None for a `models` run."""
    return next(((name, getattr(step.config, name)) for name in _DATA if hasattr(step.config, name)), None)


def source_licences(params: Params, run: str) -> dict[str, str]:
    """Problems run -> licence of its rows, of all problems that the data of a model, and of its bases, came from."""
    above: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for edge in run_inputs(params):
        above.setdefault((edge.table, edge.run), set()).add((edge.input_table, edge.input_run))
    seen, todo = set(), [("models", run)]
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            todo += above.get(at, ())
    return {
        name: _licence(params.problems[name])
        for table, name in sorted(seen)
        if name in params.problems and table == "problems"
    }


def _licence(config: ProblemsRun) -> str:
    from builders import arithmetic
    from builders.sources.reading import source_of

    if config.source == "arithmetic":
        return config.licence or arithmetic.LICENCE
    return source_of(config).licence


def hub_base(steps: Sequence[Step]) -> tuple[str, str] | None:
    """(repository, revision) of the Hub model that the last run took; None where it came from elsewhere."""
    config = steps[-1].config
    if isinstance(config, ModelRun) and config.hub and config.revision:
        return config.hub, config.revision
    return None


def accuracies(snapshot: Snapshot, run: str) -> dict[str, dict[str, Any]]:
    """Evaluation -> its numbers in the report, of the evaluations of one model; nothing where no report is built."""
    if not snapshot.has(METRICS):
        return {}
    models = json.loads(snapshot.local(METRICS).read_text(encoding="utf-8")).get("models", {})
    return {name: found for name, found in models.items() if found.get("model") == run}


def as_json(steps: Sequence[Step]) -> list[Mapping[str, Any]]:
    """The steps for `provenance.json`."""
    return [
        {"section": s.section, "run": s.run, "params": without_places(s.config.model_dump(mode="json"))} for s in steps
    ]
