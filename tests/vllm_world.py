"""A tiny model, an adapter of it, and the environment in which the tests of engine `vllm` start it."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from builders import arithmetic_words
from builders.model_files import write_record
from builders.models import copy_adapter, initialise
from tests.test_adapters import write_adapter

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
}  # fmt: skip
QUICK = {"enforce_eager": True, "max_num_seqs": 8, "block_size": 32, "max_num_batched_tokens": 256}
"""So few tokens of one step that prompts have to wait for the next."""


def real(test: Any) -> Any:
    """A slow test against the real vLLM, which uses all cores, and whose imports warn of what it uses of torch."""
    missing = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (.ci/run installs it)")
    return pytest.mark.slow(pytest.mark.alone(missing(pytest.mark.filterwarnings("ignore")(test))))


def write_model(directory: Path) -> Path:
    """The model, initialised."""
    directory.mkdir(exist_ok=True)
    initialise(CONFIG, arithmetic_words.vocabulary(), 0, directory, "models.base")
    write_record(directory, {"source": "config"})
    return directory


def write_adapted(directory: Path, adapter: Path, **lora: Any) -> Path:
    """The same model with an adapter (made in `adapter`) that changes what it says."""
    write_adapter(write_model(directory), adapter, **lora)
    copy_adapter(adapter, directory, "path")
    write_record(directory, {"source": "adapter"})
    return directory


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """What a user would set on a small machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRWRIGHT_VLLM_ARGS", json.dumps(QUICK))
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield patch
