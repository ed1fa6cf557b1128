"""The ledger: every completion that was ever generated or paid for, keyed by its request.

It is an SQLite file in WAL mode outside the workspace (`$PAIRWRIGHT_LEDGER`). A batch is one transaction, synced to the
disk when `append` returns: a crash at any point loses at most the batch that was not committed. Stages only append;
what prunes and redacts, when somebody asks for it, is `stores.ledger_admin`. Two processes on one host that want the
same requests take turns (`exclusive`), so the second finds what the first has generated.
"""

import contextlib
import errno
import fcntl
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

import numpy as np

from stores import ledger_schema
from stores.paths import ledger_dir

_COLUMNS = "text, finish_reason, n_tokens, n_prompt_tokens, token_ids, logprobs, price_usd, n_attempts, served_by"
_LOOKUP = 10_000
_SETTINGS = (
    "journal_mode=wal",
    "synchronous=full",
    "trusted_schema=off",
    "wal_autocheckpoint=8192",
    "cache_size=-65536",
    "mmap_size=2147418112",
    "secure_delete=off",
)
"""SQLite's defaults write the log back to the file every 4 MB, cache 2 MB of it, and read it page by page: a look-up
over ten million keys spends most of its time on reading pages, which mapped memory (the most that SQLite can) saves.
"""
RESERVE = 32 * 2**20
"""Free bytes below which nothing more is generated: what has been paid for must still fit."""


class Completion(NamedTuple):
    """What an engine answers to one request. `token_ids` are those generated, an ending token included.

    `finish_reason` is `stop` or `length`; or the reason why there is no completion and never will be one: `over_long`
    (the prompt leaves no room for an answer), `refused` (the server will not answer). Then `text` says more. Both are
    committed too, so that they are found out once. `price_usd` and `n_attempts` are of hosted models: what this answer
    cost, and how often it was asked for, failed attempts included.
    """

    text: str
    finish_reason: str
    n_tokens: int
    n_prompt_tokens: int
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    price_usd: float | None = None
    n_attempts: int = 1
    served_by: str | None = None
    """Model and version that the server said it used."""


class Ledger:
    """Completions by request key.

    A key is `<context>-<prompt>-<index>`: hashes of everything that determines the answer, then the sample's number.
    Keys of one context sort together, so look-ups of a run touch neighbouring pages.
    """

    def __init__(self, root: Path | None = None):
        self.root = root or ledger_dir()
        self.path = self.root / "ledger.sqlite"
        with disk_errors(self.path):
            self.root.mkdir(parents=True, exist_ok=True)
            uri = f"file:{quote(str(self.path))}"
            self.db = sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)
            for setting in _SETTINGS:
                self.db.execute(f"pragma {setting}")
            ledger_schema.ensure(self.db, self.path)

    def get(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The completions among `keys` that are there.

        Raises OSError, as `missing` does, for a damaged file, naming it; and ValueError for completions whose texts
        were redacted: they are neither there nor to be paid for again.
        """
        found: dict[str, Completion] = {}
        redacted: list[tuple[str, float]] = []
        for key, redacted_at, *values in self.select(f"c.key, c.redacted_at, {_COLUMNS}", keys):
            if redacted_at is not None:
                redacted.append((key, redacted_at))
                continue
            text, reason, n_tokens, n_prompt_tokens, ids, logprobs, *paid = values
            arrays = _unpack(ids, "<i4"), _unpack(logprobs, "<f4")
            found[key] = Completion(text, reason, n_tokens, n_prompt_tokens, *arrays, *paid)
        if redacted:
            raise ValueError(_explain_redacted(self.root, redacted))
        return found

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys that are not there, in the order given. Redacted completions are there."""
        have = {key for (key,) in self.select("c.key", keys)}
        return [key for key in keys if key not in have]

    def select(self, columns: str, keys: Sequence[str], table: str = "completions") -> Iterator[tuple]:
        """Columns of the rows `c` that are there, by key.

        Sorted, so that neighbouring keys find their page in the cache; one parameter, whatever SQLite's limit.
        """
        ordered = sorted(set(keys))
        query = f"select {columns} from json_each(?) as asked cross join {table} as c on c.key = asked.value"
        for start in range(0, len(ordered), _LOOKUP):
            with disk_errors(self.path):
                rows = self.db.execute(query, (json.dumps(ordered[start : start + _LOOKUP]),)).fetchall()
            yield from rows

    def begin(self, context: str, model: str, model_fingerprint: str, setting: Mapping[str, Any]) -> None:
        """Notes what a context stands for, before its first request is sent.

        It is a write that is synced, so a disk that is full or read-only is found out while nothing is paid for yet:
        OSError.
        """
        row = (context, model, model_fingerprint, json.dumps(setting, sort_keys=True), time.time())
        with disk_errors(self.path), transaction(self.db):
            self.db.execute("insert or replace into contexts values (?,?,?,?,?)", row)
        self._check_room()

    def dated(self, keys: Sequence[str]) -> dict[str, tuple[Completion, float]]:
        """The completions among `keys` that are there, with the Unix times at which they were committed.

        Raises as `get` does.
        """
        times = dict(self.select("c.key, (select finished_at from batches b where b.batch = c.batch)", keys))
        return {key: (completion, times[key]) for key, completion in self.get(keys).items()}

    def append(
        self,
        context: str,
        model: str,
        entries: Iterable[tuple[str, Completion]],
        wall_s: float,
        device_s: float = 0.0,
        reserved: Mapping[str, float] | None = None,
    ) -> None:
        """Commits one batch: all of its completions or none; and with them what their keys have `reserved` from now.

        Raises OSError if the disk is full, then what was committed before is intact; or if it is so nearly full that
        the next batch might not fit, then this batch is committed too. A key that is already there is an error of the
        program (sqlite3.IntegrityError).
        """
        packed = [_row(key, completion) for key, completion in entries]
        tokens = sum(row[3] for row in packed)
        with disk_errors(self.path), transaction(self.db):
            batch = self.db.execute(
                "insert into batches (context, model, finished_at, wall_s, device_s, n, n_tokens)"
                " values (?,?,?,?,?,?,?)",
                (context, model, time.time(), wall_s, device_s, len(packed), tokens),
            ).lastrowid
            self.db.executemany(
                f"insert into completions (key, {_COLUMNS}, batch) values (?,?,?,?,?,?,?,?,?,?,{batch})", packed
            )
            if reserved:
                put_reservations(self.db, reserved)
        self._check_room()

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.root).free
        if free < RESERVE:
            kept = f"the ledger keeps {RESERVE // 2**20} MiB in reserve"
            remedy = "free space or point PAIRWRIGHT_LEDGER elsewhere (everything generated so far is committed)"
            raise OSError(errno.ENOSPC, f"{self.root}: only {free // 2**20} MiB are free, {kept}; {remedy}")

    @contextlib.contextmanager
    def exclusive(self, context: str) -> Iterator[None]:
        """Holds the requests of a context: another process that wants them waits, and then finds them answered.

        The operating system releases the lock when the holder ends, however it ends.
        """
        locks = self.root / "locks"
        locks.mkdir(exist_ok=True)
        with (locks / f"{context}.lock").open("w") as file:
            _lock(file, context)
            yield

    def sql(self, query: str) -> tuple[list[str], list[tuple]]:
        """(column names, rows) of a read-only query over `completions`, `batches` and `contexts`.

        Raises ValueError for a query that SQLite refuses.
        """
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True)) as db:
            db.set_authorizer(_only_reads)
            try:
                cursor = db.execute(query)
                return [column[0] for column in cursor.description or ()], cursor.fetchall()
            except sqlite3.Error as error:
                raise ValueError(f"ledger: {error}") from None

    def close(self) -> None:
        self.db.close()


def put_reservations(db: sqlite3.Connection, usd: Mapping[str, float]) -> None:
    """Sets what keys may have cost beside the prices of their answers; nothing is no row."""
    rows = [(key, value) for key, value in usd.items() if value]
    upsert = "insert into reservations (key, usd) values (?,?) on conflict (key) do update set usd = excluded.usd"
    db.executemany(upsert, rows)
    db.executemany("delete from reservations where key = ?", [(key,) for key, value in usd.items() if not value])


def _only_reads(action: int, *_: object) -> int:
    """A read-only connection still lets `attach` and `vacuum into` create files."""
    reads = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in reads else sqlite3.SQLITE_DENY


def _explain_redacted(root: Path, redacted: Sequence[tuple[str, float]]) -> str:
    key, redacted_at = redacted[0]
    day = time.strftime("%Y-%m-%d", time.localtime(redacted_at))
    context = key.split("-")[0]
    remedy = f"`pairwright ledger prune --context {context}` forgets them, so that they are generated again"
    return f"{root}: {len(redacted):,} of the completions asked for were redacted ({key} on {day}); {remedy}"


def _row(key: str, c: Completion) -> tuple:
    """The values of `key` and `_COLUMNS`."""
    arrays = _pack(c.token_ids, "<i4"), _pack(c.logprobs, "<f4")
    return (
        key,
        c.text,
        c.finish_reason,
        c.n_tokens,
        c.n_prompt_tokens,
        *arrays,
        c.price_usd,
        c.n_attempts,
        c.served_by,
    )


def _pack(values: Sequence[float] | None, dtype: str) -> bytes | None:
    return None if values is None else np.asarray(values, dtype=dtype).tobytes()


def _unpack(packed: bytes | None, dtype: str) -> tuple[Any, ...] | None:
    return None if packed is None else tuple(np.frombuffer(packed, dtype=dtype).tolist())


def _lock(file: IO[str], context: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that generates the same completions ({context})", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of a block is committed, or none of it; other writers wait for its end."""
    db.execute("begin immediate")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("rollback")
        raise
    db.execute("commit")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's errors about a file and its disk into one line with a remedy."""
    try:
        yield
    except sqlite3.OperationalError as error:
        remedy = f"{path}: {error}; free space or point PAIRWRIGHT_LEDGER elsewhere (what was committed is intact)"
        raise OSError(errno.ENOSPC if "full" in str(error) else errno.EIO, remedy) from None
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        remedy = f"{path}: {error}; restore that file or point PAIRWRIGHT_LEDGER elsewhere"
        raise OSError(errno.EIO, remedy) from None
