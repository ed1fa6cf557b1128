"""Rollouts by vLLM: the weights that it is given, and runs of the stage `ppo` with the real one on the CPU."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import train.ppo
from builders.arithmetic_words import vocabulary
from builders.checkers.base import PureChecker
from builders.engines.vllm import VllmEngine
from builders.model_files import load_model, write_record
from builders.models import initialise
from schemas.sections_training import Lora
from stores.stage import execute
from tests import ppo_world
from tests import training_world as world
from tests.vllm_world import CONFIG, environment, real
from train.policy import Policy
from train.rollouts_vllm import VllmSampler, checkpoint_weights

__all__ = ["environment"]  # a fixture

SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "untied": SMALL | {"model_type": "llama"},
    "tied": SMALL | {"model_type": "qwen2", "tie_word_embeddings": True},
    "experts": SMALL | {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2},
    "transposed": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
}
"""Of which `experts` is held fused, otherwise than its checkpoint; weights of `transposed` are (in, out)."""
BY_VLLM = {"engine": "vllm", "models.tiny.config": CONFIG | {"tie_word_embeddings": True}}
ADAPTED = {"untied": "all-linear", "tied": ["q_proj", "down_proj"], "transposed": ["c_attn", "c_proj"]}


def model_dir(directory: Path, name: str) -> Path:
    directory.mkdir()
    initialise(MODELS[name], vocabulary(), 0, directory, name)
    write_record(directory, {"source": "config"})
    return directory


def assert_stored(sent: dict[str, Tensor], directory: Path, atol: float) -> None:
    """The names, shapes and values of a checkpoint; a tied head may be left out of either."""
    stored = load_file(directory / "model.safetensors")
    assert sent.keys() == stored.keys()
    world.assert_same_weights(sent, stored, atol)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    model = load_model(model_dir(tmp_path / "model", name))
    sent = list(checkpoint_weights(model))
    assert len(dict(sent)) == len(sent)
    assert_stored(dict(sent), tmp_path / "model", 0.0)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft says that it sets it right
@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_come_merged_and_stay_as_they_are(tmp_path: Path, name: str) -> None:
    directory = model_dir(tmp_path / "model", name)
    probe = [world.data.Tokens(*(torch.arange(n, dtype=torch.int32).numpy() for n in (3, 2)))]
    policy = Policy.load(directory, probe, lora=Lora(rank=4, alpha=8, targets=ADAPTED[name]))
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    before = {key: weight.clone() for key, weight in policy.model.state_dict().items()}
    sent = {key: weight.clone() for key, weight in checkpoint_weights(policy.model)}
    after = policy.model.state_dict()
    assert all(weight.equal(after[key]) for key, weight in before.items())
    base = load_file(directory / "model.safetensors")
    assert any(not weight.equal(base[key]) for key, weight in sent.items())
    (tmp_path / "merged").mkdir()
    policy.save(tmp_path / "merged")
    assert_stored(sent, tmp_path / "merged", 1e-5)


class Parity(PureChecker):
    """Says that half of all completions are right."""

    def extract(self, prefill: str, text: str) -> str | None:
        return text

    def equal(self, extracted: str, gold: str) -> bool | None:
        return sum(map(ord, extracted)) % 2 == 0


class Spy(VllmSampler):
    """Keeps what is asked of vLLM."""

    asked: list[list[str]]

    def stream(self, requests: Any) -> Any:
        requests = list(requests)
        self.asked.append([request.key for request in requests])
        return super().stream(requests)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    monkeypatch.setattr(Spy, "asked", [], raising=False)
    monkeypatch.setattr("train.rollouts_vllm.VllmSampler", Spy)
    return Spy.asked


def moved(root: Path) -> list[float]:
    """Of every step: how far a token's log-prob is from that of the model that training started from, on average."""
    found: dict[int, list[float]] = {}
    for row in world.rows(root, "rollouts", "reft"):
        found.setdefault(row["step"], []).append(abs(row["logprob"] - row["reference_logprob"]) / row["n_tokens"])
    return [sum(far) / len(far) for _, far in sorted(found.items())]


@real
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8, "targets": "all-linear"}], ids=["full", "lora"])
def test_every_step_is_drawn_from_the_weights_of_the_step(
    workspace: Path, environment: pytest.MonkeyPatch, asked: list[list[str]], lora: dict[str, Any] | None
) -> None:
    """The policy moves a thousand times further than vLLM's log-probs are from the trainer's."""
    threads = torch.get_num_threads()
    changes = {"checker": "tests.test_rollouts_vllm:Parity@1", "lora": lora, "optimizer.lr": 1e-2, "stops.max_kl": 1e9}
    ppo_world.build(workspace, BY_VLLM | changes)
    execute("ppo", "reft", train.ppo.run, workspace)
    steps = world.rows(workspace, "training", "reft")
    assert [len(keys) for keys in asked] == [4] * 6
    assert all(step["sampler_gap"] < 1e-4 for step in steps)
    assert moved(workspace)[0] < 1e-4
    assert max(moved(workspace)) > 0.05
    assert torch.get_num_threads() == threads


_KILLED = """
import os, signal, sys, train.ppo
from stores.stage import execute
from pathlib import Path

def killed(session, step, *rest):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(session, step, *rest)

if __name__ == "__main__":
    update, train.ppo.update = train.ppo.update, killed
    execute("ppo", "reft", train.ppo.run, Path(sys.argv[1]))
"""


@real
def test_a_killed_run_goes_on_and_draws_nothing_again(
    workspace: Path, tmp_path: Path, environment: pytest.MonkeyPatch, asked: list[list[str]]
) -> None:
    """Killed after the rollouts of its fourth step, before its update; nothing of vLLM outlives it."""
    ppo_world.build(workspace, BY_VLLM | {"checkpoint_every": 2})
    script = tmp_path / "killed.py"
    script.write_text(_KILLED, encoding="utf-8")
    process = subprocess.run([sys.executable, str(script), str(workspace)], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    execute("ppo", "reft", train.ppo.run, workspace)
    assert [len(keys) for keys in asked] == [4, 4], "the two steps whose rollouts were not there"
    rows = world.rows(workspace, "rollouts", "reft")
    assert len(rows) == 24
    assert all(row["sampler_gap"] < 1e-4 for row in rows), "those of before the kill come from the same weights"


@real
def test_a_vllm_that_dies_ends_the_step_in_one_line(
    workspace: Path, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    stream = VllmEngine.stream

    def dying(engine: VllmEngine, *given: Any) -> Any:
        for child in psutil.Process().children(recursive=True):
            if "EngineCore" in " ".join(child.cmdline()):
                child.kill()
        return stream(engine, *given)

    monkeypatch.setattr(VllmEngine, "stream", dying)
    ppo_world.build(workspace, BY_VLLM)
    with pytest.raises(OSError, match="vLLM died"):
        execute("ppo", "reft", train.ppo.run, workspace)
