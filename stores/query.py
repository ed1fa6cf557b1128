"""The answer to one SQL query, and errors that point at the place."""

import contextlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from stores import guard
from stores.duck import BATCH_ROWS, Duck
from stores.plain import printable
from stores.views import Views

Parameters = dict[str, Any] | Sequence[Any] | None

SHOWN = 100
"""Characters of a long line that an error shows around the place."""


class Result:
    """The answer to one query. It is lazy, as DuckDB is: every method but `columns` and `types` runs the query.

    (What is no query, under no guard, has run once when it is made; `execute` is None then.)
    """

    def __init__(
        self, relation: duckdb.DuckDBPyRelation | None, execute: Callable[[], duckdb.DuckDBPyConnection] | None = None
    ):
        self._relation, self._execute = relation, execute
        self.columns: list[str] = list(relation.columns) if relation is not None else []
        self.types: list[str] = [str(kind) for kind in relation.types] if relation is not None else []

    def fetchall(self) -> list[tuple]:
        """The rows as tuples of Python values.

        Raises ValueError for what goes wrong while the query runs, a corrupt file included.
        """
        with located():
            return self._relation.fetchall() if self._relation is not None else []

    def rows(self) -> Iterator[tuple]:
        """The rows as `fetchall` gives them, but as a stream. Until it ends, the store answers nothing else.

        Raises as `fetchall` does.
        """
        if self._execute is None:
            yield from self.fetchall()
            return
        with located(), contextlib.closing(_Cursor(self._execute())) as cursor:
            while found := cursor.fetchmany():
                yield from found

    def head(self, count: int) -> list[tuple]:
        """The first rows, without the rest of the work where DuckDB can leave it; raises as `fetchall` does."""
        with located():
            return self._relation.limit(count).fetchall() if self._relation is not None else []

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table; raises as `fetchall` does."""
        with located():
            return self._relation.to_arrow_table() if self._relation is not None else pa.table({})

    def batches(self) -> pa.RecordBatchReader:
        """The rows as a stream, for results that do not fit into memory."""
        assert self._relation is not None, "the statement has no result"
        with located():
            return self._relation.to_arrow_reader(BATCH_ROWS)


class _Cursor:
    """What is left to read of a connection's statement; DuckDB answers nothing else until it is read or given up."""

    def __init__(self, con: duckdb.DuckDBPyConnection):
        self._con = con

    def fetchmany(self) -> list[tuple]:
        return self._con.fetchmany(BATCH_ROWS)

    def close(self) -> None:
        self._con.abort()


def connect(guard: bool) -> Duck:
    """An in-memory DuckDB; with the guard, locked: views read through Arrow then, DuckDB itself opens nothing."""
    duck = Duck()
    duck.execute("set python_enable_replacements = false")
    duck.execute("set errors_as_json = true")
    if guard:
        duck.execute("set enable_external_access = false")
        duck.execute("set lock_configuration = true")
    return duck


def run_query(con: duckdb.DuckDBPyConnection, query: str, params: Parameters, views: Sequence[Views]) -> Result:
    """Binds a query, having made the views that it names.

    Raises ValueError, one line that points at the place, for what DuckDB refuses; with a guard, also for anything but
    one SELECT that only reads (`stores.guard`).
    """
    with located(query):
        if not con.extract_statements(query):
            raise ValueError("the query is empty")
        if any(version.guard for version in views):
            guard.check(con, query)
        for version in views:
            version.provide(query)
        try:
            return _bind(con, query, params)
        except duckdb.CatalogException:
            made = [version.provide_rest() for version in views]  # of all versions, not up to the first
            if not any(made):
                raise
            return _bind(con, query, params)


def _bind(con: duckdb.DuckDBPyConnection, query: str, params: Parameters) -> Result:
    try:
        lazy = [statement.type.name for statement in con.extract_statements(query)] == ["SELECT"]
        return Result(con.sql(query, params=params), (lambda: con.execute(query, params)) if lazy else None)
    except (duckdb.BinderException, duckdb.CatalogException):
        con.execute(query, params)  # fails in the same way, but says where
        raise


@contextlib.contextmanager
def located(query: str = "") -> Iterator[None]:
    """Turns DuckDB's errors (of a connection with `errors_as_json`) into a ValueError of one line.

    A note of it has the line of the query and a mark below the place.
    """
    try:
        yield
    except duckdb.Error as error:
        raise _explained(error, query) from None


def _explained(error: duckdb.Error, query: str) -> ValueError:
    kind, _, rest = str(error).partition(": ")
    detail = json.loads(rest) if rest.startswith("{") else {"exception_message": rest}
    hint = guard.HINT if isinstance(error, duckdb.PermissionException) or "has been locked" in rest else ""
    message = f"{kind}: {' '.join(detail['exception_message'].split())}{hint}"
    if not query or not detail.get("position", "").isdecimal():
        return ValueError(message)
    before = query.encode()[: int(detail["position"])].decode(errors="ignore")
    line, column = before.count("\n"), len(before) - before.rfind("\n")
    explained = ValueError(f"line {line + 1}, column {column}: {message}")
    explained.add_note(_pointed(query.split("\n")[line], column - 1))
    return explained


def _pointed(line: str, at: int) -> str:
    """A line, or the part of it around a place, and below it a mark at the place."""
    start = max(0, at - SHOWN // 2) if len(line) > SHOWN else 0
    before, after = (printable(part.replace("\t", " ")) for part in (line[start:at], line[at : start + SHOWN]))
    dots = "…" if start else ""
    return f"  {dots}{before}{after}{'…' if start + SHOWN < len(line) else ''}\n  {' ' * _width(dots + before)}^"


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)
