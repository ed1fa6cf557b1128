"""Two versions of a large store of pairs, with the samples and verdicts behind them, that differ for known reasons.

Every prompt has 8 samples, of which the first 4 are correct, and 4 pairs: its k-th winner against its k-th loser. In
the second version some problems left and others came, some winners became wrong under a new checker or undecided ones
correct, and some texts were replaced: about 0.5 % of the pairs are removed, added and changed each.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import Pair, Problem, Prompt, Reject, Reward, Row, Sample, arrow_schema
from schemas.params import load_params, stage_runs
from stores.parquet import write_table
from stores.paths import rejects_dir, run_dir
from tests.benchmarks.synthetic import RUN, write_params

SAMPLES, PAIRS = 8, 4
SHARE = 0.005
PROMPTS_AT_ONCE = 12_500


class Fate(NamedTuple):
    """Masks over the prompts: what happens to each in the second version."""

    leaves: np.ndarray
    comes: np.ndarray
    loses: np.ndarray
    gains: np.ndarray
    rewritten: np.ndarray


def prompt_count(rows: int) -> int:
    """Prompts of a world of `rows` pairs."""
    return max(rows // PAIRS, 1)


def fates(rows: int, seed: int = 0) -> Fate:
    """Half of the removed and added pairs go with their problem; the others are the last one of a prompt."""
    draw = np.random.default_rng([seed, 1]).random(prompt_count(rows))
    edges = np.cumsum([SHARE / 2, SHARE / 2, SHARE * 2, SHARE * 2, SHARE * 4])
    kind = np.searchsorted(edges, draw, side="right")
    return Fate(*(kind == number for number in range(5)))


def expected(rows: int, seed: int = 0) -> dict[str, int]:
    """`<change> <reason>` -> how many pairs `diff` must find of it."""
    fate = fates(rows, seed)
    found = {
        "removed problem": PAIRS * fate.leaves.sum(),
        "added problem": PAIRS * fate.comes.sum(),
        "removed verdict": fate.loses.sum(),
        "added verdict": fate.gains.sum(),
        "changed text": fate.rewritten.sum(),
    }
    return {name: int(count) for name, count in found.items() if count}


def write_version(root: Path, rows: int, second: bool, seed: int = 0) -> None:
    """Writes params, pairs and what lies behind them, of one version, below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    write_params(root, pairs_outcome={"k": PAIRS}, samples_import={"prompts": RUN})
    for section, run, config in stage_runs(load_params(root / "params.yaml")):
        if config.rejects:
            write_table(rejects_dir(section, run, root), Reject, [])
    for row_class in (Pair, Sample, Reward, Problem, Prompt):
        write_table(run_dir(row_class.table, RUN, root), row_class, _tables(row_class, rows, second, seed))


def _tables(row_class: type[Row], rows: int, second: bool, seed: int) -> Iterator[pa.Table]:
    prompts, fate = prompt_count(rows), fates(rows, seed)
    problems = np.sort(np.random.default_rng([seed, 0]).choice(2**40, prompts, replace=False))
    there = ~(fate.leaves if second else fate.comes)
    make = {
        "pairs": _pairs, "samples": _samples, "rewards": _rewards, "problems": _problems, "prompts": _prompts,
    }[row_class.table]  # fmt: skip
    for start in range(0, prompts, PROMPTS_AT_ONCE):
        part = slice(start, min(start + PROMPTS_AT_ONCE, prompts))
        kept = there[part]
        ids = pa.array([f"{p << 24:016x}" for p in problems[part][kept].tolist()])
        yield make(ids, Fate(*(mask[part][kept] for mask in fate)), second)


def _join(left: pa.Array, right: str | pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(left, right, "-")


def _sample_ids(problems: pa.Array, index: np.ndarray) -> pa.Array:
    """The ids of one sample for each problem."""
    names = pa.array([f"0badcafe-{i:04d}" for i in range(SAMPLES)])
    return _join(_prompt_ids(problems), names.take(pa.array(index)))


def _prompt_ids(problems: pa.Array) -> pa.Array:
    return _join(problems, "12345678")


def _n_chars(fate: Fate, second: bool, prompt: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Lengths of texts; the first sample of a rewritten prompt has another text in the second version."""
    changed = fate.rewritten[prompt] & (index == 0) & second
    return (10 + index + 20 * changed).astype(np.int32)


def _table(row_class: type[Row], columns: dict[str, Any], count: int) -> pa.Table:
    schema = arrow_schema(row_class)
    given = {name: pa.repeat(value, count) if isinstance(value, str) else value for name, value in columns.items()}
    return pa.table([given.get(f.name, pa.nulls(count, f.type)) for f in schema], schema=schema)


def _pairs(problems: pa.Array, fate: Fate, second: bool) -> pa.Table:
    """A prompt that loses (or has yet to gain) its last winner has one pair less."""
    short = fate.loses if second else fate.gains
    prompt = np.repeat(np.arange(len(problems)), PAIRS - short)
    rank = np.arange(len(prompt)) - np.repeat(np.cumsum(PAIRS - short) - (PAIRS - short), PAIRS - short)
    own = problems.take(pa.array(prompt))
    zeros, yes = np.zeros(len(prompt), np.int32), np.ones(len(prompt), bool)
    columns: dict[str, Any] = {"prompt_id": _prompt_ids(own), "rank": rank.astype(np.int32), "problem_id": own}
    for side, index in (("chosen", rank), ("rejected", rank + PAIRS)):
        columns |= {
            f"{side}_sample_id": _sample_ids(own, index),
            f"{side}_start": zeros,
            f"{side}_end": _n_chars(fate, second, prompt, index),
            f"{side}_eos": yes,
        }
    return _table(Pair, columns, len(prompt))


def _samples(problems: pa.Array, fate: Fate, second: bool) -> pa.Table:
    prompt, index = np.divmod(np.arange(len(problems) * SAMPLES), SAMPLES)
    own, n_chars = problems.take(pa.array(prompt)), _n_chars(fate, second, prompt, index)
    texts = pa.array([("word " * 10)[:n] for n in range(64)]).take(pa.array(n_chars))
    columns = {
        "sample_id": _sample_ids(own, index),
        "prompt_id": _prompt_ids(own),
        "problem_id": own,
        "model": RUN,
        "model_fingerprint": "0" * 16,
        "index": index.astype(np.int32),
        "seed": np.zeros(len(index), np.int64),
        "temperature": np.full(len(index), 0.8),
        "top_p": np.ones(len(index)),
        "text": texts,
        "text_hash": pa.array([f"{n:016x}" for n in range(64)]).take(pa.array(n_chars)),
        "n_chars": n_chars,
        "finish_reason": "stop",
    }
    return _table(Sample, columns, len(index))


def _rewards(problems: pa.Array, fate: Fate, second: bool) -> pa.Table:
    """The second version's checker is a newer one."""
    prompt, index = np.divmod(np.arange(len(problems) * SAMPLES), SAMPLES)
    unlucky = (fate.loses if second else np.zeros_like(fate.loses))[prompt] & (index == PAIRS - 1)
    unsure = (np.zeros_like(fate.gains) if second else fate.gains)[prompt] & (index == PAIRS - 1)
    verdict = np.where(unsure, 2, np.where((index < PAIRS) & ~unlucky, 0, 1))
    columns = {
        "sample_id": _sample_ids(problems.take(pa.array(prompt)), index),
        "verdict": pa.array(["correct", "wrong", "undecided"]).take(pa.array(verdict)),
        "reward": pa.array((verdict == 0).astype(float), mask=verdict == 2),
        "checker": "number",
        "checker_version": "2" if second else "1",
    }
    return _table(Reward, columns, len(index))


def _problems(problems: pa.Array, fate: Fate, second: bool) -> pa.Table:
    given = {"source": RUN, "split": "train", "question": "?", "answer_kind": "number", "licence": "CC0-1.0"}
    return _table(Problem, {"problem_id": problems} | given, len(problems))


def _prompts(problems: pa.Array, fate: Fate, second: bool) -> pa.Table:
    given = {"prefill": "", "rendering": "text", "style": "natural", "template": "question_answer@00000000"}
    messages = pa.array(
        [[{"role": "user", "content": "?"}]] * len(problems), arrow_schema(Prompt).field("messages").type
    )
    columns = {"prompt_id": _prompt_ids(problems), "problem_id": problems, "messages": messages}
    return _table(Prompt, columns | given, len(problems))
