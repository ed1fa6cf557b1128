"""CPU-seconds and peak memory of `pairs_outcome` on synthetic samples, in a process of its own.

    python -m tests.benchmarks.pairs_outcome --rows 1000000 10000000 --json

Writing the input is not measured. Each timing is the median of `--repeat` processes; `growth` is CPU-seconds per row
compared with the size before.
"""

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

from stores.paths import run_dir
from tests.benchmarks.measuring import medians, show
from tests.benchmarks.synthetic import RUN, run_measured, write_params, write_samples_and_rewards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000], help="samples")
    parser.add_argument("--chars", type=int, default=600, help="of a text on average; the stage reads none of it")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    results = [measure(rows, arguments.chars, arguments.repeat) for rows in sorted(arguments.rows)]
    for before, after in pairwise(results):
        after["growth"] = after["cpu_s"] / after["rows"] / (before["cpu_s"] / before["rows"])
    show({"stage": "pairs_outcome", "sizes": results} if arguments.json else results, arguments.json)


def measure(rows: int, chars: int, repeat: int) -> dict[str, float]:
    """Medians for one size, in a directory that goes again."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_samples_and_rewards(root, rows, chars)
        write_params(root)
        result = medians(lambda: run_measured(root, "pairs_outcome"), repeat)
        (part,) = run_dir("pairs", RUN, root).glob("part-*.parquet")
        return {"rows": rows, "chars": chars} | result | {"pairs_mib": part.stat().st_size / 2**20, "runs": repeat}


if __name__ == "__main__":
    main()
