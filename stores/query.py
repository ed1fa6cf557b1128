"""The answer to one SQL query, and errors that point at the place."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from stores.duck import BATCH_ROWS
from stores.views import Views

Parameters = dict[str, Any] | Sequence[Any] | None

_HINT = " (the store's SQL only reads the store; `--unsafe`, or a Store without guard, lifts that)"


class Result:
    """The answer to one query. It is lazy, as DuckDB is: `fetchall`, `to_arrow` and `batches` each run the query."""

    def __init__(self, relation: duckdb.DuckDBPyRelation | None):
        self._relation = relation
        self.columns: list[str] = list(relation.columns) if relation is not None else []
        self.types: list[str] = [str(kind) for kind in relation.types] if relation is not None else []

    def fetchall(self) -> list[tuple]:
        """The rows as tuples of Python values.

        Raises ValueError for what goes wrong while the query runs, a corrupt file included.
        """
        with located():
            return self._relation.fetchall() if self._relation is not None else []

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table; raises as `fetchall` does."""
        with located():
            return self._relation.to_arrow_table() if self._relation is not None else pa.table({})

    def batches(self) -> pa.RecordBatchReader:
        """The rows as a stream, for results that do not fit into memory."""
        assert self._relation is not None, "the statement has no result"
        with located():
            return self._relation.to_arrow_reader(BATCH_ROWS)


def run_query(con: duckdb.DuckDBPyConnection, query: str, params: Parameters, views: Views) -> Result:
    """Binds a query, having made the views that it names.

    Raises ValueError, one line that points at the place, for what DuckDB refuses; with a guard, also for anything but
    one SELECT (which alone would be no protection: a SELECT can write. The connection must be locked, too).
    """
    with located(query):
        kinds = [statement.type.name for statement in con.extract_statements(query)]
        if not kinds:
            raise ValueError("the query is empty")
        if views.guard and kinds not in (["SELECT"], ["EXPLAIN"]):
            raise ValueError(f"only one SELECT is allowed here, not {', '.join(kinds)}{_HINT}")
        views.provide(query)
        try:
            return _bind(con, query, params)
        except duckdb.CatalogException:
            if not views.provide_rest():
                raise
            return _bind(con, query, params)


def _bind(con: duckdb.DuckDBPyConnection, query: str, params: Parameters) -> Result:
    try:
        return Result(con.sql(query, params=params))
    except (duckdb.BinderException, duckdb.CatalogException):
        con.execute(query, params)  # fails in the same way, but says where
        raise


@contextlib.contextmanager
def located(query: str = "") -> Iterator[None]:
    """Turns DuckDB's errors (of a connection with `errors_as_json`) into a ValueError of one line."""
    try:
        yield
    except duckdb.Error as error:
        raise ValueError(_explain(error, query)) from None


def _explain(error: duckdb.Error, query: str) -> str:
    kind, _, rest = str(error).partition(": ")
    detail = json.loads(rest) if rest.startswith("{") else {"exception_message": rest}
    hint = _HINT if isinstance(error, duckdb.PermissionException) or "has been locked" in rest else ""
    message = f"{kind}: {' '.join(detail['exception_message'].split())}{hint}"
    if not query or not detail.get("position", "").isdecimal():
        return message
    before = query.encode()[: int(detail["position"])].decode(errors="ignore")
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}: {message}"
