"""Processes that are killed while they submit or collect batches: no question is paid for twice, and none is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stores.stage import EXIT_STOPPED_EARLY
from tests.batch_server import BatchServer, Fate
from tests.batch_world import World, a_world, asks
from tests.conftest import REPOSITORY
from tests.fault_server import Act

pytestmark = pytest.mark.slow
COUNT = 40


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
    _, said = child.communicate(timeout=60)
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
    for _ in range(10):
        if end(start()) == 0:
            break
    assert world.paid_once(asks(COUNT))
    assert len(world.found(asks(COUNT))) == COUNT


def test_two_processes_at_once(world: World, server: BatchServer):
    """The second waits for the first."""
    both = [start(), start()]
    assert [end(child) for child in both] == [0, 0]
    assert world.paid_once(asks(COUNT))
