"""Processes that are killed while they submit or collect batches: no question is paid for twice, and none is lost.
And all solutions that humans have labelled, judged in batches that fail in all ways.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders import models, step_labels
from stores.stage import EXIT_STOPPED_EARLY, execute
from tests import stage_world
from tests.batch_server import BatchServer, Fate
from tests.batch_world import World, a_world, asks
from tests.conftest import REPOSITORY
from tests.fault_server import Act, Asked
from tests.first_error_rows import rows
from tests.hosted_world import connect
from tests.replaying_judge import ReplayingJudge, write_params, write_rows

pytestmark = pytest.mark.slow
COUNT = 40
STAGE = [sys.executable, "-m", "builders.step_labels", "judged"]


@pytest.fixture
def server() -> BatchServer:
    return BatchServer(lambda asked: Act(text=f"about {asked.question}"), steps=4)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: BatchServer):
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setenv("PAIRWRIGHT_BATCH_WAIT_S", "30")
    monkeypatch.setenv("PAIRWRIGHT_BATCH_SIZE", "15")
    with a_world(tmp_path / "ledger", monkeypatch, server) as made:
        yield made


def start() -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.batch_world", str(COUNT)]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def end(child: subprocess.Popen) -> int:
    _, said = child.communicate(timeout=300)
    assert child.returncode in (0, EXIT_STOPPED_EARLY, -signal.SIGKILL), said
    return child.returncode


def until_done() -> None:
    for _ in range(5):
        if end(start()) == 0:
            return
    raise AssertionError("not done")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("event", ["upload", "uploaded", "create", "created", "look", "content"])
def test_killed_while_the_server_works(world: World, server: BatchServer, event: str, number: int):
    """Before or after it has the file, has made the batch, and so on, in each case before the process hears of it."""
    child: list[subprocess.Popen] = []

    def kill(happened: str, times: int) -> None:
        if (happened, times) == (event, number) and child[0].returncode is None:
            os.kill(child[0].pid, signal.SIGKILL)

    server.on = kill
    child.append(start())
    assert end(child[0]) == -signal.SIGKILL
    server.on = lambda happened, times: None
    until_done()
    assert world.paid_once(asks(COUNT))
    assert len(world.found(asks(COUNT))) == COUNT


def test_killed_at_half_and_collected_as_killed(world: World, server: BatchServer):
    """After half of the answers the process is killed; the batch goes on, and is collected by the next."""
    child: list[subprocess.Popen] = []

    def kill(happened: str, times: int) -> None:
        if sum(server.paid.values()) >= COUNT / 2 and child[0].returncode is None:
            os.kill(child[0].pid, signal.SIGKILL)

    server.on = kill
    child.append(start())
    assert end(child[0]) == -signal.SIGKILL
    server.on = lambda happened, times: None
    until_done()
    assert world.paid_once(asks(COUNT))
    assert end(start()) == 0
    assert len(server.batches) == 3


def test_killed_at_any_time(world: World, server: BatchServer):
    """With lost replies, cut files, batches that expire or are cancelled, and questions that fail."""
    dice = random.Random(7)
    ends = ("completed", "expired", "cancelled")
    server.fate = lambda number: Fate(dice.choice(ends), dice.random() if number < 12 else 1.0)
    server.plan = lambda asked: Act(500) if asked.before < 1 and dice.random() < 0.2 else Act()
    for turn in range(12):
        server.lost_replies, server.cut_outputs = turn % 2, turn % 3
        child = start()
        time.sleep(dice.uniform(0.5, 2.5))
        child.kill()
        end(child)
    server.lost_replies = server.cut_outputs = 0
    for _ in range(100):  # of which some end because questions have failed too often, as they are meant to
        if end(start()) == 0:
            break
    assert server.paid == {key: 1 for key, _ in asks(COUNT)}
    assert len(world.found(asks(COUNT))) == COUNT


def test_two_processes_at_once(world: World, server: BatchServer):
    """The second waits for the first."""
    both = [start(), start()]
    assert [end(child) for child in both] == [0, 0]
    assert world.paid_once(asks(COUNT))


def table() -> list[dict]:
    """The rows without the times of their answers."""
    return [row | {"labeled_at": None} for row in stage_world.read("step_labels", "judged")]


def parquet() -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path("data").glob("**/run=judged/*.parquet"))]


def test_real_solutions_in_batches(shared_data: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch):
    """Four batches: one expires, one is cancelled; every eighth question fails at first; files are cut, a reply is
    lost, and the process is killed at half. The table is that of the mode `online`."""
    labelled = list(rows(shared_data))
    assert len(labelled) == 3018
    judge, child = ReplayingJudge(labelled), []
    total = len(judge.labels)

    def plan(asked: Asked) -> Act:
        return Act(500) if asked.number % 8 == 0 and asked.before == 0 else judge.plan(asked)

    def kill(event: str, number: int) -> None:
        if sum(server.paid.values()) >= total / 2 and not killed:
            killed.append(event)
            os.kill(child[0].pid, signal.SIGKILL)

    killed: list[str] = []
    server = BatchServer(plan, steps=4)
    server.fate = lambda number: [Fate("expired", 0.6), Fate(), Fate("cancelled", 0.5), *[Fate()] * 99][number]
    server.lost_replies, server.cut_outputs, server.on = 1, 2, kill
    with server.running():
        connect(monkeypatch, server, batch_size=800, batch_wait_s=100)
        write_rows(labelled, judge={"mode": "batch"})
        execute("models", "judge", models.run)
        child.append(subprocess.Popen(STAGE, stderr=subprocess.PIPE, text=True))
        assert end(child[0]) == -signal.SIGKILL
        assert table_is_absent()
        monkeypatch.setenv("PAIRWRIGHT_BATCH_WAIT_S", "0")
        assert end(subprocess.Popen(STAGE, stderr=subprocess.PIPE, text=True)) == EXIT_STOPPED_EARLY
        assert table_is_absent()
        monkeypatch.setenv("PAIRWRIGHT_BATCH_WAIT_S", "100")
        while end(subprocess.Popen(STAGE, stderr=subprocess.PIPE, text=True)):
            assert table_is_absent()
        assert len(server.paid) == total
        assert set(server.paid.values()) == {1}
        in_batches, asked, written = table(), len(server.asked), parquet()
        write_params(judge={"mode": "online"})
        execute("step_labels", "judged", step_labels.run)
        assert (parquet(), len(server.asked)) == (written, asked), "switching makes no call, and the same bytes"
        monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(workspace / "another"))
        execute("step_labels", "judged", step_labels.run)
        assert table() == in_batches
        assert sum(row["verdict"] == "invalid" for row in in_batches) > 200


def table_is_absent() -> bool:
    return not Path("data/step_labels/run=judged").exists()
