"""`prompts_step`: one row per distinct (prompt, correct start of an answer): the start is given, the rest is asked.

A completion's correct steps and the marker of its first wrong one (`… Step k:`) become the prefill, after the prefill
that it was itself given; messages and rendering are those of its own prompt (Step-DPO, arXiv 2406.18629, §3.2).
Completions that go wrong after the same start share a prompt. Where the first step is wrong, the prompt is the
completion's own (or that with the marker, if the completion wrote it). Rejects are samples without a wrong step.
"""

import pyarrow as pa

from builders.parts import Built, write_by_parts
from builders.step_consensus import add_consensus, require_prompts, unusable
from schemas import Prompt
from schemas.ids import prompt_id
from schemas.sections_steps import StepPromptsRun
from stores.duck import Duck, sql_file
from stores.parquet import sort_table
from stores.stage import Stage, partitioned, run_stage


def build(stage: Stage) -> Built:
    """The step prompts of a scope.

    Raises ValueError for labels of other samples, and for samples of other prompts.
    """
    config: StepPromptsRun = stage.config
    with Duck() as duck:
        for table in ("samples", "prompts"):
            duck.view(table, table, [stage.dir(table, getattr(config, table))], stage.scope)
        add_consensus(duck, stage, config.step_labels, "samples")
        require_prompts(duck, stage, "prompts")
        return Built(with_ids(duck.table(sql_file(__file__, "prompts_step"))), unusable(duck))


def with_ids(starts: pa.Table) -> pa.Table:
    """`prompts` rows, in order, from their columns without the id."""
    asked = zip(*(starts[name].to_pylist() for name in ("problem_id", "messages", "prefill", "rendering")), strict=True)
    ids = [prompt_id(*what) for what in asked]
    return sort_table(Prompt, starts.append_column("prompt_id", pa.array(ids, pa.string())))


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of step prompts."""
    write_by_parts(stage, Prompt, build, [("samples", stage.config.samples)])


if __name__ == "__main__":
    run_stage("prompts_step", run)
