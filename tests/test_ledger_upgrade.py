"""Ledgers that earlier versions wrote: every completion is there after opening, whatever happens on the way."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from stores.ledger import Completion, Ledger
from stores.ledger_schema import VERSION
from stores.reservations import Account, account
from tests.conftest import REPOSITORY

BATCHES = """
create table batches (
  batch integer primary key, context text not null, model text not null, finished_at real not null,
  wall_s real not null, device_s real not null, n integer not null, n_tokens integer not null
);"""
FIRST = """
create table completions (
  key text primary key, batch integer not null references batches, text text not null, finish_reason text not null,
  n_tokens integer, n_prompt_tokens integer, token_ids blob
) without rowid;"""
PAID = """
create table completions (
  key text primary key, batch integer not null references batches, text text not null, finish_reason text not null,
  n_tokens integer, n_prompt_tokens integer, token_ids blob, logprobs blob, price_usd real,
  n_attempts integer not null default 1, served_by text
) without rowid;"""
KEYS = [f"{i * 7919 % 1000:016x}-{i:016x}-0000" for i in range(300)]


def write_old(root: Path, completions: str, extra: tuple = ()) -> None:
    """A file as the version with these tables left it."""
    with contextlib.closing(sqlite3.connect(root / "ledger.sqlite")) as db, db:
        db.execute("pragma journal_mode=wal")
        db.executescript(BATCHES + completions)
        db.executemany(
            "insert into batches values (?,?,?,?,?,?,?,?)", [(b, "c", "m0", 1.5, 2.0, 0.5, 100, 300) for b in (1, 2, 3)]
        )
        marks = ",".join("?" * (7 + len(extra)))
        rows = [
            (key, 1 + i // 100, f"text {i}", "stop", 3, 5, b"\1\0\0\0\2\0\0\0", *extra) for i, key in enumerate(KEYS)
        ]
        db.executemany(f"insert into completions values ({marks})", rows)


def expected(**fields: object) -> dict[str, Completion]:
    return {
        key: Completion(f"text {i}", "stop", 3, 5, (1, 2))._replace(**fields)  # type: ignore[arg-type]
        for i, key in enumerate(KEYS)
    }


@pytest.mark.parametrize(
    ("tables", "extra", "fields"),
    [
        (FIRST, (), {}),
        (
            PAID, (b"\0\0\0\xbf", 0.25, 2, "served"),
            {"logprobs": (-0.5,), "price_usd": 0.25, "n_attempts": 2, "served_by": "served"},
        ),
    ],
)  # fmt: skip
def test_an_old_file_keeps_everything(tmp_path, capsys, tables, extra, fields):
    write_old(tmp_path, tables, extra)
    with contextlib.closing(Ledger(tmp_path)) as ledger:
        assert "bringing the ledger up to date" in capsys.readouterr().err
        assert ledger.get(KEYS) == expected(**fields)
        counts = "select b.batch, b.n, wall_s, count(key) from batches b join completions using (batch) group by 1"
        assert ledger.sql(counts)[1] == [(b, 100, 2.0, 100) for b in (1, 2, 3)]
        ledger.append("c", "m0", [("new", Completion("new", "stop", 1, 1))], 1.0)
        assert ledger.missing([KEYS[0], "new", "newer"]) == ["newer"]
    with contextlib.closing(Ledger(tmp_path)) as again:
        assert capsys.readouterr().err == "", "once"
        assert len(again.get([*KEYS, "new"])) == 301


OPEN = """
import os, signal, sys
from pathlib import Path
from stores import ledger_schema
from stores.ledger import Ledger
if sys.argv[2:]:
    ledger_schema.create = lambda db: os.kill(os.getpid(), signal.SIGKILL)
print(len(Ledger(Path(sys.argv[1])).get(sys.stdin.read().split())))
"""


def opener(root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPEN, str(root), *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes)  # type: ignore[call-overload]


def test_processes_that_open_it_at_once_upgrade_it_once(tmp_path):
    write_old(tmp_path, FIRST)
    processes = [opener(tmp_path) for _ in range(3)]
    assert [p.communicate("\n".join(KEYS), timeout=300)[0] for p in processes] == ["300\n"] * 3


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    write_old(tmp_path, FIRST)
    killed = opener(tmp_path, "die")
    killed.communicate("\n".join(KEYS))
    assert killed.returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        assert db.execute("pragma user_version").fetchone() == (0,)
        assert db.execute("select count(*) from completions").fetchone() == (300,)
    with contextlib.closing(Ledger(tmp_path)) as ledger:
        assert ledger.get(KEYS) == expected()


def test_a_later_version_is_named(tmp_path):
    Ledger(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.execute(f"pragma user_version = {VERSION + 1}")
    with pytest.raises(ValueError, match=r"ledger\.sqlite: written by a later version"):
        Ledger(tmp_path)


def test_new_files_opened_at_once(tmp_path):
    processes = [opener(tmp_path) for _ in range(4)]
    assert [p.communicate("a\nb", timeout=300)[0] for p in processes] == ["0\n"] * 4
    assert {p.name for p in Path(tmp_path).iterdir()} == {"ledger.sqlite"}


def test_a_file_of_the_second_version_gets_the_table_of_reservations(tmp_path, capsys):
    Ledger(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
        db.execute("insert into batches values (1, 'c', 'm0', 1.5, 2.0, 0.5, 1, 1)")
        db.execute("insert into completions (key, batch, text, finish_reason) values ('c-0-0000', 1, 'kept', 'stop')")
        db.execute("drop table reservations")
        db.execute("pragma user_version = 2")
    with contextlib.closing(Ledger(tmp_path)) as ledger:
        assert ledger.get(["c-0-0000"])["c-0-0000"].text == "kept"
        assert account(ledger, [["c-0-0000"]]) == Account(0.0, {}, {}, (0, 0))
        assert ledger.db.execute("pragma user_version").fetchone() == (VERSION,)
    assert capsys.readouterr().err == "", "it takes no time and no room"
