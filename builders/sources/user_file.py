"""Any file of questions and answers, or a Hub data set of them: `columns` says which column holds what.

Answers may be texts or numbers; those of `answer_kind: choice` are a label of `choices` or the text of an option.
A row without an answer becomes a reject; whatever else does not fit is an error that names row, column and remedy.
"""

from collections.abc import Callable, Mapping

from builders.sources.base import Fields, Record, checked_text, plain_text
from builders.sources.options import Options, read_options
from schemas.problems import AnswerKind

COLUMNS = ("question", "answer", "choices", "solution", "program", "level", "subject", "id")


def reader(columns: Mapping[str, str], answer_kind: AnswerKind) -> Callable[[Fields, str], Record]:
    """What reads a row of the file; `columns` maps our names to the file's."""

    def parse(row: Fields, where: str) -> Record:
        given = _given(row, columns, where)
        named = {name: plain_text(given.get(name), columns.get(name, ""), where) for name in ("id", "level", "subject")}
        where = f"{where} ({named['id']})" if named["id"] else where
        options = _options(given, columns, where) if answer_kind == "choice" else None
        answer = plain_text(given["answer"], columns["answer"], where)
        return Record(
            where,
            checked_text(given["question"] or "", columns["question"], where),
            _letter(options, answer, columns, where) if options and answer else answer,
            _chain(given, "solution", columns, where),
            options.texts if options else None,
            named["level"],
            named["subject"],
            _chain(given, "program", columns, where),
        )

    return parse


def _given(row: Fields, columns: Mapping[str, str], where: str) -> dict[str, object]:
    for ours, theirs in columns.items():
        if theirs not in row:
            have = ", ".join(f"'{name}'" for name in row) or "none"
            raise ValueError(f"{where}: no column '{theirs}' (have {have}); mend `columns.{ours}`")
    return {ours: row[theirs] for ours, theirs in columns.items()}


def _chain(given: Mapping[str, object], name: str, columns: Mapping[str, str], where: str) -> str | None:
    value = given.get(name)
    return checked_text(value, columns[name], where).strip() or None if value is not None else None


def _options(given: Mapping[str, object], columns: Mapping[str, str], where: str) -> Options:
    options = read_options(given["choices"])
    if options is None:
        shapes = 'a list of texts, a mapping of labels to texts, or a text such as "A) 3 B) 5", of 2 to 26 options'
        raise ValueError(f"{where}: column '{columns['choices']}' holds no options: write {shapes}")
    return options


def _letter(options: Options, answer: str, columns: Mapping[str, str], where: str) -> str:
    letter = options.letter(answer)
    if letter is None:
        labels = ", ".join(options.labels)
        remedy = f"write one of the labels {labels}, or the whole text of an option"
        raise ValueError(f"{where}: column '{columns['answer']}' is '{answer}', which names no option; {remedy}")
    return letter
