"""How a batch is dealt to processes, in one process: equal counts, nothing lost, nothing twice."""

import runpy
import sys
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train.sft
from train import parallel
from train.command import train_stage

SIZES = st.lists(st.lists(st.integers(1, 900), min_size=1, max_size=9), max_size=9)


@given(SIZES, st.integers(1, 9))
def test_every_process_gets_as_many_micro_batches_and_every_example_once(groups, processes):
    numbers = iter(range(100))
    numbered = [[next(numbers) for _ in group] for group in groups]
    sizes = list(chain.from_iterable(groups))
    dealt = parallel.shares(numbered, sizes, processes)
    assert len(dealt) == processes
    assert len({len(share) for share in dealt}) == 1
    assert sorted(chain.from_iterable(chain.from_iterable(dealt))) == list(range(len(sizes)))
    assert parallel.shares(numbered, sizes, processes) == dealt
    for part in chain.from_iterable(dealt):  # no micro-batch grew
        assert any(set(part) <= set(group) for group in [*numbered, []])
    full = [len([part for part in share if part]) for share in dealt]
    assert max(full) - min(full) <= 1 or len(sizes) < processes * len(dealt[0])


@pytest.mark.parametrize(
    ("groups", "processes", "expected"),
    [
        ([[0, 1, 2, 3]], 1, [[[0, 1, 2, 3]]]),
        ([[0, 1, 2, 3]], 2, [[[0]], [[1, 2, 3]]]),  # by size, in order: 9 | 3 + 2 + 1
        ([[0, 1], [2, 3]], 2, [[[0, 1]], [[2, 3]]]),
        ([[0, 1], [2], [3]], 2, [[[0], [2]], [[1], [3]]]),
        ([[0], [1], [2]], 2, [[[0], [2]], [[1], []]]),
        ([[0, 1]], 4, [[[0]], [[1]], [[]], [[]]]),
        ([], 3, [[], [], []]),
    ],
)
def test_dealing_by_hand(groups, processes, expected):
    assert parallel.shares(groups, [9, 3, 2, 1], processes) == expected


def test_a_process_on_its_own_has_no_group():
    assert (parallel.rank(), parallel.count(), parallel.leads(), parallel.active()) == (0, 1, True, False)
    assert parallel.everyones(3) == [3]
    assert parallel.agreed({"a": 1}) == {"a": 1}
    columns, names = parallel.together({"loss": [torch.ones(2), torch.zeros(1)]}, ["a", "b", "c"])
    assert (columns["loss"].tolist(), names) == ([1, 1, 0], ["a", "b", "c"])


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("stage", ["ppo", "reward_model", "scores"])
def test_what_trains_in_one_process_says_so(stage, monkeypatch, capsys):
    said = []
    monkeypatch.setattr(sys, "argv", [stage, "run"])
    for rank in ("0", "1"):
        for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "2")
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"train.{stage}", run_name="__main__")
        assert ended.value.code == 1
        said.append(capsys.readouterr().err)
    assert said == [f"{stage}: trains in one process; start it without torchrun\n", ""]


def test_the_launcher_comes_from_the_environment(monkeypatch):
    started = []
    monkeypatch.setattr(parallel.os, "execv", lambda *command: started.append(command))
    parallel.relaunch("train.sft", ["warm"])
    assert started == []
    monkeypatch.setenv(parallel.LAUNCHER, "--standalone --nproc-per-node 2")
    parallel.relaunch("train.sft", ["warm"])
    ((python, command),) = started
    assert command == [
        python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train.sft", "warm"
    ]  # fmt: skip
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    parallel.relaunch("train.sft", ["warm"])
    assert len(started) == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ('a "b', "No closing quotation"),
        ("banana", "'banana' is no argument of torchrun"),
        ("2", "'2' is no argument of torchrun"),
        ("--nproc-per-node two", "Unsupported nproc_per_node value: two"),
        ("--nproc-per-nodes 2", "unrecognized arguments: --nproc-per-nodes"),
    ],
)
def test_what_torchrun_does_not_take_is_one_line(monkeypatch, capsys, given, reason):
    monkeypatch.setenv(parallel.LAUNCHER, given)
    monkeypatch.setattr(parallel.os, "execv", None)
    with pytest.raises(SystemExit, match="1"):
        train_stage("sft", train.sft.run, ["warm"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"sft.warm: PAIRWRIGHT_TORCHRUN: '{given}': ")
    assert reason in said
    assert said.endswith("; give torchrun's arguments, as in PAIRWRIGHT_TORCHRUN='--standalone --nproc-per-node 8'\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [("yes", "'yes' is neither 0 nor 1"), ("1", "only under torchrun; set PAIRWRIGHT_TORCHRUN='--standalone --nproc")],
)
def test_what_is_to_lie_in_the_cpus_memory_is_divided(monkeypatch, capsys, given, said):
    monkeypatch.setenv(parallel.OFFLOAD, given)
    with pytest.raises(SystemExit, match="1"):
        train_stage("sft", train.sft.run, ["warm"])
    assert capsys.readouterr().err.startswith(f"sft.warm: PAIRWRIGHT_CPU_OFFLOAD: {said}")
