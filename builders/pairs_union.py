"""`pairs_union`: one row per pair of several runs together, as training on several iterations' pairs needs it.

The pairs of a prompt keep the order of their runs and ranks, and are ranked anew. With `problems`, only the pairs of
those problems are taken, so one run is split into what is trained on and what is held out. Rejects: `held_out`, and
`duplicate` (an earlier pair of the prompt has the same two spans, if `deduplicate`).

Spans are copied, and no text is read: the digest of this run's texts is made of those of its inputs.
"""

from schemas import Pair
from schemas.sections_pairs import UnionPairsRun
from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.parquet import texts_digest
from stores.stage import Stage, partitioned, run_stage

DIGEST = ("source_texts",)
_PAIRS = "select * from candidates where reason is null order by prompt_id, rank"
_REJECTS = """
select problem_id, prompt_id, null::varchar as sample_id, reason, detail from candidates where reason is not null
"""


@partitioned()
def run(stage: Stage) -> None:
    """Writes one union of pairs runs."""
    config: UnionPairsRun = stage.config
    runs = config.members
    directories = [stage.dir("pairs", name) for name in runs]
    with Duck() as duck:
        for i, slot in enumerate("abcd"):
            duck.view(slot, "pairs", directories[i : i + 1], stage.scope)
        duck.view("problems", "problems", [stage.dir("problems", config.problems)], stage.scope)
        given = {
            "runs": runs,
            "texts": [texts_digest(directory) or "" for directory in directories],
            "restricted": config.problems != NONE,
            "deduplicate": config.deduplicate,
        }
        duck.execute("create temp table candidates as " + sql_file(__file__, "pairs_union"), given)
        stage.write(Pair, duck.batches(_PAIRS), digest=DIGEST)
        for rejects in duck.batches(_REJECTS):
            stage.reject(rejects)


if __name__ == "__main__":
    run_stage("pairs_union", run)
