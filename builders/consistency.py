"""`consistency`: one row per problem that two runs of predictions answer, with whether they state the same answer.

The filter of weak-to-strong reasoning (arXiv 2407.13647, stage I): equality of the normalised answers, as strings,
where both state one. Gold is not read. Any two runs can be compared; in a second iteration those of the models that
were trained on the first one's data. Of several samples of a problem the first by id is compared.

Where fewer problems agree than `top_up`, others that both runs answer are kept too, in the order of a seeded hash: the
paper's data for MATH holds such rows, and its rule for them is not published, so this one is ours.

Rejects: `unpaired` (the other run has no sample of the problem), `capped` (not the first sample of its problem).
"""

from collections.abc import Iterator

import pyarrow as pa

from schemas import Agreement, arrow_schema
from schemas.sections_agreement import ConsistencyRun
from stores.duck import Duck, sql_file
from stores.stage import Finish, Stage, partitioned, run_stage

_AGREEMENTS = """
select
    problem_id,
    sample_id as a_sample_id,
    other_sample_id as b_sample_id,
    answer as a_answer,
    other_answer as b_answer,
    agrees,
    agrees as kept
from candidates
where reason is null and side = 'a'
order by problem_id
"""
_REJECTS = """
select problem_id, null::varchar as prompt_id, sample_id, reason, detail from candidates where reason is not null
"""
_TOPPED_UP = """
select
    * exclude (kept),
    agrees or problem_id in (
        select problem_id from agreements
        where not agrees and a_answer is not null and b_answer is not null
        order by sha256($seed || problem_id), problem_id
        limit greatest($least - (select count(*) from agreements where agrees), 0)
    ) as kept
from agreements
order by problem_id
"""


def topped_up(stage: Stage) -> Finish | None:
    """Keeps further problems of a whole run, where `top_up` asks for more than agree."""
    config: ConsistencyRun = stage.config
    if config.top_up is None:
        return None

    def finish(agreements: Iterator[pa.Table], total: int) -> Iterator[pa.Table]:
        with Duck() as duck:
            duck.register("agreements", pa.concat_tables([arrow_schema(Agreement).empty_table(), *agreements]))
            yield from duck.batches(_TOPPED_UP, {"seed": f"{config.seed}-", "least": config.top_up})

    return finish


@partitioned(finish=topped_up)
def run(stage: Stage) -> None:
    """Writes the agreements of two runs."""
    config: ConsistencyRun = stage.config
    with Duck() as duck:
        for slot in ("a", "b"):
            duck.view(slot, "predictions", [stage.dir("predictions", getattr(config, slot))], stage.scope)
        names = {"a": config.a, "b": config.b}
        duck.execute("create temp table candidates as " + sql_file(__file__, "consistency"), names)
        stage.write(Agreement, duck.batches(_AGREEMENTS))
        for rejects in duck.batches(_REJECTS):
            stage.reject(rejects)


if __name__ == "__main__":
    run_stage("consistency", run)
