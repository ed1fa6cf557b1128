"""DuckDB for the stages: views over runs, one SELECT per file, results streamed as Arrow.

DuckDB is only ever given local paths; parts are listed here, since files in DVC's cache have no suffix to glob for.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from schemas import TABLES, arrow_schema
from stores.buckets import WHOLE, Scope, condition
from stores.parquet import open_part, part_files

BATCH_ROWS = 65_536
_SQL_TYPES = {
    pa.string(): "varchar", pa.bool_(): "boolean", pa.int8(): "tinyint", pa.int32(): "integer", pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
}  # fmt: skip


class Duck:
    """An in-memory DuckDB whose tables are views over runs.

    `memory` is DuckDB's limit, such as "1GB" (default: `$PAIRWRIGHT_MEMORY`, else DuckDB's own); above it, it spills
    to the system's temporary directory (`$TMPDIR`), never into the workspace.
    """

    def __init__(self, memory: str | None = None):
        self.con = duckdb.connect()
        self.con.execute("set preserve_insertion_order = true")
        self.con.execute("set enable_progress_bar = false")  # it would go to standard output, which is for results
        spill = Path(tempfile.gettempdir()) / f"pairwright-{os.getpid()}"
        self.con.execute(f"set temp_directory = {literal(str(spill))}")
        limit = memory or os.environ.get("PAIRWRIGHT_MEMORY")
        if limit:
            self.con.execute(f"set memory_limit = {literal(limit)}")

    def __enter__(self) -> "Duck":
        return self

    def __exit__(self, *_: object) -> None:
        self.con.close()

    def view(self, name: str, table: str, directories: Sequence[Path], scope: Scope = WHOLE) -> None:
        """A view `name` over runs of `table` (no directories: an empty one), checked to be of that table.

        Columns that an older version lacks are null. Of a `scope` only row groups that may hold some of it are read.
        """
        parts = [part for directory in directories for part in part_files(directory)]
        rows = select_parts(parts, table)
        if scope != WHOLE:
            rows = f"select * from ({rows}) where {condition(TABLES[table].key[0], scope)}"
        self.con.execute(f'create or replace view "{name}" as {rows}')

    def register(self, name: str, table: pa.Table) -> None:
        """An Arrow table as a view."""
        self.con.register(name, table)

    def batches(self, query: str, params: dict[str, Any] | None = None) -> Iterator[pa.Table]:
        """Streams the result of one SELECT.

        Raises ValueError for anything DuckDB refuses, a corrupt file included.
        """
        with _one_line():
            for batch in self.con.sql(query, params=params).to_arrow_reader(BATCH_ROWS):
                yield pa.Table.from_batches([batch])

    def table(self, query: str, params: dict[str, Any] | None = None) -> pa.Table:
        """The whole result of one SELECT."""
        with _one_line():
            return self.con.sql(query, params=params).to_arrow_table()

    def execute(self, statement: str, params: dict[str, Any] | None = None) -> None:
        """A statement without a result, such as `create temp table`."""
        with _one_line():
            self.con.execute(statement, params)


def literal(value: str) -> str:
    """A string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def sql_file(module_file: str, name: str) -> str:
    """The text of `sql/<name>.sql` beside a module (pass its `__file__`)."""
    return (Path(module_file).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def select_parts(parts: Sequence[Path], table: str) -> str:
    """A SELECT of a table's columns, in order, from Parquet parts (none: an empty result).

    Columns that an older version lacks are null. Raises ValueError for a corrupt or foreign part.
    """
    stored = [set(open_part(part, TABLES[table]).schema_arrow.names) for part in parts]
    everywhere = set.intersection(*stored) if stored else set()
    somewhere = set.union(*stored) if stored else set()
    columns = ", ".join(
        f'"{field.name}"' if field.name in somewhere else f'null::{sql_type(field.type)} as "{field.name}"'
        for field in arrow_schema(TABLES[table])
    )
    if not parts:
        return f"select {columns} where false"
    files = ", ".join(literal(str(part)) for part in parts)
    by_name = "" if somewhere == everywhere else ", union_by_name = true"
    return f"select {columns} from read_parquet([{files}]{by_name})"


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type. (Registering an empty Arrow table would say it too, and import pandas.)"""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return "struct(" + ", ".join(f'"{field.name}" {sql_type(field.type)}' for field in kind) + ")"
    return _SQL_TYPES[kind]


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise ValueError(" ".join(str(error).split())) from None
