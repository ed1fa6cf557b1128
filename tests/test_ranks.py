"""Training by several processes (gloo, on the CPU): what one process writes, up to the order of sums."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.model_files import read_record
from tests import ranks_world as ranks
from tests import training_world as world
from tests.conftest import REPOSITORY
from tests.training_world import rows, weights
from train import parallel

pytestmark = pytest.mark.slow

NEAR = 1e-5
LORA = {"rank": 3}  # 4 processes: one of them has none of it
OFFLOADED = "preference.dpo+kto"
RUNS = {
    "sft.warm": (2, {"reduction": "token", "watch": "sums", "log_every": 1, "gradient_checkpointing": True}),
    "preference.dpo": (4, {"validation": world.BY_GENERATION, "optimizer.batch_size": 3}),
    "preference.dpo+kto": (2, {"loss": "kto", "optimizer.micro_tokens": 60}),
    "preference.dpo+one pair": (4, {"loss": "kto", "optimizer.batch_size": 1}),
    "preference.dpo+lora": (4, {"lora": LORA, "gradient_checkpointing": True, "optimizer.micro_tokens": 60}),
}
"""Processes and settings. A batch of 3 pairs leaves one of 4 processes without any, KTO's of one pair two of them."""


MODELS = {
    "llama": {},
    "qwen3_moe": {
        "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


def build(root: Path, name: str, more: dict) -> str:
    place = name.partition("+")[0]
    changes = {f"{place}.{key}": value for key, value in more.items()} | {"reference.sums.mismatched": True}
    world.build(root, changes=changes)
    return place


def outputs(root: Path, run: str) -> dict[str, bytes]:
    directories = [root / f"data/models/{run}", root / f"data/training/run={run}"]
    files = sorted(path for directory in directories for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def assert_same_curve(found: list[dict], expected: list[dict], near: float = NEAR) -> None:
    for row, like in zip(found, expected, strict=True):
        for column, value in like.items():
            if column == "accuracy" and row["step"] == 0:
                continue  # margins are zero there, but for rounding: their signs say nothing
            assert row[column] == (value if value is None else pytest.approx(value, rel=near, abs=near)), column


def assert_same_model(root: Path, run: str, expected: dict[str, torch.Tensor], near: float = NEAR) -> None:
    found = weights(root, run)
    assert found.keys() == expected.keys()
    world.assert_same_weights(found, expected, near)


@pytest.mark.parametrize("name", RUNS)
def test_processes_train_what_one_trains(workspace, monkeypatch, name):
    count, more = RUNS[name]
    place = build(workspace, name, more)
    run = place.partition(".")[2]
    world.run(workspace, "reference.sums", place)
    references, curve = rows(workspace, "reference_logprobs", "sums"), rows(workspace, "training", run)
    model, files = weights(workspace, run), outputs(workspace, run).keys()
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(workspace.parent / "another"))  # knows no log-prob yet
    monkeypatch.setenv(parallel.OFFLOAD, str(int(name == OFFLOADED)))
    ranks.together(count, ranks.stage, "reference.sums")
    ranks.together(count, ranks.stage, place)
    for row, expected in zip(rows(workspace, "reference_logprobs", "sums"), references, strict=True):
        assert row == expected | {"logprob": pytest.approx(expected["logprob"], abs=NEAR)}
    assert_same_curve(rows(workspace, "training", run), curve)
    assert_same_model(workspace, run, model)
    assert outputs(workspace, run).keys() == files
    assert [ranks.said(n) for n in range(1, count)] == [""] * (count - 1)
    assert not list((workspace.parent / "another/checkpoints").iterdir())


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_gradients_are_those_of_one_process(workspace, kind):
    world.build(workspace, changes={"models.tiny.config": world.LLAMA | MODELS[kind]})
    gradients_to("alone")
    for count in (2, 4):
        ranks.together(count, joined_gradients, f"of-{count}")
        found, expected = load_file(f"of-{count}"), load_file("alone")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))


def joined_gradients(path: str) -> None:
    with parallel.group():
        gradients_to(path)


def gradients_to(path: str) -> None:
    """Writes the gradients of a weighted sum of log-probs, in several forwards, before any clipping."""
    from train import sharding
    from train.policy import Policy

    pairs = world.load(Path())
    policy = Policy.load(Path("data/models/tiny"), [s for pair in pairs for s in pair.sequences])
    for numbers in policy.micro_batches([pair.sequences for pair in pairs], 130):
        logprobs = policy.logprobs([s for i in numbers for s in pairs[i].sequences])
        factors = torch.tensor([(i + 1.0) * sign for i in numbers for sign in (1, -1)])
        (logprobs * factors).sum().backward()
    found = {name: p.grad for name, p in policy.trainable().items() if p.grad is not None}
    whole = sharding.collect(found)
    if parallel.leads():
        save_file({name: gradient.contiguous() for name, gradient in whole.items()}, path)


def test_bfloat16_layers_are_near_what_one_process_computes(workspace):
    half = {"preference.dpo.precision": "bf16", "reference.sums.precision": "bf16"}
    world.build(workspace, changes=half | {"preference.dpo.validation": world.BY_GENERATION})
    world.run(workspace, "reference.sums", "preference.dpo")
    curve = rows(workspace, "training", "dpo")
    ranks.together(2, ranks.stage, "preference.dpo")
    assert_same_curve(rows(workspace, "training", "dpo"), curve, near=2e-2)
    assert {tensor.dtype for tensor in weights(workspace, "dpo").values()} == {torch.float32}


def test_a_full_disk_is_said_once_and_the_last_checkpoint_stays(workspace):
    place = build(workspace, "preference.dpo", {"checkpoint_every": 2})
    world.run(workspace, "reference.sums")
    said = the_only_line(place, full_disk)
    assert re.match(r"preference.dpo: \S+/aside: .*; free space or point PAIRWRIGHT_LEDGER elsewhere", said), said
    (last,) = checkpoints()
    assert last.name == "step-00000002"
    ranks.together(2, ranks.stage, place)
    assert checkpoints() == []


def full_disk(place: str) -> None:
    """From step 3 on the system refuses larger files of one process."""
    from train.session import Session

    update = Session.update

    def limited(self, step, *rest):
        if step == 3 and os.environ["RANK"] == "1":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return update(self, step, *rest)

    Session.update = limited  # pyrefly: ignore
    ranks.stage(place)


def test_a_damaged_checkpoint_is_named_by_all_as_one(workspace):
    place = build(workspace, "preference.dpo", {"checkpoint_every": 4})
    world.run(workspace, "reference.sums")
    ranks.end(ranks.start(2, until_step_4, place))
    (last,) = checkpoints()
    damaged = max(last.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    said = the_only_line(place)
    assert re.search(r"step-00000004: damaged checkpoint \(.*\); remove \S+ to train from the start", said), said


def checkpoints() -> list[Path]:
    return sorted((Path(os.environ["PAIRWRIGHT_LEDGER"]) / "checkpoints").glob("*/step-*"))


def kill(count: int, place: str, victims: slice) -> None:
    """Starts processes, and ends some by SIGKILL once there is a checkpoint."""
    started = ranks.start(count, ranks.stage, place)
    while not checkpoints():
        assert all(rank.is_alive() for rank in started), ranks.said(0)
        time.sleep(0.01)
    for rank in started[victims]:
        rank.kill()
    codes = ranks.end(started)
    assert codes[victims] == [-signal.SIGKILL] * len(codes[victims])
    assert 0 not in codes, "the run ended before it could be killed; make it longer"


@pytest.mark.parametrize("name", ["whole", "lora"])
def test_killed_processes_continue_with_the_same_bits(workspace, name):
    more = {"lora": {"rank": 1, "dropout": 0.2}} if name == "lora" else {}  # one process has none of most adapters
    more |= {"validation": world.BY_GENERATION, "checkpoint_every": 2, "optimizer.steps": 12}
    place = build(workspace, "preference.dpo", more)
    world.run(workspace, "reference.sums")
    ranks.together(2, ranks.stage, place)
    undisturbed = outputs(workspace, "dpo")
    kill(2, place, slice(1, 2) if name == "whole" else slice(0, 2))
    if name == "whole":
        assert "preference.dpo: another process of this run has ended" in ranks.said(0)
    (last,) = checkpoints()
    assert {path.suffix for path in last.iterdir()} == {".json", ".safetensors"}
    kept = json.loads((last / "state.json").read_text())["step"]
    assert 0 < kept < 12
    ranks.together(2, counted, place)
    assert taken(0) == taken(1) == list(range(kept, 12))
    assert outputs(workspace, "dpo") == undisturbed
    assert checkpoints() == []


@pytest.mark.parametrize("counts", [(1, 2), (4, 1)])
def test_any_number_of_processes_continues(workspace, counts):
    place = build(workspace, "preference.dpo", {"checkpoint_every": 4, "validation": world.BY_GENERATION})
    world.run(workspace, "reference.sums", place)
    curve, model = rows(workspace, "training", "dpo"), weights(workspace, "dpo")
    for count, work in zip(counts, (until_step_4, counted), strict=True):
        ranks.end(ranks.start(count, work, place))
        assert len(checkpoints()) == (work is until_step_4)
    assert taken(0) == [4, 5]
    assert_same_curve(rows(workspace, "training", "dpo"), curve)
    assert_same_model(workspace, "dpo", model)


def counted(place: str) -> None:
    """Says which steps are taken."""
    from train.session import Session

    update = Session.update

    def saying(self, step, *rest):
        print(f"step {step} of {os.environ.get('RANK', '0')}", file=sys.__stdout__)
        return update(self, step, *rest)

    Session.update = saying  # pyrefly: ignore
    ranks.stage(place)


def taken(rank: int) -> list[int]:
    return [int(step) for step in re.findall(rf"^step (\d+) of {rank}$", ranks.said(rank), re.MULTILINE)]


def test_the_best_weights_are_in_place_before_any_process_reads_them(workspace):
    """The last validation is the best, and its weights are put back at once; the disk is slow."""
    place = build(workspace, "preference.dpo", {"validation": world.BY_GENERATION})
    world.run(workspace, "reference.sums")
    ranks.together(2, improving, place)
    assert read_record(workspace / "data/models/dpo")["provenance"]["selected_step"] == 6


def improving(place: str) -> None:
    from train import checkpoints
    from train.validation import Validator

    accuracies, sync = iter([0.25, 0.5, 0.75]), checkpoints._sync

    def slow(path: Path) -> None:
        time.sleep(0.2)
        sync(path)

    checkpoints._sync = slow  # pyrefly: ignore
    Validator.accuracy = lambda *_: next(accuracies)  # pyrefly: ignore
    ranks.stage(place)


def test_a_divided_model_is_not_used_after_memory_was_full_in_a_backward(workspace):
    """Of one process too, which has a group if torchrun starts it."""
    world.build(workspace, changes={"preference.dpo.checkpoint_every": 1})
    world.run(workspace, "reference.sums", "preference.dpo")
    curve, model = rows(workspace, "training", "dpo"), weights(workspace, "dpo")
    assert ranks.end(ranks.start(1, full_backward, "preference.dpo")) == [1]
    assert re.match(r"preference.dpo: step 1: memory is full, at pair .* run it again", ranks.said(0)), ranks.said(0)
    ranks.together(1, in_a_group, "preference.dpo")
    assert_same_curve(rows(workspace, "training", "dpo"), curve)
    assert_same_model(workspace, "dpo", model)


def in_a_group(place: str) -> None:
    """One process, as torchrun starts it."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port())}
    ranks.stage(place)


def full_backward(place: str) -> None:
    """From step 1 on there is no room for the backward of shared prefixes."""
    from train import layout
    from train.session import Session

    backward, update, steps = layout._Take.backward, Session.update, []

    def limited(*given):
        if steps:
            raise torch.OutOfMemoryError("no room")
        return backward(*given)

    def counting(self, step, *rest):
        steps.append(step)
        return update(self, step, *rest)

    layout._Take.backward = staticmethod(limited)  # pyrefly: ignore
    Session.update = counting  # pyrefly: ignore
    in_a_group(place)


def until_step_4(place: str) -> None:
    """A run that fails after its first checkpoint."""
    from train.session import Session

    update = Session.update
    Session.update = lambda self, step, *rest: update(self, step, *rest) if step < 4 else 1 / 0  # pyrefly: ignore
    ranks.stage(place)


def test_torchrun_by_its_variable(workspace):
    world.build(workspace)
    world.run(workspace, "reference.sums", "preference.dpo")
    curve = rows(workspace, "training", "dpo")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment |= {"PAIRWRIGHT_TORCHRUN": "--standalone --nproc-per-node 2"}
    subprocess.run([sys.executable, "-m", "train.preference", "dpo"], env=environment, check=True)
    assert_same_curve(rows(workspace, "training", "dpo"), curve)
    assert read_record(workspace / "data/models/dpo")["provenance"]["run"] == "dpo"


def test_an_error_of_all_processes_is_said_once(workspace):
    world.build(workspace)
    assert the_only_line("preference.nope").startswith("preference.nope: no run 'nope' under 'preference' in params")


def test_what_one_process_finds_names_its_pair(workspace):
    world.build(workspace)
    world.run(workspace, "reference.sums")
    said = the_only_line("preference.dpo", broken)
    assert re.match(r"preference.dpo: step 0: the loss is not finite, at pair \(.*\); lower preference", said), said
    assert not (workspace / "data/models/dpo").exists()


def test_a_full_memory_halves_the_budget_of_all_for_the_next_start(workspace):
    world.build(workspace)
    world.run(workspace, "reference.sums", "preference.dpo")
    curve = rows(workspace, "training", "dpo")
    said = the_only_line("preference.dpo", cramped)
    assert re.match(r"preference.dpo: step 1: memory is full, at pair .* a forward is of at most \d\d tokens", said), (
        said
    )
    ranks.together(2, cramped, "preference.dpo")
    assert_same_curve(rows(workspace, "training", "dpo"), curve)


def the_only_line(place: str, work=ranks.stage) -> str:
    """All that two processes say that fail."""
    assert ranks.end(ranks.start(2, work, place)) == [1, 1]
    lines = [line for n in range(2) for line in ranks.said(n).splitlines()]
    assert len(lines) == 1, "\n".join(lines)
    return lines[0]


def broken(place: str) -> None:
    """One process alone has log-probs that are not finite."""
    from train.policy import Policy

    logprobs = Policy.logprobs

    def infinite(self: Policy, sequences):
        found = logprobs(self, sequences)
        return found + torch.inf if os.environ["RANK"] == "1" and torch.is_grad_enabled() else found

    Policy.logprobs = infinite  # pyrefly: ignore
    ranks.stage(place)


def cramped(place: str) -> None:
    """One process has no room for two pairs at a time, from step 1 on."""
    from train import preference
    from train.session import Session

    pair_losses, update = preference.pair_losses, Session.update
    steps: list[int] = []

    def limited(policy, pairs, *rest):
        if os.environ["RANK"] == "1" and steps and len(pairs) > 1 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no room")
        return pair_losses(policy, pairs, *rest)

    def counted(self, step, *rest):
        steps.append(step)
        return update(self, step, *rest)

    preference.pair_losses, Session.update = limited, counted  # pyrefly: ignore
    ranks.stage(place)
