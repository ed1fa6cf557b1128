"""`demos_consistent`: samples of problems on which two runs agree, to be imitated under zero-shot prompts.

The fine-tuning sets of weak-to-strong reasoning (arXiv 2407.13647, stage I) are rows of this stage: the weak model's
samples (`weak-ft`), the strong model's with demonstrations (`ICL-ft`), or both, two demos per problem (`hybrid-ft`).
Without `agreements` every sample is taken: all of the weak model's (`full-weak-ft`), or gold solutions (the strong
ceiling). A sample's own prompt may show demonstrations; the demo is put under every prompt of its problem in `prompts`.

Rejects: `disagreeing` (the problem is not kept), `unpaired` (no agreement of its problem), `capped` (another sample of
the problem was compared), `unknown_prompt` (no prompt asks its problem), `empty`, `truncated` (it has no ending, which
a demo teaches), `over_long` (above `max_tokens`).
"""

from builders.demo_tables import check_lengths, write_demos
from schemas.sections_agreement import ConsistentDemosRun
from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

_UNCOUNTED = "select sample_id from (from samples union all from other) where n_tokens is null"


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of demos of what is consistent.

    Raises ValueError if the agreements are of other samples, two samples have one id, or a limit is set and a length
    is not known.
    """
    config: ConsistentDemosRun = stage.config
    with Duck() as duck:
        duck.view("samples", "samples", [stage.dir("samples", config.samples)], stage.scope)
        duck.view("other", "samples", [stage.dir("samples", config.other)], stage.scope)
        duck.view("prompts", "prompts", [stage.dir("prompts", config.prompts)], stage.scope)
        duck.view("agreements", "agreements", [stage.dir("agreements", config.agreements)], stage.scope)
        _check_ids(stage, duck)
        _check_agreements(stage, duck)
        check_lengths(stage, duck, _UNCOUNTED, "name a `model` in the samples_gold or samples_import run")
        given = {"filtered": config.agreements != NONE, "max_tokens": config.max_tokens}
        write_demos(stage, duck, sql_file(__file__, "demos_consistent"), given)


def _check_ids(stage: Stage, duck: Duck) -> None:
    """Imported rows that name no model have the ids of any others that do not."""
    same = """
        select sample_id from samples inner join other using (sample_id)
        where samples.text_hash <> other.text_hash
        limit 1
    """
    if len(found := duck.table(same)):
        config: ConsistentDemosRun = stage.config
        raise ValueError(
            f"demos_consistent.{stage.name}.other: runs '{config.samples}' and '{config.other}' both have a sample"
            f" {found['sample_id'][0]}, with other texts; map `model` in their samples_import runs"
        )


def _check_agreements(stage: Stage, duck: Duck) -> None:
    """Each run must be a side of the comparison: for its problems, one of the two compared samples is its own."""
    config: ConsistentDemosRun = stage.config
    for slot in ("samples", "other"):
        foreign = f"""
            select agreements.problem_id from agreements semi join {slot} using (problem_id)
            where not exists (from {slot} where sample_id in (agreements.a_sample_id, agreements.b_sample_id))
            limit 1
        """
        found = duck.table(foreign)
        if len(found):
            raise ValueError(
                f"demos_consistent.{stage.name}.{slot}: agreements run '{config.agreements}' compares none of the"
                f" samples that run '{getattr(config, slot)}' has of problem {found['problem_id'][0]}; name samples"
                " whose predictions it was made from"
            )


if __name__ == "__main__":
    run_stage("demos_consistent", run)
