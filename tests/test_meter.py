"""What training computes is in its table, and how fast beside the ledger, on screen and in SQL."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from schemas import TrainingStep
from schemas.sections_training import Lora
from stores.parquet import rows_to_table
from stores.paths import run_dir
from stores.speeds import SpeedLog, training_speeds
from stores.store import Store
from tests import ranks_world
from tests import training_world as world
from tests.training_world import rows, run
from train.meter import flops_per_token, peak_flops
from train.session import Session

LOADS = ("n_useful_tokens", "n_computed_tokens", "sharing", "padding")


def lengths(root: Path) -> dict[str, int]:
    """Pair -> tokens of its sequences."""
    return {pair.name: sum(s.length for s in pair.sequences) for pair in world.load(root)}


def test_the_table_says_what_each_step_computed_the_same_in_every_run(workspace):
    world.build(workspace, changes={"preference.dpo.optimizer.epochs": 2, "preference.dpo.optimizer.steps": None})
    run(workspace, "reference.sums", "preference.dpo")
    first = rows(workspace, "training", "dpo")
    *steps, last = first
    assert sum(row["n_useful_tokens"] for row in steps) == 2 * sum(lengths(workspace).values())
    assert all(row["n_useful_tokens"] >= row["n_computed_tokens"] > row["n_tokens"] for row in steps)
    assert all(row["padding"] == 0 for row in steps)
    assert all(row["sharing"] == row["n_useful_tokens"] / row["n_computed_tokens"] for row in steps)
    assert [last[name] for name in LOADS] == [None] * 4
    run(workspace, "preference.dpo")
    assert rows(workspace, "training", "dpo") == first


def test_speed_is_kept_beside_the_ledger_and_read_in_sql(workspace):
    world.build(workspace, changes={"preference.dpo.log_every": 2, "sft.warm.log_every": 4})
    run(workspace, "reference.sums", "preference.dpo", "sft.warm")
    found = list(SpeedLog(workspace, "dpo").rows())
    assert [row.step for row in found] == [0, 2, 4, 5]
    assert all(row.seconds > 0 and row.peak_memory > 2**20 and row.mfu is None for row in found)
    assert {(row.device, row.n_devices) for row in found} == {("cpu", 1)}
    examples = [row.examples_per_s * row.seconds for row in found]
    assert examples == pytest.approx([4, 8, 8, 4]), "steps since the row before"
    computed = {row["step"]: row["n_computed_tokens"] for row in rows(workspace, "training", "dpo")}
    ends = [found[0].computed_tokens_per_s * found[0].seconds, found[-1].computed_tokens_per_s * found[-1].seconds]
    assert ends == pytest.approx([computed[0], computed[5]])
    assert training_speeds(workspace, ["warm", "dpo"])[: len(found)] == found
    query = """select run, step, useful_tokens_per_s > 0 and mfu is null from training join training_speed
        using (run, step) where loss is not null order by all"""
    with Store.open(workspace) as store:
        assert store.sql(query).fetchall() == [("dpo", s, True) for s in (0, 2, 4, 5)] + [
            ("warm", s, True) for s in (0, 4, 5)
        ]


class CrashError(Exception):
    """Stands for a kill."""


def test_a_resumed_run_measures_again_what_it_does_again(workspace, monkeypatch):
    world.build(workspace, changes={"preference.dpo.checkpoint_every": 2})
    run(workspace, "reference.sums")
    update = Session.update

    def crashing(self, step, *rest):
        if step == 5:
            raise CrashError
        return update(self, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "update", crashing)
        with pytest.raises(CrashError):
            run(workspace, "preference.dpo")
    log = SpeedLog(workspace, "dpo")
    before = list(log.rows())
    with log.path.open("a") as file:
        file.write('{"run": "dpo", "step": 5, "sec')  # cut off by a kill
    run(workspace, "preference.dpo")
    after = list(log.rows())
    assert [row.step for row in before] == [0, 1, 2, 3, 4]
    assert [row.step for row in after] == [0, 1, 2, 3, 4, 5]
    assert after[:4] == before[:4]
    assert after[4] != before[4]
    assert log.path.parent == workspace.parent / "ledger/speeds"


def test_pairs_are_counted_where_prompts_are_drawn_too(workspace):
    """Two pairs of the same sides for each prompt, all of which a step draws together."""
    world.build(workspace, changes={"preference.dpo.group_prompts": True, "preference.dpo.optimizer.steps": 2})
    world.write(workspace, "sums", [world.pair(i, rank=rank) for i in range(10) for rank in range(2)])
    run(workspace, "reference.sums", "preference.dpo")
    assert [row.examples_per_s * row.seconds for row in SpeedLog(workspace, "dpo").rows()] == pytest.approx([8, 8])
    first = rows(workspace, "training", "dpo")[0]
    assert first["sharing"] >= 2


@pytest.mark.slow
def test_of_several_processes_all_is_counted_and_said_once(workspace, monkeypatch):
    world.build(workspace, changes={"preference.dpo.optimizer.micro_tokens": 120})
    run(workspace, "reference.sums", "preference.dpo")
    alone = [[row[name] for name in LOADS] for row in rows(workspace, "training", "dpo")]
    monkeypatch.setenv("PAIRWRIGHT_TRACKERS", "tensorboard")
    ranks_world.together(2, ranks_world.stage, "preference.dpo")
    assert [[row[name] for name in LOADS] for row in rows(workspace, "training", "dpo")] == alone
    found = list(SpeedLog(workspace, "dpo").rows())
    assert [(row.step, row.n_devices) for row in found] == [(step, 2) for step in range(6)]
    assert [row.examples_per_s * row.seconds for row in found] == pytest.approx([4] * 6)
    (events,) = (workspace.parent / "ledger/tracking/tensorboard/workspace/preference.dpo").iterdir()
    assert events.name.startswith("events")


@pytest.mark.parametrize(("section", "key", "unit"), [("preference", "dpo", "pairs"), ("sft", "warm", "demos")])
def test_the_screen_says_how_fast_a_run_is(workspace, monkeypatch, capsys, section, key, unit):
    monkeypatch.setattr("stores.progress.LINE_EVERY_S", 0.0)
    monkeypatch.setenv("PAIRWRIGHT_PEAK_TFLOPS", "0.5")
    world.build(workspace)
    run(workspace, *(["reference.sums"] if section == "preference" else []), f"{section}.{key}")
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{section} {key}: 6/6"))
    assert f" {unit}/s, " in line
    assert " tokens/s (" in line
    assert " computed), MFU " in line
    assert line.endswith(" GiB")


def test_utilisation_is_six_flops_per_weight_and_useful_token_over_the_peak(workspace, monkeypatch):
    monkeypatch.setenv("PAIRWRIGHT_PEAK_TFLOPS", "0.25")
    world.build(workspace)
    run(workspace, "reference.sums", "preference.dpo")
    weights = 2 * (32 * (32 + 2 * 16 + 32) + 3 * 32 * 64 + 2 * 32) + 32  # layers of training_world.LLAMA, last norm
    row = next(SpeedLog(workspace, "dpo").rows())
    assert row.mfu == pytest.approx(6 * weights * row.useful_tokens_per_s / 0.25e12)


def model_of(kind: str = "llama", lora: Lora | None = None, **changes: Any) -> Any:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 64,
    }
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **changes))
    if lora:
        from train.adapters import add_adapters

        add_adapters(model, lora, "CAUSAL_LM")
    return model


def test_head_and_embeddings_do_not_count_tied_or_not():
    tied, untied = (flops_per_token(model_of(tie_word_embeddings=tie)) for tie in (True, False))
    assert tied == untied == 6 * (2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32)


def test_frozen_weights_need_no_gradient_of_their_own():
    whole = model_of()
    layers = sum(p.numel() for name, p in whole.named_parameters() if "layers" in name or "norm" in name)
    adapted = model_of(lora=Lora(rank=2))
    adapters = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert flops_per_token(adapted) == 4 * layers + 6 * adapters


def test_of_experts_only_the_chosen_ones_count():
    def of(chosen: int) -> float:
        return flops_per_token(model_of("mixtral", num_local_experts=4, num_experts_per_tok=chosen))

    experts = 2 * 4 * 3 * 32 * 64
    assert of(4) - of(1) == pytest.approx(6 * experts * 3 / 4)


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA H100 80GB HBM3", "fp32", 67e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H200 NVL", "bf16", 835e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "bf16", None),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40", "bf16", None),
        ("NVIDIA GeForce RTX 9090", "bf16", None),
    ],
)
def test_the_peak_is_the_data_sheets_where_the_device_is_known(monkeypatch, name, precision, expected):
    monkeypatch.delenv("PAIRWRIGHT_PEAK_TFLOPS", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda"), precision) == expected
    assert peak_flops(torch.device("cpu"), precision) is None
    monkeypatch.setenv("PAIRWRIGHT_PEAK_TFLOPS", "1.5")
    assert peak_flops(torch.device("cpu"), precision) == 1.5e12


@pytest.mark.parametrize("given", ["fast", "-3", "0", "nan", "1e3"])
def test_a_peak_that_is_no_number_is_a_mistake(monkeypatch, given):
    monkeypatch.setenv("PAIRWRIGHT_PEAK_TFLOPS", given)
    with pytest.raises(ValueError, match=rf"PAIRWRIGHT_PEAK_TFLOPS: '{given}' is no number of TFLOP/s; give"):
        peak_flops(torch.device("cpu"), "fp32")


def test_a_peak_that_is_no_number_is_found_before_anything_takes_long(workspace, monkeypatch):
    world.build(workspace)
    monkeypatch.setenv("PAIRWRIGHT_PEAK_TFLOPS", "fast")
    monkeypatch.setattr("train.preference.load_pairs", None)
    with pytest.raises(ValueError, match="PAIRWRIGHT_PEAK_TFLOPS: 'fast' is no number"):
        run(workspace, "preference.dpo")


def test_a_table_of_the_version_before_is_read(workspace):
    world.set_params(workspace, {})
    told = {name: None for name in TrainingStep.model_fields if TrainingStep.model_fields[name].is_required()}
    row = TrainingStep.model_validate(told | {"step": 3, "epoch": 0.5, "n_sequences": 2, "n_tokens": 9})
    table = rows_to_table(TrainingStep, [row]).drop_columns(list(LOADS))
    path = run_dir("training", "dpo", workspace)
    path.mkdir(parents=True)
    pq.write_table(table, path / "part-00000.parquet")
    assert rows(workspace, "training", "dpo") == [row.model_dump()]
    with Store.open(workspace) as store:
        assert store.sql("select step, n_tokens, n_useful_tokens from training").fetchall() == [(3, 9, None)]
