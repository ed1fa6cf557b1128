"""`votes`: one row per prompt, the answer that most of its samples state.

Answers are the same if their normalised forms are. As in weak-to-strong reasoning (arXiv 2407.13647, the published
`construct_training_data.py`), no answer is an answer that can win, and of equal counts the one that was given first
does; without `empty_counts` samples that state none do not vote, and a prompt without any voter is a reject
(`no_answer`). Gold is not read.
"""

from builders.answered import check_asked, view_answered
from schemas import Vote
from schemas.sections_agreement import VotesRun
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

_VOTES = "select * exclude (reason) from candidates where reason is null order by prompt_id"
_REJECTS = """
select problem_id, prompt_id, null::varchar as sample_id, reason, 'no sample states an answer' as detail
from candidates
where reason is not null
"""


@partitioned()
def run(stage: Stage) -> None:
    """Writes the votes of one samples run.

    Raises ValueError if the predictions are of other samples, or a sample answers no prompt.
    """
    config: VotesRun = stage.config
    with Duck() as duck:
        view_answered(stage, duck)
        check_asked(stage, duck)
        given = {"empty_counts": config.empty_counts}
        duck.execute("create temp table candidates as " + sql_file(__file__, "votes"), given)
        stage.write(Vote, duck.batches(_VOTES))
        for rejects in duck.batches(_REJECTS):
            stage.reject(rejects)


if __name__ == "__main__":
    run_stage("votes", run)
