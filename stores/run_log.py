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


class RunLog:
    """An append-only file of one JSON object per line; lines are short, so appends of several processes do not mix."""

    def __init__(self, path: Path | None = None):
        self.path = path or ledger_dir() / "runs.jsonl"

    @contextlib.contextmanager
    def measure(self, stage: str, run: str) -> Iterator[RunCost]:
        """Times the block and appends its cost; the block may add tokens and device seconds."""
        cost, wall, cpu = RunCost(str(Path.cwd()), stage, run), time.perf_counter(), time.process_time()
        yield cost
        cost.wall_s, cost.cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        cost.finished_at = time.time()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(cost)) + os.linesep)

    def latest(self, workspace: Path) -> dict[tuple[str, str], RunCost]:
        """(stage, run) -> its last finished execution in a workspace."""
        found: dict[tuple[str, str], RunCost] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    cost = RunCost(**json.loads(line))
                    if cost.workspace == str(workspace.resolve()):
                        found[cost.stage, cost.run] = cost
        return found
