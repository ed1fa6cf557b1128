"""`samples_import`: one row per completion of a user's file, as a sample.

A row finds its problem by our `problem_id`, if that is mapped, or else by its question (exactly, but for whitespace
around it), and its prompt as the one prompt of that problem in the prompts run (`none`: it answers no prompt). Its
index is the mapped one, or its place in the file among the rows of its problem and model. Two rows of one problem and
model with one index are an error; two with the same text are two samples.

With a `model`, completions get token counts by its tokenizer; with a `prompts` run too, so do the rendered prompts.

Rejects: `unknown_problem`, `unknown_prompt` (the problem has none in the run), `empty` (no text); the detail says
which row of the file, counted from 1 (JSONL: which line).
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from builders.given_samples import TokenCounter, given_samples
from builders.imported_files import SCHEMA, imported_batches, problem_keys
from builders.model_files import load_tokenizer
from builders.rendering import render_ids
from schemas import Sample
from schemas.ids import digest, sample_id
from schemas.slots import NONE
from stores.duck import Duck, literal, sql_file
from stores.stage import Stage, run_stage

REJECTS = """
select problem_id, null::varchar as prompt_id, null::varchar as sample_id, reason, 'row ' || file_row as detail
from numbered where reason is not null order by file_row
"""


def run(stage: Stage) -> None:
    """Writes one run of imported samples."""
    config = stage.config
    path = stage.root / config.path
    counter = None if config.model == NONE else TokenCounter(stage.dir("models", config.model))
    with tempfile.TemporaryDirectory(prefix="pairwright-") as scratch, Duck() as duck:
        _load(duck, path, config.columns, Path(scratch) / "imported.parquet")
        duck.register("problem_keys", problem_keys(stage))
        asked = [] if config.prompts == NONE else [stage.dir("prompts", config.prompts)]
        duck.view("prompts", "prompts", asked)
        query = sql_file(__file__, "samples_import")
        duck.register("numbered", duck.table(query, {"asks": bool(asked)}))
        for row in duck.table(sql_file(__file__, "samples_import_mistakes")).to_pylist():
            raise ValueError(f"{path}: row {row['file_row']}: {row['mistake']}")
        stage.reject(duck.table(REJECTS))
        asked_tokens = _prompt_tokens(stage)
        rows = (_with_ids(batch, asked_tokens) for batch in duck.batches(sql_file(__file__, "samples_import_rows")))
        stage.write(Sample, (given_samples(batch, counter) for batch in rows))


def _load(duck: Duck, path: Path, columns: Mapping[str, str], scratch: Path) -> None:
    """Adds the views `imported`, over a scratch copy of the file, and `models`, its models' names and fingerprints."""
    with pq.ParquetWriter(scratch, SCHEMA, compression="zstd") as writer:
        for batch in imported_batches(path, columns):
            writer.write_batch(batch)
    duck.execute(f"create view imported as select * from read_parquet({literal(str(scratch))})")
    names = duck.table("select distinct model from imported order by model")
    fingerprints = [digest(["import", name]) for name in names["model"].to_pylist()]
    duck.register("models", names.append_column("fingerprint", pa.array(fingerprints, pa.string())))


def _prompt_tokens(stage: Stage) -> dict[str | None, int]:
    """Prompt id -> tokens of the rendered prompt and prefill, as engines count them; empty without prompts or model."""
    config = stage.config
    if NONE in (config.model, config.prompts):
        return {}
    tokenizer = load_tokenizer(stage.dir("models", config.model))
    columns = ["prompt_id", "messages", "prefill", "rendering"]
    return {
        row["prompt_id"]: len(render_ids(tokenizer, row["messages"], row["prefill"], row["rendering"]))
        for prompts in stage.scan("prompts", config.prompts, columns)
        for row in prompts.to_pylist()
    }


def _with_ids(rows: pa.Table, prompt_tokens: Mapping[str | None, int]) -> pa.Table:
    """The rows with `sample_id` and `n_prompt_tokens` (null where it is not counted)."""
    columns = (rows[name].to_pylist() for name in ("prompt_id", "problem_id", "model_fingerprint", "index"))
    ids = [sample_id(prompt or problem, model, index) for prompt, problem, model, index in zip(*columns, strict=True)]
    tokens = [prompt_tokens.get(prompt) for prompt in rows["prompt_id"].to_pylist()]
    rows = rows.append_column("n_prompt_tokens", pa.array(tokens, pa.int32()))
    return rows.append_column("sample_id", pa.array(ids, pa.string()))


if __name__ == "__main__":
    run_stage("samples_import", run)
