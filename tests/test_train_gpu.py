"""The same commands on one CUDA device, compared with the CPU."""

import math

import pytest
import torch

import train.preference
import train.reference
import train.sft
from schemas import TrainingStep
from stores.parquet import read_table
from stores.stage import execute
from tests import training_world as world

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def table(root, key, place, monkeypatch):
    monkeypatch.setenv("PAIRWRIGHT_DEVICE", place)
    if key == "warm":
        execute("sft", "warm", train.sft.run, root)
    else:
        execute("reference", "sums", train.reference.run, root)
        execute("preference", "dpo", train.preference.run, root)
    return read_table(root / f"data/training/run={key}", TrainingStep).to_pylist()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize(("section", "key"), [("sft", "warm"), ("preference", "dpo")])
def test_losses_on_cuda_follow_the_cpu(workspace, monkeypatch, precision, tolerance, section, key):
    generate = {"prompts": "held_out", "problems": "held_out", "sampling": "greedy", "every": 3}
    settings = {"precision": precision, "log_every": 1, "validation": generate, "checkpoint_every": 2}
    world.build(workspace, changes={f"{section}.{key}.{name}": value for name, value in settings.items()})
    on_cuda = table(workspace, key, "cuda", monkeypatch)
    world.set_params(workspace, {f"{section}.{key}.log_every": 1, "reference.sums.precision": "fp32"})
    on_cpu = table(workspace, key, "cpu", monkeypatch)
    assert [r["loss"] for r in on_cuda[:6]] == pytest.approx([r["loss"] for r in on_cpu], rel=tolerance)
    if section == "preference" and precision == "fp32":
        assert on_cuda[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_gradient_checkpointing_and_adapters_run_on_cuda(workspace, monkeypatch):
    changes = {"preference.dpo.gradient_checkpointing": True, "preference.dpo.lora": {"rank": 4}}
    world.build(workspace, changes=changes)
    losses = [row["loss"] for row in table(workspace, "dpo", "cuda", monkeypatch)]
    assert losses[-1] < losses[0]
