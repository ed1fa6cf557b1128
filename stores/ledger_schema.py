"""The file of the ledger: its tables, and how files of earlier versions become one of this version."""

import contextlib
import fcntl
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

VERSION = 3
COLUMNS = (
    "key", "batch", "text", "finish_reason", "n_tokens", "n_prompt_tokens", "token_ids", "logprobs", "price_usd",
    "n_attempts", "served_by", "redacted_at",
)  # fmt: skip
"""Columns of `completions` that are copied from file to file: all but its row number."""
BATCH_COLUMNS = ("context", "model", "finished_at", "wall_s", "device_s", "n", "n_tokens")
CONTEXT_COLUMNS = ("context", "model", "model_fingerprint", "setting", "used_at")
RESERVATION_COLUMNS = ("key", "usd", "batch_usd")

TABLES = """
create table {schema}.batches (
  batch integer primary key, context text not null, model text not null, finished_at real not null,
  wall_s real not null, device_s real not null, n integer not null, n_tokens integer not null
);
create table {schema}.contexts (
  context text primary key, model text not null, model_fingerprint text, setting text not null, used_at real not null
) without rowid;
create table {schema}.completions (
  id integer primary key, key text not null, batch integer not null references batches, text text not null,
  finish_reason text not null, n_tokens integer, n_prompt_tokens integer, token_ids blob, logprobs blob,
  price_usd real, n_attempts integer not null default 1, served_by text, redacted_at real
);
"""
RESERVATIONS = """
create table {schema}.reservations (
  key text primary key, usd real not null, batch_usd real not null default 0
) without rowid;
"""
"""What a key may have cost beside the price of its answer; `batch_usd` counts until its answer is there."""
INDEX = "create unique index {schema}.completions_key on completions (key);"
"""Keys lie apart from the texts: a look-up reads few pages, and an append writes texts at the end of the file."""


def create(db: sqlite3.Connection, schema: str = "main", index: bool = True) -> None:
    """Makes the tables in an empty file; without `index`, for a bulk load that makes it at the end."""
    for statement in (TABLES + RESERVATIONS + INDEX * index).format(schema=schema).split(";"):
        db.execute(statement)
    db.execute(f"pragma {schema}.user_version = {VERSION}")


def ensure(db: sqlite3.Connection, path: Path) -> None:
    """Makes the tables of a new file, or brings an earlier version's up to date, in one transaction.

    Raises ValueError for a file of a later version.
    """
    if version(db, path) == VERSION:
        return
    with _alone(path):
        db.execute("begin immediate")
        try:
            if version(db, path) < VERSION:
                _upgrade(db, path) if has_table(db, "completions") else create(db)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("rollback")
            raise
        db.execute("commit")


def version(db: sqlite3.Connection, path: Path, schema: str = "main") -> int:
    """The version of a file's tables.

    Raises ValueError for a later one than ours.
    """
    (found,) = db.execute(f"pragma {schema}.user_version").fetchone()
    if found > VERSION:
        raise ValueError(f"{path}: written by a later version of Pairwright (format {found}); update this one")
    return found


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time, others wait: SQLite's own lock would give up during a long upgrade."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _upgrade(db: sqlite3.Connection, path: Path) -> None:
    """The second version had no reservations."""
    if version(db, path) < 2:
        _upgrade_first(db, path)
        return
    db.execute(RESERVATIONS.format(schema="main"))
    db.execute(f"pragma user_version = {VERSION}")


def _upgrade_first(db: sqlite3.Connection, path: Path) -> None:
    """The first version kept texts in the B-tree of the keys, and some of its files lack columns."""
    print(f"{path}: bringing the ledger up to date (once; it needs room for a second copy)", file=sys.stderr)
    db.execute("alter table completions rename to completions_1")
    db.execute("alter table batches rename to batches_1")
    create(db)
    db.execute(f"insert into batches select batch, {', '.join(BATCH_COLUMNS)} from batches_1")
    names = ", ".join(shared_columns(db, "completions_1"))
    db.execute(f"insert into completions ({names}) select {names} from completions_1 order by key")
    db.execute("drop table completions_1")
    db.execute("drop table batches_1")


def has_table(db: sqlite3.Connection, table: str, schema: str = "main") -> bool:
    """Whether a file has a table."""
    query = f"select count(*) from {schema}.sqlite_master where type = 'table' and name = ?"
    return bool(db.execute(query, (table,)).fetchone()[0])


def shared_columns(db: sqlite3.Connection, table: str, schema: str = "main") -> list[str]:
    """The columns of `COLUMNS` that a file's completions have; what an earlier version lacks has its default."""
    have = {row[1] for row in db.execute(f"pragma {schema}.table_info({table})")}
    return [name for name in COLUMNS if name in have]
