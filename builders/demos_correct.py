"""`demos_correct`: one row per correct sample, to be imitated by fine-tuning (STaR, rejection sampling).

Rejects say why each of the others is none: its verdict (`wrong`, `no_answer`, `undecided`); `unknown_prompt` (it
answers no prompt); `truncated` (it has no ending, which a demo teaches); `over_long` (prompt and completion exceed
`max_tokens`); `duplicate` (an earlier sample of its problem has the text, if `deduplicate`); `capped`
(`max_per_problem` earlier ones were taken). Earlier is a lower index.
"""

from builders.demo_tables import check_lengths, write_demos
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

_UNCOUNTED = "select sample_id from samples where n_tokens is null or n_prompt_tokens is null"


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of demos from correct samples.

    Raises ValueError if the rewards are of other samples.
    """
    config = stage.config
    with Duck() as duck:
        duck.view("samples", "samples", [stage.dir("samples", config.samples)], stage.scope)
        duck.view("rewards", "rewards", [stage.dir("rewards", config.rewards)], stage.scope)
        _check_rewards(stage, duck)
        limits = {name: getattr(config, name) for name in ("max_per_problem", "max_tokens", "deduplicate")}
        check_lengths(stage, duck, _UNCOUNTED, "name a `model` in the samples_import run")
        write_demos(stage, duck, sql_file(__file__, "demos_correct"), limits)


def _check_rewards(stage: Stage, duck: Duck) -> None:
    missing = duck.table("select sample_id from samples anti join rewards using (sample_id) limit 1")
    if len(missing):
        raise ValueError(
            f"demos_correct.{stage.name}: sample {missing['sample_id'][0]} has no reward in run"
            f" '{stage.config.rewards}'; name the rewards of samples run '{stage.config.samples}'"
        )


if __name__ == "__main__":
    run_stage("demos_correct", run)
