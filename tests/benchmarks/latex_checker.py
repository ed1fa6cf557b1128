"""The `latex` checker against calling math-verify once per sample, on real completions.

    python -m tests.benchmarks.latex_checker --json

Input: the 100 × 8 Qwen2.5-Math completions beside a developer's checkout, repeated to 30 samples per problem. `ours` is
extraction and comparison with worker processes, started and ended within the measure; `per_row` is what reward
functions do (`verify(parse(gold), parse(completion))` with math-verify's defaults, in one process). Each run is a
process of its own, the two take turns, and the medians of CPU-seconds (workers included), wall time and peak memory are
reported, with the share of samples whose verdict is the source's label.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

_MEASURED = """
import json, resource, sys, time
import pyarrow.parquet as pq
folder, per_problem, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
golds = pq.read_table(folder + ".problems.parquet", columns=["problem_id", "gold"]).to_pylist()
gold = {row["problem_id"]: row["gold"] for row in golds}
given = {}
for row in pq.read_table(folder + ".samples.parquet").to_pylist():
    given.setdefault(row["problem_id"], []).append((row["response"], gold[row["problem_id"]], row["is_correct"]))
rows = [samples[i % len(samples)] for samples in given.values() for i in range(per_problem)]
texts, golds, labels = zip(*rows)
before = resource.getrusage(resource.RUSAGE_SELF)
wall = time.perf_counter()
if way == "ours":
    from builders.checkers.latex import LatexChecker
    from builders.checkers.verdicts import judge_texts
    with LatexChecker() as checker:
        right = [verdict == "correct" for verdict in judge_texts(checker, texts, [""] * len(texts), golds)]
else:
    from math_verify import parse, verify
    right = [verify(parse("$" + g + "$"), parse(text)) for text, g in zip(texts, golds)]
wall = time.perf_counter() - wall
own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = own.ru_utime + own.ru_stime - before.ru_utime - before.ru_stime + workers.ru_utime + workers.ru_stime
agree = sum(a == b for a, b in zip(right, labels)) / len(labels)
print(json.dumps({"cpu_s": cpu, "wall_s": wall, "peak_mib": max(own.ru_maxrss, workers.ru_maxrss) / 1024,
                  "agreement": agree, "rows": len(labels)}))
"""
WAYS = ("ours", "per_row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "model_samples")
    parser.add_argument("--samples", type=int, default=30, help="per problem")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.repeat):
        for way in WAYS:
            runs[way].append(_measure(arguments.data, arguments.samples, way))
    found = {way: {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]} for way in WAYS}
    result = found | {f"{key}_ratio": found["per_row"][key] / found["ours"][key] for key in ("cpu_s", "wall_s")}
    if arguments.json:
        print(json.dumps(result | {"runs": arguments.repeat}))
        return
    for way in WAYS:
        print(way.ljust(8), "  ".join(f"{key} {value:,.3f}" for key, value in found[way].items()))


def _measure(data: Path, samples: int, way: str) -> dict[str, float]:
    command = [sys.executable, "-c", _MEASURED, str(data / "qwen25math_math100x8"), str(samples), way]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
