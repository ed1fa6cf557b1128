"""`demos_gold`: one row per gold sample and prompt of its problem, to be imitated by fine-tuning.

A sample whose problem has no prompt in the run is a reject (`unknown_prompt`).
"""

from builders.demo_tables import write_demos
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of gold demos."""
    config = stage.config
    with Duck() as duck:
        duck.view("samples", "samples", [stage.dir("samples", config.samples)], stage.scope)
        duck.view("prompts", "prompts", [stage.dir("prompts", config.prompts)], stage.scope)
        write_demos(stage, duck, sql_file(__file__, "demos_gold"))


if __name__ == "__main__":
    run_stage("demos_gold", run)
