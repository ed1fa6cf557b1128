"""`pairs_contrast`: pairs of a weak model's sample and one of the strong model's, by the strong model's own majority.

The rule of weak-to-strong reasoning (arXiv 2407.13647, stage II, as the published `construct_training_data.py` has it;
the paper names one threshold, the code two). A prompt whose majority is less confident than `threshold`, or states no
answer, gives no pair (`low_confidence`, `no_answer`). Otherwise, with the weak sample first by id of its problem:

* it states the majority's answer: it is chosen, and up to `k` of the samples that do not are rejected, drawn without
  replacement (none: `no_rejected`, the question is too easy);
* it does not, and the confidence reaches `reject_threshold`: it is rejected, and samples of the majority are chosen:
  one at random, then in order those whose text differs from that one's, up to `k`;
* else `low_confidence`. A problem without a weak sample is `unpaired`.

Without a weak side both are the strong model's: up to `k` of the majority, each with one of the others, both drawn
without replacement. Draws follow a hash of the seed, the run's name and the sample's id, so a prompt's pairs depend on
nothing but its own samples. Pairs above `max_tokens` are rejects (`over_long`), and so are samples cut off before any
text (`empty`). Lengths are those of each sample's own model. No text is read.
"""

from builders.answered import check_asked, view_answered
from schemas import Pair
from schemas.ids import digest
from schemas.sections_agreement import ContrastPairsRun
from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

DIGEST = ("chosen_text_hash", "rejected_text_hash")
_PAIRS = "select * exclude (reason, detail) from candidates where reason is null order by prompt_id, rank"
_REJECTS = """
select problem_id, prompt_id, null::varchar as sample_id, reason, detail from candidates where reason is not null
union all
select problem_id, prompt_id, sample_id, 'empty', 'cut off before any text'
from samples
where n_chars = 0 and finish_reason = 'length'
"""
_FOREIGN = "select prompt_id from votes anti join samples using (prompt_id) limit 1"
_UNCOUNTED = "select 1 from candidates where reason is null and longest is null limit 1"


@partitioned()
def run(stage: Stage) -> None:
    """Writes one pairs run.

    Raises ValueError if predictions or votes are of other samples, a sample answers no prompt, or a limit is set and a
    length is not known.
    """
    with Duck() as duck:
        view_answered(stage, duck)
        view_answered(stage, duck, "weak", "weak_predictions")
        check_asked(stage, duck)
        duck.view("votes", "votes", [stage.dir("votes", stage.config.votes)], stage.scope)
        _check_votes(stage, duck)
        duck.execute("create temp table candidates as " + sql_file(__file__, "pairs_contrast"), _given(stage))
        if stage.config.max_tokens is not None and len(duck.table(_UNCOUNTED)):
            raise ValueError(
                f"pairs_contrast.{stage.name}.max_tokens needs token counts: name a `model` in the samples_import run"
            )
        stage.write(Pair, duck.batches(_PAIRS), digest=DIGEST)
        for rejects in duck.batches(_REJECTS):
            stage.reject(rejects)


def _given(stage: Stage) -> dict[str, object]:
    config: ContrastPairsRun = stage.config
    return {
        "two_models": config.weak != NONE,
        "k": config.k,
        "threshold": config.threshold,
        "reject_threshold": config.reject_threshold,
        "max_tokens": config.max_tokens,
        "seed": digest([stage.params.seed, stage.name]),
    }


def _check_votes(stage: Stage, duck: Duck) -> None:
    found = duck.table(_FOREIGN)
    if len(found):
        raise ValueError(
            f"pairs_contrast.{stage.name}.votes: run '{stage.config.votes}' has votes on prompt"
            f" {found['prompt_id'][0]}, which samples run '{stage.config.samples}' does not answer; name the votes of"
            " these samples"
        )


if __name__ == "__main__":
    run_stage("pairs_contrast", run)
