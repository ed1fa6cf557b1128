"""What is done to a ledger on request: its size by model, pruning, redaction.

All of it works in short transactions, so stages that generate meanwhile wait for moments; contexts that it changes are
held (`Ledger.exclusive`), so a stage that draws from them is waited for. Whatever is interrupted can be repeated.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stores.duck import sql_file
from stores.ledger import Ledger, disk_errors, transaction
from stores.progress import progress

CHUNK = 50_000
"""Rows of one transaction."""


class Selection(NamedTuple):
    """Which batches are meant: all conditions hold, None is none; `contexts` are their first digits, times are Unix."""

    models: Sequence[str] | None = None
    fingerprints: Sequence[str] | None = None
    contexts: Sequence[str] | None = None
    before: float | None = None
    since: float | None = None


EVERYTHING = Selection()


class Size(NamedTuple):
    """What the ledger holds of one context; bytes are those of its texts, tokens and keys."""

    model: str
    model_fingerprint: str | None
    context: str
    entries: int
    tokens: int
    bytes: int
    redacted: int
    price_usd: float | None
    first: str
    last: str
    setting: str | None


def sizes(ledger: Ledger, selection: Selection = EVERYTHING) -> list[Size]:
    """What a selection holds, by context, the largest first. Reads every entry of it."""
    choose(ledger, selection)
    with disk_errors(ledger.path):
        return [Size(*row) for row in ledger.db.execute(sql_file(__file__, "ledger_sizes"))]


def choose(ledger: Ledger, selection: Selection) -> list[str]:
    """Fills the temporary table `chosen` with the batches of a selection; returns their contexts."""
    values = {
        name: json.dumps(list(value)) if isinstance(value, Sequence) else value
        for name, value in selection._asdict().items()
    }
    with disk_errors(ledger.path):
        ledger.db.execute("drop table if exists temp.chosen")
        ledger.db.execute("create temp table chosen (batch integer primary key, finished_at real)")
        ledger.db.execute(f"insert into temp.chosen {sql_file(__file__, 'ledger_chosen')}", values)
        rows = ledger.db.execute("select distinct context from batches where batch in (select batch from temp.chosen)")
        return [context for (context,) in rows]


@contextlib.contextmanager
def holding(ledger: Ledger, contexts: Sequence[str]) -> Iterator[None]:
    """Waits for the stages that draw from some contexts, and keeps others from it."""
    with contextlib.ExitStack() as held:
        for context in sorted(contexts):
            held.enter_context(ledger.exclusive(context))
        yield


def _forget_changed(ledger: Ledger) -> None:
    """Takes out of `chosen` what was pruned while contexts were waited for: its number may be of a new batch now."""
    same = "select batch from temp.chosen join batches using (batch, finished_at)"
    with disk_errors(ledger.path):
        ledger.db.execute(f"delete from temp.chosen where batch not in ({same})")


def prune(ledger: Ledger, selection: Selection, vacuum: bool = False) -> int:
    """Deletes the entries of a selection; returns how many. They will be generated, or paid for, anew if asked for.

    The file keeps its size, and its free pages are used again, unless `vacuum` rewrites it (which needs room for a
    second copy, and lets nobody write meanwhile).
    """
    contexts = choose(ledger, selection)
    with holding(ledger, contexts), _overwriting(ledger):
        _forget_changed(ledger)
        deleted = _in_chunks(ledger, "pruning", "delete from completions", "batch in (select batch from temp.chosen)")
        with disk_errors(ledger.path), transaction(ledger.db):
            ledger.db.execute("delete from batches where batch in (select batch from temp.chosen)")
            # of others a stage may have noted one and be waiting for its first answers
            pruned = "context in (select value from json_each(?)) and context not in (select context from batches)"
            ledger.db.execute(f"delete from contexts where {pruned}", (json.dumps(contexts),))
            of_context = "substr(key, 1, instr(key, '-') - 1) as context"
            gone = f"select key from (select key, {of_context} from reservations) where {pruned}"
            ledger.db.execute(f"delete from reservations where key in ({gone})", (json.dumps(contexts),))
    if vacuum:
        with disk_errors(ledger.path):
            ledger.db.execute("vacuum")
    return deleted


def redact(ledger: Ledger, selection: Selection | None, keys: Sequence[str] = ()) -> int:
    """Overwrites texts, tokens and log-probs of a selection, or of single keys, on the disk too; returns how many.

    Keys and counts stay, so that a stage that wants one says that it was redacted, and does not pay for it again.
    A file that has free pages before, which may hold earlier copies, is rewritten: it needs room for a second. Raises
    ValueError for a key that is not there, and OSError where another process keeps the overwritten pages alive.
    """
    absent = ledger.missing(keys)
    if absent:
        raise ValueError(f"{ledger.path}: no completion '{absent[0]}' ({len(absent):,} of the keys are not there)")
    contexts = choose(ledger, selection) if selection else sorted({key.split("-")[0] for key in keys})
    which = "key in (select key from temp.named)"
    if selection:
        which = "batch in (select batch from temp.chosen)"
    else:
        _name(ledger, keys)
    update = f"update completions set text = '', token_ids = null, logprobs = null, redacted_at = {time.time()}"
    (free,) = ledger.db.execute("pragma freelist_count").fetchone()
    with holding(ledger, contexts), _overwriting(ledger):
        if selection:
            _forget_changed(ledger)
        changed = _in_chunks(ledger, "redacting", update, f"redacted_at is null and {which}")
    with disk_errors(ledger.path):
        if free:
            ledger.db.execute("vacuum")
        (busy, *_) = ledger.db.execute("pragma wal_checkpoint(truncate)").fetchone()
    if busy:
        rest = f"{ledger.path}-wal still holds texts, since another process reads it"
        raise OSError(f"{changed:,} entries are redacted, but {rest}; end it and repeat this command")
    return changed


@contextlib.contextmanager
def _overwriting(ledger: Ledger) -> Iterator[None]:
    """What is deleted in the block is overwritten with zeros, and so are copies that moving rows leaves behind."""
    ledger.db.execute("pragma secure_delete=on")
    try:
        yield
    finally:
        ledger.db.execute("pragma secure_delete=off")


def _name(ledger: Ledger, keys: Sequence[str]) -> None:
    ledger.db.execute("drop table if exists temp.named")
    ledger.db.execute("create temp table named (key text primary key) without rowid")
    ledger.db.executemany("insert or ignore into temp.named values (?)", [(key,) for key in keys])


def _in_chunks(ledger: Ledger, title: str, change: str, which: str) -> int:
    """Changes the rows that meet a condition, a range of row numbers per transaction; returns how many they were."""
    with disk_errors(ledger.path):
        low, high = ledger.db.execute("select coalesce(min(id), 0), coalesce(max(id), -1) from completions").fetchone()
    changed = 0
    with progress(f"{title} {ledger.path.name}", high - low + 1, "entries") as bar:
        for start in range(low, high + 1, CHUNK):
            with disk_errors(ledger.path), transaction(ledger.db):
                where = f"where id >= {start} and id < {start + CHUNK} and {which}"
                changed += ledger.db.execute(f"{change} {where}").rowcount
            bar.advance(min(CHUNK, high + 1 - start))
    return changed
