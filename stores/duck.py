"""DuckDB for the stages: views over runs, one SELECT per file, results streamed as Arrow.

DuckDB is only ever given local paths; parts are listed here, since files in DVC's cache have no suffix to glob for.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from schemas import TABLES, arrow_schema
from stores.parquet import open_part, part_files

BATCH_ROWS = 65_536


class Duck:
    """An in-memory DuckDB whose tables are views over runs.

    `memory` is DuckDB's limit, such as "1GB" (default: `$PAIRWRIGHT_MEMORY`, else DuckDB's own); above it, it spills
    to a temporary directory.
    """

    def __init__(self, memory: str | None = None):
        self.con = duckdb.connect()
        self.con.execute("set preserve_insertion_order = true")
        limit = memory or os.environ.get("PAIRWRIGHT_MEMORY")
        if limit:
            self.con.execute(f"set memory_limit = {literal(limit)}")

    def __enter__(self) -> "Duck":
        return self

    def __exit__(self, *_: object) -> None:
        self.con.close()

    def view(self, name: str, table: str, directories: Sequence[Path]) -> None:
        """A view `name` over runs of `table` (no directories: an empty one), checked to be of that table.

        Columns that an older version lacks are null.
        """
        row_class = TABLES[table]
        parts = [part for directory in directories for part in part_files(directory)]
        for part in parts:
            open_part(part, row_class).close()
        empty = f"{name}_empty"
        self.con.register(empty, arrow_schema(row_class).empty_table())
        source = f"select * from {empty}"
        if parts:
            files = ", ".join(literal(str(part)) for part in parts)
            source += f" union all by name select * from read_parquet([{files}], union_by_name = true)"
            source = source if _lacks_columns(parts, table) else f"select * from read_parquet([{files}])"
        self.con.execute(f'create or replace view "{name}" as {source}')

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


def _lacks_columns(parts: Sequence[Path], table: str) -> bool:
    names = set(arrow_schema(TABLES[table]).names)
    return any(set(open_part(part, TABLES[table]).schema_arrow.names) != names for part in parts)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise ValueError(" ".join(str(error).split())) from None
