"""`rewards_votes`: one row per sample, its verdict by the majority's answer in the place of gold.

A sample is correct if it states the answer of most of its prompt's samples. Where these are too few (`threshold`), or
most state none, or the prompt has no vote, all samples are undecided, which is never treated as wrong; a reject per
prompt says which (`low_confidence`, `no_answer`). So `pairs_outcome` and `demos_correct` work without gold.
"""

from schemas import Reward
from schemas.sections_agreement import VoteRewardsRun
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

CHECKER = "votes"
VERSION = "1"
"""Of the rule above; another one gets another."""
_REWARDS = "select sample_id, verdict, reward, checker, checker_version from judged order by sample_id"
_REJECTS = """
select distinct problem_id, prompt_id, null::varchar as sample_id, reason, detail
from judged
where reason is not null
"""
_FOREIGN = "select prompt_id from votes where prompt_id not in (select prompt_id from judged) limit 1"


@partitioned()
def run(stage: Stage) -> None:
    """Writes the rewards of one predictions run.

    Raises ValueError if the votes are of other prompts.
    """
    config: VoteRewardsRun = stage.config
    with Duck() as duck:
        duck.view("predictions", "predictions", [stage.dir("predictions", config.predictions)], stage.scope)
        duck.view("votes", "votes", [stage.dir("votes", config.votes)], stage.scope)
        given = {"threshold": config.threshold, "checker": CHECKER, "version": VERSION}
        duck.execute("create temp table judged as " + sql_file(__file__, "rewards_votes"), given)
        _check_votes(stage, duck)
        stage.write(Reward, duck.batches(_REWARDS))
        for rejects in duck.batches(_REJECTS):
            stage.reject(rejects)


def _check_votes(stage: Stage, duck: Duck) -> None:
    found = duck.table(_FOREIGN)
    if len(found):
        raise ValueError(
            f"rewards_votes.{stage.name}.votes: run '{stage.config.votes}' has votes on prompt {found['prompt_id'][0]},"
            f" of which predictions run '{stage.config.predictions}' has no sample; name the votes of these predictions"
        )


if __name__ == "__main__":
    run_stage("rewards_votes", run)
