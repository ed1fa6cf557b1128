"""Seconds and peak memory of `diff` with reasons on two versions of a large pairs table, in a process of its own.

    python -m tests.benchmarks.diff --rows 5000000 --json

The two versions (`diff_world`) have twice as many samples and rewards as pairs behind them, whose files all differ;
0.5 % of the pairs are removed, added and changed each. Writing them is not measured. Reasons are checked against what
the world did. Each timing is the median of `--repeat` processes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.diff_world import expected, write_version
from tests.benchmarks.measuring import medians, show
from tests.conftest import REPOSITORY

_MEASURED = """
import json, os, sys, time
from stores.diff import Diff
from stores.store import Store
started = time.perf_counter()
with Diff(Store.open(sys.argv[1] + "/old"), Store.open(sys.argv[1] + "/new")) as found:
    counts = {f"{c.change} {c.reason}": c.rows for c in found.counts}
    counted = time.perf_counter() - started
    rows = sum(batch.num_rows for batch in found.rows().batches())
    funnel, wall = len(found.funnel), time.perf_counter() - started
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"counts": counts, "rows": rows, "counts_s": counted, "all_s": wall, "cpu_s": sum(os.times()[:2]),
                  "peak_gib": peak / 2**20}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="pairs of one version")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for name in ("old", "new"):
            write_version(Path(directory) / name, arguments.rows, second=name == "new")
        result = medians(lambda: measure(Path(directory), arguments.rows), arguments.repeat)
    show({"rows": arguments.rows, **result, "runs": arguments.repeat}, arguments.json)


def measure(root: Path, rows: int) -> dict[str, float]:
    """One process: seconds to the counts by reason, and to all rows and the funnel."""
    command = [sys.executable, "-c", _MEASURED, str(root)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    counts = result.pop("counts")
    assert counts == expected(rows), f"reasons {counts}, expected {expected(rows)}"
    return {"differing": result.pop("rows")} | result


if __name__ == "__main__":
    main()
