"""Requests that one new prompt costs, and how well many requests use the time of a server.

    python -m tests.benchmarks.one_new_row --json

A server on this machine answers in 200 ms. `new_row`: 300 prompts are answered, then one is added and the same command
runs again. `latency`: 3,000 requests of which 64 may be in flight, told by the environment (`told`) or found out from
429s (`found`); `ratio` is the wall time of the whole stage, ledger and table included, over the ideal 9.4 s. Medians of
`--repeat` runs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from builders import models, samples
from stores.stage import execute
from tests import stage_world as world
from tests.conftest import REPOSITORY
from tests.fault_server import MODEL

DELAY_S, AT_ONCE, PROMPTS = 0.2, 64, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000, help="of `latency`")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"new_row": new_row()}
    for way in ("told", "found"):
        runs = [latency(way, arguments.requests) for _ in range(arguments.repeat)]
        result[way] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:10} {value}" for name, value in result.items()))


def new_row() -> dict[str, Any]:
    """Requests that the server saw for 300 prompts, for one more, and for nothing new."""
    with workspace(AT_ONCE) as counts:
        build(PROMPTS, 1)
        seen = [counts()["asked"]]
        for prompts in (PROMPTS + 1, PROMPTS + 1):
            build(prompts, 1)
            seen.append(counts()["asked"])
    return {"first": seen[0], "one_more": seen[1] - seen[0], "nothing_new": seen[2] - seen[1]}


def latency(way: str, requests: int) -> dict[str, float]:
    """Wall and CPU seconds of one samples run, and what the server saw of it."""
    with workspace(AT_ONCE if way == "told" else None, None if way == "told" else AT_ONCE) as counts:
        wall, cpu = time.perf_counter(), time.process_time()
        build(PROMPTS, requests // PROMPTS)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        seen = counts()
    ideal = requests * DELAY_S / AT_ONCE
    asked = {"refused": seen["asked"] - seen["answered"], "most_at_once": seen["most"]}
    return {"ratio": wall / ideal, "wall_s": wall, "cpu_s": cpu} | asked


def build(prompts: int, n: int) -> None:
    """`samples.drawn`: n completions of so many prompts."""
    asked = [world.problem(f"What is {i} + {i}?") for i in range(prompts)]
    world.write("problems", "train", asked)
    world.write("prompts", "train", [world.prompt(problem) for problem in asked])
    world.write_params(
        models={"base": {"path": "data/none", "vocabulary": "none", "hosted": MODEL}},
        samples={"drawn": world.SAMPLES | {"engine": "openai", "n": n}},
    )
    execute("models", "base", models.run)
    execute("samples", "drawn", samples.run)


@contextmanager
def workspace(told: int | None, capacity: int | None = None) -> Iterator[Any]:
    """An empty workspace and a server in a process of its own; gives what asks the server for its counts."""
    command = [sys.executable, "-m", "tests.fault_server", "--delay", str(DELAY_S)]
    command += ["--capacity", str(capacity)] if capacity else []
    with tempfile.TemporaryDirectory() as directory, chdir(directory):
        server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            os.environ |= {"PAIRWRIGHT_LEDGER": str(Path(directory) / "ledger"), "PAIRWRIGHT_BASE_URLS": url}
            os.environ["PAIRWRIGHT_MAX_CONCURRENCY"] = str(told or 256)
            yield lambda: json.load(urllib.request.urlopen(url.removesuffix("/v1") + "/counts"))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
