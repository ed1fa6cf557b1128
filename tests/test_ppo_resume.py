"""A run of `ppo` that was killed while it drew or while it updated ends as if it had never been disturbed."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import train.ppo
from stores.stage import execute
from tests import ppo_world
from tests import training_world as world
from tests.conftest import REPOSITORY
from tests.ppo_world import committed
from train.journal import Journal
from train.rewarding import Rewarder
from train.rollouts import HfSampler
from train.session import Session

TABLES = ("models/{}", "training/run={}", "samples/run={}", "predictions/run={}", "rewards/run={}", "rollouts/run={}")
SETTINGS = {
    "optimizer.steps": 7,
    "optimizer.batch_size": 6,
    "rollout_batch": 2,
    "mini_batch": 4,
    "checkpoint_every": 3,
    "validation": world.BY_GENERATION | {"every": 4},
    "checker": ppo_world.DIGITS,
    "sampling.explore.max_new_tokens": 3,
}
RUNS = {
    "shared trunk": {"adaptive_kl": {"target": 0.5, "horizon": 50}, "critic_warmup": 1},
    "value model": {"value_model": "tiny", "log_every": 2},
    "adapters": {"lora": {"rank": 4}},
    "online_st": {"algorithm": "online_st", "demos": "good", "lora": {"rank": 4, "dropout": 0.2}},
}


def outputs(root: Path, key: str = "reft") -> dict[str, bytes]:
    directories = [root / "data" / table.format(key) for table in TABLES] + [root / f"data/rejects/stage=ppo/run={key}"]
    paths = sorted(path for directory in directories for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


class CrashError(Exception):
    """Stands for a kill."""


class Crashes:
    """Makes a run fail where it is told to, and sees what it draws."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.update_at: tuple[int, int] | None = None
        """(step, update of that step) that fails."""
        self.draw_at: int | None = None
        """Batch that fails, counted from the start of the run."""
        self.updates, self.batches = 0, 0
        self.asked = ppo_world.watch_draws(monkeypatch)
        update, stream = Session.update, HfSampler.stream
        crashes = self

        def updating(session: Session, step: int, *rest):
            crashes.updates = crashes.updates + 1 if crashes.last == step else 1
            crashes.last = step
            if crashes.update_at == (step, crashes.updates):
                raise CrashError
            return update(session, step, *rest)

        def streaming(sampler: HfSampler, requests) -> Iterator:
            for batch in stream(sampler, requests):
                if crashes.draw_at == crashes.batches:
                    raise CrashError
                crashes.batches += 1
                yield batch

        self.last = -1
        monkeypatch.setattr(Session, "update", updating)
        monkeypatch.setattr(HfSampler, "stream", streaming)


@pytest.fixture
def crashes(monkeypatch: pytest.MonkeyPatch) -> Crashes:
    return Crashes(monkeypatch)


def crash(root: Path) -> None:
    with pytest.raises(CrashError):
        execute("ppo", "reft", train.ppo.run, root)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_bit_exactly_after_crashes_in_rollout_and_update(workspace, monkeypatch, crashes, name):
    ppo_world.build(workspace, SETTINGS | RUNS[name])
    with monkeypatch.context() as other:
        other.setenv("PAIRWRIGHT_LEDGER", str(workspace.parent / "undisturbed"))
        execute("ppo", "reft", train.ppo.run, workspace)
    undisturbed, rollouts = outputs(workspace), len(world.rows(workspace, "rollouts", "reft"))
    crashes.batches = 0
    crashes.draw_at = 2  # the last batch of the first step: two are committed
    crash(workspace)
    assert len(committed()) == 4
    crashes.draw_at, crashes.update_at = None, (2, 3)  # in the second pass, before any checkpoint
    crash(workspace)
    crashes.update_at, crashes.draw_at, crashes.batches = (5, 1), 4, 0  # while the fifth step is drawn
    crash(workspace)
    before = committed()
    assert len(before) == 26, "of four steps and a third of another"
    crashes.draw_at = None
    crashes.asked.clear()
    crash(workspace)
    assert not before & set(crashes.asked), "what was committed is not drawn again"
    crashes.update_at = None
    execute("ppo", "reft", train.ppo.run, workspace)
    assert outputs(workspace) == undisturbed
    assert len(committed()) == rollouts == 42
    assert not list((workspace.parent / "ledger/checkpoints").glob("*")), "checkpoints go when the outputs are there"


def test_a_run_whose_outputs_are_gone_draws_nothing_again(workspace, crashes):
    ppo_world.build(workspace, SETTINGS)
    execute("ppo", "reft", train.ppo.run, workspace)
    first, asked = outputs(workspace), len(crashes.asked)
    assert asked == 42
    execute("ppo", "reft", train.ppo.run, workspace)
    assert outputs(workspace) == first
    assert len(crashes.asked) == asked


def test_another_run_draws_its_own(workspace, crashes):
    ppo_world.build(workspace, SETTINGS)
    execute("ppo", "reft", train.ppo.run, workspace)
    for change in ({"seed": 1}, {"beta": 0.1}, {"partial": "none"}):
        ppo_world.build(workspace, SETTINGS | change)
        crashes.draw_at, crashes.batches = 0, 0
        crash(workspace)


def test_verdicts_stay_when_a_killed_run_goes_on(workspace, monkeypatch, crashes):
    """A checker that ran out of time once might not do so again; the step has been learnt from as it was."""
    ppo_world.build(workspace, SETTINGS)
    crashes.update_at = (1, 1)
    crash(workspace)
    judged: list[int] = []
    judge = Rewarder.judge
    monkeypatch.setattr(Rewarder, "judge", lambda self, drawn: judged.append(len(drawn)) or judge(self, drawn))
    crashes.update_at = None
    execute("ppo", "reft", train.ppo.run, workspace)
    assert len(judged) == 5, "two of the seven steps had been judged"


def test_a_journal_forgets_a_line_that_was_cut_off(tmp_path):
    journal = Journal(tmp_path / "new" / "journal")
    journal.append("seen", 0, [[1.5, None, "é\n"]])
    journal.append("seen", 1, [[0.1]])
    journal.append("seen", 0, [[2.5]])
    with (tmp_path / "new" / "journal").open("ab") as file:
        file.write(b'seen 2 [[1, "cu')
    again = Journal(tmp_path / "new" / "journal")
    assert [again.read("seen", step) for step in range(3)] == [[[2.5]], [[0.1]], None]
    again.append("seen", 2, [[float("1e-323")]])
    third = Journal(tmp_path / "new" / "journal")
    assert third.read("seen", 2) == [[1e-323]]
    assert third.read("judged", 0) is None


def test_a_journal_is_left_alone_until_it_is_used(tmp_path):
    """Another process may be writing to it: who holds the directory is known later."""
    path = tmp_path / "journal"
    path.write_bytes(b"seen 0 [[1]]\nseen 1 [[2")
    journal = Journal(path)
    assert path.read_bytes().endswith(b"[[2")
    assert (journal.read("seen", 0), journal.read("seen", 1)) == ([[1]], None)
    assert path.read_bytes() == b"seen 0 [[1]]\n"


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(workspace):
    more = {"optimizer.steps": 60, "checkpoint_every": 7, "validation": world.BY_GENERATION | {"every": 20}}
    ppo_world.build(workspace, SETTINGS | more)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train.ppo", "reft"]
    ledger = {"PAIRWRIGHT_LEDGER": str(workspace.parent / "undisturbed")}
    subprocess.run(command, env=environment | ledger, check=True)
    undisturbed = outputs(workspace)
    kills, had = 0, 0
    path = workspace.parent / "ledger/ledger.sqlite"
    for _ in range(4):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and count(path) <= had:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        had = count(path)
    subprocess.run(command, env=environment, check=True)
    assert kills, "the runs ended before they could be killed; make them longer"
    assert outputs(workspace) == undisturbed
    assert count(path) == 360


def count(path: Path) -> int:
    """Committed completions, as another process sees them."""
    if not path.exists():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        try:
            return db.execute("select count(*) from completions").fetchone()[0]
        except sqlite3.OperationalError:  # its tables are being made
            return 0
