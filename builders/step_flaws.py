"""Which samples have a wrong step, where several labels may say: shared by the stages that want right answers only."""

from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.stage import Stage

_FOREIGN = "select sample_id from labels anti join samples using (sample_id) order by all limit 1"


def add_flaws(duck: Duck, stage: Stage) -> None:
    """Adds a table `step_flaws` of the samples whose process is wrong by the run's `step_labels`; none: it is empty.

    More of their valid labels find a wrong step than find none: a tie calls nothing wrong. `samples` is the view of
    what is labelled. Raises ValueError if other samples are.
    """
    labels = stage.config.step_labels
    duck.view("labels", "step_labels", [] if labels == NONE else [stage.dir("step_labels", labels)], stage.scope)
    duck.execute("create temp table step_flaws as " + sql_file(__file__, "step_flaws"))
    for sample in duck.table(_FOREIGN)["sample_id"].to_pylist():
        raise ValueError(
            f"{stage.section}.{stage.name}: step_labels run '{labels}' labels sample {sample}, which is not among the"
            " samples; name the labels that were made of them"
        )
