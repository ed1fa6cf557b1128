"""The training stages on a tiny store: what they write, and that settings which must change nothing do so."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from builders.engines import load_engine
from builders.model_files import load_tokenizer, read_record
from schemas import TrainingStep
from schemas.sections import Sampling
from stores.run_log import RunLog
from tests import training_world as world
from tests.conftest import REPOSITORY
from tests.training_world import BY_GENERATION, assert_same_weights, independent_logprob, rows, run, weights


def test_reference_rows_are_the_models_summed_logprobs(workspace):
    world.build(workspace)
    run(workspace, "reference.sums")
    found = rows(workspace, "reference_logprobs", "sums")
    expected = {s.sample_id: independent_logprob(workspace, i, s.index) for i in range(10) for s in world.drawn(i)}
    assert {row["sample_id"]: row["logprob"] for row in found} == pytest.approx(expected, abs=1e-4)
    assert [row["n_tokens"] for row in found if row["sample_id"] == world.drawn(0)[0].sample_id] == [5]
    assert {(row["start"], row["eos"]) for row in found} == {(0, True)}
    assert len({row["fingerprint"] for row in found}) == 1


def test_shared_spans_are_scored_once(workspace):
    world.build(workspace)
    world.write(workspace, "sums", [world.pair(0), world.pair(0, rank=1), world.pair(0, rank=2, rejected_end=9)])
    run(workspace, "reference.sums")
    ends = sorted((row["sample_id"][-1], row["end"]) for row in rows(workspace, "reference_logprobs", "sums"))
    assert ends == [("0", 16), ("1", 9), ("1", len(world.completion(0, 1)))]


@pytest.mark.parametrize(("loss", "alpha", "lora"), [("dpo", 1.0, None), ("dpo_nll", 0.5, None), ("dpo", 1.0, {})])
def test_at_step_0_the_dpo_loss_is_log_2(workspace, loss, alpha, lora):
    config = {"preference.dpo.loss": loss, "preference.dpo.alpha": alpha, "preference.dpo.lora": lora}
    world.build(workspace, changes=config)
    run(workspace, "reference.sums", "preference.dpo")
    first, *others = rows(workspace, "training", "dpo")
    assert first["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["margin"] == pytest.approx(0, abs=1e-6)
    assert first["loss"] == first["preference_loss"] + (alpha * first["nll_loss"] if loss == "dpo_nll" else 0)
    assert [row["step"] for row in others] == [1, 2, 3, 4, 5, 6]
    assert others[-1]["margin"] > 0.001
    assert others[-1]["accuracy"] == 1.0


@pytest.mark.parametrize(("section", "more"), [("sft", {}), ("preference", {}), ("preference", {"loss": "kto"})])
def test_micro_batches_change_no_result(workspace, section, more):
    key = {"sft": "warm", "preference": "dpo"}[section]
    more = {"optimizer.epochs": 1.5, "optimizer.steps": None} | more
    changes = {f"{section}.{key}.{name}": value for name, value in more.items()} | {"reference.sums.mismatched": True}
    if section == "sft":
        changes |= {"sft.warm.log_every": 1, "sft.warm.reduction": "token"}
    world.build(workspace, changes=changes)
    run(workspace, "reference.sums")
    found = []
    for budget in (16384, 60, {"sft": 18, "preference": 30}[section]):  # at last one example at a time
        world.set_params(workspace, changes | {f"{section}.{key}.optimizer.micro_tokens": budget})
        run(workspace, f"{section}.{key}")
        found.append((rows(workspace, "training", key), weights(workspace, key)))
    for table, saved in found[1:]:
        assert_same_weights(saved, found[0][1], 2e-5)
        for row, expected in zip(table, found[0][0], strict=True):
            unmoved = row["step"] == 0  # margins are zero there, but for rounding: their signs say nothing
            for column, value in expected.items():
                if unmoved and column == "accuracy":
                    continue
                near = value if value is None else pytest.approx(value, rel=1e-3, abs=2e-6)
                assert row[column] == near, column
    assert [row["n_sequences"] for row in found[0][0]] == ([4, 4, 4, 3] if section == "sft" else [8, 8, 8, 6, 0])


def test_a_base_whose_generation_settings_transformers_would_not_save_is_trained_all_the_same(workspace):
    world.build(workspace)
    path = workspace / "data/models/tiny/generation_config.json"
    settings = json.loads(path.read_text()) | {"temperature": 0.6, "top_p": 0.9}
    path.write_text(json.dumps(settings))
    run(workspace, "sft.warm")
    saved = json.loads((workspace / "data/models/warm/generation_config.json").read_text())
    assert saved["do_sample"] is True
    assert {key: saved[key] for key in settings} == settings | {"transformers_version": saved["transformers_version"]}


def test_another_model_as_reference_is_said_on_stderr(workspace, capsys):
    world.build(workspace)
    run(workspace, "reference.sums", "sft.warm", "preference.dpo")
    assert "as its reference" not in capsys.readouterr().err
    changes = {"preference.dpo.model": "warm"}
    world.set_params(workspace, changes)
    run(workspace, "preference.dpo")
    assert "trains from model 'warm' with log-probs of 'tiny' as its reference" in capsys.readouterr().err


def test_a_run_is_byte_identical_when_repeated(workspace):
    world.build(workspace, changes={"preference.dpo.validation": BY_GENERATION, "sft.warm.validation": BY_GENERATION})
    files = []
    for _ in range(2):
        run(workspace, "reference.sums", "sft.warm", "preference.dpo")
        names = ("data/models", "data/training", "data/reference_logprobs")
        written = sorted(path for name in names for path in (workspace / name).rglob("*") if path.is_file())
        files.append({path: path.read_bytes() for path in written})
    assert files[0] == files[1]
    assert not list((workspace.parent / "ledger/checkpoints").iterdir())


def test_a_saved_model_is_plain_and_says_where_it_came_from(workspace):
    world.build(workspace, changes={"preference.dpo.validation": BY_GENERATION})
    run(workspace, "reference.sums", "preference.dpo")
    record = read_record(workspace / "data/models/dpo")
    base = read_record(workspace / "data/models/tiny")
    assert record["provenance"] == {
        "source": "preference", "run": "dpo", "base": {"name": "tiny", "fingerprint": base["fingerprint"]},
        "data": {"table": "pairs", "run": "sums", "texts": None}, "steps": 6, "steps_from": "none",
        "selected_step": 2, "trust_remote_code": False,
    }  # fmt: skip
    assert set(record["files"]) == set(base["files"])
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert record["files"][name] == base["files"][name]
    assert record["files"]["model.safetensors"] != base["files"]["model.safetensors"]
    greedy = Sampling(temperature=0, max_new_tokens=3)
    assert next(load_engine("hf", workspace / "data/models/dpo").stream(world.requests(1), greedy, 4))


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_the_sft_loss_is_the_mean_that_its_reduction_names(workspace, reduction):
    world.build(workspace, changes={"sft.warm.reduction": reduction, "sft.warm.optimizer.batch_size": 10})
    mixed = [s for i in range(5) for s in world.drawn(i)]
    from schemas import Demo

    world.write(workspace, "good", [Demo(prompt_id=s.prompt_id or "", sample_id=s.sample_id) for s in mixed])
    run(workspace, "sft.warm")
    tokenizer = load_tokenizer(workspace / "data/models/tiny")
    lengths = [len(tokenizer.encode(s.text)) + 1 for s in mixed]  # and an ending
    sums = [independent_logprob(workspace, i, index) for i in range(5) for index in (0, 1)]
    each = [-s / n for s, n in zip(sums, lengths, strict=True)]
    expected = {"sequence": sum(each) / 10, "token": -sum(sums) / sum(lengths)}
    assert abs(expected["sequence"] - expected["token"]) > 1e-3
    assert rows(workspace, "training", "warm")[0]["loss"] == pytest.approx(expected[reduction], abs=1e-5)


@pytest.mark.parametrize("change", [{"lora": {"rank": 4, "dropout": 0.2}}, {"gradient_checkpointing": True}])
def test_adapters_are_merged_and_checkpointing_changes_nothing(workspace, change):
    world.build(workspace)
    run(workspace, "reference.sums", "preference.dpo")
    plain = weights(workspace, "dpo")
    world.set_params(workspace, {f"preference.dpo.{key}": value for key, value in change.items()})
    run(workspace, "preference.dpo")
    base, found = weights(workspace, "tiny"), weights(workspace, "dpo")
    assert set(found) == set(base)
    changed = {name for name in base if not torch.equal(base[name], found[name])}
    if "lora" in change:
        assert changed == {name for name in base if "_proj" in name}
    else:
        assert_same_weights(found, plain, 0)


def test_bf16_follows_fp32(workspace):
    world.build(workspace)
    run(workspace, "reference.sums", "preference.dpo")
    expected = rows(workspace, "training", "dpo")
    changes = {"precision": "bf16", "validation": BY_GENERATION}
    world.set_params(
        workspace, {f"preference.dpo.{k}": v for k, v in changes.items()} | {"reference.sums.precision": "bf16"}
    )
    run(workspace, "reference.sums", "preference.dpo")
    found = rows(workspace, "training", "dpo")
    assert found[-1]["validation_accuracy"] is not None
    assert [r["loss"] for r in found[:6]] == pytest.approx([r["loss"] for r in expected[:6]], rel=0.01)
    assert found[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[5]["loss"] != expected[5]["loss"]
    assert {tensor.dtype for tensor in weights(workspace, "dpo").values()} == {torch.float32}


def test_what_a_run_cost_is_logged(workspace):
    world.build(workspace)
    run(workspace, "reference.sums", "sft.warm")
    costs = RunLog().latest(workspace)
    demos = [len(load_tokenizer(workspace / "data/models/tiny").encode(demo_text(i))) + 1 for i in range(10)]
    assert costs["sft", "warm"].tokens == pytest.approx(sum(demos) * 24 / 10, rel=0.05)
    assert 0 < costs["sft", "warm"].device_s < costs["sft", "warm"].wall_s
    assert costs["reference", "sums"].tokens > 0


def demo_text(i: int) -> str:
    return world.ask(i).messages[0].content + world.completion(i, 0)


def spoil_weights(root: Path) -> None:
    from safetensors.torch import save_file

    path = root / "data/models/tiny/model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"model.norm.weight": torch.full_like(tensors["model.norm.weight"], torch.inf)}, path)


def lose_reference_rows(root: Path) -> None:
    world.write(root, "sums", [world.pair(i) for i in range(9)])
    run(root, "reference.sums")
    world.write(root, "sums", [world.pair(i) for i in range(10)])


def reference_is_not_finite(root: Path) -> None:
    from schemas import ReferenceLogprob

    changed = [row | {"logprob": -math.inf} for row in rows(root, "reference_logprobs", "sums")]
    world.write(root, "sums", [ReferenceLogprob(**row) for row in changed])


def nothing(root: Path) -> None:
    """Leaves the store as it is."""


@pytest.mark.parametrize(
    ("spoil", "changes", "message"),
    [
        (lose_reference_rows, {}, r"pair \(\S+, rank 0\): reference_logprobs run 'sums' has no row for .*dvc repro"),
        (reference_is_not_finite, {}, r"step 0: the loss is not finite, at pair \(.* and 1 more; lower preference.dpo"),
        (spoil_weights, {}, r"'llama': log-probs computed from its hidden states differ .*non-finite weights"),
        (nothing, {"validation": BY_GENERATION | {"problems": "test"}}, r"'test' holds test problems, .*cut a valid"),
        (nothing, {"validation": BY_GENERATION | {"sampling": "explore"}}, r"'explore' is not greedy; use an entry"),
    ],
)
def test_mistakes_are_one_line_with_place_and_remedy(workspace, spoil, changes, message):
    world.build(workspace, changes={f"preference.dpo.{key}": value for key, value in changes.items()})
    run(workspace, "reference.sums")
    spoil(workspace)
    with pytest.raises(ValueError, match=message) as error:
        run(workspace, "preference.dpo")
    assert "\n" not in str(error.value)
    assert not (workspace / "data/models/dpo").exists()


def test_a_table_row_is_a_training_step(workspace):
    world.build(workspace)
    run(workspace, "sft.warm")
    for row in rows(workspace, "training", "warm"):
        assert json.loads(TrainingStep(**row).model_dump_json()) == row


BLOCKED = """
import sys
for name in ("duckdb", "dvc", "datasets", "typer", "matplotlib", "math_verify"):
    sys.modules[name] = None  # an import raises ImportError
import train.preference, train.reference, train.sft
from stores.stage import execute
execute("sft", "warm", train.sft.run)
execute("reference", "sums", train.reference.run)
execute("preference", "dpo", train.preference.run)
"""


@pytest.mark.slow
def test_training_needs_neither_duckdb_nor_dvc(workspace):
    validated = {f"{run}.validation": BY_GENERATION for run in ("sft.warm", "preference.dpo")}
    world.build(workspace, changes=validated)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-W", "error", "-c", BLOCKED], check=True, env=environment)
    assert len(rows(workspace, "training", "dpo")) == 7
