"""What runs cost, as rows: from the run log, and from the ledger's batches. Both lie outside the tables' versions."""

from pathlib import Path
from typing import NamedTuple

from stores.ledger import Ledger
from stores.paths import ledger_dir
from stores.run_log import RunLog

START = 8
"""Characters of a ledger's context that ids of samples carry: the setting that they were drawn with."""
_PEEKED = 100


class ExecutionCost(NamedTuple):
    """One row per run: what its last finished execution in this workspace took."""

    stage: str
    run: str
    finished_at: float
    wall_s: float
    cpu_s: float
    device_s: float
    tokens: int
    price_usd: float
    price_table: str


class SettingCost(NamedTuple):
    """One row per setting (model, sampling, seed; a judge's too): all of its batches in the ledger of this machine."""

    setting: str
    batches: int
    completions: int
    tokens: int
    wall_s: float
    device_s: float
    price_usd: float | None


def execution_costs(root: Path) -> list[ExecutionCost]:
    """The last executions of all runs in a workspace."""
    return [
        ExecutionCost(*key, *(getattr(cost, name) for name in ExecutionCost._fields[2:]))
        for key, cost in sorted(RunLog().latest(root).items())
    ]


def setting_costs() -> list[SettingCost]:
    """What the ledger holds, by setting; nothing where there is no ledger yet."""
    if not (ledger_dir() / "ledger.sqlite").exists():
        return []
    ledger = Ledger()
    sums = "count(*), sum(n), sum(n_tokens), sum(wall_s), sum(device_s)"
    _, rows = ledger.sql(f"select substr(context, 1, {START}), {sums} from batches group by 1 order by 1")
    found = [SettingCost._make([*row, price(ledger, row[0])]) for row in rows]
    ledger.close()
    return found


def price(ledger: Ledger, setting: str) -> float | None:
    """What the answers of a setting cost; None where the first of them have no price, as those of local models.

    It reads each answer that was paid for, of which there are few enough.
    """
    ends = (setting, setting + "g")  # after every hex digit
    some = f"select price_usd from completions where key >= ? and key < ? order by key limit {_PEEKED}"
    if all(value is None for (value,) in ledger.db.execute(some, ends)):
        return None
    query = "select sum(price_usd) from completions where key >= ? and key < ?"
    return round(ledger.db.execute(query, ends).fetchone()[0], 6)


def sql_types(row: type[NamedTuple]) -> dict[str, str]:
    """Column -> its SQL type, of a row of costs or speeds."""
    names: dict[object, str] = {str: "varchar", int: "bigint", float: "double", float | None: "double"}
    return {name: names[kind] for name, kind in row.__annotations__.items()}
