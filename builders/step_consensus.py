"""Which step of a sample is its first wrong one, where several labels may say: shared by the stages that read labels.

The first error that most of a sample's valid labels name counts; none is a vote too. Rejects say why a sample has no
wrong step: `no_error`, `disputed` (no choice has the most votes), `invalid` (no label says anything), `unlabeled`.
"""

import pyarrow as pa

from schemas import Reject, arrow_schema
from stores.duck import Duck, sql_file
from stores.stage import Stage

_FOREIGN = "select sample_id from {table} anti join {samples} using (sample_id) order by all limit 1"


def add_consensus(duck: Duck, stage: Stage, labels: str, samples: str, table: str = "consensus") -> None:
    """Adds a table of the consensus of the step labels run `labels`; `samples` is the view of what they label.

    Raises ValueError if they label other samples.
    """
    duck.view("labels", "step_labels", [stage.dir("step_labels", labels)], stage.scope)
    duck.execute(f"create temp table {table} as " + sql_file(__file__, "step_consensus"))
    foreign = duck.table(_FOREIGN.format(table=table, samples=samples))["sample_id"].to_pylist()
    if foreign:
        raise ValueError(
            f"{stage.section}.{stage.name}: step_labels run '{labels}' labels sample {foreign[0]}, which is not among"
            " the samples; name the labels that were made of them"
        )


def unusable(duck: Duck) -> pa.Table:
    """The samples that have no first wrong step, as rejects."""
    return duck.table(sql_file(__file__, "step_unusable")).cast(arrow_schema(Reject))


def require_prompts(duck: Duck, stage: Stage, field: str) -> None:
    """Raises ValueError if a sample with a wrong step answers no prompt of the view `prompts`, the run in `field`."""
    query = "select sample_id from samples join consensus using (sample_id) anti join prompts using (prompt_id)"
    lost = duck.table(f"{query} where reason is null order by all limit 1")["sample_id"].to_pylist()
    if lost:
        raise ValueError(
            f"{stage.section}.{stage.name}.{field}: sample {lost[0]} answers no prompt of run"
            f" '{getattr(stage.config, field)}'; name the prompts that the samples were drawn with"
        )


def add_matches(duck: Duck, stage: Stage, field: str) -> None:
    """Adds the table `matches`: every sample with a wrong step, and the prompt of the run in `field` before that step.

    Raises ValueError where there is none, for then that run was made of other samples or labels.
    """
    duck.execute("create temp table matches as " + sql_file(__file__, "step_matches"))
    outside = duck.table("select sample_id from matches where step_end > n_chars order by all limit 1")
    for sample in outside["sample_id"].to_pylist():
        raise ValueError(
            f"{stage.section}.{stage.name}.step_labels: a label names a step that ends after the text of sample"
            f" {sample}; label the samples as they are now (`dvc repro`)"
        )
    lost = duck.table("select sample_id from matches where step_prompt_id is null order by all limit 1")
    for sample in lost["sample_id"].to_pylist():
        raise ValueError(
            f"{stage.section}.{stage.name}.{field}: run '{getattr(stage.config, field)}' has no prompt that stops"
            f" before the first wrong step of sample {sample}; name the run of prompts_step that was made of the same"
            " samples, prompts and step_labels"
        )
