"""Size, pruning, redaction, export and merging of ledgers."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores import ledger_transfer
from stores.ledger import Completion, Ledger
from stores.ledger_admin import Selection, prune, redact, sizes
from stores.ledger_transfer import Merged, export, merge
from tests.conftest import REPOSITORY
from tests.test_ledger_upgrade import FIRST, KEYS, write_old

OLD, NEW = "0ld" + "0" * 13, "4e3" + "0" * 13


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(make(tmp_path / "here")) as opened:
        yield opened


def make(root: Path) -> Ledger:
    """Ten completions of `m0` in two batches, and four of `m1` with a price."""
    ledger = Ledger(root)
    ledger.begin(OLD, "m0", "f0", {"seed": 0})
    ledger.begin(NEW, "m1", "f1", {"seed": 0})
    for first in (0, 5):
        ledger.append(OLD, "m0", entries(OLD, range(first, first + 5)), 2.0, 1.0)
    ledger.append(NEW, "m1", entries(NEW, range(4), price_usd=0.25), 1.0)
    ledger.db.execute("update batches set finished_at = 1000 + batch where context = ?", (OLD,))
    return ledger


def key(context: str, index: int) -> str:
    return f"{context}-{'a' * 16}-{index:04d}"


def entries(context: str, indices: range, text: str = "secret words of", price_usd: float | None = None) -> list:
    done = Completion("", "stop", 3, 5, (1, 2), (-0.5,), price_usd)
    return [(key(context, i), done._replace(text=f"{text} {context} {i}")) for i in indices]


def content(ledger: Ledger) -> list[tuple]:
    """All that a ledger says of its completions."""
    query = """select key, text, token_ids, logprobs, price_usd, context, model, b.finished_at, b.n, setting
        from completions c join batches b using (batch) left join contexts using (context, model) order by key"""
    return ledger.sql(query)[1]


def test_sizes_are_by_context_and_add_up(ledger: Ledger) -> None:
    found = {size.context: size for size in sizes(ledger)}
    assert list(found) == [OLD, NEW], "the largest first"
    assert found[OLD][:5] == ("m0", "f0", OLD, 10, 30)
    assert (found[OLD].first, found[OLD].price_usd, found[NEW].price_usd) == ("1970-01-01", None, 1.0)
    texts = sum(len(row[1]) for row in content(ledger) if row[5] == OLD)
    assert found[OLD].bytes == texts + 10 * (8 + 4 + 2 * 38 + 40)


@pytest.mark.parametrize(
    ("selection", "expect"),
    [
        (Selection(), {OLD, NEW}),
        (Selection(models=["m0"]), {OLD}),
        (Selection(fingerprints=["f1", "f2"]), {NEW}),
        (Selection(contexts=["4e3"]), {NEW}),
        (Selection(contexts=[]), set()),
        (Selection(before=2000), {OLD}),
        (Selection(since=2000), {NEW}),
        (Selection(models=["m0"], since=2000), set()),
    ],
)
def test_a_selection_takes_what_meets_all_its_conditions(ledger: Ledger, selection, expect) -> None:
    assert {size.context for size in sizes(ledger, selection)} == expect


def test_pruning_forgets_exactly_the_selection(ledger: Ledger) -> None:
    kept = [row for row in content(ledger) if row[5] == NEW]
    assert prune(ledger, Selection(models=["m0"])) == 10
    assert content(ledger) == kept
    assert ledger.sql("select context from batches union all select context from contexts")[1] == [(NEW,), (NEW,)]
    assert prune(ledger, Selection(models=["m0"])) == 0
    ledger.append(OLD, "m0", entries(OLD, range(10)), 1.0)
    assert len(content(ledger)) == 14, "and they can be generated again"


def test_vacuum_gives_the_space_back(ledger: Ledger) -> None:
    ledger.append(OLD, "m0", entries(OLD, range(10, 500), "long " * 500), 1.0)
    ledger.db.execute("pragma wal_checkpoint(truncate)")
    before = ledger.path.stat().st_size
    prune(ledger, Selection(models=["m0"]), vacuum=True)
    ledger.db.execute("pragma wal_checkpoint(truncate)")
    assert ledger.path.stat().st_size < before / 10


def test_redacted_texts_are_gone_from_the_disk_and_never_paid_for_again(ledger: Ledger) -> None:
    assert redact(ledger, Selection(models=["m0"])) == 10
    assert redact(ledger, Selection(models=["m0"])) == 0
    stored = b"".join(path.read_bytes() for path in ledger.root.iterdir() if path.is_file())
    assert f"secret words of {NEW}".encode() in stored
    assert f"secret words of {OLD}".encode() not in stored
    keys = [key(OLD, i) for i in range(12)]
    assert ledger.missing(keys) == keys[10:], "they count as there"
    with pytest.raises(
        ValueError, match=r"10 of the completions asked for were redacted .*prune --context 0ld"
    ) as error:
        ledger.get(keys)
    assert "\n" not in str(error.value)
    assert len(ledger.get([key(NEW, 0)])) == 1
    (size,) = sizes(ledger, Selection(models=["m0"]))
    assert (size.entries, size.tokens, size.redacted) == (10, 30, 10)


@pytest.mark.parametrize("earlier", ["pruning", "an earlier version"])
def test_redaction_reaches_copies_that_were_left_in_free_pages(tmp_path: Path, earlier: str) -> None:
    if earlier == "pruning":
        ledger = Ledger(tmp_path)
        for first in range(0, 300, 2):
            ledger.append(NEW if first % 4 else OLD, "m0", entries(OLD, range(first, first + 2)), 1.0)
        prune(ledger, Selection(contexts=[NEW]))
        keys = [row[0] for row in content(ledger)]
    else:
        write_old(tmp_path, FIRST)
        ledger, keys = Ledger(tmp_path), KEYS
    with contextlib.closing(ledger):
        texts = [completion.text.encode() for completion in ledger.get(keys).values()]
        assert redact(ledger, None, keys) == len(texts) >= 150
        stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        assert [text for text in texts if text in stored] == []


def test_pruning_leaves_what_a_stage_has_noted_and_not_yet_answered(ledger: Ledger) -> None:
    begun = "77" + "0" * 14
    ledger.begin(begun, "m7", "f7", {"seed": 0})
    prune(ledger, Selection(models=["m0"]))
    assert ledger.sql("select context from contexts order by 1")[1] == [(NEW,), (begun,)]


@pytest.mark.parametrize("change", [prune, redact])
def test_a_number_of_a_batch_that_is_used_again_is_not_the_batch_that_was_chosen(ledger: Ledger, change) -> None:
    done: list[int] = []

    def other() -> None:
        with contextlib.closing(Ledger(ledger.root)) as mine:
            done.append(change(mine, Selection()))

    with ledger.exclusive(OLD):  # a stage that draws from it, which the other waits for
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        prune(ledger, Selection(models=["m1"]))
        ledger.append(OLD, "m0", entries(OLD, range(20, 23)), 1.0)
    thread.join(30)
    assert done == [10]
    assert list(ledger.get([key(OLD, i) for i in (20, 21, 22)])) == [key(OLD, i) for i in (20, 21, 22)]


def test_single_keys_are_redacted(ledger: Ledger) -> None:
    assert redact(ledger, None, [key(OLD, 3), key(NEW, 1)]) == 2
    assert [row[0] for row in content(ledger) if not row[1]] == [key(OLD, 3), key(NEW, 1)]
    with pytest.raises(ValueError, match="no completion 'nope'"):
        redact(ledger, None, ["nope"])


def test_redaction_says_when_another_process_keeps_the_texts_alive(ledger: Ledger) -> None:
    with contextlib.closing(sqlite3.connect(ledger.path)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from completions").fetchone()
        ledger.db.execute("pragma busy_timeout = 10")
        with pytest.raises(OSError, match=r"10 entries are redacted, but .*-wal still holds texts"):
            redact(ledger, Selection(models=["m0"]))
    assert redact(ledger, Selection(models=["m0"])) == 0


def test_an_export_is_a_ledger_and_merges_back(ledger: Ledger, tmp_path: Path) -> None:
    whole = content(ledger)
    assert export(ledger, tmp_path / "part.sqlite", Selection(models=["m0"])) == 10
    (tmp_path / "empty").mkdir()
    with contextlib.closing(Ledger(tmp_path / "empty")) as empty:
        assert merge(empty, tmp_path / "part.sqlite") == Merged(10, 0, 0, ())
        assert content(empty) == [row for row in whole if row[5] == OLD]
        export(ledger, tmp_path / "whole.sqlite")
        assert merge(empty, tmp_path / "whole.sqlite") == Merged(4, 10, 0, ())
        assert content(empty) == whole
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "here", "part.sqlite", "whole.sqlite"}


def test_an_export_overwrites_nothing(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "part").write_text("mine")
    with pytest.raises(ValueError, match="part: there already"):
        export(ledger, tmp_path / "part")
    with pytest.raises(ValueError, match=r"there is no directory .*nowhere; make it"):
        export(ledger, tmp_path / "nowhere" / "part")


def test_a_conflict_keeps_the_first_and_is_reported(ledger: Ledger, tmp_path: Path) -> None:
    before = content(ledger)
    with contextlib.closing(Ledger(tmp_path / "other")) as other:
        other.append(OLD, "m0", entries(OLD, range(8, 12), "another text"), 1.0)
        found = merge(ledger, other.path)
    assert found == Merged(2, 0, 2, (key(OLD, 8), key(OLD, 9)))
    assert [row for row in content(ledger) if row[0] in {r[0] for r in before}] == before
    assert len(content(ledger)) == 16


def test_a_redaction_on_either_side_is_no_conflict(ledger: Ledger, tmp_path: Path) -> None:
    with contextlib.closing(make(tmp_path / "other")) as other:
        redact(other, Selection(models=["m0"]))
        redact(ledger, Selection(models=["m1"]))
        assert merge(ledger, other.path) == Merged(0, 14, 0, ())
    assert [bool(row[1]) for row in content(ledger)] == [True] * 10 + [False] * 4, "nothing is redacted or restored"


def test_a_ledger_of_an_earlier_version_merges(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    write_old(tmp_path / "old", FIRST)
    assert merge(ledger, tmp_path / "old" / "ledger.sqlite") == Merged(300, 0, 0, ())
    assert ledger.get(KEYS)[KEYS[7]] == Completion("text 7", "stop", 3, 5, (1, 2))


DIE = """
import os, signal, sys
from pathlib import Path
from stores import ledger_transfer
from stores.ledger import Ledger
ledger_transfer.CHUNK = 3
ledger, seen = Ledger(Path(sys.argv[1])), []
def trace(statement):
    seen.extend([1] * ("insert into main.completions" in statement))
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
ledger.db.set_trace_callback(trace)
ledger_transfer.merge(ledger, Path(sys.argv[2]))
"""


def test_a_killed_merge_can_be_repeated(ledger: Ledger, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    killed = subprocess.run([sys.executable, "-c", DIE, ours, ledger.path], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    with contextlib.closing(Ledger(ours)) as again:
        assert len(content(again)) == 6
        assert merge(again, ledger.path) == Merged(8, 6, 0, ())
        assert content(again) == content(ledger)


def test_a_merge_ends_though_its_source_is_pruned_meanwhile(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_transfer, "CHUNK", 3)
    with (
        contextlib.closing(Ledger(tmp_path / "ours")) as ours,
        contextlib.closing(sqlite3.connect(ledger.path)) as other,
    ):

        def shrink(statement: str) -> None:
            if "insert into main.completions" in statement:
                other.execute("delete from completions where key > (select min(key) from completions)")
                other.commit()

        ours.db.set_trace_callback(shrink)
        merged = merge(ours, ledger.path)
        assert (len(content(ours)), len(content(ledger))) == (merged.added, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "no such file"), ("here/ledger.sqlite", "the ledger itself"), ("a.sqlite", "but no ledger")],
)
def test_what_cannot_be_merged_is_one_line(ledger: Ledger, tmp_path: Path, name: str, message: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as other:
        other.execute("create table t (a)")
    with pytest.raises(ValueError, match=message) as error:
        merge(ledger, tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_ledger_of_a_later_version_is_not_merged(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path / "later")
    with contextlib.closing(sqlite3.connect(tmp_path / "later")) as other:
        other.execute("pragma user_version = 99")
    with pytest.raises(ValueError, match=r"later: written by a later version of Pairwright \(format 99\)"):
        merge(ledger, tmp_path / "later")


def test_a_foreign_file_names_no_lock(ledger: Ledger, tmp_path: Path) -> None:
    with contextlib.closing(Ledger(tmp_path / "other")) as other:
        other.append("../../evil", "m0", entries("a", range(2)), 1.0)
    with pytest.raises(ValueError, match="no ledger of ours"):
        merge(ledger, other.path)
    assert len(content(ledger)) == 14
    assert not list(tmp_path.rglob("*evil*"))


def test_a_file_that_is_no_database_is_named(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(4096))
    with pytest.raises(OSError, match="noise: file is not a database"):
        merge(ledger, tmp_path / "noise")


def test_a_stage_that_draws_from_it_is_waited_for(ledger: Ledger) -> None:
    pruned: list[int] = []

    def other() -> None:
        with contextlib.closing(Ledger(ledger.root)) as mine:
            pruned.append(prune(mine, Selection(models=["m0"])))

    with ledger.exclusive(OLD):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        assert pruned == []
    thread.join(30)
    assert pruned == [10]
