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


def measure_costs(duck: Duck, params: Params, root: Path) -> dict[str, Any]:
    """`runs`: section -> run -> seconds and tokens; `total`: their sums. Runs without a record are left out.

    `wall_s`, `cpu_s` and `device_s` are those of the last execution; `generation` sums the ledger's batches of the
    run's settings, which may have been generated long before, and by other runs that share them.
    """
    log, generated = RunLog().latest(root), _generated(duck, params)
    runs: dict[str, dict[str, Any]] = {}
    for section, name, _ in stage_runs(params):
        found: dict[str, Any] = _execution(log[section, name]) if (section, name) in log else {}
        if section in GENERATING and name in generated:
            found["generation"] = generated[name]
        if found:
            runs.setdefault(section, {})[name] = found
    return {"runs": runs, "total": _total(runs)}


def _execution(cost: RunCost) -> dict[str, Any]:
    seconds = {name: round(getattr(cost, name), 3) for name in ("wall_s", "cpu_s", "device_s")}
    return seconds | {"tokens": cost.tokens, "finished_at": round(cost.finished_at)}


def _generated(duck: Duck, params: Params) -> dict[str, dict[str, Any]]:
    """Run -> what its completions cost when they were generated."""
    if not (ledger_dir() / "ledger.sqlite").exists():
        return {}
    ledger = Ledger()
    columns = "context, count(*), sum(n), sum(n_tokens), sum(wall_s), sum(device_s)"
    _, batches = ledger.sql(f"select {columns} from batches group by context order by context")
    ledger.close()
    own = set(params.samples) | set(params.evaluate)
    found: dict[str, dict[str, Any]] = {}
    for row in report_rows(duck, "contexts"):
        if row["run"] in own:
            for context, *numbers in batches:
                if context.startswith(row["context"]):
                    _add(found.setdefault(row["run"], {}), numbers)
    return found


def _add(sums: dict[str, Any], numbers: list[Any]) -> None:
    for name, number in zip(("batches", "completions", "tokens", "wall_s", "device_s"), numbers, strict=True):
        sums[name] = round(sums.get(name, 0) + number, 3)


def _total(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    costs = [cost for section in runs.values() for cost in section.values()]
    return {name: round(sum(c.get(name, 0) for c in costs), 3) for name in ("wall_s", "cpu_s", "device_s", "tokens")}
