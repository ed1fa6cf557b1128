"""Rollouts by vLLM: the weights that it is given, and runs of the stage `ppo` with the real one on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from builders.arithmetic_words import vocabulary
from builders.model_files import load_model, write_record
from builders.models import initialise
from schemas.sections_training import Lora
from tests import training_world as world
from train.policy import Policy
from train.rollouts_vllm import checkpoint_weights

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
