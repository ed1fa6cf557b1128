"""`demos_union`: one row per demo of several runs together, to be imitated by one training.

Rejects: `duplicate` (an earlier run has the same prompt with the same sample). No text is read: the digest of this
run's texts is made of those of its inputs.
"""

from schemas import Demo
from schemas.sections import UnionDemosRun
from stores.duck import Duck, sql_file
from stores.parquet import texts_digest
from stores.stage import Stage, partitioned, run_stage

DIGEST = ("source_texts",)
_DEMOS = "select * from candidates where reason is null order by prompt_id, sample_id"
_REJECTS = """
select prompt_id[:16] as problem_id, prompt_id, sample_id, reason, detail from candidates where reason is not null
"""


@partitioned()
def run(stage: Stage) -> None:
    """Writes one union of demos runs."""
    config: UnionDemosRun = stage.config
    runs = config.members
    directories = [stage.dir("demos", name) for name in runs]
    with Duck() as duck:
        for i, slot in enumerate("abcd"):
            duck.view(slot, "demos", directories[i : i + 1], stage.scope)
        given = {"runs": runs, "texts": [texts_digest(directory) or "" for directory in directories]}
        duck.execute("create temp table candidates as " + sql_file(__file__, "demos_union"), given)
        stage.write(Demo, duck.batches(_DEMOS), digest=DIGEST)
        for rejects in duck.batches(_REJECTS):
            stage.reject(rejects)


if __name__ == "__main__":
    run_stage("demos_union", run)
