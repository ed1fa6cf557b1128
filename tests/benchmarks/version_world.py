"""A project with two versions of a large pairs table, for benchmarks: the tags `old` and `new`.

Of the rows of `old`, 0.5 % are gone in `new`, 0.5 % have another rejected sample, and as many as 0.5 % have come.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import Pair, arrow_schema
from stores.parquet import write_table
from stores.paths import run_dir
from tests.benchmarks import synthetic
from tests.versions import Project

RANKS = 7
"""Pairs of a prompt; a further one has come in `new`."""
PROMPTS_AT_ONCE = 10_000
SHARE = 0.005


def build(root: Path, rows: int) -> Project:
    """Writes both versions below an empty directory; the checkout is `new`."""
    synthetic.write_params(root)
    project = Project(root)
    for tag in ("old", "new"):
        write_table(run_dir("pairs", synthetic.RUN, root), Pair, _pairs(rows, changed=tag == "new"))
        project.commit(tag, tag=tag)
    return project


def _pairs(rows: int, changed: bool) -> Iterator[pa.Table]:
    high = np.sort(np.random.default_rng(0).choice(2**40, size=rows // RANKS + 1, replace=False)).astype(np.uint64)
    for start in range(0, len(high), PROMPTS_AT_ONCE):
        yield _chunk(high[start : start + PROMPTS_AT_ONCE], np.random.default_rng([1, start]), changed)


def _chunk(high: np.ndarray, generator: np.random.Generator, changed: bool) -> pa.Table:
    """Rows of some prompts: ranks 0 to 6 of each, and the seventh of some."""
    ranks = RANKS + 1
    problems = pa.array([f"{int(h) << 24:016x}" for h in high]).take(np.repeat(np.arange(len(high)), ranks))
    prompts = pc.binary_join_element_wise(problems, "5eed5eed", "-")
    rank, draw = np.tile(np.arange(ranks, dtype=np.int32), len(high)), generator.random(len(high) * ranks)
    other = rank + np.where(changed & (draw > 1 - SHARE), 20, 10)
    new = draw < SHARE * RANKS if changed else np.zeros(len(draw), bool)
    kept = np.where(rank < RANKS, (draw >= SHARE) | (not changed), new)
    sides = {"chosen": rank, "rejected": other}
    columns: dict[str, object] = {"prompt_id": prompts, "rank": rank, "problem_id": problems}
    for side, index in sides.items():
        numbers = pa.array([f"0badcafe-{i:04d}" for i in range(40)]).take(index)
        columns[f"{side}_sample_id"] = pc.binary_join_element_wise(prompts, numbers, "-")
        columns[f"{side}_start"] = np.zeros(len(rank), np.int32)
        columns[f"{side}_end"] = generator.integers(200, 800, len(rank), dtype=np.int32)
        columns[f"{side}_eos"] = np.ones(len(rank), bool)
    schema = arrow_schema(Pair)
    return pa.table([columns[name] for name in schema.names], schema=schema).filter(pa.array(kept))
