"""`demos_correct`: one row per correct sample, to be imitated by fine-tuning (STaR, rejection sampling, annotation).

Samples go under their own prompts, or with `prompts` under that run's prompts of the same problem: what a model wrote
after demonstrations then teaches another to write it without. A sample continues its prompt's prefill, so the other
prompt must have the same one.

Rejects say why each of the others is none: its verdict (`wrong`, `no_answer`, `undecided`); `wrong_step` (most of its
`step_labels` find a wrong step on the way); `unknown_prompt` (it answers no prompt, or no prompt asks its problem);
`truncated` (it has no ending, which a demo teaches); `over_long` (prompt and completion exceed `max_tokens`);
`duplicate` (an earlier sample of its problem has the text, if `deduplicate`); `capped` (`max_per_problem` earlier ones
were taken). Earlier is a lower index.
"""

from builders.demo_tables import check_lengths, write_demos
from builders.step_flaws import add_flaws
from schemas.sections import CorrectDemosRun
from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

_UNCOUNTED = "select sample_id from samples where n_tokens is null or n_prompt_tokens is null"


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of demos from correct samples.

    Raises ValueError if the rewards or labels are of other samples, or a sample continues another prefill than its new
    prompt has.
    """
    config: CorrectDemosRun = stage.config
    with Duck() as duck:
        duck.view("samples", "samples", [stage.dir("samples", config.samples)], stage.scope)
        duck.view("rewards", "rewards", [stage.dir("rewards", config.rewards)], stage.scope)
        _check_rewards(stage, duck)
        add_flaws(duck, stage)
        for view, run in (("own_prompts", config.sample_prompts), ("prompts", config.prompts)):
            duck.view(view, "prompts", [] if run == NONE else [stage.dir("prompts", run)], stage.scope)
        _check_prefills(stage, duck)
        limits = {name: getattr(config, name) for name in ("max_per_problem", "max_tokens", "deduplicate")}
        limits["moved"] = config.prompts != NONE
        check_lengths(stage, duck, _UNCOUNTED, "name a `model` in the samples_import run")
        write_demos(stage, duck, sql_file(__file__, "demos_correct"), limits)


def _check_rewards(stage: Stage, duck: Duck) -> None:
    missing = duck.table("select sample_id from samples anti join rewards using (sample_id) limit 1")
    if len(missing):
        raise ValueError(
            f"demos_correct.{stage.name}: sample {missing['sample_id'][0]} has no reward in run"
            f" '{stage.config.rewards}'; name the rewards of samples run '{stage.config.samples}'"
        )


def _check_prefills(stage: Stage, duck: Duck) -> None:
    config, place = stage.config, f"demos_correct.{stage.name}"
    for row in duck.table(sql_file(__file__, "moved_prefills")).to_pylist():
        if row["own"] is None:
            raise ValueError(
                f"{place}.sample_prompts: the prompt of sample {row['sample_id']} is not in run"
                f" '{config.sample_prompts}'; name the run that samples run '{config.samples}' answers"
            )
        raise ValueError(
            f"{place}.prompts: sample {row['sample_id']} continues {_shown(row['own'])}, and the prompt of its problem"
            f" in run '{config.prompts}' ends in {_shown(row['other'])}; name prompts with the same prefill"
        )


def _shown(prefill: str) -> str:
    return f"the prefill {prefill[:60]!r}" if prefill else "no prefill"


if __name__ == "__main__":
    run_stage("demos_correct", run)
