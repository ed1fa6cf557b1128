"""CPU-seconds and peak memory of `problems` on synthetic rows in MMIQC's shape, in a process of its own.

    python -m tests.benchmarks.problems --rows 2300000 --json

Every fifth row repeats an earlier question with another response. Writing the input is not measured.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from schemas.params import Params
from tests.conftest import REPOSITORY

_MEASURED = """
import json, resource, sys, time
from builders.problems import run
from stores.stage import execute
wall = time.perf_counter()
execute("problems", "bench", run)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": time.perf_counter() - wall,
                  "peak_gib": usage.ru_maxrss / 2**20}))
"""
_WISH = 'Please solve the following problem and put your answer at the end with "The answer is: ".\n\n'


def rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Rows of about 1,200 characters, as MMIQC's are on average."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(5_000)]
    sentences = [" ".join(draw.choices(words, k=12)) for _ in range(20_000)]
    for number in range(count):
        asked = number if number % 5 else draw.randrange(number + 1)
        question = f"Problem {asked}: {sentences[asked % 20_000]}, {sentences[asked * 7 % 20_000]}?"
        chain = ". ".join(draw.choices(sentences, k=12))
        yield {
            "instruction": _WISH + question if asked % 3 else question,
            "output": f"{chain}.\nThe answer is: {asked % 1000}",
            "source": "MetaMathQA" if asked % 3 else "stackexchange-math",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_300_000, help="rows of the file")
    parser.add_argument("--shuffle", action="store_true", help="take all rows in a seeded random order")
    parser.add_argument("--all-solutions", action="store_true", help="keep the solutions of repeated questions")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        _write(root, arguments)
        runs = [_measure(root) for _ in range(arguments.repeat)]
        tables = ("problems", "answers", "solutions", "rejects/stage=problems")
        counts = {table.partition("/")[0]: _count(root / "data" / table) for table in tables}
        result = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        result |= {"rows": arguments.rows, "input_gib": (root / "rows.jsonl").stat().st_size / 2**30} | counts
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:10} {value:,.2f}" for name, value in result.items()))


def _write(root: Path, arguments: argparse.Namespace) -> None:
    with (root / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(arguments.rows))
    run = {"source": "mmiqc", "path": "rows.jsonl", "split": "train", "shuffle": arguments.shuffle}
    used = {"seed": 0, "problems": {"bench": run | {"all_solutions": arguments.all_solutions}}}
    sections = {name: used.get(name, {}) for name in Params.model_fields}
    (root / "params.yaml").write_text(json.dumps(sections), encoding="utf-8")


def _measure(root: Path) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PAIRWRIGHT_LEDGER": str(root / "ledger")}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED], cwd=root, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _count(table: Path) -> int:
    return pq.ParquetFile(table / "run=bench" / "part-00000.parquet").metadata.num_rows


if __name__ == "__main__":
    main()
