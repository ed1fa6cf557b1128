"""CPU-seconds and peak memory of `pairs_outcome` on synthetic samples, in a process of its own.

    python -m tests.benchmarks.pairs_outcome --rows 10000000 --json

Writing the input is not measured. Each timing is the median of `--repeat` processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.synthetic import write_samples_and_rewards
from tests.conftest import REPOSITORY

_MEASURED = """
import json, resource, sys, time
from pathlib import Path
from builders.pairs_outcome import run
from stores.stage import execute
wall = time.perf_counter()
execute("pairs_outcome", "bench", run)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": time.perf_counter() - wall,
                  "peak_gib": usage.ru_maxrss / 2**20}))
"""

_PARAMS = """
seed: 0
problems: {bench: {source: gsm8k, path: none.jsonl, split: train}}
samples_import:
  bench: {problems: bench, prompts: none, path: none.jsonl, columns: {text: text, question: question}, model: none}
predictions: {bench: {samples: bench, prompts: none, problems: bench}}
rewards: {bench: {predictions: bench, problems: bench}}
pairs_outcome: {bench: {samples: bench, rewards: bench, gold: none, k: 7}}
pairs_union: {}
"""
_UNUSED = (
    "sampling", "models", "prompts", "samples", "samples_gold", "demos_gold", "demos_correct", "reference", "sft",
    "preference", "evaluate", "report",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="samples")
    parser.add_argument("--chars", type=int, default=600, help="longest text; the stage reads none of it")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_samples_and_rewards(root, "bench", arguments.rows, arguments.chars)
        (root / "params.yaml").write_text(_PARAMS + "".join(f"{name}: {{}}\n" for name in _UNUSED))
        runs = [_measure(root) for _ in range(arguments.repeat)]
        pairs = root / "data" / "pairs" / "run=bench" / "part-00000.parquet"
        result = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        result |= {"rows": arguments.rows, "pairs_mib": pairs.stat().st_size / 2**20, "runs": arguments.repeat}
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:10} {value:,.2f}" for name, value in result.items()))


def _measure(root: Path) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PAIRWRIGHT_LEDGER": str(root / "ledger")}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED], cwd=root, env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
