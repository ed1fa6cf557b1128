"""Synthetic runs of samples and rewards, as large as asked, for benchmarks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas import Reward, Sample, arrow_schema
from stores.parquet import write_table
from stores.paths import run_dir

PER_PROMPT = 30


def write_samples_and_rewards(root: Path, run: str, rows: int, chars: int = 600, seed: int = 0) -> None:
    """`rows` samples (30 per prompt) with texts of `chars` characters, and a verdict each: 40 % correct, 2 % undecided.

    One text in ten repeats an earlier one of its prompt.
    """
    write_table(run_dir("samples", run, root), Sample, _samples(rows, chars, seed), ())
    write_table(run_dir("rewards", run, root), Reward, _rewards(rows, seed), ())


def _prompts(rows: int, seed: int) -> np.ndarray:
    """Sorted ids of 25 characters."""
    count = rows // PER_PROMPT
    generator = np.random.default_rng(seed)
    high = np.sort(generator.choice(2**40, size=count, replace=False)).astype(np.uint64) << np.uint64(24)
    return np.array([f"{int(h):016x}-{int(h) % 0xFFFFFFF1:08x}" for h in high])


def _chunks(rows: int, seed: int) -> Iterator[tuple[list[str], np.ndarray, np.random.Generator]]:
    prompts = _prompts(rows, seed)
    for number, start in enumerate(range(0, len(prompts), 2000)):
        some = prompts[start : start + 2000]
        ids = [f"{p}-0badcafe-{i:04d}" for p in some for i in range(PER_PROMPT)]
        yield ids, np.repeat(some, PER_PROMPT), np.random.default_rng([seed, number])


def _samples(rows: int, chars: int, seed: int) -> Iterator[pa.Table]:
    words = np.array([f"word{i:04d} " for i in range(5000)])
    base = "".join(words)
    for ids, prompts, generator in _chunks(rows, seed):
        count = len(ids)
        offsets = generator.integers(0, len(base) - chars, count)
        offsets = np.where(generator.random(count) < 0.1, np.repeat(offsets[::PER_PROMPT], PER_PROMPT), offsets)
        lengths = generator.integers(chars // 2, chars, count)
        columns = {
            "sample_id": ids,
            "prompt_id": prompts.tolist(),
            "problem_id": [p[:16] for p in prompts.tolist()],
            "model": ["bench"] * count,
            "model_fingerprint": ["0" * 16] * count,
            "index": np.tile(np.arange(PER_PROMPT, dtype=np.int32), count // PER_PROMPT),
            "seed": [0] * count,
            "temperature": [0.8] * count,
            "top_p": [1.0] * count,
            "text": [base[o : o + n] for o, n in zip(offsets.tolist(), lengths.tolist(), strict=True)],
            "text_hash": [f"{o * 0x9E3779B97F4A7C15 % 2**64:016x}" for o in offsets.tolist()],
            "n_chars": lengths.astype(np.int32),
            "n_tokens": (lengths // 4).astype(np.int32),
            "n_prompt_tokens": np.full(count, 100, np.int32),
            "finish_reason": np.where(generator.random(count) < 0.02, "length", "stop").tolist(),
        }
        absent = {name: [None] * count for name in Sample.model_fields if name not in columns}
        yield pa.table(columns | absent, schema=arrow_schema(Sample))


def _rewards(rows: int, seed: int) -> Iterator[pa.Table]:
    for ids, _, generator in _chunks(rows, seed):
        draw = generator.random(len(ids))
        kind = np.searchsorted([0.4, 0.95, 0.98], draw, side="right")
        verdict = np.array(["correct", "wrong", "no_answer", "undecided"])[kind]
        reward = np.where(draw < 0.4, 1.0, 0.0)
        columns = {
            "sample_id": ids,
            "verdict": verdict.tolist(),
            "reward": pa.array(reward, mask=draw >= 0.98),
            "checker": ["number"] * len(ids),
            "checker_version": ["1"] * len(ids),
        }
        yield pa.table(columns, schema=arrow_schema(Reward))
