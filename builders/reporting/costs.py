"""What each run cost: its last execution in this workspace, and the generation that the ledger holds for it.

Timings differ on every machine, so they are kept out of `metrics.json`.
"""

from pathlib import Path
from typing import Any

from builders.reporting.views import report_rows
from schemas.params import Params, stage_runs
from stores.duck import Duck
from stores.ledger import Ledger
from stores.paths import ledger_dir
from stores.run_log import RunCost, RunLog

GENERATING = ("samples", "evaluate")
GENERATION = ("batches", "completions", "tokens", "wall_s", "device_s")


def measure_costs(duck: Duck, params: Params, root: Path) -> dict[str, Any]:
    """`runs`: section -> run -> seconds and tokens; `total`: their sums. Runs without a record are left out.

    `wall_s`, `cpu_s` and `device_s` are those of the last execution; `generation` sums the ledger's batches of the
    run's settings, which may have been generated long before, and by other runs that share them. The total counts
    each setting once.
    """
    log, settings = RunLog().latest(root), _settings(duck)
    batches = _batches(sorted(set().union(*settings.values())))
    runs: dict[str, dict[str, Any]] = {}
    for section, name, _ in stage_runs(params):
        found: dict[str, Any] = _execution(log[section, name]) if (section, name) in log else {}
        used = [batches[c] for c in settings.get(name, []) if c in batches] if section in GENERATING else []
        if used:
            found["generation"] = _sum(used, GENERATION)
        if found:
            runs.setdefault(section, {})[name] = found
    executed = [cost for section in runs.values() for cost in section.values()]
    total = _sum(executed, ("wall_s", "cpu_s", "device_s", "tokens"))
    return {"runs": runs, "total": total | {"generation": _sum(list(batches.values()), GENERATION)}}


def _execution(cost: RunCost) -> dict[str, Any]:
    seconds = {name: round(getattr(cost, name), 3) for name in ("wall_s", "cpu_s", "device_s")}
    return seconds | {"tokens": cost.tokens, "finished_at": round(cost.finished_at)}


def _settings(duck: Duck) -> dict[str, list[str]]:
    """Samples run -> starts of the contexts that its completions have in the ledger."""
    found: dict[str, list[str]] = {}
    for row in report_rows(duck, "contexts"):
        found.setdefault(row["run"], []).append(row["context"])
    return found


def _batches(contexts: list[str]) -> dict[str, dict[str, float]]:
    """Start of a context -> what its batches cost, for those that the ledger has."""
    if not (ledger_dir() / "ledger.sqlite").exists():
        return {}
    ledger = Ledger()
    sums = "count(*), sum(n), sum(n_tokens), sum(wall_s), sum(device_s)"
    _, rows = ledger.sql(f"select substr(context, 1, 8), {sums} from batches group by 1 order by 1")
    ledger.close()
    return {start: dict(zip(GENERATION, numbers, strict=True)) for start, *numbers in rows if start in contexts}


def _sum(costs: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: round(sum(cost.get(name, 0) for cost in costs), 3) for name in names}
