"""Two processes of one run in one workspace: the second is refused and harms nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas import Answer
from stores.buckets import Bucket
from stores.stage import Stage, execute, partitioned, run_stage
from tests import stage_world as world

HOLDER = """
import sys
from schemas import Answer
from stores.stage import partitioned, run_stage

@partitioned()
def build(stage):
    stage.write_rows(Answer, [Answer(problem_id="0" * 16, answer="the holder's")])
    print("staged", flush=True)
    sys.stdin.readline()

run_stage("problems", build, ["train", *sys.argv[1:]])
"""


def hold(*bucket: str) -> subprocess.Popen[str]:
    """A process that has staged its table and waits for a line before it ends."""
    command = [sys.executable, "-c", HOLDER, *bucket]
    path = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "PATH": "/usr/bin:/bin"}
    path["PAIRWRIGHT_LEDGER"] = str(Path("ledger").absolute())
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "staged\n"
    return holder


@partitioned()
def write(stage: Stage) -> None:
    stage.write_rows(Answer, [Answer(problem_id="0" * 16, answer="the other's")])


def test_a_second_process_of_a_run_is_refused_in_one_line(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.write_params()
    with hold() as holder:
        with pytest.raises(SystemExit, match="1"):
            run_stage("problems", write, ["train"])
        assert capsys.readouterr().err == (
            f"problems.train: another process ({holder.pid}) builds this run here; wait until it has ended\n"
        )
        Stage("problems", "train")  # as tests and tools make one; it takes and removes nothing
        holder.communicate("\n")
    assert holder.returncode == 0
    assert [row["answer"] for row in world.read("answers", "train")] == ["the holder's"]
    execute("problems", "train", write)
    assert [row["answer"] for row in world.read("answers", "train")] == ["the other's"]


def test_a_killed_process_holds_nothing(workspace: Path) -> None:
    world.write_params()
    with hold() as holder:
        holder.send_signal(signal.SIGKILL)
    execute("problems", "train", write)
    assert [row["answer"] for row in world.read("answers", "train")] == ["the other's"]


def test_other_runs_go_on(workspace: Path) -> None:
    world.write_params(problems=dict.fromkeys(("train", "test"), world.PROBLEMS))
    with hold() as holder:
        execute("problems", "test", write)
        holder.communicate("\n")
    assert [row["answer"] for row in world.read("answers", "test")] == ["the other's"]


def test_buckets_of_a_run_are_built_at_once_but_none_twice_and_not_beside_the_whole(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.write_params()
    with hold("--bucket", "3/16") as holder:
        refused = {
            ("--bucket", "3/16"): f"another process ({holder.pid}) builds bucket 3/16 of this run here",
            (): "other processes build buckets of this run here",
        }
        for arguments, reason in refused.items():
            with pytest.raises(SystemExit, match="1"):
                run_stage("problems", write, ["train", *arguments])
            assert capsys.readouterr().err == f"problems.train: {reason}; wait until it has ended\n"
        assert list(Path("data/.staging").glob("problems-train-3-of-16/answers.arrow")), "it is staged still"
        holder.send_signal(signal.SIGKILL)
    assert not Path("data/.pieces/problems-train/3-of-16").exists()
    with hold() as holder:
        with pytest.raises(ValueError, match=rf"another process \({holder.pid}\) builds this run here"):
            execute("problems", "train", write, bucket=Bucket(3, 16))
        holder.communicate("\n")
    assert not list(Path("data/.staging").glob("*-of-*")), "the whole run removes what the killed one left"
