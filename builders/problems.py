"""Problems, answers and human solutions from one split of one source, read from the Hub or a local file, or generated.

A window (`skip`, `limit`) is cut out of the rows in file order, or with `shuffle` in an order by a seeded hash of each
problem. A problem that an earlier row of that order states is a duplicate even where the earlier row lies outside the
window, so windows of one order share no problem. Every row of the window becomes a problem or a reject.

Rows are streamed: DuckDB de-duplicates and cuts by ids and hashes, and spills to disk what exceeds its memory. Texts
are spooled by ranges of problems and sorted a range at a time.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from builders import arithmetic
from builders.sources import Record
from builders.sources.reading import published, source_of
from builders.sources.spool import TextSpool
from schemas import Answer, Problem, Solution
from schemas.ids import digest, problem_id
from schemas.problems import AnswerKind
from schemas.sections import ProblemsRun
from schemas.slots import NO_FILE
from stores.duck import Duck, sql_file
from stores.stage import Stage, run_stage

MEMORY = "1GB"
"""DuckDB's limit, unless `$PAIRWRIGHT_MEMORY` sets another."""
_BATCH_ROWS = 2_048
_TEXTS = ("question", "choices", "solution", "program", "answer_kind", "level", "subject")
_LISTS = ("choices",)


def _schema(*names: str) -> pa.Schema:
    texts = [pa.field(name, pa.list_(pa.string()) if name in _LISTS else pa.string()) for name in names]
    return pa.schema([pa.field("place", pa.int64()), pa.field("problem_id", pa.string()), *texts])


TEXTS = _schema(*_TEXTS)
"""What the set logic does not need: it is spooled by problem, with the row's place in file order."""
_READ = _schema(*_TEXTS, "located", "order_key", "note", "reason", "answer").append(pa.field("blank", pa.bool_()))


class Labels(NamedTuple):
    """What all problems of a run have in common."""

    source: str
    split: str
    answer_kind: AnswerKind
    licence: str


class Built(NamedTuple):
    """The tables that a run writes, in the order of their keys. Each is streamed once, one after the other."""

    problems: Iterator[pa.Table]
    answers: Iterator[pa.Table]
    solutions: Iterator[pa.Table]
    rejects: Iterator[pa.Table]


def build(duck: Duck, spool: TextSpool, records: Iterable[Record], labels: Labels, config: ProblemsRun) -> Built:
    """One problem or one reject per record of the window. `spool` holds `TEXTS`, and is empty.

    Raises ValueError for a window beyond the records.
    """
    stop = config.skip + config.limit if config.limit else 1 << 62
    read = _read(duck, spool, records if config.shuffle else islice(records, stop), labels.source, config)
    if config.skip >= read:
        raise ValueError(f"skip: {config.skip:,} leaves nothing of the {read:,} rows; lower it")
    placed, numbered = sql_file(__file__, "problems_placed"), sql_file(__file__, "problems_numbered")
    window = {"skip": config.skip, "stop": stop, "unanswered": config.unanswered}
    duck.execute(f"create temp table placed as {placed}", window)
    duck.execute(f"create temp table numbered as {numbered}", {"all_solutions": config.all_solutions})
    kept = _by_range(duck, spool, sql_file(__file__, "problems_kept"), TEXTS.names)
    solutions = sql_file(__file__, "problems_solutions")
    return Built(
        (_labelled(batch, labels) for batch in kept),
        duck.batches(sql_file(__file__, "problems_answers")),
        _by_range(duck, spool, solutions, ("place", "problem_id", "solution", "program")),
        duck.batches(sql_file(__file__, "problems_rejects")),
    )


def _read(duck: Duck, spool: TextSpool, records: Iterable[Record], source: str, config: ProblemsRun) -> int:
    """Fills the table `rows_read`, one row per record, and the spool; returns the number of rows."""
    duck.register("batch", _READ.empty_table())
    rows_of_batch = sql_file(__file__, "problems_read")
    duck.execute(f"create temp table rows_read as {rows_of_batch}")
    rows, count = iter(records), 0
    while batch := list(islice(rows, _BATCH_ROWS)):
        table = _batch(batch, count, source, config)
        duck.register("batch", table)
        duck.execute(f"insert into rows_read {rows_of_batch}")
        spool.add(table)
        count += len(batch)
    return count


def _batch(records: list[Record], start: int, source: str, config: ProblemsRun) -> pa.Table:
    ids = [problem_id(source, record.question, record.choices) for record in records]
    columns = {
        "place": range(start, start + len(ids)),
        "problem_id": ids,
        "located": [record.where for record in records],
        "order_key": [digest([config.seed, identity]) if config.shuffle else None for identity in ids],
        "blank": [not record.question.strip() for record in records],
    }
    columns |= {name: [getattr(record, name) for record in records] for name in (*_TEXTS, "note", "reason", "answer")}
    return pa.Table.from_pydict(columns, schema=_READ)


def _by_range(duck: Duck, spool: TextSpool, query: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The results of a query over `texts`, a range of problems after the other, hence in the order of problems."""
    for texts in spool.ranges(columns):
        if len(texts):
            duck.register("texts", texts)
            ends = pc.min_max(texts["problem_id"]).as_py()
            yield from duck.batches(query, {"first": ends["min"], "last": ends["max"]})


def _labelled(rows: pa.Table, labels: Labels) -> pa.Table:
    """Rows of `problems`: with the columns that are the same for all, and the run's kind of answer where none is."""
    same = {name: pa.repeat(pa.scalar(value), len(rows)) for name, value in labels._asdict().items()}
    columns = {name: rows[name] for name in rows.column_names} | {name: same[name] for name in same}
    columns["answer_kind"] = pc.coalesce(rows["answer_kind"], pa.scalar(labels.answer_kind))
    return pa.table(columns)


def generated(config: ProblemsRun) -> Iterator[Record]:
    """Word problems of a seed's stream as records: those skipped are made too, so that windows are cut as elsewhere.

    Raises ValueError for steps out of range, and for more problems than there are.
    """
    assert config.steps is not None
    assert config.limit is not None
    problems = arithmetic.generate(config.seed, config.steps, config.skip + config.limit)
    for number, p in enumerate(problems, 1):
        record = Record(
            f"generated problem {number}", p.question, p.answer, p.chain, level=str(p.steps), program=p.program
        )
        yield _with_options(record, *arithmetic.options(p, config.options)) if config.options else record


def _with_options(record: Record, choices: list[str], letter: str) -> Record:
    """The same problem as a multiple-choice one, whose solutions name the option too."""
    solution, program = f"{record.solution} That is ({letter}).", arithmetic.choosing(record.program or "", choices)
    return record._replace(choices=choices, answer=letter, answer_kind="choice", solution=solution, program=program)


def _check(config: ProblemsRun) -> None:
    """Raises ValueError for settings that do not go with the source."""
    if config.source == "arithmetic":
        for field in ("steps", "limit"):
            if getattr(config, field) is None:
                raise ValueError(f"{field}: generated problems need it")
        if config.path != NO_FILE or config.revision or config.shuffle:
            raise ValueError(f"source: generated problems take no file, revision or shuffle (`path: {NO_FILE}`)")
    elif given := next((field for field in ("steps", "options") if getattr(config, field) is not None), None):
        raise ValueError(f"{given}: only generated problems have it; remove it")


def _labels(config: ProblemsRun) -> Labels:
    if config.source == "arithmetic":
        return Labels("arithmetic", config.split, "number", config.licence or arithmetic.LICENCE)
    source = source_of(config)
    return Labels(source.name, config.split, source.answer_kind, source.licence)


def run(stage: Stage) -> None:
    config: ProblemsRun = stage.config
    _check(config)
    records = generated(config) if config.source == "arithmetic" else published(config, stage.root)
    with Duck(os.environ.get("PAIRWRIGHT_MEMORY", MEMORY)) as duck, TextSpool(TEXTS) as spool:
        built = build(duck, spool, records, _labels(config), config)
        kept = stage.write(Problem, built.problems)
        stage.write(Answer, built.answers)
        stage.write(Solution, built.solutions)
        dropped = 0
        for batch in built.rejects:
            stage.reject(batch)
            dropped += len(batch)
        (placed,) = duck.table("select count(*) from placed")[0].to_pylist()
    assert kept + dropped == placed, "a row was lost"


if __name__ == "__main__":
    run_stage("problems", run)
