"""`step_labels`: one row per (sample, labeler, repeat), the sample's first wrong step or that there is none.

Samples are taken by verdict (`select`) and drawn (`limit` of each source), split into steps and given to the labeler:
a judge, people's labels in a file, or a rule. Step-DPO (arXiv 2406.18629, §3.2) labels wrong samples; an audit labels
some correct ones. Rejects: the verdict of a sample that is not selected (`correct`, `wrong`, `no_answer`,
`undecided`), `capped`, `empty` (it has no step), and `invalid`: a labeler's answer that says neither, whose row is
kept all the same.

A row depends on its sample and problem alone. The draw reads the verdicts of the whole run, whatever bucket is built.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builders.parallel import by_range
from builders.step_label_rows import Candidate
from builders.steps import split_steps
from builders.streams import PROBLEM, ProblemStream, lookup
from schemas import Reject, StepLabels, arrow_schema
from schemas.ids import digest
from schemas.slots import NONE
from schemas.step_labels import StepSpan
from stores.buckets import WHOLE, condition
from stores.duck import Duck, sql_file
from stores.parquet import rows_to_table
from stores.progress import progress
from stores.stage import Stage, partitioned, run_stage

CHUNK = 4_096
"""Candidates that are given to a labeler at once."""
Candidates = Callable[[], Iterable[list[Candidate]]]
"""The samples to label in the order of `sample_id`, in chunks; each call reads them anew."""
_LABELERS = {
    "judge": "builders.judging.judge:rows",
    "human": "builders.human_labels:rows",
    "rule": "builders.rule_labels:rows",
}
_SAMPLE_COLUMNS = ("sample_id", "problem_id", "prompt_id", "text")
_FOREIGN = """
select sample_id from samples full join rewards using (sample_id)
where samples.problem_id is null or rewards.verdict is null limit 1
"""
_NOT_SELECTED = "select * from selected where reason is not null"
_SELECTED = "select sample_id from selected where reason is null and sample_id between $first and $last"
_SPAN = arrow_schema(StepLabels).field("steps").type.value_type
_DETAIL = 300
"""Characters of a labeler's invalid answer that its reject repeats."""


def labeler(kind: str) -> Callable[[Stage, Candidates], Iterator[list[StepLabels]]]:
    """The function that labels: rows in the order of (sample_id, labeler, repeat), in chunks of any size."""
    module, name = _LABELERS[kind].split(":")
    return getattr(importlib.import_module(module), name)


def select(stage: Stage, duck: Duck) -> None:
    """Adds a table `selected`, one row per sample of the scope: `sample_id`, and why it is not labelled (null: it is).

    Raises ValueError if the rewards are not those of the samples.
    """
    config = stage.config
    scope = WHOLE if config.limit else stage.scope  # what is drawn depends on all samples
    for table, name in (("samples", config.samples), ("rewards", config.rewards), ("problems", config.problems)):
        duck.view(table, table, [] if name == NONE else [stage.dir(table, name)], scope)
    if config.rewards != NONE and len(foreign := duck.table(_FOREIGN)):
        raise ValueError(
            f"rewards: run '{config.rewards}' was not made from samples run '{config.samples}' (sample"
            f" {foreign['sample_id'][0]}); name the rewards of these samples"
        )
    given = {"select": config.select, "limit": config.limit, "seed": digest([stage.params.seed, config.seed])}
    judged = sql_file(__file__, "step_labels")
    here = condition("sample_id", stage.scope)
    duck.execute(f"create temp table selected as select * from ({judged}) where {here}", given)


def candidates(stage: Stage, duck: Duck) -> Iterator[list[Candidate]]:
    """The selected samples with their problems and steps, in the order of `sample_id`; samples without a step too.

    Raises ValueError for a sample whose problem or prompt is not in the runs that were given.
    """
    knowledge = _Knowledge(stage)
    for batch in stage.scan("samples", stage.config.samples, _SAMPLE_COLUMNS):
        ids = batch["sample_id"]
        ends = {"first": ids[0].as_py(), "last": ids[-1].as_py()} if len(ids) else {"first": "", "last": ""}
        mine = batch.filter(pc.is_in(ids, value_set=duck.table(_SELECTED, ends)["sample_id"]))
        for start in range(0, len(mine), CHUNK):
            yield knowledge.candidates(mine.slice(start, CHUNK))


class _Knowledge:
    """What the runs of a stage say of problems and prompts, read along with the samples."""

    def __init__(self, stage: Stage):
        config = stage.config
        problems = stage.scan("problems", config.problems, ["problem_id", "source", "question", "choices"])
        self.problems = ProblemStream(problems, "problem_id")
        self.answers = ProblemStream(stage.scan("answers", config.problems, ["problem_id", "answer"]), "problem_id")
        solutions = stage.scan("solutions", config.problems, ["problem_id", "style", "index", "text"])
        self.solutions = ProblemStream(map(_first_natural, solutions), "problem_id")
        prompts = stage.scan("prompts", config.prompts, ["prompt_id", "prefill"])
        self.prompts = ProblemStream(prompts, "prompt_id")

    def candidates(self, samples: pa.Table) -> list[Candidate]:
        """The candidates of some samples, which come after those of an earlier call."""
        ends = pc.min_max(samples["problem_id"]).as_py()
        problems = lookup(self.problems, ends, "problem_id", "source", "question", "choices")
        answers = lookup(self.answers, ends, "problem_id", "answer")
        solutions = lookup(self.solutions, ends, "problem_id", "text")
        prefills = lookup(self.prompts, ends, "prompt_id", "prefill")
        found = []
        for sample, problem, prompt, text in zip(*(samples[c].to_pylist() for c in _SAMPLE_COLUMNS), strict=True):
            if problem not in problems:
                raise ValueError(f"sample {sample}: its problem is not in `problems`; name the run that it answers")
            if prompt is not None and prompt not in prefills:  # without its prefill, the first step would be another
                raise ValueError(f"sample {sample}: its prompt is not in `prompts`; name the run that it answers")
            source, question, choices = problems[problem]
            (answer,), (solution,) = answers.get(problem, (None,)), solutions.get(problem, (None,))
            prefill = "" if prompt is None else prefills[prompt][0]
            known = (sample, problem, source, question, choices, answer, solution)
            found.append(Candidate(*known, prefill, text, tuple(split_steps(prefill, text))))
        return found


def _first_natural(solutions: pa.Table) -> pa.Table:
    return solutions.filter(pc.and_(pc.equal(solutions["style"], "natural"), pc.equal(solutions["index"], 0)))


def table_of(rows: list[StepLabels]) -> pa.Table:
    """Rows as a table, column by column: several times as fast as from dictionaries."""
    schema = arrow_schema(StepLabels)
    columns = [pa.array([getattr(row, name) for row in rows], schema.field(name).type) for name in _PLAIN]
    arrays = dict(zip(_PLAIN, columns, strict=True)) | {"steps": _spans([row.steps for row in rows])}
    return pa.table([arrays[name] for name in schema.names], schema=schema)


_PLAIN = [name for name in StepLabels.model_fields if name != "steps"]


def _spans(steps: list[list[StepSpan]]) -> pa.Array:
    offsets = np.cumsum([0, *map(len, steps)], dtype=np.int32)
    bounds = np.array([(span.start, span.end) for spans in steps for span in spans], dtype=np.int32).reshape(-1, 2)
    values = pa.StructArray.from_arrays([pa.array(bounds[:, 0]), pa.array(bounds[:, 1])], fields=list(_SPAN))
    return pa.ListArray.from_arrays(pa.array(offsets), values).cast(arrow_schema(StepLabels).field("steps").type)


def _without_steps(found: Iterable[Candidate]) -> Iterator[Reject]:
    detail = "markers without a step"
    return (Reject(problem_id=c.problem_id, sample_id=c.sample_id, reason="empty", detail=detail) for c in found)


def _invalid(rows: Iterable[StepLabels]) -> Iterator[Reject]:
    for row in rows:
        if row.verdict == "invalid":
            detail = f"{row.labeler}, repeat {row.repeat}: {row.rationale or ''}"
            problem = row.sample_id[:PROBLEM]
            yield Reject(problem_id=problem, sample_id=row.sample_id, reason="invalid", detail=detail[:_DETAIL])


def labelled(stage: Stage) -> Iterator[pa.Table]:
    """The rows of a stage's scope, in order, and between them its rejects, in tables of their own."""
    with Duck() as duck:
        select(stage, duck)
        yield from duck.batches(_NOT_SELECTED)
        empty: dict[str, Candidate] = {}

        def with_steps() -> Iterator[list[Candidate]]:
            for chunk in candidates(stage, duck):
                empty.update((c.sample_id, c) for c in chunk if not c.steps)
                yield [c for c in chunk if c.steps]

        for rows in labeler(stage.config.labeler)(stage, with_steps):
            yield rows_to_table(Reject, _invalid(rows))
            yield table_of(rows)
        yield rows_to_table(Reject, _without_steps(empty.values()))


def estimate(stage: Stage, answers: int) -> str:
    """What a judge's run will cost, after a pilot of so many of its answers.

    Raises ValueError for another labeler.
    """
    if stage.config.labeler != "judge":
        raise ValueError(f"--estimate: labels of a {stage.config.labeler} cost nothing")
    from builders.judging.estimate import pilot

    with Duck() as duck:
        select(stage, duck)
        return pilot(stage, partial(judged, stage, duck), answers)


def judged(stage: Stage, duck: Duck) -> Iterator[list[Candidate]]:
    """The candidates that a labeler is given."""
    for chunk in candidates(stage, duck):
        yield [c for c in chunk if c.steps]


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of labels. What the labeler raises or stops for leaves no table."""
    total = stage.rows("samples", stage.config.samples)
    alone = stage.config.labeler != "rule" or stage.config.limit  # one process asks a judge, and reads people's file
    tables = labelled(stage) if alone else by_range(labelled, stage, total)
    stage.write(StepLabels, _without_rejects(stage, tables, total))


def _without_rejects(stage: Stage, tables: Iterator[pa.Table], total: int) -> Iterator[pa.Table]:
    asked = stage.config.labeler == "judge"  # whose questions have a bar of their own
    with nullcontext() if asked else progress(f"labels {stage.name}", total, "samples") as bar:
        for table in tables:
            if "reason" in table.column_names:
                stage.reject(table)
            else:
                yield table
            if bar:
                bar.advance(len(table))


if __name__ == "__main__":
    run_stage("step_labels", run, estimate=estimate)
