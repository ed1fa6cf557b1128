"""What all sources share: the record that a row becomes, and typed access to a row's columns."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from schemas.problems import AnswerKind

Fields = Mapping[str, Any]
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class Record(NamedTuple):
    """One problem as a source states it. `where` names file and row."""

    where: str
    question: str
    answer: str | None
    solution: str | None
    choices: list[str] | None = None
    level: str | None = None
    subject: str | None = None


class Source(NamedTuple):
    """A published data set.

    `files` are patterns of its Parquet files on the Hub, with `{split}`; `parse(row, where)` reads one row of the
    published shape and raises ValueError naming `where` and the column.
    """

    name: str
    licence: str
    answer_kind: AnswerKind
    hub: str
    files: str
    parse: Callable[[Fields, str], Record]


def text(row: Fields, column: str, where: str) -> str:
    """The text of a column that every row has.

    Raises ValueError where it is missing or no text.
    """
    if column not in row:
        have = ", ".join(f"'{name}'" for name in row) or "none"
        raise ValueError(f"{where}: no column '{column}' (have {have}); is this the right `source`, in its own shape?")
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"{where}: column '{column}' must be text, not {type(value).__name__}")
    if _HALF_CHARACTER.search(value):
        raise ValueError(f"{where}: column '{column}' holds half of a surrogate pair, which is no text; mend the row")
    return value


def optional_text(row: Fields, column: str, where: str) -> str | None:
    """The text of a column that may be missing or null."""
    return text(row, column, where) if row.get(column) is not None else None
