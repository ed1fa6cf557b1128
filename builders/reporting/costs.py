"""What each run cost in its last execution in this workspace, and what the ledger holds for each setting of a model.

Timings differ on every machine, so they are kept out of `metrics.json`.
"""

from pathlib import Path
from typing import Any

from builders.reporting.views import report_rows
from schemas.params import Params, stage_runs
from stores.costs import START, price
from stores.duck import Duck
from stores.ledger import Ledger
from stores.paths import ledger_dir
from stores.run_log import RunCost, RunLog

GENERATION = ("batches", "completions", "tokens", "wall_s", "device_s")
JUDGED = "step_labels."
"""What names of judges' runs begin with in `sql/contexts.sql`."""


def measure_costs(duck: Duck, params: Params, root: Path) -> dict[str, Any]:
    """`runs`: section -> run -> what its last execution here took and generated; `total`: their sums; `generation`.

    `generation.settings` has one entry per setting (model, sampling, seed) that built samples or judgements were made
    with: the runs that use it, and all of its batches in the ledger, whenever and for whichever run they were made. It
    overlaps with `runs`, whose executions made some of those batches, so it has a `total` of its own.
    """
    log = RunLog().latest(root)
    runs: dict[str, dict[str, Any]] = {}
    for section, name, _ in stage_runs(params):
        if (section, name) in log:
            runs.setdefault(section, {})[name] = _execution(log[section, name])
    executed = [cost for section in runs.values() for cost in section.values()]
    users = _settings(duck)
    settings = {start: {"runs": users[start]} | cost for start, cost in _batches(users).items()}
    priced = ("price_usd",) if any("price_usd" in cost for cost in settings.values()) else ()
    return {
        "runs": runs,
        "total": _sum(executed, ("wall_s", "cpu_s", "device_s", "tokens", "price_usd")),
        "generation": {"settings": settings, "total": _sum(list(settings.values()), GENERATION + priced)},
    }


def _execution(cost: RunCost) -> dict[str, Any]:
    seconds = {name: round(getattr(cost, name), 3) for name in ("wall_s", "cpu_s", "device_s")}
    spent = {"tokens": cost.tokens, "price_usd": round(cost.price_usd, 6)}
    return seconds | spent | {"finished_at": round(cost.finished_at)}


def _settings(duck: Duck) -> dict[str, list[str]]:
    """Start of a context that answers have in the ledger -> the runs that hold some (judges': `step_labels.<run>`)."""
    found: dict[str, list[str]] = {}
    for row in report_rows(duck, "contexts"):
        found.setdefault(row["context"], []).append(row["run"])
    return found


def _batches(users: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """Start of a context -> what its batches cost, for those that the ledger has; of judges also the price."""
    if not (ledger_dir() / "ledger.sqlite").exists():
        return {}
    ledger = Ledger()
    sums = "count(*), sum(n), sum(n_tokens), sum(wall_s), sum(device_s)"
    _, rows = ledger.sql(f"select substr(context, 1, {START}), {sums} from batches group by 1 order by 1")
    found = {start: dict(zip(GENERATION, numbers, strict=True)) for start, *numbers in rows if start in users}
    for start, cost in found.items():
        if any(run.startswith(JUDGED) for run in users[start]):
            paid = price(ledger, start)
            cost.update({} if paid is None else {"price_usd": paid})
    ledger.close()
    return found


def _sum(costs: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: round(sum(cost.get(name, 0) for cost in costs), 3) for name in names}
