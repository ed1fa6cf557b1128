"""A killed run, started again, ends with the same bytes as one that was never disturbed."""

import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train.preference
import train.reference
import train.sft
from stores.stage import execute
from tests import training_world as world
from tests.conftest import REPOSITORY
from train.session import _SOURCES, Session

BY_GENERATION = world.BY_GENERATION | {"every": 3}
BY_LABELS = world.BY_LABELS | {"every": 3}
RUNS = {
    "sft.warm": {"watch": "sums", "log_every": 2, "gradient_checkpointing": True},
    "preference.dpo": {},
    "preference.dpo+orpo": {"loss": "orpo", "reference": "none", "lambda_orpo": 0.5, "validation": BY_LABELS},
    "preference.dpo+ipo": {"loss": "ipo"},
    "preference.dpo+kto": {"loss": "kto", "undesirable_weight": 1.5, "lora": {"rank": 4, "dropout": 0.3}},
    "preference.dpo+lora": {"lora": {"rank": 4, "dropout": 0.3}, "log_every": 3},
}


def outputs(root: Path, key: str) -> dict[str, bytes]:
    directories = [root / f"data/models/{key}", root / f"data/training/run={key}"]
    paths = sorted(path for directory in directories for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def kept(root: Path) -> list[str]:
    """Names of what is in the checkpoint directory of the only run."""
    return sorted(path.name for path in (root.parent / "ledger/checkpoints").glob("*/*") if path.name != "lock")


class CrashError(Exception):
    """Stands for a kill."""


@pytest.fixture
def crash_at(monkeypatch):
    """Makes the run fail in the middle of a step."""
    update = Session.update

    def at(step: int) -> None:
        def crashing(self, now, *rest):
            if now == step:
                raise CrashError
            return update(self, now, *rest)

        monkeypatch.setattr(Session, "update", crashing)

    yield at
    monkeypatch.setattr(Session, "update", update)


def build(root: Path, name: str, **more) -> tuple[str, str]:
    place = name.split("+")[0]
    settings = {"validation": BY_GENERATION, "checkpoint_every": 2, "optimizer.schedule": "cosine"} | RUNS[name] | more
    changes = {f"{place}.{key}": value for key, value in settings.items()}
    world.build(root, changes=changes | {"reference.sums.mismatched": True})
    world.write(root, "held_out", sorted(map(world.label, range(3), "357"), key=lambda label: label.sample_id))
    execute("reference", "sums", train.reference.run, root)
    section, key = place.split(".")
    return section, key


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_bit_exactly_after_crashes_at_several_steps(workspace, crash_at, name):
    section, key = build(workspace, name, **{"optimizer.steps": 11})
    build_stage = {"sft": train.sft.run, "preference": train.preference.run}[section]
    execute(section, key, build_stage, workspace)
    undisturbed = outputs(workspace, key)
    for step, found in ((1, []), (5, ["step-00000004"]), (8, ["step-00000008"])):
        crash_at(step)
        with pytest.raises(CrashError):
            execute(section, key, build_stage, workspace)
        assert [name for name in kept(workspace) if name.startswith("step")] == found
    crash_at(-1)
    execute(section, key, build_stage, workspace)
    assert outputs(workspace, key) == undisturbed
    assert kept(workspace) == []


def test_a_checkpoint_holds_only_safetensors_and_json(workspace, crash_at):
    build(workspace, "preference.dpo")
    crash_at(5)
    with pytest.raises(CrashError):
        execute("preference", "dpo", train.preference.run, workspace)
    (step,) = (workspace.parent / "ledger/checkpoints").glob("*/step-*")
    assert kept(workspace) == ["best-00000003", "step-00000004"]
    assert {path.suffix for path in step.iterdir()} == {".json", ".safetensors"}
    assert [path.name for path in step.with_name("best-00000003").iterdir()] == ["weights.safetensors"]
    state = json.loads((step / "state.json").read_text())
    assert (state["step"], state["best_step"], len(state["rows"])) == (4, 3, 4)


@pytest.mark.parametrize(
    ("change", "resumes"),
    [
        ({}, True),
        ({"seed": 1}, False),
        ({"preference.dpo.beta": 0.2}, False),
        ({"sampling.greedy.max_new_tokens": 9}, False),
    ],
)
def test_only_the_same_run_finds_a_checkpoint(workspace, crash_at, monkeypatch, change, resumes):
    section, key = build(workspace, "preference.dpo")
    crash_at(5)
    with pytest.raises(CrashError):
        execute(section, key, train.preference.run, workspace)
    import yaml

    params = yaml.safe_load((workspace / "params.yaml").read_text())
    for path, value in change.items():
        *parents, last = path.split(".")
        at = params
        for part in parents:
            at = at[part]
        at[last] = value
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    crash_at(4 if resumes else 0)  # the first step that is taken
    with pytest.raises(CrashError):
        execute(section, key, train.preference.run, workspace)


def test_code_that_validates_decides_a_run_too():
    covered = {path.relative_to(REPOSITORY).as_posix() for p in _SOURCES for path in REPOSITORY.glob(p)}
    assert covered >= {
        "train/losses.py", "builders/rendering.py", "builders/engines/hf.py", "builders/checkers/number.py"
    }  # fmt: skip


def test_a_damaged_checkpoint_is_named_with_the_remedy(workspace, crash_at):
    build(workspace, "preference.dpo")
    crash_at(5)
    with pytest.raises(CrashError):
        execute("preference", "dpo", train.preference.run, workspace)
    (path,) = (workspace.parent / "ledger/checkpoints").glob("*/step-*/optimizer.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"step-00000004: damaged checkpoint \(.*\); remove \S+ to train from the start"
    ):
        execute("preference", "dpo", train.preference.run, workspace)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(workspace, crash_at):
    build(workspace, "preference.dpo")
    crash_at(5)
    with pytest.raises(CrashError):
        execute("preference", "dpo", train.preference.run, workspace)
    crash_at(-1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the system refuses larger files
    try:
        with pytest.raises(OSError, match=r"\.safetensors: .*; free space or point PAIRWRIGHT_LEDGER") as error:
            execute("preference", "dpo", train.preference.run, workspace)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    assert "step-00000004" in kept(workspace)
    execute("preference", "dpo", train.preference.run, workspace)
    assert kept(workspace) == []


def test_two_processes_never_train_the_same_run_at_once(workspace, crash_at):
    build(workspace, "preference.dpo")
    crash_at(0)
    with pytest.raises(CrashError):
        execute("preference", "dpo", train.preference.run, workspace)
    (lock,) = (workspace.parent / "ledger/checkpoints").glob("*/lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process trains this run; wait until it has ended"):
            execute("preference", "dpo", train.preference.run, workspace)


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_ends_with_the_same_bytes(workspace):
    more = {"optimizer.steps": 240, "checkpoint_every": 7, "log_every": 5, "validation": BY_GENERATION | {"every": 20}}
    build(workspace, "preference.dpo", **more)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train.preference", "dpo"]
    subprocess.run(command, env=environment, check=True)
    undisturbed = outputs(workspace, "dpo")
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not any(name.startswith("step") for name in kept(workspace)):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1.0))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    subprocess.run(command, env=environment, check=True)
    assert kills, "the runs ended before they could be killed; make them longer"
    assert outputs(workspace, "dpo") == undisturbed
