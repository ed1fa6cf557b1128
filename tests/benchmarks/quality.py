"""Seconds and peak memory of `quality` on synthetic word problems against a test set, in a process of its own.

    python -m tests.benchmarks.quality --rows 1000000 --json

Questions have about 50 words of a vocabulary with Zipf's law, as GSM8K's. Of 100 rows one is an exact copy of an
earlier one in capitals, two are near copies (one word replaced), and one is a test problem with one word replaced; it
is counted how many are found. The peak is that of the largest process (workers, `PAIRWRIGHT_WORKERS`, hold one part).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas import Finding, Problem, arrow_schema
from schemas.ids import problem_id
from schemas.params import Params
from stores.parquet import read_table, sort_table, write_table
from stores.paths import run_dir
from tests.benchmarks.measuring import medians, show
from tests.conftest import REPOSITORY

TESTS = 5_000
_MEASURED = """
import json, resource, time
from builders.quality import run
from stores.stage import execute
if __name__ == "__main__":
    wall = time.perf_counter()
    execute("quality", "bench", run)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"cpu_s": sum(u.ru_utime + u.ru_stime for u in usage), "wall_s": time.perf_counter() - wall,
                      "peak_gib": max(u.ru_maxrss for u in usage) / 2**20}))
"""


def questions(count: int, seed: int) -> Iterator[list[str]]:
    """Words of `count` questions."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["".join(draw.choice(letters, size)) for size in draw.integers(2, 10, 20_000)]
    for _ in range(count):
        ranks = np.minimum(draw.zipf(1.25, draw.integers(20, 80)), len(vocabulary)) - 1
        yield [vocabulary[rank] for rank in ranks.tolist()]


def rows(count: int, tests: list[list[str]]) -> Iterator[tuple[str, str]]:
    """(kind, question): new ones, and copies as the module says."""
    draw, before = np.random.default_rng(2), list[list[str]]()
    for number, words in enumerate(questions(count, 1)):
        match number % 100:
            case 50:
                yield "duplicate", " ".join(before[draw.integers(len(before))]).upper()
            case 60 | 70:
                yield "near_duplicate", _changed(before[draw.integers(len(before))], draw)
            case 80:
                yield "contaminated", _changed(tests[draw.integers(len(tests))], draw)
            case _:
                before = [*before, words] if len(before) < 10_000 else before
                yield "new", " ".join(words)


def _changed(words: list[str], draw: np.random.Generator) -> str:
    place = int(draw.integers(len(words)))
    return " ".join([*words[:place], "replacement", *words[place + 1 :]])


def _write(root: Path, name: str, texts: list[str]) -> None:
    distinct = sorted({problem_id("bench", text, None): text for text in texts}.items())
    same = {"source": "bench", "split": "train", "answer_kind": "number", "licence": "CC0-1.0"}
    columns = {"problem_id": [i for i, _ in distinct], "question": [text for _, text in distinct]}
    schema = arrow_schema(Problem)
    made = {n: columns.get(n, pa.repeat(same.get(n), len(distinct)).cast(schema.field(n).type)) for n in schema.names}
    write_table(run_dir("problems", name, root), Problem, [sort_table(Problem, pa.table(made, schema=schema))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="problems that are examined")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        tests = list(questions(TESTS, 3))
        kinds = {problem_id("bench", text, None): kind for kind, text in rows(arguments.rows, tests)}
        _write(root, "test", [" ".join(words) for words in tests])
        _write(root, "train", [text for _, text in rows(arguments.rows, tests)])
        against = {"a": "test", "b": "none", "c": "none", "d": "none"}
        used = {"seed": 0, "quality": {"bench": {"problems": "train", "against": against}}}
        source = {"source": "arithmetic", "path": "data/none", "split": "train", "limit": 1, "steps": [1, 2]}
        used |= {"problems": {"train": source, "test": source}}
        sections = {name: used.get(name, {}) for name in Params.model_fields}
        (root / "params.yaml").write_text(json.dumps(sections), encoding="utf-8")
        result = medians(lambda: _measure(root), arguments.repeat)
        show(result | {"rows": arguments.rows} | _counts(root, kinds), arguments.json)


def _counts(root: Path, kinds: dict[str, str]) -> dict[str, int]:
    """Planted copies of each kind, how many of them were found, and findings of rows that are no copies."""
    found = read_table(run_dir("findings", "bench", root), Finding, ["problem_id", "other_run"]).to_pylist()
    named = {row["problem_id"] for row in found}
    counts = {f"{kind}s": sum(k == kind for k in kinds.values()) for kind in ("duplicate", "near_duplicate")}
    counts |= {"of_tests": sum(kind == "contaminated" for kind in kinds.values())}
    in_tests = {row["problem_id"] for row in found if row["other_run"] == "test"}
    counts["of_tests_found"] = sum(kind == "contaminated" and i in in_tests for i, kind in kinds.items())
    return counts | {"problems_with_findings": len(named)}


def _measure(root: Path) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PAIRWRIGHT_LEDGER": str(root / "ledger")}
    (root / "measured.py").write_text(_MEASURED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "measured.py"], cwd=root, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
