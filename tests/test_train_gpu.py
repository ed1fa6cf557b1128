"""The same commands on one CUDA device, compared with the CPU."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import train.preference
import train.reference
import train.sft
from builders.engines.hf import HfEngine
from schemas import TrainingStep
from schemas.sections import Sampling
from stores.parquet import read_table
from stores.stage import Stage, execute
from tests import training_world as world
from train.session import Session
from train.tables import Tables

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
@pytest.mark.parametrize(
    ("section", "key", "loss"),
    [("sft", "warm", {}), ("preference", "dpo", {}), ("preference", "dpo", {"loss": "orpo", "reference": "none"})],
)
def test_losses_on_cuda_follow_the_cpu(workspace, monkeypatch, precision, tolerance, section, key, loss):
    generate = {
        "prompts": "held_out",
        "problems": "held_out",
        "questions": "none",
        "labels": "none",
        "sampling": "greedy",
        "every": 3,
    }
    settings = loss | {"precision": precision, "log_every": 1, "validation": generate, "checkpoint_every": 2}
    changes = {f"{section}.{key}.{name}": value for name, value in settings.items()}
    world.build(
        workspace, changes=changes | {"reference.sums.precision": precision} if section == "preference" else changes
    )
    on_cuda = table(workspace, key, "cuda", monkeypatch)
    world.set_params(workspace, {f"{section}.{key}.{name}": value for name, value in (loss | {"log_every": 1}).items()})
    on_cpu = table(workspace, key, "cpu", monkeypatch)
    assert [r["loss"] for r in on_cuda[:6]] == pytest.approx([r["loss"] for r in on_cpu[:6]], rel=tolerance)
    if section == "preference" and not loss:  # policy and reference are computed alike, in either precision
        assert on_cuda[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-5 if precision == "fp32" else 5e-3)


def test_gradient_checkpointing_and_adapters_run_on_cuda(workspace, monkeypatch):
    changes = {"preference.dpo.gradient_checkpointing": True, "preference.dpo.lora": {"rank": 4}}
    world.build(workspace, changes=changes)
    losses = [row["loss"] for row in table(workspace, "dpo", "cuda", monkeypatch)]
    assert losses[5] < losses[0]


@pytest.mark.parametrize("changes", [{}, {"top_p": 0.6}, {"stop": ["answer"]}, {"top_p": 0.6, "stop": ["answer"]}])
def test_an_engine_on_cuda_draws_what_the_cpu_draws(workspace, monkeypatch, changes):
    world.build(workspace)
    torch.set_float32_matmul_precision("highest")  # a test before may have trained in bf16
    sampling = Sampling(temperature=1.0, max_new_tokens=24, **changes)
    found = []
    for place in ("cpu", "cuda"):
        monkeypatch.setenv("PAIRWRIGHT_DEVICE", place)
        engine = HfEngine.load(workspace / "data/models/tiny")
        finished = [pair for batch in engine.stream(world.requests(10), sampling, 4) for pair in batch]
        assert all(stop not in completion.text for _, completion in finished for stop in sampling.stop)
        found.append({request.key: completion.token_ids for request, completion in finished})
    same = sum(found[0][key] == found[1][key] for key in found[0])
    assert same >= 9, "rounding may move a draw across the edge between two tokens, but rarely"


class CrashError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_that_crashed_on_cuda_resumes_close_to_an_undisturbed_one(workspace, monkeypatch, dropout):
    """Kernels on CUDA may add in any order, so weights agree to 5e-5 and not to the bit; dropout's draws are restored
    (with others the adapters' updates, about 1e-3 a step, would differ by far more)."""
    world.build(workspace, changes={"sft.warm.lora": {"rank": 4, "dropout": dropout}, "sft.warm.checkpoint_every": 2})
    table(workspace, "warm", "cuda", monkeypatch)
    expected, update = world.weights(workspace, "warm"), Session.update

    def crashing(self, step, *rest):
        if step == 5:
            raise CrashError
        return update(self, step, *rest)

    monkeypatch.setattr(Session, "update", crashing)
    with pytest.raises(CrashError):
        table(workspace, "warm", "cuda", monkeypatch)
    monkeypatch.setattr(Session, "update", update)
    table(workspace, "warm", "cuda", monkeypatch)
    world.assert_same_weights(world.weights(workspace, "warm"), expected, 5e-5)


def write_release(directory: Path, root: Path) -> Path:
    """The pairs `sums` as a release, written without what `export` needs: a training machine need not have DuckDB."""
    source, made = Tables(Stage("preference", "dpo", root), "pairs", "sums"), []
    for pair in source.pairs():
        row = source.prompt(pair.chosen.span.prompt_id)._asdict() | {"run": "sums", "rank": pair.rank}
        for side, (span, text) in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            row |= {f"{side}_{name}": value for name, value in span._asdict().items()} | {side: text}
        made.append(row | {"prompt_id": row["chosen_prompt_id"]})
    shard = directory / "pairs/train-00000-of-00001.parquet"
    shard.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(made), shard)
    files = {f"pairs/{shard.name}": hashlib.sha256(shard.read_bytes()).hexdigest()}
    content = {"format": 1, "configs": {"pairs": {"runs": ["sums"], "files": files}}}
    (directory / "provenance.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_release_is_trained_on_as_its_tables_are_on_cuda(workspace, monkeypatch, precision):
    """The reference log-probs that are computed first are the policy's own at step 0."""
    world.build(workspace, changes={f"{run}.precision": precision for run in ("preference.dpo", "reference.sums")})
    release = write_release(workspace / "v1", workspace)
    from_tables = table(workspace, "dpo", "cuda", monkeypatch)
    for name in ("samples", "prompts", "pairs", "reference_logprobs"):
        shutil.rmtree(workspace / "data" / name)
    train.preference.train_stage("preference", train.preference.run, ["dpo", "--data", str(release)])
    found = read_table(workspace / "data/training/run=dpo", TrainingStep).to_pylist()
    assert [r["loss"] for r in found[:6]] == pytest.approx([r["loss"] for r in from_tables[:6]], rel=1e-3)
    assert found[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-5 if precision == "fp32" else 5e-3)
