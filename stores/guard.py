"""What SQL may say under the guard: one SELECT that reads tables, with none of the functions that reach further.

This is the second lock. The first is the connection itself (`stores.query.connect`), which opens no file and changes
no setting; but it lets a SELECT write into the directory that DuckDB spills to, and read what DuckDB says of itself.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

HINT = " (the store's SQL only reads the store; `--unsafe`, or a Store without guard, lifts that)"
TABLE_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        duckdb_columns duckdb_functions duckdb_keywords duckdb_schemas duckdb_tables duckdb_types duckdb_views
        generate_series icu_calendar_names json_each json_tree pg_timezone_names pragma_collations pragma_show
        pragma_table_info pragma_version query query_table range repeat repeat_row summary unnest
        """,
    )
)
"""Those that read nothing but the store. A new version of DuckDB brings others, so what is not named is refused."""
_READING = ("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE")
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(?=\w)", re.IGNORECASE)


class Refused(duckdb.PermissionException):
    """What the guard does not allow, with the place in the query (in bytes) where that is known."""

    def __init__(self, what: str, position: int | None = None):
        detail = {"exception_message": what} | ({"position": str(position)} if position is not None else {})
        super().__init__(f"Permission Error: {json.dumps(detail)}")


def check(con: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raises `Refused` unless a query is one SELECT (or EXPLAIN of one) that only reads."""
    kinds = [statement.type.name for statement in con.extract_statements(query)]
    explained = _EXPLAIN.match(query)
    if kinds == ["MULTI"]:
        raise Refused("a PIVOT needs its values here: `pivot … on column in (…)`")
    if kinds != ["SELECT"] and not (kinds == ["EXPLAIN"] and explained):
        raise Refused(f"only one SELECT is allowed here, not {', '.join(kinds)}")
    start = explained.end() if explained and kinds == ["EXPLAIN"] else 0
    _check_select(con, query[start:], len(query[:start].encode()))


def _check_select(con: duckdb.DuckDBPyConnection, query: str, start: int | None) -> None:
    """`start`: where the SELECT begins in the user's query; None: it is in a string there."""
    ((answer,),) = con.execute("select json_serialize_sql(?::varchar)", [query]).fetchall()
    parsed = json.loads(answer)
    if parsed["error"]:
        raise Refused(f"only one SELECT is allowed here ({parsed['error_message']})")
    for node in _nodes(parsed["statements"]):
        kind, at = str(node.get("type")), node.get("query_location", 1 << 63)
        place = start + at if start is not None and at < 1 << 63 else None
        if kind.endswith("_NODE") and kind not in _READING:
            raise Refused(f"{kind.partition('_')[0]} is not allowed here, in a WITH either", place)
        if kind == "TABLE_FUNCTION":
            _check_function(con, node["function"], place)


def _check_function(con: duckdb.DuckDBPyConnection, function: dict[str, Any], place: int | None) -> None:
    name = function["function_name"].lower()
    if name not in TABLE_FUNCTIONS:
        raise Refused(f"the function {name} is not allowed here", place)
    if name == "query":
        (given,) = [argument["expression"] for argument in function["arguments"]] or [{}]
        text = given.get("literal", {}).get("text")
        if text is None:
            raise Refused("query() takes a string here, no expression", place)
        _check_select(con, text, None)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from _nodes(branch)
