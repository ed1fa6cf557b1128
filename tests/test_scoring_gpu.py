"""Scoring, reference log-probs, checkpoints and measurements on one CUDA device, against the CPU."""

import pytest
import torch

import train.reference_ledger
from stores.speeds import SpeedLog
from tests import training_world as world
from tests.test_train_packing import LENGTHS, QUIET, one_by_one, tiny, tokens
from tests.training_world import rows, run
from train.packing import Tokens
from train.policy import Policy
from train.session import Session

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICE = "cuda"
KINDS = ["llama", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt_oss"]


def branches() -> list[Tokens]:
    """Sequences of several prompts, three completions each, so that there is something to share."""
    prompts = [s.prompt for s in tokens(2, (40, 1), (65, 1), (20, 1))]
    return [Tokens(p, s.completion) for p in prompts for s in tokens(3, (1, 30), (1, 9), (1, 40))]


def policy_of(model, sequences: list[Tokens], precision: str = "fp32", **settings) -> Policy:
    no_tokenizer = None  # scoring needs none
    return Policy(model.float().to(DEVICE), no_tokenizer, sequences, precision, **settings)  # pyrefly: ignore


@QUIET
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_and_shared_rows_equal_sequences_alone(kind, checkpointing):
    sequences = branches() + tokens(1, *LENGTHS)
    model = tiny(kind)
    expected = one_by_one(model, sequences)
    expected.sum().backward()
    wanted = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    policy = policy_of(model, sequences, gradient_checkpointing=checkpointing)
    assert policy.path == "packed"
    found = policy.logprobs(sequences)
    found.sum().backward()
    torch.testing.assert_close(found.detach().double().cpu(), expected.detach().double(), rtol=2e-5, atol=5e-3)
    load = policy.trained
    assert load.computed < 0.8 * load.useful
    for name, p in policy.model.named_parameters():
        if name in wanted and p.grad is not None:
            assert float((p.grad.cpu() - wanted[name]).abs().max()) <= 2e-3 * float(wanted[name].abs().max()), name


@QUIET
def test_bf16_takes_the_kernel_for_any_length_and_scores_as_blocks_do():
    sequences = branches()
    model = tiny("llama", head_dim=32)
    exact = one_by_one(model, sequences)
    policy = policy_of(model, sequences, "bf16")
    assert policy._varlen, "the line on stderr says by how much it is off"
    with torch.no_grad():
        by_kernel = policy.logprobs(sequences)
        policy._varlen = False
        by_blocks = policy.logprobs(sequences)
    lengths = torch.tensor([len(s.completion) for s in sequences])
    for found in (by_kernel, by_blocks):
        assert float(((found.cpu() - exact).abs() / lengths).max()) < 0.05
    assert float(((by_kernel - by_blocks).abs().cpu() / lengths).max()) < 0.05


def test_reference_log_probs_on_cuda_are_incremental_and_the_cpus_but_for_rounding(workspace, monkeypatch):
    world.build(workspace)
    world.write(workspace, "sums", [world.pair(i) for i in range(7)])
    scored, compute = [], train.reference_ledger.compute

    def counting(policy, sequences, *rest):
        scored.append((policy.device.type, len(sequences)))
        return compute(policy, sequences, *rest)

    monkeypatch.setattr(train.reference_ledger, "compute", counting)
    found = {}
    for place in (DEVICE, "cpu"):
        monkeypatch.setenv("PAIRWRIGHT_DEVICE", place)
        for count in (7, 10):
            world.write(workspace, "sums", [world.pair(i) for i in range(count)])
            run(workspace, "reference.sums")
        found[place] = [row["logprob"] for row in rows(workspace, "reference_logprobs", "sums")]
    assert scored == [(DEVICE, 14), (DEVICE, 6), ("cpu", 14), ("cpu", 6)], "numbers of one kind of device are its own"
    assert found[DEVICE] == pytest.approx(found["cpu"], abs=1e-3)


class CrashError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_preference_training_resumes_close_to_an_undisturbed_run(workspace, monkeypatch, precision):
    """Kernels may add in any order, so numbers agree to a tolerance and not to the bit: weights to 5e-5."""
    monkeypatch.setenv("PAIRWRIGHT_DEVICE", DEVICE)
    settings = {"precision": precision, "gradient_checkpointing": True, "checkpoint_every": 2}
    changes = {f"preference.dpo.{name}": value for name, value in settings.items()}
    world.build(workspace, changes=changes | {"reference.sums.precision": precision})
    run(workspace, "reference.sums", "preference.dpo")
    expected, table, update = world.weights(workspace, "dpo"), rows(workspace, "training", "dpo"), Session.update

    def crashing(self, step, *rest):
        if step == 5:
            raise CrashError
        return update(self, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "update", crashing)
        with pytest.raises(CrashError):
            run(workspace, "preference.dpo")
    run(workspace, "preference.dpo")
    world.assert_same_weights(world.weights(workspace, "dpo"), expected, 5e-5)
    losses = [row["loss"] for row in rows(workspace, "training", "dpo")[:6]]
    assert losses == pytest.approx([row["loss"] for row in table[:6]], rel=1e-3)


def test_speed_is_measured_on_the_device(workspace, monkeypatch):
    monkeypatch.setenv("PAIRWRIGHT_DEVICE", DEVICE)
    monkeypatch.setenv("PAIRWRIGHT_PEAK_TFLOPS", "100")
    world.build(workspace)
    run(workspace, "reference.sums", "preference.dpo")
    found = list(SpeedLog(workspace, "dpo").rows())
    assert [row.step for row in found] == [0, 1, 2, 3, 4, 5]
    assert {row.device.partition(":")[0] for row in found} == {DEVICE}
    assert all(row.mfu is not None and 0 < row.mfu < 1 for row in found)
    assert all(row.peak_memory < 2**30 for row in found), "tensors alone: a small model's, and what its kernels need"
