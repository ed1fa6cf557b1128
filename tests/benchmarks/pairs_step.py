"""CPU-seconds and peak memory of step prompts, corrections and step pairs on synthetic labelled samples.

    python -m tests.benchmarks.pairs_step --rows 100000 1000000 --json

Four samples per problem with six steps each; every label has a correction; 8 % of the labels find no error, 2 % are
invalid. Every start is continued `--continuations` times, 60 % of them to the right answer. Each stage runs in a
process of its own; writing its input is not measured. `growth` is CPU-seconds per row compared with the size before.
"""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from schemas import TABLES, Problem, Prompt, Reward, Row, Sample, StepLabels, arrow_schema
from schemas.ids import prompt_id, sample_id, text_hash
from schemas.params import STAGES
from stores.parquet import count_rows, scan_table, write_table
from stores.paths import rejects_dir, run_dir
from tests.benchmarks.measuring import medians, show
from tests.benchmarks.synthetic import RUN, run_measured

MEASURED = ("prompts_step", "samples_corrections", "pairs_step")
PER_PROBLEM, STEPS, AT_ONCE = 4, 6, 5_000
PREFILL = "Let's think step by step.\nStep 1: "
_SAMPLES = {"prompts": "asked", "model": "m", "engine": "scripted", "sampling": "s", "n": 1}
_PARAMS: dict[str, Any] = {
    "seed": 0,
    "sampling": {"s": {"temperature": 1, "max_new_tokens": 8}},
    "report": {},
    "models": {"m": {"path": "data/none", "vocabulary": "none", "script": ["8"]}},
    "problems": {"asked": {"source": "gsm8k", "path": "none.jsonl", "split": "train"}},
    "prompts": {"asked": {"problems": "asked", "template": "step_dpo", "rendering": "text", "demo_samples": "none",
                          "demo_problems": "none"}},
    "samples": {"drawn": _SAMPLES, "continued": _SAMPLES | {"prompts": RUN}},
    "predictions": {"continued": {"samples": "continued", "prompts": RUN, "problems": "asked"}},
    "rewards": {"continued": {"predictions": "continued", "problems": "asked"}},
    "step_labels": {"labels": {"samples": "drawn", "prompts": "asked", "problems": "asked", "rewards": "none",
                               "labeler": "rule", "model": "none", "path": "data/none", "neutral_is_error": False}},
    "prompts_step": {RUN: {"samples": "drawn", "prompts": "asked", "step_labels": "labels"}},
    "samples_corrections": {RUN: {"samples": "drawn", "prompts": "asked", "step_labels": "labels",
                                  "step_prompts": RUN, "model": "none"}},
    "pairs_step": {RUN: {"rejected": "drawn", "rejected_prompts": "asked", "step_labels": "labels", "prompts": RUN,
                         "chosen": "continued", "rewards": "continued", "judged": "none"}},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="labelled samples")
    parser.add_argument("--continuations", type=int, default=2, help="of every start")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    results = []
    for rows in sorted(arguments.rows):
        with tempfile.TemporaryDirectory() as directory:
            results += measure(rows, arguments.continuations, arguments.repeat, Path(directory))
    for before, after in pairwise(sorted(results, key=lambda result: MEASURED.index(result["stage"]))):
        if before["stage"] == after["stage"]:
            after["growth"] = after["cpu_s"] / after["rows"] / (before["cpu_s"] / before["rows"])
    show({"sizes": results} if arguments.json else results, arguments.json)


def measure(rows: int, continuations: int, repeat: int, root: Path) -> Iterator[dict[str, Any]]:
    """Medians of every stage for one size, in an empty directory."""
    params = {name: {} for name in STAGES} | _PARAMS
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    write_labelled(root, rows)
    for stage in MEASURED:
        continued = {"continuations": write_continued(root, continuations)} if stage == "pairs_step" else {}
        result = medians(lambda stage=stage: run_measured(root, stage), repeat)
        (table,) = STAGES[stage].writes
        kept = count_rows(run_dir(table, RUN, root), TABLES[table])
        dropped = count_rows(rejects_dir(stage, RUN, root), TABLES["rejects"])
        yield {"stage": stage, "rows": rows} | continued | result | {"kept": kept, "rejects": dropped, "runs": repeat}


def write_labelled(root: Path, rows: int, seed: int = 0) -> None:
    """Problems, prompts, `rows` samples and their labels."""
    generator = np.random.default_rng(seed)
    high = np.sort(generator.choice(2**40, size=rows // PER_PROBLEM, replace=False)).astype(np.uint64) << np.uint64(24)
    problems = [f"{int(number):016x}" for number in high]
    chunks = [problems[start : start + AT_ONCE] for start in range(0, len(problems), AT_ONCE)]
    _write(root, Problem, "asked", map(_problems, chunks))
    _write(root, Prompt, "asked", map(_prompts, chunks))
    _write(root, Sample, "drawn", map(_drawn, chunks))
    labels = (_labels(some, [seed, i]) for i, some in enumerate(chunks))
    _write(root, StepLabels, "labels", labels)


def write_continued(root: Path, continuations: int) -> int:
    """Continuations of every step prompt, and their verdicts. Returns how many."""
    asked = run_dir("prompts", RUN, root)
    columns = ["prompt_id", "problem_id"]
    _write(root, Sample, "continued", (_continued(b, continuations) for b in scan_table(asked, Prompt, columns)))
    written = scan_table(run_dir("samples", "continued", root), Sample, ["sample_id"])
    return _write(root, Reward, "continued", map(_verdicts, written))


def _write(root: Path, row_class: type[Row], run: str, batches: Iterator[pa.Table]) -> int:
    return write_table(run_dir(row_class.table, run, root), row_class, batches)


def _table(row_class: type[Row], count: int, **columns: Any) -> pa.Table:
    """A table of some columns; what is no list stands for itself in every row, and what is left out is null."""
    schema = arrow_schema(row_class)
    given = {name: value if isinstance(value, list) else [value] * count for name, value in columns.items()}
    return pa.table([pa.array(given.get(f.name, [None] * count), f.type) for f in schema], schema=schema)


def _messages(problem: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is the number of {problem}?"}]


def _problems(problems: list[str]) -> pa.Table:
    ids = problems
    questions = [_messages(problem)[0]["content"] for problem in problems]
    return _table(
        Problem, len(ids), problem_id=ids, source=RUN, split="train", question=questions, answer_kind="number",
        licence="CC0-1.0",
    )  # fmt: skip


def _asked(problem: str) -> str:
    return prompt_id(problem, _messages(problem), PREFILL, "text")


def _prompts(problems: list[str]) -> pa.Table:
    return _table(
        Prompt, len(problems), prompt_id=[_asked(p) for p in problems], problem_id=problems,
        messages=[_messages(p) for p in problems], prefill=PREFILL, rendering="text", style="natural",
        template="step_dpo@00000000",
    )  # fmt: skip


def _text(problem: str, index: int) -> tuple[str, list[dict[str, int]]]:
    """A completion of six steps, and their spans."""
    text, spans = "", []
    for step in range(STEPS):
        start = len(text) + (len(f"\nStep {step + 1}:") if step else 0)
        marker = f"\nStep {step + 1}: " if step else ""
        text += (
            f"{marker}The number of {problem} is {index + step} plus {step}, which is {index + 2 * step}, as is seen."
        )
        spans.append({"start": start, "end": len(text)})
    return text, spans


def _samples(ids: list[str], prompts: list[str], texts: list[str], index: list[int]) -> pa.Table:
    return _table(
        Sample, len(ids), sample_id=ids, prompt_id=prompts, problem_id=[i[:16] for i in ids], model="m",
        model_fingerprint="0badcafe", index=index, text=texts, text_hash=[text_hash(t) for t in texts],
        n_chars=[len(t) for t in texts], finish_reason="stop",
    )  # fmt: skip


def _drawn(problems: list[str]) -> pa.Table:
    prompts = [asked for asked in map(_asked, problems) for _ in range(PER_PROBLEM)]
    index = list(range(PER_PROBLEM)) * len(problems)
    texts = [_text(problem, i)[0] for problem in problems for i in range(PER_PROBLEM)]
    ids = [sample_id(asked, "0badcafe", i) for asked, i in zip(prompts, index, strict=True)]
    return _samples(ids, prompts, texts, index)


def _labels(problems: list[str], seed: list[int]) -> pa.Table:
    count = len(problems) * PER_PROBLEM
    generator = np.random.default_rng(seed)
    draw, errors = generator.random(count), generator.integers(0, STEPS, count).tolist()
    verdicts = ["error" if d < 0.9 else "no_error" if d < 0.98 else "invalid" for d in draw.tolist()]
    found = [e if verdict == "error" else None for e, verdict in zip(errors, verdicts, strict=True)]
    right = {"no_error": ["correct"] * STEPS, "invalid": []}
    labels = [right.get(v, ["correct"] * e + ["incorrect"]) for v, e in zip(verdicts, errors, strict=True)]
    spans = [_text(problem, i)[1] for problem in problems for i in range(PER_PROBLEM)]
    corrections = [None if error is None else f"Step {error + 1}: It is {error}." for error in found]
    return _table(
        StepLabels, count, sample_id=_drawn(problems)["sample_id"].to_pylist(), labeler="rule", repeat=0, kind="rule",
        steps=spans, labels=labels, first_error=found, verdict=verdicts, labeler_version="1", correction=corrections,
    )  # fmt: skip


def _continued(asked: pa.Table, continuations: int) -> pa.Table:
    prompts = [prompt for prompt in asked["prompt_id"].to_pylist() for _ in range(continuations)]
    index = list(range(continuations)) * len(asked)
    ids = [sample_id(prompt, "0badcafe", i) for prompt, i in zip(prompts, index, strict=True)]
    texts = [
        f" It is rather {i}.\nStep 2: " + _text(prompt[:16], i)[0] for prompt, i in zip(prompts, index, strict=True)
    ]
    return _samples(ids, prompts, texts, index)


def _verdicts(samples: pa.Table) -> pa.Table:
    correct = [int(text_hash(i)[:4], 16) < 0.6 * 2**16 for i in samples["sample_id"].to_pylist()]
    return _table(
        Reward, len(correct), sample_id=samples["sample_id"].to_pylist(), reward=[float(c) for c in correct],
        verdict=["correct" if c else "wrong" for c in correct], checker="number", checker_version="1",
    )  # fmt: skip


if __name__ == "__main__":
    main()
