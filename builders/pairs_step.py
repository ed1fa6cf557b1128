"""`pairs_step`: pairs of one step, a correct one against the first wrong one after the same correct steps (Step-DPO).

The rejected side is the first wrong step of a sample, the chosen side the first step of a continuation of its correct
steps that came to the right answer (arXiv 2406.18629, §3.2). The pair's prompt is the one that stops before the step.
No ending is scored: a step is none. Every distinct chosen step meets every distinct wrong one; the pairs of a prompt
are ranked by continuation (in the order of their index), then by wrong step. With `span: completion` the same pairs
reach to the ends of both samples, as plain DPO on the same problems has them: the shared start cancels in its margin.

That a sample belongs to a prompt is proved: the prompt's prefill is the prefill that the sample was given and the
sample's text up to its wrong step. A chosen step begins where the prefill ends, so what stands before it is the prompt.
A chosen step is whole; a wrong one is wrong even where the token limit cut it off.

Rejects of samples: those of `step_consensus`; `empty` (a blank step); `duplicate` (the wrong step of an earlier sample
of the prompt); `no_chosen`; `low_accuracy` (fewer than `min_accuracy` of the decided continuations are correct). Of
continuations: their verdict (`wrong`, `no_answer`, `undecided`); `wrong_step` (the right answer, but a step is wrong),
`invalid`, `disputed`, `unlabeled`, where they are `judged`; `empty` (no step follows the marker); `truncated` (cut off
within the step); `duplicate` (a known wrong step, or the step of an earlier continuation); `low_accuracy`;
`no_rejected` (no sample goes wrong there). Of pairs: `over_long` (the longer of both samples with its prompt, as their
tokens were counted: a bound that a step alone stays under) and `capped`.
"""

import pyarrow as pa

from builders.parts import Built, write_by_parts
from builders.step_consensus import add_consensus, add_matches, require_prompts, unusable
from builders.steps import split_steps
from schemas import Pair, Reject, arrow_schema
from schemas.ids import text_hash
from schemas.params import table_runs
from schemas.sections_steps import StepPairsRun
from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

DIGEST = ("chosen_text_hash", "rejected_text_hash")
_STEPS = pa.schema(
    [("sample_id", pa.string()), ("step_end", pa.int32()), ("step_hash", pa.string()), ("is_whole", pa.bool_())]
)
_USABLE = """
select chosen.sample_id, chosen.text, chosen.finish_reason = 'length' as is_cut, step_prompts.prefill
from continuations
inner join chosen using (sample_id)
inner join step_prompts on chosen.prompt_id = step_prompts.prompt_id
where reason is null
"""
_REJECTS = "select problem_id, prompt_id, sample_id, reason, detail from {} where reason is not null"
_PAIR_REJECTS = """
select problem_id, prompt_id, chosen_sample_id as sample_id, reason, 'against ' || rejected_sample_id as detail
from pairs where reason is not null
"""


def first_step(prefill: str, text: str) -> int | None:
    """Where the first step of a continuation ends; None if it does not begin with one.

    Blank lines before a step that has no marker are part of it, so that every span begins where the prefill ends.
    """
    step = next(iter(split_steps(prefill, text)), None)
    return step.end if step is not None and not text[: step.start].strip() else None


def cut(continuations: pa.Table) -> pa.Table:
    """The first steps (`_STEPS`) of continuations (`sample_id`, `text`, `is_cut`, `prefill`).

    A step that reaches to the end of a text which was cut off is not whole.
    """
    rows = []
    for row in continuations.to_pylist():
        text, end = row["text"], first_step(row["prefill"], row["text"])
        step = None if end is None else text_hash(text[:end])
        rows.append((row["sample_id"], end, step, not (row["is_cut"] and end == len(text))))
    columns = zip(*rows, strict=True) if rows else ((),) * len(_STEPS)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, _STEPS, strict=True)], schema=_STEPS)


def build(stage: Stage) -> Built:
    """The pairs of a scope, with the columns of `DIGEST`.

    Raises ValueError for runs that do not belong together, naming the one to change.
    """
    config: StepPairsRun = stage.config
    with Duck() as duck:
        _add_inputs(duck, stage)
        add_consensus(duck, stage, config.step_labels, "samples")
        require_prompts(duck, stage, "rejected_prompts")
        add_matches(duck, stage, "prompts")
        _add_continuations(duck, stage)
        duck.register("steps", pa.concat_tables([_STEPS.empty_table(), *map(cut, duck.batches(_USABLE))]))
        whole = {"whole": config.span == "completion"}
        chosen, rejected = sql_file(__file__, "pairs_step_chosen"), sql_file(__file__, "pairs_step_rejected")
        duck.execute(f"create temp table winners as {chosen}", whole | {"min_accuracy": config.min_accuracy})
        duck.execute(f"create temp table losers as {rejected}", whole)
        _check_lengths(duck, stage)
        limits = {name: getattr(config, name) for name in ("max_tokens", "max_per_prompt")}
        duck.execute("create temp table pairs as " + sql_file(__file__, "pairs_step"), limits)
        queries = (*map(_REJECTS.format, ("continuations", "winners", "losers")), _PAIR_REJECTS)
        dropped = [duck.table(query).cast(arrow_schema(Reject)) for query in queries]
        pairs = duck.table("select * from pairs where reason is null order by prompt_id, rank")
        return Built(pairs, pa.concat_tables([unusable(duck), *dropped]))


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of step pairs."""
    inputs = [("samples", stage.config.rejected), ("samples", stage.config.chosen)]
    write_by_parts(stage, Pair, build, inputs, DIGEST)


def _add_inputs(duck: Duck, stage: Stage) -> None:
    """The runs as views; `rewards` is empty where the run names none."""
    config: StepPairsRun = stage.config
    corrected = table_runs(stage.params, "samples")[config.chosen] == "samples_corrections"
    if corrected and config.span == "completion":
        raise ValueError(
            f"pairs_step.{stage.name}.span: '{config.chosen}' holds single corrected steps, which are no completions;"
            " use `span: step`, or name continuations in `chosen`"
        )
    for view, table, name in (
        ("samples", "samples", config.rejected),
        ("prompts", "prompts", config.rejected_prompts),
        ("step_prompts", "prompts", config.prompts),
        ("chosen", "samples", config.chosen),
        ("rewards", "rewards", config.rewards),
    ):
        duck.view(view, table, [] if name == NONE else [stage.dir(table, name)], stage.scope)


def _add_continuations(duck: Duck, stage: Stage) -> None:
    """Adds the table `continuations`.

    Raises ValueError for continuations of other prompts, and for ones without a reward where rewards are named.
    """
    config: StepPairsRun = stage.config
    foreign = "select sample_id from chosen anti join step_prompts using (prompt_id) order by all limit 1"
    for sample in duck.table(foreign)["sample_id"].to_pylist():
        raise ValueError(
            f"pairs_step.{stage.name}.chosen: sample {sample} of run '{config.chosen}' continues no prompt of run"
            f" '{config.prompts}'; name samples of these prompts"
        )
    unjudged = "select sample_id from chosen anti join rewards using (sample_id) order by all limit 1"
    for sample in [] if config.rewards == NONE else duck.table(unjudged)["sample_id"].to_pylist():
        raise ValueError(
            f"pairs_step.{stage.name}.rewards: run '{config.rewards}' has no verdict of sample {sample}; name the"
            f" rewards of samples run '{config.chosen}'"
        )
    if config.judged == NONE:
        duck.execute("create temp table judged as select * from consensus where false")
    else:
        add_consensus(duck, stage, config.judged, "chosen", "judged")
    given = {"rewarded": config.rewards != NONE, "judged": config.judged != NONE}
    duck.execute("create temp table continuations as " + sql_file(__file__, "pairs_step_continuations"), given)


def _check_lengths(duck: Duck, stage: Stage) -> None:
    unknown = " union all ".join(
        f"select sample_id from {table} where reason is null and n_tokens is null" for table in ("winners", "losers")
    )
    if stage.config.max_tokens is None:
        return
    for sample in duck.table(f"select min(sample_id) as id from ({unknown})")["id"].to_pylist():
        if sample is not None:
            raise ValueError(
                f"pairs_step.{stage.name}.max_tokens: the tokens of sample {sample} are not known; name a `model` in"
                " the samples_corrections and samples_import runs"
            )


if __name__ == "__main__":
    run_stage("pairs_step", run)
