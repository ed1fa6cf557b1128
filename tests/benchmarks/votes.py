"""CPU-seconds and peak memory of `votes` and `pairs_contrast` on synthetic samples, each in a process of its own.

    python -m tests.benchmarks.votes --rows 1000000 --json

Ten samples per prompt, as the paper draws them, and one weak sample per problem. Of a prompt's samples a share that is
uniform over the prompts states the answer, the others one of three; 3 % state none. Writing the input is not measured.
Each timing is the median of `--repeat` processes.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from schemas import TABLES, Prediction, Row, Sample, arrow_schema
from schemas.ids import text_hash
from schemas.params import STAGES
from stores.parquet import count_rows, write_table
from stores.paths import rejects_dir, run_dir
from tests.benchmarks.measuring import medians, show
from tests.benchmarks.synthetic import RUN, run_measured

PER_PROMPT = 10
AT_ONCE = 5_000
MEASURED = ("votes", "pairs_contrast")
_DRAWN = {"prompts": RUN, "model": RUN, "engine": "scripted", "sampling": "greedy", "n": PER_PROMPT}
_ANSWERED = {"prompts": RUN, "problems": RUN}
_PARAMS: dict[str, Any] = {
    "seed": 0,
    "sampling": {"greedy": {"temperature": 0.0, "max_new_tokens": 32}},
    "problems": {RUN: {"source": "gsm8k", "path": "none.jsonl", "split": "train"}},
    "models": {RUN: {"path": "data/none", "vocabulary": "none", "script": ["8"]}},
    "prompts": {RUN: {"problems": RUN, "template": "question_answer", "rendering": "text", "demo_samples": "none",
                      "demo_problems": "none"}},
    "samples": {RUN: _DRAWN, "weak": _DRAWN | {"n": 1}},
    "predictions": {RUN: _ANSWERED | {"samples": RUN}, "weak": _ANSWERED | {"samples": "weak"}},
    "votes": {RUN: {"samples": RUN, "predictions": RUN}},
    "pairs_contrast": {RUN: {"samples": RUN, "predictions": RUN, "votes": RUN, "weak": "weak",
                             "weak_predictions": "weak", "k": 3}},
    "report": {},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="samples of the strong model")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    results = [one for rows in sorted(arguments.rows) for one in measure(rows, arguments.repeat)]
    show({"sizes": results} if arguments.json else results, arguments.json)


def measure(rows: int, repeat: int) -> list[dict[str, Any]]:
    """Medians of both stages for one size, in a directory that goes again."""
    results = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "params.yaml").write_text(yaml.safe_dump({name: {} for name in STAGES} | _PARAMS))
        write_answered(root, rows)
        for stage in MEASURED:
            result = medians(lambda stage=stage: run_measured(root, stage), repeat)
            (table,) = STAGES[stage].writes
            kept = count_rows(run_dir(table, RUN, root), TABLES[table])
            dropped = count_rows(rejects_dir(stage, RUN, root), TABLES["rejects"])
            results.append({"stage": stage, "rows": rows} | result | {"kept": kept, "rejects": dropped, "runs": repeat})
    return results


def write_answered(root: Path, rows: int, seed: int = 0) -> None:
    """`rows` samples of the strong model and one weak one per ten, with their predictions."""
    for run, per_prompt in ((RUN, PER_PROMPT), ("weak", 1)):
        for row_class in (Sample, Prediction):
            tables = (_rows(row_class, prompts, per_prompt) for prompts in _prompts(rows // PER_PROMPT, seed))
            write_table(run_dir(row_class.table, run, root), row_class, tables)


def _prompts(count: int, seed: int) -> Iterator[list[str]]:
    generator = np.random.default_rng(seed)
    high = np.sort(generator.choice(2**40, size=count, replace=False)).astype(np.uint64) << np.uint64(24)
    prompts = [f"{int(h):016x}-{int(h) % 0xFFFFFFF1:08x}" for h in high]
    return (prompts[start : start + AT_ONCE] for start in range(0, count, AT_ONCE))


def _rows(row_class: type[Row], prompts: list[str], per_prompt: int) -> pa.Table:
    """The samples of some prompts, or their predictions: both are drawn from the prompts alone."""
    generator = np.random.default_rng([int(prompts[0][:8], 16), per_prompt])
    count = len(prompts) * per_prompt
    share = np.repeat(generator.random(len(prompts)), per_prompt)
    answer = np.where(generator.random(count) < share, 0, generator.integers(1, 4, count))
    stated = generator.random(count) >= 0.03
    index = np.tile(np.arange(per_prompt, dtype=np.int32), len(prompts))
    asked = [prompt for prompt in prompts for _ in range(per_prompt)]
    ids = [f"{p}-{per_prompt:08x}-{i:04d}" for p, i in zip(asked, index.tolist(), strict=True)]
    answers = [f"{1000 + a}" if s else None for a, s in zip(answer.tolist(), stated.tolist(), strict=True)]
    texts = [f"So it is {a}, by {i % 7}." for i, a in zip(index.tolist(), answers, strict=True)]
    return _table(
        row_class, count, sample_id=ids, prompt_id=asked, problem_id=[p[:16] for p in asked], model=RUN,
        model_fingerprint="0" * 16, index=index.tolist(), text=texts, n_chars=[len(text) for text in texts],
        text_hash=[text_hash(text) for text in texts],
        n_tokens=20, n_prompt_tokens=100, finish_reason="stop", extracted=answers, normalised=answers,
        extractor="number:last_marker", extractor_version="1",
    )  # fmt: skip


def _table(row_class: type[Row], count: int, **columns: Any) -> pa.Table:
    """A table of some columns; what is no list stands for itself in every row, and what is left out is null."""
    schema = arrow_schema(row_class)
    given = {name: value if isinstance(value, list) else [value] * count for name, value in columns.items()}
    return pa.table([pa.array(given.get(f.name, [None] * count), f.type) for f in schema], schema=schema)


if __name__ == "__main__":
    main()
