"""Training beside TRL on the same token ids: what it can express is the same, what it cannot is told apart."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import trl_world as world
from tests.conftest import REPOSITORY
from train.packing import Tokens

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
V = 200
SHAPE = world.Shape((30, 6), (20, 8), correct=(1,) * 4)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    os.environ["TQDM_DISABLE"] = "1"


@pytest.fixture(scope="module")
def model():
    return world.make_model(64, 2, V)


def small() -> list[Any]:
    return world.make_pairs(SHAPE, V)


@pytest.mark.parametrize("cached", [True, False])
def test_gradients_are_those_of_trl(model, cached):
    ours, theirs = world.Ours(model, small(), 1 << 20), world.Theirs(model, small(), cached, micro_pairs=4)
    assert ours.backward() == pytest.approx(theirs.backward(), abs=1e-6)
    assert world.gap(world.gradients(ours), world.gradients(theirs)) <= 1e-5


def test_five_steps_give_the_loss_curve_of_trl(model):
    ours, theirs = world.Ours(model, small(), 120), world.Theirs(model, small(), True, micro_pairs=2)
    curve = [ours.step() for _ in range(5)]
    assert curve == pytest.approx(theirs.curve(), abs=1e-4)
    assert curve[-1] < curve[0] - 0.01


def test_grouped_pairs_of_a_prompt_have_the_gradients_of_separate_ones(model):
    pairs = world.make_pairs(SHAPE._replace(correct=(3, 2), samples=5, ranks=4), V)
    ours, theirs = world.Ours(model, pairs, 1 << 20), world.Theirs(model, pairs, True, micro_pairs=4)
    load = ours.policy.batch([s for pair in pairs for s in pair.sequences]).load
    assert load.sharing is not None
    assert load.sharing > 2
    assert world.gap(world.gradients(ours), world.gradients(theirs)) <= 1e-5


def test_trl_weighs_the_nll_by_tokens_and_the_paper_by_sequences(model):
    """Iterative RPO divides by each chosen response's own length (Eq. 1); TRL by the tokens of a micro-batch."""
    pairs = small()
    ours = world.Ours(model, pairs, 1 << 20, loss="dpo_nll").backward()
    theirs = world.Theirs(model, pairs, True, micro_pairs=4, loss=["sigmoid", "sft"]).backward()
    plain = world.Ours(model, pairs, 1 << 20)
    logprobs = torch.tensor([plain.references[pair.chosen_span] for pair in pairs])
    lengths = torch.tensor([len(pair.chosen.completion) for pair in pairs])
    log2 = plain.backward()
    assert ours == pytest.approx(log2 + float((-logprobs / lengths).mean()), abs=1e-4)
    assert theirs == pytest.approx(log2 + float(-logprobs.sum() / lengths.sum()), abs=1e-4)
    assert abs(ours - theirs) > 1e-3
    even = [pair._replace(chosen=Tokens(pair.chosen.prompt, pair.chosen.completion[:5])) for pair in pairs]
    same = world.Ours(model, even, 1 << 20, loss="dpo_nll").backward()
    assert same == pytest.approx(world.Theirs(model, even, True, 4, ["sigmoid", "sft"]).backward(), abs=1e-5)


def test_trl_ends_what_is_a_step(model):
    """A span of Step-DPO is no ending: `eos` is false. TRL's own preparation appends one, and scores it."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = world.tokenizer(["one", "two", "three"])
    rows = Dataset.from_list([{"prompt": "one two", "chosen": " three", "rejected": " one"}])
    settings = DPOConfig(output_dir="unused", bf16=False, use_cpu=True, max_length=None)
    trainer: Any = SimpleNamespace(_tokenizer=tokenizer)
    prepared: Any = next(iter(DPOTrainer._prepare_dataset(trainer, rows, tokenizer, settings, "train")))
    step, eos = tokenizer.encode(" three"), tokenizer.eos_token_id
    assert prepared["chosen_ids"] == [*step, eos]
    prompt = np.array(prepared["prompt_ids"], np.int32)
    alone, ended = (Tokens(prompt, np.array(ids, np.int32)) for ids in (step, [*step, eos]))
    policy = world.Ours(model, small(), 1 << 20).policy
    logprobs = policy.logprobs([alone, ended])
    assert float(logprobs[0] - logprobs[1]) > 1


def benchmark(*arguments: str) -> dict[str, float]:
    """What the benchmark finds of one kind of pairs."""
    command = [sys.executable, "-m", "tests.benchmarks.train_vs_trl", "--json", "--repeat=1", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    (found,) = json.loads(done.stdout.splitlines()[-1]).values()
    return found


def test_the_benchmark_measures_every_arm():
    found = benchmark("--layers=2", "--width=64", f"--vocabulary={V}", "--curve", "--shapes", "step_400")
    assert found["gradient_gap"] <= 1e-5
    assert found["curve_gap"] <= 1e-4
    assert found["flops_default"] > found["flops_cached"] > found["flops_cached_compact"] > 2
    assert min(found[f"mib_{arm}"] for arm in ("ours", "default", "cached")) > 0


@pytest.mark.parametrize(("shapes", "least"), [("irpo", 1.35), ("step_400", 2.4)])
def test_fewer_floating_point_operations_and_less_memory_than_trl(shapes: str, least: float):
    """At the benchmark's own size. Operations are counted, so their ratio is the same on any machine."""
    found = benchmark("--shapes", shapes)
    assert found["flops_cached"] >= least
    assert max(found["memory_cached"], found["memory_default"]) <= 0.65
    assert found["gradient_gap"] <= 1e-5
