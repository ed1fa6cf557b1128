"""What a query at a revision costs, beside the same query over a workspace file.

    python -m tests.benchmarks.versions --rows 5000000 --json

`first_s`: open a version and answer a first query (count of a run), in a process that has the imports but nothing
remembered (`cold`: the cache file is hashed, too) or has seen the version before (`warm`). `group_by`: seconds of one
group-by over the workspace's file (plain DuckDB, by its path), at the revision on the fast path and under the guard,
and the ratios to the first. Medians of `--repeat` runs in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from stores.parquet import PART
from stores.paths import run_dir
from stores.store import Store
from tests.benchmarks import measuring, synthetic, version_world
from tests.conftest import REPOSITORY

GROUP_BY = """
select rank, chosen_eos, count(*) as n, sum(rejected_end - rejected_start) as chars, max(chosen_end) as longest
from {pairs} group by all order by all
"""
_FIRST = """
import json, sys, time
import duckdb, pyarrow, pyarrow.dataset, pyarrow.parquet, yaml
from stores.store import Store
started = time.perf_counter()
with Store.open(rev="old", guard=sys.argv[1] == "guard") as store:
    rows = store.sql("select run, count(*) from pairs group by run").fetchall()
print(json.dumps([time.perf_counter() - started, rows[0][1]]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "project"
        root.mkdir()
        os.environ["PAIRWRIGHT_LEDGER"] = str(Path(directory) / "ledger")
        version_world.build(root, arguments.rows)
        measuring.show(measure(root, arguments.repeat), arguments.json)


def measure(root: Path, repeat: int) -> dict[str, float]:
    """All figures over a world that is built."""
    cold = first(root, "fast")
    result = {"cold_first_s": cold}
    for path in ("fast", "guard"):
        result[f"warm_first_{path}_s"] = statistics.median(first(root, path) for _ in range(repeat))
    return result | group_by(root, repeat)


def first(root: Path, path: str) -> float:
    """Seconds of open and a first query, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", _FIRST, path]
    done = subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    seconds, rows = json.loads(done.stdout)
    assert rows > 0
    return seconds


def group_by(root: Path, repeat: int) -> dict[str, float]:
    """Seconds of a group-by over the workspace's file, at the same version on both paths, and their ratios."""
    file = run_dir("pairs", synthetic.RUN, root) / PART
    with duckdb.connect() as con, Store.open(root, rev="new") as fast, Store.open(root, True, "new") as guarded:
        plain = GROUP_BY.format(pairs=f"read_parquet(['{file}'])")
        ways: dict[str, Callable[[], list[tuple]]] = {
            "workspace": lambda: con.sql(plain).fetchall(),
            "fast": lambda: fast.sql(GROUP_BY.format(pairs="pairs")).fetchall(),
            "guard": lambda: guarded.sql(GROUP_BY.format(pairs="pairs")).fetchall(),
        }
        answers = {name: way() for name, way in ways.items()}
        assert answers["workspace"] == answers["fast"] == answers["guard"]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeat):
            for name, way in ways.items():
                seconds[name].append(_seconds(way))
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {f"{name}_ratio": middle[name] / middle["workspace"] for name in ("fast", "guard")}
    return {f"group_by_{name}_s": value for name, value in middle.items()} | ratios


def _seconds(way: Callable[[], object]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
