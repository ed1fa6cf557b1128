"""Runs built by bucket: pieces that any command may build, joined to the bytes of a single run."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import parallel, parts
from builders.problems import run as problems_run
from schemas import Reward
from schemas.params import STAGES
from stores import pieces
from stores.buckets import Bucket
from stores.ledger import Ledger
from stores.run_log import RunLog
from stores.stage import Stage, execute, partitioned, run_stage
from tests import stage_world as world
from tests.bucket_world import ORDER, RUNS, build, built, copy, outputs, stage_of, write_params
from tests.conftest import REPOSITORY
from tests.test_predictions_rewards import children, wait_for

__all__ = ["built", "copy"]
SOME = [Bucket(0, 16), Bucket(9, 16), Bucket(0x5A, 256), Bucket(0x9A, 256), Bucket(15, 16)]
"""Neither in order nor everything; one lies in another."""
ALL = [Bucket(number, 16) for number in range(16)]


def build_pieces(section: str, buckets: list[Bucket]) -> None:
    for bucket in buckets:
        execute(section, RUNS[section][0], stage_of(section), bucket=bucket)


def remove(section: str) -> dict[str, bytes]:
    """Removes a run's outputs; returns what they were."""
    before = outputs(section)
    for file in before:
        Path(file).unlink()
    return before


CASES = [(section, SOME) for section in ORDER] + [(section, ALL) for section in ("samples", "pairs_outcome")]


@pytest.mark.parametrize(("section", "buckets"), CASES, ids=[f"{section}-{len(some)}" for section, some in CASES])
def test_pieces_join_to_the_bytes_of_a_single_run(copy: Path, section: str, buckets: list[Bucket]) -> None:
    before = remove(section)
    build_pieces(section, buckets)
    assert not any(Path(file).exists() for file in before), "pieces are no outputs"
    build(section)
    assert outputs(section) == before
    assert not any(Path("data/.pieces").iterdir())
    assert [file.name for file in Path("data/.staging").glob(f"{section}-*")] == [f"{section}-{RUNS[section][0]}.lock"]


def test_every_stage_that_can_be_built_by_bucket_is_among_them() -> None:
    stages = {
        s for s in STAGES if (path := REPOSITORY / f"builders/{s}.py").exists() and "@partitioned" in path.read_text()
    }
    assert set(ORDER) == stages


def test_the_world_has_rows_and_rejects_in_many_buckets(copy: Path) -> None:
    assert all(len(outputs(section)) == 2 for section in ORDER)
    prompts = [row["prompt_id"] for row in world.read("pairs", "o")]
    assert len(prompts) == 100, "the cap of the whole run"
    assert len({prompt[0] for prompt in prompts}) > 8
    assert {r for _, _, r, _ in world.rejects("pairs_outcome", "o")} >= {"capped", "undecided", "wrong_step"}
    assert len(world.read("demos", "c")) > 16
    assert {r for _, _, r, _ in world.rejects("demos_correct", "c")} >= {"capped", "undecided", "wrong_step"}
    steps = [row["prompt_id"] for row in world.read("pairs", "ps")]
    assert len({prompt[0] for prompt in steps}) > 8
    assert {r for _, _, r, _ in world.rejects("pairs_step", "ps")} >= {"capped", "disputed", "duplicate", "undecided"}
    assert {r for _, _, r, _ in world.rejects("samples_corrections", "k")} >= {"no_correction", "no_error", "unlabeled"}
    assert len(world.read("samples", "k")) > 16


STEP_STAGES = ("prompts_step", "samples_corrections", "pairs_step")


@pytest.mark.parametrize("section", STEP_STAGES)
def test_parts_of_any_size_give_the_same_bytes(copy: Path, monkeypatch: pytest.MonkeyPatch, section: str) -> None:
    before = remove(section)
    monkeypatch.setattr(parts, "ROWS_AT_ONCE", 25)
    build(section)
    assert outputs(section) == before


@pytest.mark.slow
@pytest.mark.parametrize("section", STEP_STAGES)
def test_parts_built_by_several_processes_give_the_same_bytes(
    copy: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    before = remove(section)
    monkeypatch.setattr(parallel, "MIN_ROWS", 10)
    monkeypatch.setenv("PAIRWRIGHT_WORKERS", "2")
    build(section)
    assert outputs(section) == before


def test_with_all_pieces_there_nothing_is_built(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = remove("rewards")
    build_pieces("rewards", ALL)
    monkeypatch.setattr(stage_of("rewards"), "build", lambda stage: pytest.fail("it builds"))
    build("rewards")
    assert outputs("rewards") == before


def change_input() -> None:
    correct = [Reward(**row | {"verdict": "correct", "reward": 1.0}) for row in world.read("rewards", "r")]
    world.write("rewards", "r", correct)


def damage() -> None:
    file = Path("data/.pieces/pairs_outcome-o/9-of-16/pairs.arrow")
    file.write_bytes(file.read_bytes()[:-100])


CHANGES = {
    "params": (
        lambda: write_params(pairs_outcome={"o": RUNS["pairs_outcome"][1] | {"k": 2}}),
        "made with other params",
    ),
    "seed": (lambda: write_params(seed=1), "made with other seed"),
    "inputs": (change_input, "made with other inputs"),
    "damage": (damage, r"9/16 cannot be read \(.*\)"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_stale_piece_is_never_used(
    copy: Path, capsys: pytest.CaptureFixture[str], change: Callable[[], None], message: str
) -> None:
    build_pieces("pairs_outcome", SOME)
    change()
    build("pairs_outcome")
    assert re.search(f"pairs_outcome.o: piece .*{message}; it is computed again", capsys.readouterr().err)
    joined = remove("pairs_outcome")
    build("pairs_outcome")
    assert outputs("pairs_outcome") == joined


def test_a_piece_of_other_code_is_stale_and_one_that_is_valid_stays(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_pieces("rewards", SOME[:2])
    monkeypatch.setattr(pieces, "_code_digest", lambda: "other")
    build_pieces("rewards", [SOME[1], SOME[1]])
    build("rewards")
    assert capsys.readouterr().err.splitlines() == [
        "rewards.r: piece 9/16 was made with other code; it is computed again",
        "rewards.r: piece 9/16 is there already",
        "rewards.r: piece 0/16 was made with other code; it is computed again",
        "rewards.r: joins 1 pieces, and builds the rest",
    ]


def test_an_input_that_changes_while_a_piece_is_built_makes_it_stale(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = stage_of("pairs_outcome").build

    def changed(stage: Stage) -> None:
        real(stage)
        change_input()

    with monkeypatch.context() as patch:
        patch.setattr(stage_of("pairs_outcome"), "build", changed)
        build_pieces("pairs_outcome", SOME[:1])
    build("pairs_outcome")
    assert "made with other inputs" in capsys.readouterr().err


def test_hosts_share_a_generation_run(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks for its bucket's prompts alone; who joins asks for the others, and gives the table of one host."""
    before, paid = remove("samples"), {}
    for host, buckets in {"a": ALL[:8], "b": ALL[8:15]}.items():
        monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(copy / host))
        build_pieces("samples", buckets)
        paid[host] = completions()
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(copy / "c"))
    build("samples")
    assert outputs("samples") == before
    last = sum(row["prompt_id"] >= "f" for row in world.read("samples", "drawn"))
    assert completions() == last > 0
    assert sum(paid.values()) + last == 360
    assert RunLog().latest(Path())["samples", "drawn"].tokens == sum(
        r["n_tokens"] for r in world.read("samples", "drawn")
    )


def completions() -> int:
    ledger = Ledger()
    _, rows = ledger.sql("select count(*) from completions")
    ledger.close()
    return rows[0][0]


def test_a_bucket_of_no_prompts_is_empty_though_a_run_of_none_is_an_error(copy: Path) -> None:
    asked = world.prompt(world.problem("one"))
    world.write("prompts", "train", [asked])
    empty = (int(asked.prompt_id[0], 16) + 1) % 16
    build_pieces("samples", [Bucket(empty, 16)])
    world.write("prompts", "train", [])
    with pytest.raises(ValueError, match="prompts run 'train' is empty"):
        build_pieces("samples", [Bucket(empty, 16)])


MISTAKES = [
    # arguments, exit code, what is said
    (["r", "--bucket", "16/16"], 1, "rewards.r: --bucket '16/16': give 0/16 to 15/16, or 0/256 to 255/256\n"),
    (["r", "--bucket", "3/17"], 1, "rewards.r: --bucket '3/17': give 0/16 to 15/16, or 0/256 to 255/256\n"),
    (["r", "--bucket=all"], 1, "rewards.r: --bucket 'all': give 0/16 to 15/16, or 0/256 to 255/256\n"),
    (["r", "--bucket", ""], 1, "rewards.r: --bucket '': give 0/16 to 15/16, or 0/256 to 255/256\n"),
    (
        ["r", "--bucket", "3/16", "--bucket", "4/16"],
        1,
        "rewards.r: --bucket: one command builds one bucket, not 3/16 and 4/16\n",
    ),
    (["x", "--bucket", "3/16"], 1, "rewards.x: no run 'x' under 'rewards' in params.yaml (have 'continued', 'r')\n"),
    (
        ["r", "--bucket"],
        2,
        "usage: python -m <package>.rewards RUN [--bucket B/N]   (a run under 'rewards' in params.yaml)\n",
    ),
    ([], 2, "usage: python -m <package>.rewards RUN [--bucket B/N]   (a run under 'rewards' in params.yaml)\n"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_mistakes_on_the_command_line(
    copy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_stage("rewards", stage_of("rewards"), arguments)
    assert stopped.value.code == code
    assert capsys.readouterr().err.startswith(said)


def test_a_stage_that_is_built_whole_has_no_buckets(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_stage("problems", problems_run, ["train", "--bucket", "3/16"])
    assert "unrecognized arguments: --bucket 3/16" in capsys.readouterr().err


def test_commands_that_start_together_may_note_the_same_input(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def beside(path: Path, target: Path) -> Path:
        if path.suffix == ".partial" and path.parent.name == "inputs":
            monkeypatch.setattr(Path, "replace", real)
            build_pieces("rewards", [Bucket(3, 16)])
        return real(path, target)

    before = remove("rewards")
    monkeypatch.setattr(Path, "replace", beside)
    build_pieces("rewards", [Bucket(5, 16)])
    assert sorted(p.name for p in Path("data/.pieces/rewards-r").glob("*-of-*")) == ["3-of-16", "5-of-16"]
    build("rewards")
    assert outputs("rewards") == before


def test_a_piece_needs_its_inputs(copy: Path) -> None:
    shutil.rmtree("data/predictions/run=p")
    with pytest.raises(ValueError, match=r"data/predictions/run=p: .*build it with `dvc repro`"):
        build_pieces("rewards", SOME[:1])


@pytest.mark.slow
def test_commands_build_pieces_at_once_and_a_killed_one_leaves_none(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    before = remove("rewards")
    command = [sys.executable, "-m", "builders.rewards", "r"]
    killed = subprocess.Popen([*command, "--bucket", "5/16"])
    at_once = [subprocess.Popen([*command, "--bucket", f"{number}/16"]) for number in (0, 9)]
    killed.send_signal(signal.SIGKILL)
    assert [process.wait() for process in (killed, *at_once)] == [-signal.SIGKILL, 0, 0]
    assert sorted(p.name for p in Path("data/.pieces/rewards-r").glob("*-of-*")) == ["0-of-16", "9-of-16"]
    subprocess.run(command, check=True)
    assert outputs("rewards") == before


@pytest.mark.slow
def test_extraction_in_several_processes_gives_the_same_bytes(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = remove("predictions")
    monkeypatch.setattr(parallel, "MIN_ROWS", 100)
    monkeypatch.setenv("PAIRWRIGHT_WORKERS", "2")
    build("predictions")
    assert outputs("predictions") == before
    world.write("prompts", "train", [])
    with pytest.raises(ValueError, match="its prompt is not in `prompts`; name the run that it answers"):
        build("predictions")


SLOW_CHECKER = """
import time
from builders.checkers.base import PureChecker

class Slow(PureChecker):
    def extract(self, prefill, text):
        time.sleep(60)
"""
SMALL_RUN_IN_PROCESSES = """
from builders import parallel, predictions
from stores.stage import run_stage

if __name__ == "__main__":
    parallel.MIN_ROWS = 100
    run_stage("predictions", predictions.run, ["p"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_killed_run_leaves_no_process(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("slow_checker.py").write_text(SLOW_CHECKER)
    Path("small_run.py").write_text(SMALL_RUN_IN_PROCESSES)
    write_params(predictions={"p": RUNS["predictions"][1] | {"checker": "slow_checker:Slow@1"}})
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{copy}")
    monkeypatch.setenv("PAIRWRIGHT_WORKERS", "2")
    process = subprocess.Popen([sys.executable, "small_run.py"])
    wait_for(lambda: len(children(process.pid)) == 3)  # two workers, and the tracker of their semaphores
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert outputs("predictions"), "those of the run before"


def test_a_whole_runs_decision_gets_the_same_rows_with_and_without_pieces(copy: Path) -> None:
    """`finish` sees all rows, in order, with their number; neither a bucket nor the rest applies it."""
    seen = []

    def finish(stage: Stage):
        def first_ten(rows, total: int):
            tables = list(rows)
            seen.append((total, [i for t in tables for i in t["sample_id"].to_pylist()]))
            yield tables[0].slice(0, 10)

        return first_ten

    @partitioned(finish=finish)
    def rewards(stage: Stage) -> None:
        stage.write(Reward, stage.scan("rewards", "given"))

    shutil.copytree("data/rewards/run=r", "data/rewards/run=given")
    execute("rewards", "r", rewards)
    single = outputs("rewards")
    for bucket in SOME:
        execute("rewards", "r", rewards, bucket=bucket)
    execute("rewards", "r", rewards)
    assert outputs("rewards") == single
    assert seen[0] == seen[1]
    assert seen[0][0] == 360
