"""What each run of a stage cost. Kept beside the ledger, not in DVC's outputs: timings differ on every machine."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from stores.paths import ledger_dir


@dataclass
class RunCost:
    """One finished execution of a stage. Seconds; tokens are those that this execution generated or trained on."""

    workspace: str
    stage: str
    run: str
    finished_at: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    device_s: float = 0.0
    tokens: int = 0
    price_usd: float = 0.0
    price_table: str = ""
    """Name and version of the table that the price is from."""


@contextlib.contextmanager
def timed(cost: RunCost) -> Iterator[None]:
    """Adds the seconds of a block to a cost, those of the processes that it started and waited for included."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    yield
    cost.wall_s += time.perf_counter() - wall
    cost.cpu_s += sum(os.times()[:4]) - cpu
    cost.finished_at = time.time()


class RunLog:
    """An append-only file of one JSON object per line; lines are short, so appends of several processes do not mix."""

    def __init__(self, path: Path | None = None):
        self.path = path or ledger_dir() / "runs.jsonl"

    @contextlib.contextmanager
    def measure(self, stage: str, run: str) -> Iterator[RunCost]:
        """Times the block and appends its cost; the block may add tokens and device seconds."""
        cost = RunCost(str(Path.cwd()), stage, run)
        with timed(cost):
            yield cost
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(cost)) + os.linesep)

    def latest(self, workspace: Path) -> dict[tuple[str, str], RunCost]:
        """(stage, run) -> its last finished execution in a workspace."""
        here = str(workspace.resolve())
        return {(cost.stage, cost.run): cost for cost in self._costs() if cost.workspace == here}

    def workspaces(self) -> set[str]:
        """Every workspace in which a stage has finished."""
        return {cost.workspace for cost in self._costs()}

    def _costs(self) -> Iterator[RunCost]:
        """All executions, in the order in which they ended; lines that are none are passed over."""
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    yield RunCost(**json.loads(line))
