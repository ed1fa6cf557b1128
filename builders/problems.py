"""Problems, answers and human solutions from one split of one source, read from the Hub or a local file, or generated.

A window (`skip`, `limit`) is cut out of the rows in file order, or with `shuffle` in an order by a seeded hash of each
problem. A problem that an earlier row of that order states is a duplicate even where the earlier row lies outside the
window, so windows of one order share no problem. Every row of the window becomes a problem or a reject.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from builders import arithmetic
from builders.hub import commit_hash, download
from builders.sources import SOURCES, Record
from builders.sources.files import read_rows
from schemas import Answer, Problem, Reject, Solution
from schemas.ids import digest, problem_id
from schemas.problems import AnswerKind
from schemas.sections import ProblemsRun
from schemas.slots import NO_FILE
from stores.stage import Stage, run_stage


class Labels(NamedTuple):
    """What all problems of a run have in common."""

    source: str
    split: str
    answer_kind: AnswerKind
    licence: str


class Built(NamedTuple):
    """Rows of the tables that a run writes."""

    problems: list[Problem]
    answers: list[Answer]
    solutions: list[Solution]
    rejects: list[Reject]


def build(records: Sequence[Record], labels: Labels, config: ProblemsRun) -> Built:
    """One problem or one reject per record of the window.

    Raises ValueError for a window beyond the records.
    """
    ids = [problem_id(labels.source, record.question, record.choices) for record in records]
    order = _order(ids, config)
    if config.skip >= len(order):
        raise ValueError(f"skip: {config.skip:,} leaves nothing of the {len(order):,} rows; lower it")
    first: dict[str, str] = {}
    built = Built([], [], [], [])
    for place, i in enumerate(order[: config.skip + (config.limit or len(order))]):
        record, problem = records[i], ids[i]
        if place >= config.skip:
            _add(built, record, problem, first.get(problem), labels)
        if _usable(record):
            first.setdefault(problem, record.where)
    read = min(config.limit or len(order), len(order) - config.skip)
    assert len(built.problems) + len(built.rejects) == read, "a row was lost"
    return built


def _order(ids: Sequence[str], config: ProblemsRun) -> Sequence[int]:
    """Row numbers as they are taken. The shuffled order depends on seed and problems alone, not on the file's order."""
    if not config.shuffle:
        return range(len(ids))
    return sorted(range(len(ids)), key=lambda i: (digest([config.seed, ids[i]]), i))


def _usable(record: Record) -> bool:
    return bool(record.question.strip()) and record.answer is not None


def _add(built: Built, record: Record, problem: str, earlier: str | None, labels: Labels) -> None:
    if not record.question.strip():
        built.rejects.append(Reject(problem_id=problem, reason="empty", detail=record.where))
    elif record.answer is None:
        built.rejects.append(Reject(problem_id=problem, reason="no_answer", detail=record.where))
    elif earlier is not None:
        detail = f"{record.where} repeats {earlier}"
        built.rejects.append(Reject(problem_id=problem, reason="duplicate", detail=detail))
    else:
        built.problems.append(_problem(record, problem, labels))
        built.answers.append(Answer(problem_id=problem, answer=record.answer))
        if record.solution is not None:
            built.solutions.append(Solution(problem_id=problem, style="natural", index=0, text=record.solution))


def _problem(record: Record, problem: str, labels: Labels) -> Problem:
    return Problem(
        problem_id=problem,
        question=record.question,
        choices=record.choices,
        level=record.level,
        subject=record.subject,
        **labels._asdict(),
    )


def generated(config: ProblemsRun) -> list[Record]:
    """Word problems of a seed's stream as records: those skipped are made too, so that windows are cut as elsewhere.

    Raises ValueError for steps out of range, and for more problems than there are.
    """
    assert config.steps is not None
    assert config.limit is not None
    problems = arithmetic.generate(config.seed, config.steps, config.skip + config.limit)
    return [
        Record(f"generated problem {i}", p.question, p.answer, p.chain, level=str(p.steps))
        for i, p in enumerate(problems, 1)
    ]


def published(config: ProblemsRun, root: Path) -> Iterator[Record]:
    """The records of a source's split.

    Raises ValueError for a missing revision, file or split, and for rows that are not in the source's shape.
    """
    parse = SOURCES[config.source].parse
    for label, path in _files(config, root):
        for place, row in read_rows(path, label):
            yield parse(row, place)


def _files(config: ProblemsRun, root: Path) -> Iterable[tuple[str, Path]]:
    """(name, path) of each file. The names hold no directory of this machine, since they are written to rejects."""
    if config.path != NO_FILE:
        return [(config.path, root / config.path)]
    source, revision = SOURCES[config.source], commit_hash(config.revision, "revision")
    snapshot = download(source.hub, "dataset", revision, [source.files.format(split="*")], "source")
    pattern = source.files.format(split=config.split)
    found = sorted(snapshot.glob(pattern))
    if not found:
        splits = sorted({path.name.partition("-")[0] for path in snapshot.glob(source.files.format(split="*"))})
        raise ValueError(f"split: {source.hub} has no split '{config.split}' (have {', '.join(splits)})")
    return [(f"{source.hub}/{path.relative_to(snapshot).as_posix()}", path) for path in found]


def _check(config: ProblemsRun) -> None:
    """Raises ValueError for settings that do not go with the source."""
    if config.source == "arithmetic":
        for field in ("steps", "limit"):
            if getattr(config, field) is None:
                raise ValueError(f"{field}: generated problems need it")
        if config.path != NO_FILE or config.revision or config.shuffle:
            raise ValueError(f"source: generated problems take no file, revision or shuffle (`path: {NO_FILE}`)")
    elif config.steps is not None:
        raise ValueError("steps: only generated problems have it; remove it")


def _labels(config: ProblemsRun) -> Labels:
    if config.source == "arithmetic":
        return Labels("arithmetic", config.split, "number", arithmetic.LICENCE)
    source = SOURCES[config.source]
    return Labels(source.name, config.split, source.answer_kind, source.licence)


def run(stage: Stage) -> None:
    config: ProblemsRun = stage.config
    _check(config)
    records = generated(config) if config.source == "arithmetic" else list(published(config, stage.root))
    built = build(records, _labels(config), config)
    stage.write_rows(Problem, built.problems)
    stage.write_rows(Answer, built.answers)
    stage.write_rows(Solution, built.solutions)
    stage.reject(built.rejects)


if __name__ == "__main__":
    run_stage("problems", run)
