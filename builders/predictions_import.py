"""`predictions_import`: one row per sample of an imported run, the final answer that the user's file gives it.

For completions whose answers were found elsewhere, by another rule than any checker's here: a row of the file gives its
`prediction` to the samples with its problem and its text (and its index, if that is mapped). It is kept as written, and
is its own normalised form; an empty one is no answer. `checker` compares them with gold, where a stage does.

Every sample needs a row, and rows that fit one sample must give one answer. Rejects are rows of the file:
`unknown_problem`, and `unpaired` (no sample has its problem and text); the detail says which, counted from 1.
"""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from builders.checkers import checker_for
from builders.imported_files import SCHEMA, imported_batches, problem_keys
from schemas import Prediction
from schemas.sections_agreement import ImportedPredictionsRun
from stores.duck import Duck, literal, sql_file
from stores.stage import Stage, run_stage

RULE, VERSION = "given", "1"
_MISTAKES = """
select
    samples.sample_id, count(fitting.file_row) as rows, min(fitting.file_row) as first, max(fitting.file_row) as last
from samples left join fitting using (sample_id)
group by samples.sample_id
having rows = 0 or count(distinct coalesce(prediction, '')) > 1
order by samples.sample_id
limit 1
"""
_ROWS = f"""
select
    samples.sample_id,
    any_value(fitting.prediction) as extracted,
    any_value(fitting.prediction) as normalised,
    any_value(kinds.checker) || ':{RULE}' as extractor,
    '{VERSION}' as extractor_version
from samples
inner join fitting using (sample_id)
inner join kinds on samples.problem_id = kinds.problem_id
group by samples.sample_id
order by samples.sample_id
"""
_REJECTS = """
select problem_id, null::varchar as prompt_id, null::varchar as sample_id, reason, 'row ' || file_row as detail
from fitting where reason is not null order by file_row
"""


def run(stage: Stage) -> None:
    """Writes one run of imported predictions.

    Raises ValueError for a sample that no row fits, or whose rows contradict each other, naming them.
    """
    config: ImportedPredictionsRun = stage.config
    path = stage.root / config.path
    with tempfile.TemporaryDirectory(prefix="pairwright-") as scratch, Duck() as duck:
        copy = Path(scratch) / "imported.parquet"
        with pq.ParquetWriter(copy, SCHEMA, compression="zstd") as writer:
            for batch in imported_batches(path, stage.config.columns):
                writer.write_batch(batch)
        duck.execute(f"create view imported as select * from read_parquet({literal(str(copy))})")
        duck.register("problem_keys", problem_keys(stage))
        duck.register("kinds", _kinds(stage))
        duck.view("samples", "samples", [stage.dir("samples", config.samples)])
        given = {"indexed": "index" in config.columns}
        duck.execute("create temp table fitting as " + sql_file(__file__, "predictions_import"), given)
        _check(stage, duck, path)
        stage.write(Prediction, duck.batches(_ROWS))
        for rejects in duck.batches(_REJECTS):
            stage.reject(rejects)


def _kinds(stage: Stage) -> pa.Table:
    """Problem id -> the checker that compares its answers."""
    problems = stage.read("problems", stage.config.problems, ["problem_id", "answer_kind"])
    names = {kind: checker_for(kind, stage.config.checker) for kind in problems["answer_kind"].unique().to_pylist()}
    checkers = pa.array([names[kind] for kind in problems["answer_kind"].to_pylist()], pa.string())
    return pa.table({"problem_id": problems["problem_id"], "checker": checkers})


def _check(stage: Stage, duck: Duck, path: Path) -> None:
    for row in duck.table(_MISTAKES).to_pylist():
        if not row["rows"]:
            raise ValueError(
                f"{path}: no row has the problem and text of sample {row['sample_id']} of run"
                f" '{stage.config.samples}'; name the file that they were imported from"
            )
        raise ValueError(
            f"{path}: rows {row['first']} and {row['last']} have the problem and text of sample {row['sample_id']} and"
            " different predictions; map their `index`"
        )


if __name__ == "__main__":
    run_stage("predictions_import", run)
