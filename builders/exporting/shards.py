"""Shards in the Hub's layout: `<config>/train-00000-of-0000n.parquet`, the same bytes for the same rows.

As `datasets` writes them: zstd, a page index, and pages that are cut by content, so that Xet uploads only the chunks of
a new version that are new. Row groups are cut by rows and bytes alone, shards between row groups.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from builders.exporting.columns import Column
from stores.parquet import cut_row_groups, table_bytes

CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
"""Those of `datasets.config.DEFAULT_CDC_OPTIONS`; a test compares them."""
ROW_GROUP_BYTES = 90_000_000
"""Below the 100 MB of `datasets`, since one more row may follow."""
SPLIT = "train"
_PER_SHARD = 4


class Shards(NamedTuple):
    """The files of one config."""

    files: dict[str, str]
    """Path below the release -> SHA-256."""
    rows: int
    raw_bytes: int
    """In memory, as the card states them."""
    file_bytes: int


def write_shards(directory: Path, config: str, columns: list[Column], tables: Iterable[pa.Table], limit: int) -> Shards:
    """Writes one config below a release's directory, in files of at most `limit` bytes (one row group at least)."""
    folder = directory / config
    folder.mkdir(parents=True)
    schema = pa.schema([pa.field(column.name, column.type) for column in columns])
    groups = cut_row_groups(tables, schema.names, min(ROW_GROUP_BYTES, limit // _PER_SHARD))
    rows = raw = 0
    unnamed: list[Path] = []
    for shard in _shards(groups, limit, unnamed, folder, schema, columns):
        rows, raw = rows + shard[0], raw + shard[1]
    files: dict[str, str] = {}
    for number, path in enumerate(unnamed):
        final = folder / f"{SPLIT}-{number:05d}-of-{len(unnamed):05d}.parquet"
        path.replace(final)
        files[final.relative_to(directory).as_posix()] = _sha256(final)
    return Shards(files, rows, raw, sum((directory / name).stat().st_size for name in files))


def _shards(
    groups: Iterator[pa.Table], limit: int, paths: list[Path], folder: Path, schema: pa.Schema, columns: list[Column]
) -> Iterator[tuple[int, int]]:
    """(rows, raw bytes) of every shard written; their files are added to `paths`. There is one at least."""
    group = next(groups, None)
    while group is not None or not paths:
        paths.append(folder / f"shard-{len(paths):05d}")
        rows = raw = 0
        with pa.OSFile(str(paths[-1]), "wb") as file, pq.ParquetWriter(file, schema, **_encoding(columns)) as writer:
            while group is not None and (not rows or file.tell() + table_bytes(group) <= limit):
                writer.write_table(group, row_group_size=len(group))
                rows, raw = rows + len(group), raw + table_bytes(group)
                group = next(groups, None)
            writer.add_key_value_metadata({"content_defined_chunking": json.dumps(CHUNKING)})
        yield rows, raw


def _encoding(columns: list[Column]) -> dict[str, Any]:
    few = [column.name for column in columns if column.dictionary]
    few += ["prompt_messages.list.element.role"] if any(column.name == "prompt_messages" for column in columns) else []
    ids = [c.name for c in columns if c.name.endswith("_id") and not c.dictionary]
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": few,
        "column_encoding": dict.fromkeys(ids, "DELTA_BYTE_ARRAY"),
        "write_page_index": True,
        "use_content_defined_chunking": CHUNKING,
        "version": "2.6",
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
