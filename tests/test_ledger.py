"""The ledger: what is committed survives any crash, nothing is produced twice, a full disk loses nothing."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores.ledger import Completion, Ledger
from stores.paths import ledger_dir

REPOSITORY = Path(__file__).resolve().parent.parent

HELPERS = """
import os, resource, signal, sys, time
from pathlib import Path
from stores.ledger import Completion, Ledger
root = Path(sys.argv[1])
def entries(batch, size):
    texts = [f"text {batch} {i} " * 50 for i in range(size)]
    return [(f"c-{batch:04d}-{i:04d}", Completion(text, "stop", 7, 5, (1, 2, i))) for i, text in enumerate(texts)]
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `code` after the helpers."""
    command = [sys.executable, "-c", HELPERS + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def completion(text: str = "8", tokens: tuple[int, ...] | None = (1, 2, 3)) -> Completion:
    return Completion(text, "stop", 3, 5, tokens)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path)) as opened:
        yield opened


def counts(root: Path) -> list[tuple[int, int]]:
    """(completions that a batch says it has, those that are there), by batch; of an intact file."""
    with contextlib.closing(Ledger(root)) as opened:
        assert opened.db.execute("pragma integrity_check").fetchall() == [("ok",)]
        query = (
            "select b.n, count(key) from batches b left join completions using (batch) group by batch order by batch"
        )
        return opened.sql(query)[1]


def test_completions_come_back_as_they_were(ledger: Ledger, tmp_path: Path) -> None:
    given = {
        "a-1": completion("é🐈\n\x00", (0, 2**31 - 1)),
        "a-2": completion("", ()),
        "b-1": Completion("cut", "length", 9, 0, None),
    }
    ledger.append("a", "m0", given.items(), wall_s=2.0, device_s=0.5)
    assert ledger.get(["b-1", "a-2", "nope", "a-1"]) == given
    assert ledger.missing(["z", "a-1", "y", "b-1"]) == ["z", "y"]
    with contextlib.closing(Ledger(tmp_path)) as again:
        assert again.get(list(given)) == given


def test_more_keys_than_one_statement_takes(ledger: Ledger) -> None:
    keys = [f"c-{i:05d}" for i in range(2500)]
    ledger.append("c", "m0", [(key, completion(key)) for key in keys[::2]], wall_s=1.0)
    assert ledger.missing(keys) == keys[1::2]
    assert {key: c.text for key, c in ledger.get(keys).items()} == {key: key for key in keys[::2]}


def test_a_key_is_never_written_twice_and_its_batch_is_not_kept(ledger: Ledger) -> None:
    ledger.append("c", "m0", [("c-1", completion("first"))], wall_s=1.0)
    with pytest.raises(sqlite3.IntegrityError):
        ledger.append("c", "m0", [("c-2", completion()), ("c-1", completion("second"))], wall_s=1.0)
    assert ledger.missing(["c-1", "c-2"]) == ["c-2"]
    assert ledger.get(["c-1"])["c-1"].text == "first"
    ledger.append("c", "m0", [("c-2", completion())], wall_s=1.0)
    assert ledger.missing(["c-2"]) == []


COMMIT_FOREVER = """
ledger = Ledger(root)
for batch in range(10_000):
    ledger.append("c", "m0", entries(batch, 400), wall_s=1.0)
    print(batch, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.011, 0.017])
def test_a_kill_at_any_time_keeps_all_that_was_committed(tmp_path: Path, delay: float) -> None:
    process = child(COMMIT_FOREVER, tmp_path)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(3)]
    time.sleep(delay)
    process.kill()
    with process.stdout:  # `communicate` would lose what was read ahead
        reported += [int(line) for line in process.stdout]
    process.wait(timeout=300)
    found = counts(tmp_path)
    assert set(found) == {(400, 400)}
    assert len(reported) <= len(found) <= len(reported) + 1


KILL_IN_A_BATCH = """
ledger = Ledger(root)
ledger.append("c", "m0", entries(0, 50), wall_s=1.0)
inserts = iter(range(30))
def trace(statement):
    if "into completions" in statement and next(inserts, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
ledger.db.set_trace_callback(trace)
ledger.append("c", "m0", entries(1, 50), wall_s=1.0)
"""


def test_a_kill_inside_a_batch_leaves_none_of_it(tmp_path: Path) -> None:
    process = child(KILL_IN_A_BATCH, tmp_path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert counts(tmp_path) == [(50, 50)]


SAMPLE = """
keys = [f"c-{i:04d}" for i in range(120)]
ledger = Ledger(root)
with ledger.exclusive("c"), (root / "produced").open("a") as produced:
    missing = ledger.missing(keys)
    for start in range(0, len(missing), 20):
        batch = missing[start : start + 20]
        time.sleep(0.005)
        produced.writelines(f"{key}\\n" for key in batch)
        produced.flush()
        ledger.append("c", "m0", [(key, Completion(key, "stop", 1, 1)) for key in batch], wall_s=0.1)
        if len(sys.argv) > 2 and start == 40:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_that_want_the_same_never_produce_it_twice(tmp_path: Path) -> None:
    processes = [child(SAMPLE, tmp_path) for _ in range(3)]
    for process in processes:
        process.communicate(timeout=300)
        assert process.returncode == 0
    produced = Counter((tmp_path / "produced").read_text().split())
    assert len(produced) == 120
    assert set(produced.values()) == {1}


def test_a_killed_holder_lets_the_next_one_continue(tmp_path: Path) -> None:
    first = child(SAMPLE, tmp_path, "die")
    first.communicate(timeout=300)
    assert first.returncode == -signal.SIGKILL
    second = child(SAMPLE, tmp_path)
    second.communicate(timeout=300)
    produced = Counter((tmp_path / "produced").read_text().split())
    assert (second.returncode, len(produced), set(produced.values())) == (0, 120, {1})


def test_other_contexts_do_not_wait(ledger: Ledger, tmp_path: Path) -> None:
    with ledger.exclusive("a"), contextlib.closing(Ledger(tmp_path)) as other, other.exclusive("b"):
        other.append("b", "m0", [("b-1", completion())], wall_s=1.0)
    assert ledger.missing(["b-1"]) == []


def test_who_waits_is_told_why(tmp_path: Path) -> None:
    waiter = "ledger = Ledger(root)\nsys.stderr = sys.stdout\nwith ledger.exclusive('ctx'): print('mine')"
    with contextlib.closing(Ledger(tmp_path)) as ledger:
        with ledger.exclusive("ctx"):
            process = child(waiter, tmp_path)
            assert process.stdout is not None
            assert (
                process.stdout.readline() == "waiting for another process that generates the same completions (ctx)\n"
            )
            assert process.poll() is None
        assert process.communicate(timeout=300)[0] == "mine\n"


def test_a_full_disk_is_one_line_and_keeps_what_was_committed(ledger: Ledger, tmp_path: Path) -> None:
    ledger.append("c", "m0", [("c-1", completion("kept"))], wall_s=1.0)
    (pages,) = ledger.db.execute("pragma page_count").fetchone()
    ledger.db.execute(f"pragma max_page_count = {pages + 2}")
    with pytest.raises(OSError, match="free space or point PAIRWRIGHT_LEDGER elsewhere") as error:
        ledger.append("c", "m0", [(f"c-{i}", completion("x" * 1000)) for i in range(2, 100)], wall_s=1.0)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert counts(tmp_path) == [(1, 1)]
    ledger.db.execute("pragma max_page_count = 1000000")
    ledger.append("c", "m0", [("c-2", completion())], wall_s=1.0)
    assert counts(tmp_path) == [(1, 1), (1, 1)]


NO_ROOM_TO_WRITE = """
ledger = Ledger(root)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
committed = 0
try:
    for batch in range(100):
        ledger.append("c", "m0", entries(batch, 100), wall_s=1.0)
        committed += 1
except OSError as error:
    print(committed, "|", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.append("c", "m0", entries(999, 100), wall_s=1.0)
"""


def test_a_failing_write_keeps_what_was_committed_and_the_next_one_works(tmp_path: Path) -> None:
    out, _ = child(NO_ROOM_TO_WRITE, tmp_path).communicate(timeout=300)
    committed, _, message = out.partition(" | ")
    assert int(committed) > 0
    assert "what was committed is intact" in message
    assert len(out.splitlines()) == 1
    assert counts(tmp_path) == [(100, 100)] * (int(committed) + 1)


def test_sql_answers_over_completions_and_batches(ledger: Ledger) -> None:
    ledger.append("a", "m0", [("a-1", completion("one")), ("a-2", completion("two"))], wall_s=1.0)
    columns, rows = ledger.sql("select model, text from completions join batches using (batch) order by key")
    assert (columns, rows) == (["model", "text"], [("m0", "one"), ("m0", "two")])


@pytest.mark.parametrize(
    "query",
    [
        "delete from completions",
        "insert into batches values (9, 'a', 'b', 0, 0, 0, 0, 0)",
        "drop table completions",
        "create temp table t (a)",
        "attach 'other.sqlite' as other",
        "vacuum into 'copy.sqlite'",
        "pragma journal_mode = delete",
        "select load_extension('x')",
        "selec 1",
        "select 1; select 2",
    ],
)
def test_sql_only_reads(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.chdir(tmp_path)
    ledger.append("a", "m0", [("a-1", completion())], wall_s=1.0)
    with pytest.raises(ValueError, match=r"^ledger: ") as error:
        ledger.sql(query)
    assert "\n" not in str(error.value)
    assert counts(tmp_path) == [(1, 1)]
    assert {p.name for p in tmp_path.iterdir()} <= {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"}


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "mine"))
    assert ledger_dir() == tmp_path / "mine"
    monkeypatch.delenv("PAIRWRIGHT_LEDGER")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ledger_dir() == tmp_path / "cache" / "pairwright"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ledger_dir() == tmp_path / ".cache" / "pairwright"


def test_an_unusable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as error:
        Ledger(tmp_path / "file" / "below")
    assert "\n" not in str(error.value)


def test_a_damaged_page_is_one_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    keys = [f"a-{i:04d}" for i in range(400)]
    ledger.append("a", "m0", [(key, completion("long " * 40)) for key in keys], wall_s=1.0)
    ledger.db.execute("pragma wal_checkpoint(truncate)")
    ledger.close()
    content = bytearray((tmp_path / "ledger.sqlite").read_bytes())
    content[5 * 4096 :] = os.urandom(len(content) - 5 * 4096)
    (tmp_path / "ledger.sqlite").write_bytes(content)
    damaged = Ledger(tmp_path)
    for lookup in (damaged.get, damaged.missing):
        with pytest.raises(OSError, match=r"ledger\.sqlite: .*malformed; restore") as error:
            lookup(keys)
        assert "\n" not in str(error.value)
    damaged.close()


def test_a_file_that_is_no_ledger_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(os.urandom(4096))
    with pytest.raises(OSError, match=r"ledger\.sqlite: file is not a database; restore"):
        Ledger(tmp_path)
