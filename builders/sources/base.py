"""What all sources share: the record that a row becomes, and typed access to a row's columns."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from schemas.problems import AnswerKind
from schemas.rejects import Reason

Fields = Mapping[str, Any]
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"([-+]?\d+)\.0+")


class Record(NamedTuple):
    """One problem as a source states it. `where` names file and row.

    `answer` is None where the source states none that can be used; `note` then says more. `reason` is given where the
    row is no problem, whatever its answer. `solution` is a chain in words, `program` one in Python. `answer_kind` is
    given where the rows of one source differ in it.
    """

    where: str
    question: str
    answer: str | None
    solution: str | None = None
    choices: list[str] | None = None
    level: str | None = None
    subject: str | None = None
    program: str | None = None
    answer_kind: AnswerKind | None = None
    note: str = ""
    reason: Reason | None = None


class Source(NamedTuple):
    """A published data set.

    `hub` is its repository (None: it is published elsewhere, so give a local `path`). `files` is a pattern of its files
    there, with `{split}` and `{subset}` where their names have them. `parse(row, where)` reads one row of the published
    shape and raises ValueError naming `where` and the column.
    """

    name: str
    licence: str
    answer_kind: AnswerKind
    hub: str | None
    files: str
    parse: Callable[[Fields, str], Record]


def present(row: Fields, where: str, *columns: str) -> str:
    """The first of `columns` that the row has: copies of a data set spell some names differently.

    Raises ValueError where it has none of them, with those that it has.
    """
    found = next((column for column in columns if column in row), None)
    if found is None:
        wanted = " or ".join(f"'{column}'" for column in columns)
        have = ", ".join(f"'{name}'" for name in row) or "none"
        raise ValueError(f"{where}: no column {wanted} (have {have}); is this the right `source`, in its own shape?")
    return found


def text(row: Fields, column: str, where: str) -> str:
    """The text of a column that every row has.

    Raises ValueError where it is missing or no text.
    """
    return checked_text(row[present(row, where, column)], column, where)


def checked_text(value: object, column: str, where: str) -> str:
    """The value, which must be text. Raises ValueError naming the column where it is none."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: column '{column}' must be text, not {type(value).__name__}")
    if _HALF_CHARACTER.search(value):
        raise ValueError(f"{where}: column '{column}' holds half of a surrogate pair, which is no text; mend the row")
    return value


def optional_text(row: Fields, column: str, where: str) -> str | None:
    """The text of a column that may be missing or null."""
    return text(row, column, where) if row.get(column) is not None else None


def plain_text(value: object, column: str, where: str) -> str | None:
    """A text or a number as text without the whitespace around it; None for null, a blank text and NaN.

    Raises ValueError for anything else.
    """
    if value is None or value != value:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(repr(value))
    if not isinstance(value, str):
        raise ValueError(f"{where}: column '{column}' must be text or a number, not {type(value).__name__}")
    return checked_text(value, column, where).strip() or None


def number_text(written: str) -> str:
    """The number without a fraction of zeros: `8.0` is `8`. Other texts stay as they are."""
    whole = _WHOLE.fullmatch(written)
    return whole.group(1) if whole else written
