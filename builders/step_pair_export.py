"""Step pairs of any run as a file in the columns of the published Math-Step-DPO-10K, which the authors' code trains on.

`dataset` is the problem's source, `prompt` its question, `answer` its gold answer, `initial_reason_steps` the prefill
of the step prompt, `chosen` and `rejected` the spans, and the full texts go on from them to the ends of the samples. Of
a run of `pairs_import` the file's rows come out as they went in, in their order.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from builders.step_pair_rows import PIPELINE, PUBLISHED
from schemas.params import Params, table_runs
from schemas.sections_pairs import UnionPairsRun
from schemas.sections_steps import ImportedPairsRun, StepPairsRun
from stores.duck import sql_file
from stores.store import Store

KINDS = (".parquet", ".jsonl")


def export_step_pairs(store: Store, run: str, path: Path, pipeline: bool = False) -> int:
    """Writes the file and returns the number of its rows.

    `pipeline`: in the columns that the authors' pipeline writes, which have no `full_rejected`.

    Raises ValueError for a run that is unknown, not built, or not one of step pairs, and for another kind of file.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path}: not a kind of file that is written; name it {' or '.join(KINDS)}")
    _require_steps(store.params, run)
    _require_built(store, run)
    columns = PIPELINE if pipeline else PUBLISHED
    schema = pa.schema([pa.field(theirs, pa.string()) for theirs in columns.values()])
    result = store.sql(sql_file(__file__, "step_pair_rows"), {"run": run})
    batches = (_renamed(batch, columns, schema) for batch in result.batches())
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        count = _write(unfinished, path.suffix, batches, schema)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _require_steps(params: Params, run: str) -> None:
    """Raises ValueError where the pairs of a run, or of one that it is a union of, are no steps."""
    section = table_runs(params, "pairs").get(run)
    if section is None:
        have = ", ".join(f"'{name}'" for name in sorted(table_runs(params, "pairs"))) or "none"
        raise ValueError(f"no run '{run}' of pairs in params.yaml (have {have})")
    made: Any = getattr(params, section)[run]
    if isinstance(made, UnionPairsRun):
        for member in made.members:
            _require_steps(params, member)
    elif not isinstance(made, StepPairsRun | ImportedPairsRun) or made.span != "step":
        remedy = "name a run of pairs_step or pairs_import with `span: step`"
        raise ValueError(f"pairs of {section}.{run} are whole completions, not steps; {remedy}")


def _require_built(store: Store, run: str) -> None:
    if not any(row.built for row in store.runs() if row.table == "pairs" and row.run == run):
        raise ValueError(f"pairs run '{run}' is not built; run `dvc repro`, or restore it with `dvc checkout`")


def _renamed(batch: pa.RecordBatch, columns: dict[str, str], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([batch[ours].cast(pa.string()) for ours in columns], schema=schema)


def _write(path: Path, suffix: str, batches: Iterator[pa.Table], schema: pa.Schema) -> int:
    count = 0
    if suffix == ".parquet":
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_table(batch)
                count += len(batch)
        return count
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in batches:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
            count += len(batch)
    return count
