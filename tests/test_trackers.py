"""Experiment trackers see what the tables and the speed log get; they change no row and end no training."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stores.speeds import SpeedLog
from tests import training_world as world
from tests.training_world import rows, run
from train import trackers
from train.session import Session
from train.trackers import Trackers

SPEED = ("examples_per_s", "useful_tokens_per_s", "computed_tokens_per_s", "peak_memory", "seconds")
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class FakeRun:
    """A run of W&B or trackio, as accelerate drives it; it notes what it is told, or fails where it is to."""

    def __init__(self, fails: str = "", **settings: Any):
        self.fails, self.settings = fails, settings
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.fails == "log":
            raise ConnectionError("the server is\ngone")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True
        if self.fails == "finish":
            raise RuntimeError


@pytest.fixture
def fake(monkeypatch):
    """Stands in for a library: `fake("wandb")` returns the list of its runs."""
    find, there = importlib.util.find_spec, ModuleSpec("fake", None, origin="fake.py")

    def install(name: str, fails: str = "") -> list[FakeRun]:
        runs: list[FakeRun] = []

        def init(**settings: Any) -> FakeRun:
            if fails == "init":
                raise PermissionError("no API key")
            runs.append(FakeRun(fails, **settings))
            return runs[-1]

        module: Any = ModuleType(name)
        module.init = init
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: there if n == name else find(n, *a))
        monkeypatch.setenv("PAIRWRIGHT_TRACKERS", name)
        return runs

    return install


def build(root: Path, **changes: Any) -> None:
    world.build(root, changes={f"preference.dpo.{key}": value for key, value in changes.items()})
    run(root, "reference.sums")


def outputs(root: Path) -> tuple:
    files = [*sorted((root / "data/training/run=dpo").iterdir()), root / "data/models/dpo/model.safetensors"]
    return tuple(path.read_bytes() for path in files)


def test_no_tracker_is_imported_unless_it_is_asked_for(workspace):
    build(workspace)
    program = (
        "import sys, train.preference; from stores.stage import execute; "
        "execute('preference', 'dpo', train.preference.run); "
        "print([m for m in ('tensorboard', 'wandb', 'trackio', 'dvclive') if m in sys.modules])"
    )
    environment = {"PYTHONPATH": str(Path(world.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | environment)
    assert done.stdout == "[]\n", done.stderr


@QUIET
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_sees_the_rows_and_their_speed_and_changes_neither_rows_nor_weights(
    workspace, fake, monkeypatch, name
):
    build(workspace, validation=world.BY_GENERATION | {"every": 3}, **{"lora": {"rank": 4, "dropout": 0.3}})
    run(workspace, "preference.dpo")
    expected = outputs(workspace)
    (seen,) = [fake(name)]
    run(workspace, "preference.dpo")
    assert outputs(workspace) == expected
    (one,) = seen
    assert one.finished
    assert (one.settings["project"], one.settings["name"]) == ("workspace", "preference.dpo")
    assert one.settings["config"]["beta"] == 0.1
    table, speeds = rows(workspace, "training", "dpo"), list(SpeedLog(workspace, "dpo").rows())
    assert [step for step, _ in one.logged] == [row["step"] for row in table] == [0, 1, 2, 3, 4, 5, 6]
    for (_, values), row in zip(one.logged, table, strict=True):
        known = {key: value for key, value in row.items() if value is not None and key != "step"}
        assert {key: values[key] for key in known} == known
        assert not {"step", *(key for key in row if row[key] is None)} & set(values)
    for (_, values), speed in zip(one.logged, speeds, strict=False):
        assert [values[key] for key in SPEED] == [getattr(speed, key) for key in SPEED]


@QUIET
@pytest.mark.parametrize(
    ("fails", "why"),
    [
        ("init", "PermissionError: no API key"),
        ("log", "ConnectionError: the server is gone"),
        ("finish", "RuntimeError"),
    ],
)
def test_a_tracker_that_fails_is_left_out_and_ends_no_training(workspace, fake, capsys, fails, why):
    build(workspace)
    seen = fake("wandb", fails)
    run(workspace, "preference.dpo")
    assert len(rows(workspace, "training", "dpo")) == 7
    said = [line for line in capsys.readouterr().err.splitlines() if "tracker" in line]
    assert said == [f"preference dpo: tracker wandb is left out: {why}"]
    assert all(not one.logged for one in seen) == (fails != "finish")


@pytest.mark.parametrize("found", [None, ModuleSpec("trackio", None)], ids=["nothing", "a directory of that name"])
def test_a_library_that_is_not_there_is_said_and_training_goes_on(workspace, monkeypatch, capsys, found):
    build(workspace)
    monkeypatch.setenv("PAIRWRIGHT_TRACKERS", "trackio")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: found)
    run(workspace, "preference.dpo")
    line = "preference dpo: tracker trackio is left out: it is not installed; `pip install -e '.[trackio]'` does that\n"
    assert line in capsys.readouterr().err


def test_a_tracker_that_there_is_not_is_a_mistake_before_anything_takes_long(workspace, monkeypatch):
    build(workspace)
    monkeypatch.setenv("PAIRWRIGHT_TRACKERS", "tensorboard, wandbb")
    monkeypatch.setattr("train.preference.load_pairs", None)
    with pytest.raises(ValueError, match=r"PAIRWRIGHT_TRACKERS: no tracker 'wandbb' \(have tensorboard, wandb, "):
        run(workspace, "preference.dpo")


class CrashError(Exception):
    """Stands for a kill."""


@QUIET
def test_a_run_that_goes_on_goes_on_in_its_tracker(workspace, fake, monkeypatch):
    build(workspace, checkpoint_every=2)
    seen, update = fake("wandb"), Session.update

    def crashing(self, step, *rest):
        if step == 5:
            raise CrashError
        return update(self, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "update", crashing)
        with pytest.raises(CrashError):
            run(workspace, "preference.dpo")
    run(workspace, "preference.dpo")
    first, second = seen
    assert first.finished
    assert first.settings["id"] == second.settings["id"]
    assert second.settings["resume"] == "allow"
    assert [step for step, _ in second.logged] == [4, 5, 6]


def tensorboard_scalars(directory: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@QUIET
def test_tensorboard_shows_the_rows(workspace, monkeypatch):
    monkeypatch.setenv("PAIRWRIGHT_TRACKERS", "tensorboard")
    build(workspace)
    run(workspace, "preference.dpo")
    found = tensorboard_scalars(workspace.parent / "ledger/tracking/tensorboard/workspace/preference.dpo")
    table = rows(workspace, "training", "dpo")
    assert found["loss"] == pytest.approx({row["step"]: row["loss"] for row in table[:6]})
    assert found["margin"] == pytest.approx({row["step"]: row["margin"] for row in table})
    assert set(found["useful_tokens_per_s"]) == set(range(6))


def changes() -> list[str]:
    """What Git sees in the working directory, apart from the stage's outputs."""
    lines = subprocess.check_output(["git", "status", "--porcelain", "--untracked-files=all"], text=True).splitlines()
    return [line for line in lines if not line.startswith("?? data/")]


@QUIET
def test_dvclive_shows_the_rows_and_leaves_the_project_alone(workspace, monkeypatch):
    commit = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "Params"]
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], commit):
        subprocess.run(command, check=True)
    build(workspace)
    before = changes()
    monkeypatch.setenv("PAIRWRIGHT_TRACKERS", "dvclive")
    monkeypatch.setenv("PAIRWRIGHT_TRACKING_DIR", str(workspace.parent / "watched"))
    run(workspace, "preference.dpo")
    place = workspace.parent / "watched/dvclive/workspace/preference.dpo"
    table = rows(workspace, "training", "dpo")
    assert json.loads((place / "metrics.json").read_text())["margin"] == pytest.approx(table[-1]["margin"])
    lines = (place / "plots/metrics/loss.tsv").read_text().splitlines()
    assert [int(line.split("\t")[0]) for line in lines[1:]] == [0, 1, 2, 3, 4, 5]
    assert changes() == before
    assert "refs/exps" not in subprocess.check_output(["git", "for-each-ref"], text=True)


def test_what_a_tracker_cannot_show_is_left_out():
    seen: list[Any] = []
    one: Any = SimpleNamespace(log=lambda values, step: seen.append((step, values)), finish=lambda: None)
    Trackers("here", {"wandb": one}).log(3, {"step": 3, "loss": 0.5, "kl": None, "device": "cpu", "n_tokens": 7})
    assert seen == [(3, {"loss": 0.5, "n_tokens": 7})]
    assert trackers.wanted() == []
