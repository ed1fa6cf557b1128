"""Synthetic runs, as large as asked, for benchmarks: numbers as answers, 30 samples per prompt.

40 % of the samples are correct, 55 % wrong, 3 % state no answer, 2 % are undecided in `rewards`. The wrong ones of a
problem share a few answers, as they do in life. One text in ten repeats an earlier one of its prompt.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from schemas import Answer, Prediction, Problem, Prompt, Reward, Row, Sample, Solution, arrow_schema
from schemas.params import STAGES
from stores.parquet import write_table
from stores.paths import run_dir
from tests.conftest import REPOSITORY

PER_PROMPT = 30
PROMPTS_AT_ONCE = 2_000
OFFSETS = 40_000
"""Places at which a text may begin in the one that all are cut from."""
TEXT_BYTES = 32 << 20
RUN = "bench"
_PARAMS: dict[str, dict[str, Any]] = {
    "problems": {"source": "gsm8k", "path": "none.jsonl", "split": "train"},
    "samples_import": {"problems": RUN, "prompts": "none", "path": "none.jsonl", "model": "none",
                       "columns": {"text": "text", "question": "question"}},
    "prompts": {"problems": RUN, "template": "question_answer", "rendering": "text", "demo_samples": "none",
                "demo_problems": "none"},
    "samples_gold": {"problems": RUN, "ending": "\nA: {answer}", "model": "none"},
    "demos_gold": {"samples": "gold", "prompts": RUN},
    "predictions": {"samples": RUN, "prompts": RUN, "problems": RUN},
    "rewards": {"predictions": RUN, "problems": RUN},
    "demos_correct": {"samples": RUN, "rewards": RUN, "step_labels": "none", "sample_prompts": "none",
                      "prompts": "none", "max_per_problem": 4},
    "pairs_outcome": {"samples": RUN, "rewards": RUN, "step_labels": "none", "gold": "none", "k": 7},
    "export": {"pairs": [RUN], "model": "none"},
    "step_labels": {"samples": RUN, "prompts": RUN, "problems": RUN, "rewards": "none", "labeler": "rule",
                    "model": "none", "path": "data/none", "neutral_is_error": False},
}  # fmt: skip

_NAMES = {"samples_gold": "gold", "demos_gold": "gold"}
"""Runs that are not called `bench`: a table has one run of a name."""
STAGE = """
from stores.stage import execute
stage = importlib.import_module("builders." + sys.argv[1])
run = lambda: execute(sys.argv[1], sys.argv[2], stage.run)
"""
_MEASURED = """
import importlib, json, os, resource, sys, time
{}
started = time.perf_counter()
run()
wall = time.perf_counter() - started
# not ru_maxrss of this process, which starts at what its parent had
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({{"cpu_s": sum(os.times()[:4]), "wall_s": wall, "peak_gib": max(own, workers) / 2**20}}))
"""


def write_params(root: Path, **changes: dict[str, Any]) -> None:
    """Params of one run per stage; `changes` are to single runs, by section."""
    runs = {name: {run_name(name): run | changes.get(name, {})} for name, run in _PARAMS.items()}
    params = {"seed": 0, "sampling": {}, "report": {}} | {name: {} for name in STAGES} | runs
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def run_name(section: str) -> str:
    """The name of a stage's only run."""
    return _NAMES.get(section, RUN)


def run_measured(root: Path, section: str, program: str = STAGE, **environment: str) -> dict[str, float]:
    """Runs a stage in a process of its own; CPU-seconds (with its workers), wall seconds, peak GiB of one process.

    `program` may define another `run` to measure.
    """
    command = [sys.executable, "-c", _MEASURED.format(program), section, run_name(section)]
    own = {"PYTHONPATH": str(REPOSITORY), "PAIRWRIGHT_LEDGER": str(root / "ledger")}
    done = subprocess.run(
        command, cwd=root, env=os.environ | own | environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def write_samples_and_rewards(root: Path, rows: int, chars: int = 600, seed: int = 0) -> None:
    """`rows` samples with texts of about `chars` characters, and their rewards."""
    _write(root, Sample, _samples(rows, chars, seed))
    _write(root, Reward, _rewards(rows, seed))


def write_samples_and_problems(root: Path, rows: int, chars: int = 600, seed: int = 0) -> None:
    """`rows` samples, and problems, prompts, answers and human solutions behind them."""
    _write(root, Sample, _samples(rows, chars, seed))
    _write(root, Problem, _problems(rows, seed))
    _write(root, Prompt, _asked(rows, seed))
    _write(root, Answer, _answers(rows, seed))
    _write(root, Solution, _solutions(rows, seed))


def write_asked(root: Path, rows: int, seed: int = 0) -> None:
    """The problems and prompts behind `rows` samples."""
    _write(root, Problem, _problems(rows, seed))
    _write(root, Prompt, _asked(rows, seed))


def write_predictions(root: Path, rows: int, seed: int = 0) -> None:
    """The predictions of `rows` samples, and answers; there are no samples."""
    _write(root, Prediction, _predictions(rows, seed))
    _write(root, Answer, _answers(rows, seed))
    _write(root, Problem, _problems(rows, seed))


def _write(root: Path, row_class: type[Row], batches: Iterator[pa.Table]) -> None:
    write_table(run_dir(row_class.table, RUN, root), row_class, batches)


class _Chunk:
    """Some prompts, and what all tables say of their samples."""

    def __init__(self, prompts: np.ndarray, seed: list[int]):
        self.generator = np.random.default_rng(seed)
        self.prompts, count = prompts, len(prompts) * PER_PROMPT
        self.gold = self.generator.integers(1, 5_000, len(prompts))
        self.draw = self.generator.random(count)
        off = self.generator.geometric(0.5, count) * np.where(self.draw < 0.4, 0, 1)
        self.answer = np.repeat(self.gold, PER_PROMPT) + off
        self.states = (self.draw < 0.95) | (self.draw >= 0.98)
        self.ids = [f"{p}-0badcafe-{i:04d}" for p in prompts.tolist() for i in range(PER_PROMPT)]
        self.problems = [p[:16] for p in prompts.tolist()]


def _chunks(rows: int, seed: int) -> Iterator[_Chunk]:
    generator = np.random.default_rng(seed)
    high = np.sort(generator.choice(2**40, size=rows // PER_PROMPT, replace=False)).astype(np.uint64) << np.uint64(24)
    prompts = np.array([f"{int(h):016x}-{int(h) % 0xFFFFFFF1:08x}" for h in high])
    for number, start in enumerate(range(0, len(prompts), PROMPTS_AT_ONCE)):
        yield _Chunk(prompts[start : start + PROMPTS_AT_ONCE], [seed, number])


def _table(row_class: type[Row], columns: dict[str, Any], count: int) -> pa.Table:
    """A table of some columns; text stands for itself in every row, and what is left out is null."""
    schema = arrow_schema(row_class)
    given = {name: pa.repeat(value, count) if isinstance(value, str) else value for name, value in columns.items()}
    return pa.table([given.get(f.name, pa.nulls(count, f.type)) for f in schema], schema=schema)


def _samples(rows: int, chars: int, seed: int) -> Iterator[pa.Table]:
    for chunk in _chunks(rows, seed):
        count, generator = len(chunk.ids), np.random.default_rng([seed, int(chunk.gold[0])])
        offsets = generator.integers(0, OFFSETS, count)
        offsets = np.where(generator.random(count) < 0.1, np.repeat(offsets[::PER_PROMPT], PER_PROMPT), offsets)
        keys = offsets * 20_000 + np.where(chunk.states, chunk.answer, 0)
        columns = {
            "sample_id": chunk.ids,
            "prompt_id": np.repeat(chunk.prompts, PER_PROMPT).tolist(),
            "problem_id": np.repeat(chunk.problems, PER_PROMPT).tolist(),
            "model": RUN,
            "model_fingerprint": "0" * 16,
            "index": np.tile(np.arange(PER_PROMPT, dtype=np.int32), count // PER_PROMPT),
            "seed": np.zeros(count, np.int64),
            "temperature": np.full(count, 0.8),
            "top_p": np.ones(count),
            "text": "",
            "text_hash": [f"{key * 0x9E3779B97F4A7C15 % 2**64:016x}" for key in keys.tolist()],
            "n_prompt_tokens": np.full(count, 100, np.int32),
            "finish_reason": np.where(generator.random(count) < 0.02, "length", "stop").tolist(),
        }
        yield from _with_texts(_table(Sample, columns | _lengths([""] * count), count), chunk, offsets, chars)


def _with_texts(samples: pa.Table, chunk: _Chunk, offsets: np.ndarray, chars: int) -> Iterator[pa.Table]:
    """The samples with texts of three to five quarters of `chars` characters, some megabytes at a time."""
    base = "".join(f"word{i:04d} " for i in range((OFFSETS + 2 * chars) // 9 + 1))
    lengths = 3 * chars // 4 + offsets * 7919 % (chars // 2 + 1)
    step = max(TEXT_BYTES // chars, 1)
    for start in range(0, len(samples), step):
        rows = slice(start, start + step)
        stated = [
            f"\nA: {a}" if s else "" for a, s in zip(chunk.answer[rows].tolist(), chunk.states[rows], strict=True)
        ]
        places = zip(offsets[rows].tolist(), lengths[rows].tolist(), stated, strict=True)
        part, texts = samples.slice(start, step), [base[o : o + n - len(s)] + s for o, n, s in places]
        for name, values in {"text": texts, **_lengths(texts)}.items():
            place = part.schema.get_field_index(name)
            part = part.set_column(place, part.schema.field(name), pa.array(values, part.schema.field(name).type))
        yield part


def _lengths(texts: list[str]) -> dict[str, np.ndarray]:
    n_chars = np.array([len(text) for text in texts], np.int32)
    return {"n_chars": n_chars, "n_tokens": n_chars // 4}


def _rewards(rows: int, seed: int) -> Iterator[pa.Table]:
    for chunk in _chunks(rows, seed):
        kind = np.searchsorted([0.4, 0.95, 0.98], chunk.draw, side="right")
        columns = {
            "sample_id": chunk.ids,
            "verdict": np.array(["correct", "wrong", "no_answer", "undecided"])[kind].tolist(),
            "reward": pa.array(np.where(chunk.draw < 0.4, 1.0, 0.0), mask=chunk.draw >= 0.98),
            "checker": "number",
            "checker_version": "1",
        }
        yield _table(Reward, columns, len(chunk.ids))


def _predictions(rows: int, seed: int) -> Iterator[pa.Table]:
    for chunk in _chunks(rows, seed):
        stated = pa.array(np.where(chunk.states, chunk.answer.astype(str), "").tolist(), mask=~chunk.states)
        columns = {"sample_id": chunk.ids, "extracted": stated, "normalised": stated}
        labels = {"extractor": "number:last_marker", "extractor_version": "1"}
        yield _table(Prediction, columns | labels, len(chunk.ids))


def _problems(rows: int, seed: int) -> Iterator[pa.Table]:
    for chunk in _chunks(rows, seed):
        questions = [f"What is the number of {problem}?" for problem in chunk.problems]
        columns = {"problem_id": chunk.problems, "question": questions}
        labels = {"source": RUN, "split": "train", "answer_kind": "number", "licence": "CC0-1.0"}
        yield _table(Problem, columns | labels, len(questions))


def _asked(rows: int, seed: int) -> Iterator[pa.Table]:
    for chunk in _chunks(rows, seed):
        messages = [[{"role": "user", "content": f"What is the number of {problem}?"}] for problem in chunk.problems]
        columns = {"prompt_id": chunk.prompts.tolist(), "problem_id": chunk.problems, "messages": messages}
        labels = {"prefill": "", "rendering": "text", "style": "natural", "template": "question_answer@00000000"}
        yield _table(Prompt, columns | labels, len(messages))


def _answers(rows: int, seed: int) -> Iterator[pa.Table]:
    for chunk in _chunks(rows, seed):
        gold = chunk.gold.astype(str).tolist()
        yield _table(Answer, {"problem_id": chunk.problems, "answer": gold}, len(gold))


def _solutions(rows: int, seed: int) -> Iterator[pa.Table]:
    for chunk in _chunks(rows, seed):
        count = len(chunk.problems)
        texts = [f"It is {gold}, as one sees. " * 10 for gold in chunk.gold.tolist()]
        columns = {"problem_id": chunk.problems, "index": np.zeros(count, np.int32), "text": texts, "style": "natural"}
        yield _table(Solution, columns, count)
