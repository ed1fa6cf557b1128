"""Ledgers in one file: a part or the whole of one written out, and another machine's merged into this one.

An export is a ledger file itself, so whatever reads one (`pairwright sql --ledger` under PAIRWRIGHT_LEDGER) reads it.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from stores import ledger_schema
from stores.duck import sql_file
from stores.ledger import Ledger, disk_errors, transaction
from stores.ledger_admin import CHUNK, EVERYTHING, Selection, choose, holding
from stores.progress import progress

_SHOWN = 5
_DEFAULTS = {"n_attempts": "1"}


class Merged(NamedTuple):
    """What a merge found: entries that are new here, that were here already, and that were here with another text."""

    added: int
    known: int
    conflicts: int
    examples: tuple[str, ...]
    """Keys of the first conflicts."""


def export(ledger: Ledger, path: Path, selection: Selection = EVERYTHING) -> int:
    """Writes the entries of a selection to a new ledger file, which has its name when it is whole; returns how many.

    Raises ValueError if the file is there already, OSError if there is no room for it.
    """
    if path.exists():
        raise ValueError(f"{path}: there already; choose another name or remove it")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no directory {path.parent}; make it, or choose another place")
    choose(ledger, selection)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    with disk_errors(unfinished):
        ledger.db.execute("attach ? as exported", (str(unfinished),))
    try:
        with disk_errors(unfinished):
            count = _fill(ledger.db)
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # it may have failed before it began
            ledger.db.execute("rollback")
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        ledger.db.execute("detach exported")
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    return count


def _fill(db: sqlite3.Connection) -> int:
    for setting in ("journal_mode=off", "synchronous=off"):
        db.execute(f"pragma exported.{setting}")
    ledger_schema.create(db, "exported", index=False)
    completions, batches = ", ".join(ledger_schema.COLUMNS), ", ".join(("batch", *ledger_schema.BATCH_COLUMNS))
    chosen = "batch in (select batch from temp.chosen)"
    contexts, context_columns = "select context from exported.batches", ", ".join(ledger_schema.CONTEXT_COLUMNS)
    db.execute("begin")  # not `immediate`, which would keep stages from appending meanwhile
    db.execute(f"insert into exported.batches ({batches}) select {batches} from main.batches where {chosen}")
    db.execute(
        f"insert into exported.contexts ({context_columns})"
        f" select {context_columns} from main.contexts where context in ({contexts})"
    )
    insert = f"insert into exported.completions ({completions})"
    count = db.execute(f"{insert} select {completions} from main.completions where {chosen} order by id").rowcount
    reserved = ", ".join(ledger_schema.RESERVATION_COLUMNS)
    db.execute(
        f"insert into exported.reservations ({reserved}) select {reserved} from main.reservations"
        f" where substr(key, 1, instr(key, '-') - 1) in ({contexts})"
    )
    db.execute(ledger_schema.INDEX.format(schema="exported"))
    db.execute("commit")
    return count


def merge(ledger: Ledger, path: Path) -> Merged:
    """Adds the entries of another ledger's file that are not here yet.

    What is here stays: a key with another text there is a conflict, which is counted; and what was redacted on either
    side is no conflict. An interrupted merge can be repeated: what it has added counts as known then.

    Raises ValueError for a file that is no ledger, or this one; OSError for a damaged file or a full disk.
    """
    with _source(ledger, path):
        contexts = [c for (c,) in ledger.db.execute("select distinct context from source.batches order by 1")]
        foreign = [context for context in contexts if not re.fullmatch(r"\w+", context)]
        if foreign:  # contexts become names of lock files
            raise ValueError(f"{path}: no ledger of ours: its batches have the context {foreign[0]!r}")
        with holding(ledger, contexts):
            with disk_errors(ledger.path), transaction(ledger.db):
                _merge_batches(ledger.db)
            return _merge_completions(ledger)


@contextlib.contextmanager
def _source(ledger: Ledger, path: Path) -> Iterator[None]:
    """Attaches a ledger file as `source`, read-only, with the view `theirs` of its completions in our columns."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a ledger.sqlite or a file of `pairwright ledger export`")
    if path.samefile(ledger.path):
        raise ValueError(f"{path}: this is the ledger itself; give another machine's")
    with disk_errors(path):
        ledger.db.execute("attach ? as source", (f"file:{quote(str(path.resolve()))}?mode=ro",))
    try:
        with disk_errors(path):
            tables = [ledger_schema.has_table(ledger.db, name, "source") for name in ("completions", "batches")]
            if not all(tables):
                raise ValueError(f"{path}: an SQLite file, but no ledger (it has no `completions` and `batches`)")
            ledger_schema.version(ledger.db, path, "source")
            have = ledger_schema.shared_columns(ledger.db, "completions", "source")
            columns = [c if c in have else f"{_DEFAULTS.get(c, 'null')} as {c}" for c in ledger_schema.COLUMNS]
            ledger.db.execute("drop view if exists temp.theirs")
            ledger.db.execute(f"create temp view theirs as select {', '.join(columns)} from source.completions")
            yield
    finally:
        ledger.db.execute("detach source")


def _merge_batches(db: sqlite3.Connection) -> None:
    """Batches, contexts and reservations of the source.

    The temporary table `batch_of` says which of ours is each of its batches.
    """
    if ledger_schema.has_table(db, "contexts", "source"):
        names = ", ".join(ledger_schema.CONTEXT_COLUMNS)
        db.execute(f"insert or ignore into main.contexts ({names}) select {names} from source.contexts")
    if ledger_schema.has_table(db, "reservations", "source"):
        names = ", ".join(ledger_schema.RESERVATION_COLUMNS)
        larger = ", ".join(f"{name} = max({name}, excluded.{name})" for name in ("usd", "batch_usd"))
        db.execute(
            f"insert into main.reservations ({names}) select {names} from source.reservations where true"
            f" on conflict (key) do update set {larger}"
        )
    names = ", ".join(ledger_schema.BATCH_COLUMNS)
    db.execute(f"insert into main.batches ({names}) {sql_file(__file__, 'ledger_new_batches')}")
    db.execute("drop table if exists temp.batch_of")
    db.execute("create temp table batch_of (source integer primary key, batch integer not null)")
    db.execute(f"insert into temp.batch_of {sql_file(__file__, 'ledger_same_batches')}")


def _merge_completions(ledger: Ledger) -> Merged:
    """In ranges of keys, each a transaction."""
    db, conflicting = ledger.db, sql_file(__file__, "ledger_conflicts")
    values = ", ".join("batch_of.batch" if name == "batch" else f"theirs.{name}" for name in ledger_schema.COLUMNS)
    insert = f"""insert into main.completions ({", ".join(ledger_schema.COLUMNS)}) select {values} from theirs
        join batch_of on batch_of.source = theirs.batch where theirs.key > :low and theirs.key <= :high
        order by theirs.key on conflict (key) do nothing"""
    following = f"select key from source.completions where key > ? order by key limit {CHUNK}"
    (total,) = db.execute("select count(*) from source.completions").fetchone()
    ranges = iter(lambda: db.execute(f"select max(key), count(*) from ({following})", (low,)).fetchone(), (None, 0))
    added, conflicts, examples, seen, low = 0, 0, [], 0, ""
    with progress("merging", total, "entries") as bar:
        for high, count in ranges:  # until none is left: another process may prune the source, or append to it
            with disk_errors(ledger.path), transaction(db):
                found = [key for (key,) in db.execute(conflicting, {"low": low, "high": high})]
                added += db.execute(insert, {"low": low, "high": high}).rowcount
            conflicts, examples = conflicts + len(found), (examples + found)[:_SHOWN]
            low, seen = high, seen + count
            bar.advance(count)
    return Merged(added, seen - added - conflicts, conflicts, tuple(examples))
