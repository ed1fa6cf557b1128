"""The part of `metrics.json` about right answers whose process may be wrong: audits, and the guard of every run.

`audits` holds what params' `report.audits` names. `wrong_steps` has every run of step labels some of whose samples are
right by the rewards of the same samples: what a policy that is rewarded for answers alone may learn to write.
`wrong_steps_logged` is what reinforcement learning logged of it, by rule, as it does where questions have options.
"""

from collections.abc import Iterator
from typing import Any

from builders.reporting.statistics import wilson
from builders.reporting.views import report_rows, strings
from schemas.params import Params, table_runs
from schemas.slots import NONE
from stores.duck import Duck

NOT_BUILT = "not built"
NO_LABELS = "no labels"
AUDIT_DEFINITIONS = {
    "process right": "share of the audited right answers in which most valid labels find no wrong step; samples "
    "without a valid label (invalid), and those with as many labels for as against (disputed), are counted apart",
    "wrong step": "share of the labelled right answers in which most valid labels find a wrong step: what a reward for "
    "answers alone pays all the same. Of rollouts also by the steps of training that drew them, in tenths of the run",
}


def measure_audits(duck: Duck, params: Params, built: set[str]) -> dict[str, Any]:
    """`audits` and `wrong_steps`; `built` are the runs of step labels that are there."""
    wanted = dict.fromkeys(params.report.audits)
    guards = {name: found for name in params.step_labels if name in built and (found := _guard(params, name))}
    rows = [(f"audit {name}", name, "", "") for name in wanted]
    rows += [(f"guard {name}", name, g["rewards"], g["rollouts"] or "") for name, g in guards.items()]
    strings(duck, "audited", ["name", "run", "rewards", "rollouts"], rows)
    counted: dict[str, dict[str, Any]] = {}
    for row in report_rows(duck, "audits"):
        name = row.pop("name")
        _add(counted.setdefault(name, {}), row, "n_wrong" if name.startswith("guard") else "n_right")
    return {
        "audits": {n: _audit(counted.get(f"audit {n}", {}), n in built) for n in wanted},
        "wrong_steps": {n: g | counted[f"guard {n}"] for n, g in guards.items() if f"guard {n}" in counted},
        "wrong_steps_logged": _logged(duck),
    }


def _logged(duck: Duck) -> dict[str, list[dict[str, Any]]]:
    """Training run -> the share in each tenth of its steps that has one."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in report_rows(duck, "wrong_steps_logged"):
        found.setdefault(row.pop("run"), []).append(row)
    return found


def _guard(params: Params, name: str) -> dict[str, Any] | None:
    """The samples that a run labels, their rewards by gold answers, and the same samples as rollouts; None: no gold."""
    labels = params.step_labels[name]
    rewards = next(_verdicts(params, labels.samples, labels.rewards), None)
    if rewards is None:
        return None
    rollouts = labels.samples if labels.samples in table_runs(params, "rollouts") else None
    return {"samples": labels.samples, "rewards": rewards, "rollouts": rollouts}


def _verdicts(params: Params, samples: str, named: str) -> Iterator[str]:
    """Runs of rewards of a samples run that know gold answers, those that are named first."""
    sections = table_runs(params, "rewards")
    if sections.get(named, "rewards_votes") != "rewards_votes" and named != NONE:
        yield named
    if samples in table_runs(params, "samples") and sections.get(samples) == table_runs(params, "samples")[samples]:
        yield samples  # one stage drew and judged them
    for name, run in params.rewards.items():
        predictions = params.predictions.get(run.predictions)
        if predictions is not None and predictions.samples == samples:
            yield name


def _add(entry: dict[str, Any], row: dict[str, Any], of: str) -> None:
    """Puts the share `of` all samples, of those of one source or of some steps in its place."""
    source, first, last = row.pop("source"), row.pop("first_step"), row.pop("last_step")
    n = row["n_right"] + row["n_wrong"]
    found: dict[str, Any] = row | {"n": n, "share": round(row[of] / n, 6) if n else None}
    found |= {"ci95": [round(end, 6) for end in wilson(row[of], n)]} if n else {}
    if source is not None:
        entry.setdefault("by_source", {})[source] = found
    elif first is not None:
        entry.setdefault("by_step", []).append({"first_step": first, "last_step": last} | found)
    else:
        entry["total"] = found


def _audit(entry: dict[str, Any], is_built: bool) -> dict[str, Any]:
    return entry or {"verdict": NO_LABELS if is_built else NOT_BUILT}
