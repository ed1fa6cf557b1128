"""Reward models: what they are trained on, what they say, how they are stored, and what may load them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import train.reward_model
import train.scores
import train.sft
from builders.engines import load_engine
from builders.model_files import fingerprint, is_reward_model, load_model, load_tokenizer
from schemas.params import load_params
from stores.parquet import read_table
from stores.paths import rejects_dir
from stores.stage import Stage, execute
from tests import reward_world as rewards
from tests import training_world as world
from tests.conftest import REPOSITORY
from train.reward_model import example_losses, load_examples
from train.session import Session

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}


def examples(root: Path) -> dict[str, int]:
    """Text of a sample -> the class that it is trained as."""
    texts = {row["sample_id"]: row["text"] for row in world.rows(root, "samples", "drawn")}
    return {texts[e.sample_id]: e.label for e in load_examples(Stage("reward_model", "rm", root))}


def rejects(root: Path, section: str) -> dict[str, str]:
    """Text of a sample -> why it was left out."""
    texts = {row["sample_id"]: row["text"] for row in world.rows(root, "samples", "drawn")}
    found = read_table(rejects_dir(section, "rm", root), world.TABLES["rejects"]).to_pylist()
    return {texts[row["sample_id"]]: row["reason"] for row in found}


def mixed(root: Path) -> None:
    """Two prompts with samples of every kind."""
    rewards.build(root, 2, {"reward_model.rm.max_tokens": 40})
    rewards.redraw(root, [
        (rewards.drawn(0, 0, " Final answer: 3"), "correct"),
        (rewards.drawn(0, 1, " Final answer: 3"), "correct"),
        (rewards.drawn(0, 2, " Final answer: 5"), "wrong"),
        (rewards.drawn(0, 3, " Final answer: 6"), "undecided"),
        (rewards.drawn(0, 4, " is easy"), "no_answer"),
        (rewards.drawn(0, 5, ""), "no_answer"),
        (rewards.drawn(0, 6, " easy" * 60), "no_answer"),
        (rewards.drawn(1, 0, " Final answer: 3"), "wrong"),
        (rewards.drawn(1, 1, " answer: 5", prompt_id=None), "correct"),
    ])  # fmt: skip


def test_what_is_trained_on_and_what_is_left_out(workspace):
    mixed(workspace)
    stage = Stage("reward_model", "rm", workspace)
    labels = sorted((e.sample_id.split("-")[0], e.label) for e in load_examples(stage))
    first, second = (world.ask(i).problem_id for i in (0, 1))
    assert labels == sorted([(first, 1), (first, 0), (first, 0), (second, 0)])
    rewards.train_model(workspace)
    assert rejects(workspace, "reward_model") == {
        " Final answer: 3": "duplicate", " Final answer: 6": "undecided", "": "empty", " easy" * 60: "over_long",
        " answer: 5": "unknown_prompt",
    }  # fmt: skip
    record = json.loads((workspace / "data/models/rm/pairwright.json").read_text())["provenance"]
    assert record["source"] == "reward_model"
    assert record["data"] == {"table": "samples", "run": "drawn", "rewards": "drawn", "n_correct": 1, "n_wrong": 3}


def test_duplicates_are_kept_where_they_are_asked_for(workspace):
    rewards.build(workspace, 1, {"reward_model.rm.deduplicate": False})
    same = [(rewards.drawn(0, i, " Final answer: 3"), "correct") for i in range(2)]
    rewards.redraw(workspace, [*same, (rewards.drawn(0, 2, " Final answer: 4"), "wrong")])
    assert len(load_examples(Stage("reward_model", "rm", workspace))) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["correct", "correct"], "reward_model.rm: all samples are correct, so there is nothing to tell apart"),
        (["wrong", "no_answer"], "reward_model.rm: all samples are wrong"),
        (["undecided", "undecided"], "reward_model.rm: no sample is left"),
    ],
)
def test_one_class_cannot_be_told_apart(workspace, given, message):
    rewards.build(workspace, 1)
    rewards.redraw(workspace, [(rewards.drawn(0, i, f" Final answer: {i}"), v) for i, v in enumerate(given)])
    with pytest.raises(ValueError, match=message):
        rewards.train_model(workspace)


def test_samples_without_a_verdict_are_refused(workspace):
    rewards.build(workspace, 2)
    world.write(workspace, "drawn", [rewards.verdict(world.drawn(0)[0], "correct")])
    with pytest.raises(
        ValueError, match=r"reward_model\.rm\.rewards: 'drawn' has no verdict on sample .*; name the rew"
    ):
        rewards.train_model(workspace)


def test_the_loss_is_the_cross_entropy_of_transformers_own_forward(workspace):
    """In float64, one sequence at a time; the gradient of the head too."""
    rewards.build(workspace, 3)
    rewards.train_model(workspace)
    model = rewards.classifier(workspace)
    of = load_examples(Stage("reward_model", "rm", workspace))
    loss, right = example_losses(model, of)
    loss.mean().backward()
    plain = AutoModelForSequenceClassification.from_pretrained(workspace / "data/models/rm", dtype=torch.float64)
    ids = [torch.tensor(np.concatenate(e.tokens)[None].astype(np.int64)) for e in of]
    outs = [plain(i, labels=torch.tensor([e.label])) for i, e in zip(ids, of, strict=True)]
    expected = torch.stack([out.loss for out in outs])
    expected.mean().backward()
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=1e-6)
    assert right.tolist() == [float(out.logits.argmax() == e.label) for out, e in zip(outs, of, strict=True)]
    gradient = model.trainable()["score.weight"].grad
    assert gradient is not None
    torch.testing.assert_close(gradient.double(), plain.score.weight.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "lora"),
    [(world.LLAMA, None), (world.LLAMA, {"rank": 2}), (GPT2, None)],
    ids=["llama", "lora", "gpt2"],
)
def test_scores_are_those_of_transformers_on_padded_batches(workspace, config, lora):
    """A plain model directory and its own tokenizer, as anybody would use them: right-padded rows with a mask."""
    rewards.build(workspace, 4, {"models.tiny.config": config, "reward_model.rm.lora": lora})
    rewards.train_model(workspace)
    found, directory = rewards.score(workspace), workspace / "data/models/rm"
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    tokenizer = load_tokenizer(directory)
    assert (model.config.num_labels, model.config.id2label) == (2, {0: "wrong", 1: "correct"})
    texts = {row["sample_id"]: row["text"] for row in world.rows(workspace, "samples", "drawn")}
    asked = {s.sample_id: world.ask(i).messages[0].content for i in range(4) for s in world.drawn(i)}
    batch = tokenizer([asked[i] + texts[i] for i in found], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    assert not batch["attention_mask"].all()
    with torch.no_grad():
        expected = model(**batch).logits.softmax(-1)[:, 1]
    torch.testing.assert_close(torch.tensor(list(found.values())), expected, rtol=0, atol=1e-6)


def test_a_tokenizer_without_padding_pads_with_its_ending(workspace):
    rewards.build(workspace, 4)
    path = workspace / "data/models/tiny/tokenizer_config.json"
    config = json.loads(path.read_text())
    assert config.pop("pad_token") == "<pad>"
    path.write_text(json.dumps(config))
    rewards.train_model(workspace)
    directory = workspace / "data/models/rm"
    tokenizer = load_tokenizer(directory)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<eos>", 1)
    assert json.loads((directory / "config.json").read_text())["pad_token_id"] == 1
    assert len(rewards.score(workspace)) == 8


def test_scores_do_not_depend_on_micro_tokens(workspace):
    rewards.build(workspace, 6)
    rewards.train_model(workspace)
    found = []
    for micro_tokens in (1, 70, 16384):
        world.set_params(workspace, rewards.RUNS | {"scores.rm.micro_tokens": micro_tokens})
        found.append(rewards.score(workspace))
    assert list(found[0]) == list(found[1]) == list(found[2])
    for other in found[1:]:
        np.testing.assert_allclose(list(other.values()), list(found[0].values()), rtol=0, atol=1e-6)


def test_micro_tokens_change_no_training(workspace):
    trained = []
    for micro_tokens in (1, 16384):
        rewards.build(workspace, 6, {"reward_model.rm.optimizer.micro_tokens": micro_tokens})
        rewards.train_model(workspace)
        trained.append(world.weights(workspace, "rm"))
    world.assert_same_weights(*trained, atol=2e-4)


def test_a_sample_that_cannot_be_read_has_no_score(workspace):
    mixed(workspace)
    rewards.train_model(workspace)
    world.set_params(workspace, rewards.RUNS | {"scores.rm.max_tokens": 40})
    assert len(rewards.score(workspace)) == 6
    assert rejects(workspace, "scores") == {"": "empty", " easy" * 60: "over_long", " answer: 5": "unknown_prompt"}
    marks = {row["fingerprint"] for row in world.rows(workspace, "scores", "rm")}
    assert len(marks) == 1


def test_a_samples_run_without_a_readable_sample_has_no_scores(workspace):
    rewards.build(workspace, 2)
    rewards.train_model(workspace)
    rewards.redraw(workspace, [(rewards.drawn(0, 0, ""), "no_answer")])
    assert rewards.score(workspace) == {}


def test_the_fingerprint_follows_the_model(workspace):
    rewards.build(workspace, 2)
    rewards.train_model(workspace)
    rewards.score(workspace)
    before = world.rows(workspace, "scores", "rm")[0]["fingerprint"]
    rewards.score(workspace)
    assert world.rows(workspace, "scores", "rm")[0]["fingerprint"] == before
    rewards.build(workspace, 2, {"reward_model.rm.optimizer.steps": 7})
    rewards.train_model(workspace)
    rewards.score(workspace)
    assert world.rows(workspace, "scores", "rm")[0]["fingerprint"] != before


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_a_trained_model_tells_right_sums_from_wrong_ones(workspace, lora):
    """On samples that it was not trained on: whether a completion's style is that of the right ones."""
    rewards.build(workspace, 16, {"reward_model.rm.optimizer.steps": 60, "reward_model.rm.lora": lora})
    held_out = [(s, "wrong" if s.index else "correct") for i in range(12, 16) for s in world.drawn(i)]
    seen = [(s, "wrong" if s.index else "correct") for i in range(12) for s in world.drawn(i)]
    rewards.redraw(workspace, seen)
    rewards.train_model(workspace)
    rewards.redraw(workspace, held_out)
    found = rewards.score(workspace)
    right, wrong = ([found[s.sample_id] for s, v in held_out if v == given] for given in ("correct", "wrong"))
    assert min(right) > 0.9
    assert max(wrong) < 0.1
    rows = world.rows(workspace, "training", "rm")
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=0.1)
    assert rows[-1]["accuracy"] == 1.0
    assert (workspace / "data/models/rm/lora").is_dir() == (lora is not None)


def test_training_may_go_on_from_a_reward_model(workspace):
    more = {f"reward_model.more.{key}": value for key, value in rewards.RUNS["reward_model.rm"].items()}
    rewards.build(workspace, 4, more | {"reward_model.more.model": "rm"})
    rewards.train_model(workspace)
    head = world.weights(workspace, "rm")["score.weight"]
    execute("reward_model", "more", train.reward_model.run, workspace)
    after = world.weights(workspace, "more")["score.weight"]
    assert 0 < float((after - head).abs().max()) < 0.05  # from a new head it would be farther


def test_a_reward_model_is_refused_where_a_language_model_is_needed(workspace):
    rewards.build(workspace, 2)
    rewards.train_model(workspace)
    directory = workspace / "data/models/rm"
    assert is_reward_model(directory)
    assert not is_reward_model(workspace / "data/models/tiny")
    message = "data/models/rm: a reward model, which only scores texts; name a language model"
    with pytest.raises(ValueError, match=message):
        load_model(directory)
    for engine in ("hf", "vllm"):
        with pytest.raises(ValueError, match=message):
            load_engine(engine, directory, "fp32")
    world.set_params(workspace, rewards.RUNS | {"scores.rm.model": "tiny"})
    with pytest.raises(ValueError, match="data/models/tiny: a language model, and no reward model; name a run of `rew"):
        execute("scores", "rm", train.scores.run, workspace)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sft.warm.model": "rm"}, "sft.warm.model: 'rm' is a reward model, which only scores texts; name a lang"),
        ({"samples.drawn.model": "rm"}, "samples.drawn.model: 'rm' is a reward model"),
        (
            {"scores.rm.model": "warm"},
            "scores.rm.model: 'warm' is a language model, of sft; name a run of reward_model",
        ),
        ({"reward_model.rm.optimizer.epochs": 1}, "reward_model.rm: optimizer: give exactly one of `epochs`, `steps`"),
        ({"reward_model.rm.validation": {}}, "reward_model.rm.validation: unknown key"),
    ],
)
def test_params_refuse_a_model_in_the_wrong_place(workspace, change, message):
    world.set_params(workspace, rewards.RUNS | change)
    with pytest.raises(ValueError, match=message):
        load_params()


def test_a_reward_model_that_is_imported_is_still_one(workspace):
    """Its configuration says so, whatever the record says of its source."""
    rewards.build(workspace, 2)
    rewards.train_model(workspace)
    directory = workspace / "data/models/rm"
    record = json.loads((directory / "pairwright.json").read_text())
    record["provenance"] = {"source": "path"}
    (directory / "pairwright.json").write_text(json.dumps(record))
    assert is_reward_model(directory)
    assert len(rewards.score(workspace)) == 4


def outputs(root: Path) -> dict[str, bytes]:
    directories = [
        root / "data/models/rm",
        root / "data/training/run=rm",
        root / "data/rejects/stage=reward_model/run=rm",
    ]
    paths = sorted(path for directory in directories for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


class CrashError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("settings", [{}, {"lora": {"rank": 2, "dropout": 0.3}, "gradient_checkpointing": True}])
def test_a_run_resumes_bit_exactly_after_crashes(workspace, monkeypatch, settings):
    settings |= {"optimizer.steps": 9, "checkpoint_every": 2, "optimizer.schedule": "cosine"}
    rewards.build(workspace, 6, {f"reward_model.rm.{key}": value for key, value in settings.items()})
    rewards.train_model(workspace)
    undisturbed, update = outputs(workspace), Session.update
    for crash in (1, 5, 8):

        def crashing(self, now, *rest, at=crash):
            if now == at:
                raise CrashError
            return update(self, now, *rest)

        monkeypatch.setattr(Session, "update", crashing)
        with pytest.raises(CrashError):
            rewards.train_model(workspace)
    monkeypatch.setattr(Session, "update", update)
    rewards.train_model(workspace)
    assert outputs(workspace) == undisturbed


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_ends_with_the_same_bytes(workspace):
    more = {"reward_model.rm.optimizer.steps": 300, "reward_model.rm.checkpoint_every": 7}
    rewards.build(workspace, 10, more)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train.reward_model", "rm"]
    subprocess.run(command, env=environment, check=True)
    undisturbed, kills = outputs(workspace), 0
    for _ in range(3):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not list((workspace.parent / "ledger/checkpoints").glob("*/step-*")):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    subprocess.run(command, env=environment, check=True)
    assert kills, "the runs ended before they could be killed; make them longer"
    assert outputs(workspace) == undisturbed


def test_the_model_directory_has_a_fingerprint_of_its_own(workspace):
    rewards.build(workspace, 2)
    rewards.train_model(workspace)
    assert fingerprint(workspace / "data/models/rm") != fingerprint(workspace / "data/models/tiny")
