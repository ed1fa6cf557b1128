"""Deterministic Parquet: the same rows give the same bytes under the pinned pyarrow, at any thread count.

A table is in the total order of its key, row groups are cut by rows and bytes alone (never by how the rows arrived),
and every encoding is fixed. DVC relies on it: equal bytes mean that nothing downstream runs again.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import Row, arrow_schema
from stores.buckets import WHOLE, Scope, overlaps, within

ROW_GROUP_ROWS = 100_000
ROW_GROUP_BYTES = 64 << 20
PART = "part-00000.parquet"
TEXTS_KEY = b"pairwright.texts"

Batches = Iterable[pa.RecordBatch | pa.Table]


def rows_to_table(row_class: type[Row], rows: Iterable[Row]) -> pa.Table:
    """Rows as an Arrow table in the order of the key."""
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=arrow_schema(row_class))
    return sort_table(row_class, table)


def sort_table(row_class: type[Row], table: pa.Table) -> pa.Table:
    """The table in the order of its key, nulls last."""
    return table.sort_by([(column, "ascending") for column in row_class.key]) if len(table) else table


def write_table(directory: Path, row_class: type[Row], batches: Batches, digest: Sequence[str] = ()) -> int:
    """Writes one run of a table, streaming; returns the number of rows.

    `batches` come in the order of the key. Columns named in `digest` are not written: a hash over them goes into the
    file's metadata. Tables of ids carry the hash of the texts that they stand for, so that a changed text changes
    their bytes even where all ids stay the same.

    Raises ValueError for rows that do not fit the schema, are out of order, or repeat a key.
    """
    directory.mkdir(parents=True, exist_ok=True)
    schema, hasher, count = arrow_schema(row_class), hashlib.sha256(), 0
    order = _OrderCheck(row_class)
    with pq.ParquetWriter(directory / PART, schema, **_encoding(row_class, schema)) as writer:
        for group in cut_row_groups(batches, [*schema.names, *digest], ROW_GROUP_BYTES):
            for column in digest:
                hasher.update(_bytes_of(group[column].combine_chunks()))
            fitted = fit(group, schema, row_class)
            order.check(fitted)
            writer.write_table(fitted, row_group_size=max(len(fitted), 1))
            count += len(fitted)
        if digest:
            writer.add_key_value_metadata({TEXTS_KEY.decode(): hasher.hexdigest()[:16]})
    return count


def _bytes_of(strings: pa.StringArray) -> memoryview:
    """The characters of a string column, one after the other, without a copy."""
    if not len(strings):
        return memoryview(b"")
    _, offsets, data = strings.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[strings.offset : strings.offset + len(strings) + 1]
    return memoryview(data)[int(ends[0]) : int(ends[-1])]


def _encoding(row_class: type[Row], schema: pa.Schema) -> dict[str, object]:
    ids = [c for c in schema.names if c.endswith("_id") and c not in row_class.dictionary]
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": list(row_class.dictionary),
        "column_encoding": dict.fromkeys(ids, "DELTA_BYTE_ARRAY"),
        "write_page_index": True,
        "version": "2.6",
    }


def cut_row_groups(batches: Batches, columns: Sequence[str], limit: int) -> Iterator[pa.Table]:
    """Cuts a stream at fixed places: after 100,000 rows or `limit` bytes of texts, lists and structs, counted row by
    row in `columns`."""
    pending: list[pa.Table] = []
    rows = size = 0
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        sizes = _row_bytes(table.select([c for c in columns if c in table.column_names]))
        start = 0
        while start < len(table):
            room = int(np.searchsorted(np.cumsum(sizes[start:]), limit - size)) + 1
            take = min(room, ROW_GROUP_ROWS - rows, len(table) - start)
            pending.append(table.slice(start, take))
            rows, size, start = rows + take, size + int(sizes[start : start + take].sum()), start + take
            if rows == ROW_GROUP_ROWS or size >= limit:
                yield pa.concat_tables(pending).combine_chunks()
                pending, rows, size = [], 0, 0
    if rows:
        yield pa.concat_tables(pending).combine_chunks()


def table_bytes(table: pa.Table) -> int:
    """Bytes of all values of a table, which do not depend on how it came about (as those of its buffers do)."""
    fixed = sum(
        max(column.type.bit_width // 8, 1) for column in table.itercolumns() if pa.types.is_primitive(column.type)
    )
    return int(_row_bytes(table).sum()) + fixed * len(table)


def _row_bytes(table: pa.Table) -> np.ndarray:
    """Bytes of every row; columns of numbers count nothing, being bounded by the rows."""
    flat = [column for column in table.itercolumns() if not _is_fixed(column.type)]
    return sum((_value_bytes(column) for column in flat), np.zeros(len(table), dtype=np.int64))


def _is_fixed(kind: pa.DataType) -> bool:
    return pa.types.is_primitive(kind) or pa.types.is_null(kind)


def _value_bytes(values: pa.ChunkedArray) -> np.ndarray:
    """Bytes of every value of a column, its children included; a null text or list has none."""
    kind = values.type
    if pa.types.is_list(kind):
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
        ends = np.cumsum(lengths)
        upto = np.concatenate([[0], np.cumsum(_value_bytes(pc.list_flatten(values)))])
        return upto[ends] - upto[ends - lengths]
    if pa.types.is_struct(kind):
        fields = (pc.struct_field(values, i) for i in range(kind.num_fields))
        return sum((_value_bytes(field) for field in fields), np.zeros(len(values), dtype=np.int64))
    if _is_fixed(kind):
        return np.full(len(values), 0 if pa.types.is_null(kind) else (kind.bit_width + 7) // 8, dtype=np.int64)
    return pc.fill_null(pc.binary_length(values), 0).to_numpy().astype(np.int64)


def fit(table: pa.Table, schema: pa.Schema, row_class: type[Row]) -> pa.Table:
    """The columns of a schema, cast to its types.

    Raises ValueError where the rows lack one, or have nulls that it does not allow.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{row_class.table}: rows lack the column {missing[0]!r}")
    columns = []
    for field in schema:
        column = table[field.name]
        if column.null_count and not field.nullable:
            raise ValueError(f"{row_class.table}.{field.name}: {column.null_count} nulls in a column that allows none")
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


class _OrderCheck:
    """Streams over a table and raises if its key does not ascend strictly."""

    def __init__(self, row_class: type[Row]):
        self.row_class, self.last = row_class, None

    def check(self, table: pa.Table) -> None:
        if not self.row_class.unique or not len(table):
            return
        keys = table.select(list(self.row_class.key))
        joined = pa.concat_tables([self.last, keys]) if self.last is not None else keys
        before, after = joined.slice(0, len(joined) - 1), joined.slice(1)
        ascending: pa.ChunkedArray | None = None
        for name in reversed(self.row_class.key):
            less, equal = pc.less(before[name], after[name]), pc.equal(before[name], after[name])
            ascending = less if ascending is None else pc.or_(less, pc.and_(equal, ascending))
        if ascending is not None and len(ascending) and not pc.all(ascending).as_py():
            row = after.slice(pc.index(ascending, False).as_py(), 1).to_pylist()[0]
            raise ValueError(f"{self.row_class.table}: key {row} is repeated or out of order")
        self.last = keys.slice(len(keys) - 1)


def part_files(directory: Path) -> list[Path]:
    """The Parquet parts of a run, sorted.

    Raises ValueError if there are none.
    """
    parts = sorted(directory.glob("part-*.parquet"))
    if not parts:
        raise ValueError(f"{directory}: no table here; build it with `dvc repro` or restore it with `dvc checkout`")
    return parts


def read_table(
    directory: Path, row_class: type[Row], columns: Sequence[str] | None = None, scope: Scope = WHOLE
) -> pa.Table:
    """A whole run (or some of its columns, or what lies in a scope), memory-mapped where that is possible.

    Raises ValueError for a missing, corrupt or foreign file, naming it.
    """
    return pa.concat_tables(scan_table(directory, row_class, columns, None, scope))


def scan_table(
    directory: Path,
    row_class: type[Row],
    columns: Sequence[str] | None = None,
    batch_rows: int | None = 65_536,
    scope: Scope = WHOLE,
) -> Iterator[pa.Table]:
    """A run in batches of at most `batch_rows` rows (None: a part at a time), in order.

    No batch reaches over a row group, whose size is bounded however long its texts are. Of a `scope` only the row
    groups are read that may hold some of it. Raises ValueError as `read_table` does.
    """
    return scan_parts(part_files(directory), row_class, columns, batch_rows, scope)


def scan_parts(
    parts: Sequence[Path],
    row_class: type[Row],
    columns: Sequence[str] | None = None,
    batch_rows: int | None = 65_536,
    scope: Scope = WHOLE,
) -> Iterator[pa.Table]:
    """`scan_table` of files that may lie anywhere, such as in DVC's cache."""
    schema = arrow_schema(row_class)
    wanted = list(columns) if columns is not None else schema.names
    for path in parts:
        file = open_part(path, row_class)
        stored = [c for c in wanted if c in file.schema_arrow.names]
        try:
            for chunk in _chunks(file, row_class.key[0], stored, batch_rows, scope):
                yield _complete(chunk, [schema.field(c) for c in wanted])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(damaged(path, error)) from None


def _chunks(
    file: pq.ParquetFile, key: str, columns: list[str], batch_rows: int | None, scope: Scope
) -> Iterator[pa.Table]:
    read = columns if scope == WHOLE else list(dict.fromkeys([*columns, key]))
    groups = [i for i in range(file.num_row_groups) if _may_hold(file.metadata.row_group(i), key, scope)]
    if batch_rows is None:
        yield within(file.read_row_groups(groups, columns=read), key, scope).select(columns)
        return
    for group in groups:
        for batch in file.iter_batches(batch_rows, row_groups=[group], columns=read):
            yield within(pa.Table.from_batches([batch]), key, scope).select(columns)


def _may_hold(group: pq.RowGroupMetaData, key: str, scope: Scope) -> bool:
    if scope == WHOLE:
        return True
    column = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == key)
    known = column.statistics is not None and column.statistics.has_min_max
    return not known or overlaps(scope, column.statistics.min, column.statistics.max)


def count_rows(directory: Path, row_class: type[Row]) -> int:
    """The number of rows of a run. Raises ValueError as `read_table` does."""
    return sum(open_part(path, row_class).metadata.num_rows for path in part_files(directory))


def _complete(table: pa.Table, fields: list[pa.Field]) -> pa.Table:
    """Adds the columns that an older version of the table lacks, as nulls."""
    columns = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in fields]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def open_part(path: Path, row_class: type[Row]) -> pq.ParquetFile:
    """Opens one part and checks that it is of this table.

    Raises ValueError for a corrupt or foreign file.
    """
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(damaged(path, error)) from None
    schema, stored = arrow_schema(row_class), file.schema_arrow
    for field in schema:
        found = stored.field(field.name) if field.name in stored.names else None
        if found is None and not field.nullable:
            raise ValueError(f"{path}: not a {row_class.table} table: column {field.name!r} is missing")
        if found is not None and found.type != field.type:
            raise ValueError(f"{path}: {row_class.table}.{field.name} is {found.type}, expected {field.type}")
    unknown = sorted(set(stored.names) - set(schema.names))
    if unknown:
        raise ValueError(f"{path}: {row_class.table} has no column {unknown[0]!r}: written by a newer version?")
    return file


def damaged(path: Path, error: Exception) -> str:
    """What to say of a file that cannot be read."""
    reason = " ".join(str(error).split())
    return f"{path}: not a readable Parquet file ({reason}); restore it with `dvc checkout {path.parent}`"


def texts_digest(directory: Path) -> str | None:
    """The hash over the texts that a table of ids stands for, as its writer stored it."""
    metadata = pq.ParquetFile(part_files(directory)[0]).metadata.metadata or {}
    value = metadata.get(TEXTS_KEY)
    return value.decode() if value else None
