"""Rows per second of `rewards` for numbers, 30 samples per problem; and of `predictions`, from texts.

    python -m tests.benchmarks.rewards --rows 10000000 --json

Rewards are made of written predictions, predictions of `--texts` samples of 600 characters. Writing the input is not
measured. Each timing is the median of `--repeat` processes. With `--memory`, DuckDB gets that much.
"""

import argparse
import tempfile
from pathlib import Path

from tests.benchmarks.measuring import medians, show
from tests.benchmarks.synthetic import run_measured, write_params, write_predictions, write_samples_and_problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="predictions")
    parser.add_argument("--texts", type=int, default=300_000, help="samples to extract from")
    parser.add_argument("--chars", type=int, default=600, help="of a text on average")
    parser.add_argument("--memory", default="4GB", help="DuckDB's limit")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_params(root)
        write_samples_and_problems(root, arguments.texts, arguments.chars)
        results = {"predictions": measure(root, "predictions", arguments.texts, arguments)}
        write_predictions(root, arguments.rows)
        results["rewards"] = measure(root, "rewards", arguments.rows, arguments)
    show(results if arguments.json else [{"stage": k} | v for k, v in results.items()], arguments.json)


def measure(root: Path, stage: str, rows: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Medians of one stage, and its rows per second by the clock and per CPU-second."""
    result = medians(lambda: run_measured(root, stage, PAIRWRIGHT_MEMORY=arguments.memory), arguments.repeat)
    rates = {"rows_per_s": rows / result["wall_s"], "rows_per_cpu_s": rows / result["cpu_s"]}
    return {"rows": rows, **rates, **result, "runs": arguments.repeat}


if __name__ == "__main__":
    main()
