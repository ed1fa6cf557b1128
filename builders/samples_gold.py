"""`samples_gold`: one row per human solution, as a sample: the solution, and an ending that states the gold answer.

They answer no prompt, so `prompt_id` is null; `demos_gold` and `pairs_outcome` put them under the prompts of their
problem. A problem without a solution of the style is a reject (`no_solution`), and so is a solution whose ending
needs a gold answer that is not known (`no_answer`).
"""

from collections.abc import Iterator

import pyarrow as pa

from builders.given_samples import TokenCounter, given_samples
from schemas import Reject, Sample
from schemas.ids import digest, sample_id
from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

MODEL = "gold"


def build(solved: pa.Table, style: str, ending: str, counter: TokenCounter | None) -> pa.Table:
    """`samples` rows from `problem_id`, `index` and `text` in the order of both; ids carry style and ending."""
    fingerprint = digest([MODEL, style, ending])
    keys = zip(solved["problem_id"].to_pylist(), solved["index"].to_pylist(), strict=True)
    ids = [sample_id(problem, fingerprint, index) for problem, index in keys]
    size = len(solved)
    rows = pa.table(
        {
            "sample_id": pa.array(ids, pa.string()),
            "prompt_id": pa.nulls(size, pa.string()),
            "problem_id": solved["problem_id"],
            "model": pa.repeat(MODEL, size),
            "model_fingerprint": pa.repeat(MODEL, size),
            "index": solved["index"],
            "text": solved["text"],
            "finish_reason": pa.repeat("stop", size),
        }
    )
    return given_samples(rows, counter)


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of gold samples."""
    config = stage.config
    counter = None if config.model == NONE else TokenCounter(stage.dir("models", config.model))
    with Duck() as duck:
        for table in ("problems", "solutions", "answers"):
            duck.view(table, table, [stage.dir(table, config.problems)], stage.scope)
        query = sql_file(__file__, "samples_gold")
        batches = duck.batches(query, {"style": config.style, "ending": config.ending})
        stage.write(Sample, _kept(stage, batches, counter))


def _kept(stage: Stage, batches: Iterator[pa.Table], counter: TokenCounter | None) -> Iterator[pa.Table]:
    for batch in batches:
        missing = batch.filter(batch["reason"].is_valid()).to_pylist()
        stage.reject(Reject(problem_id=row["problem_id"], reason=row["reason"]) for row in missing)
        yield build(batch.filter(batch["reason"].is_null()), stage.config.style, stage.config.ending, counter)


if __name__ == "__main__":
    run_stage("samples_gold", run)
