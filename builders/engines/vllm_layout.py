"""How vLLM is laid out on the devices: from the environment, never from params, since it changes no data.

| variable | meaning |
|---|---|
| `PAIRWRIGHT_TENSOR_PARALLEL` | GPUs that share one model; default: as many visible ones as its heads allow |
| `PAIRWRIGHT_VLLM_MEMORY` | share of each GPU's memory, in (0, 1] |
| `PAIRWRIGHT_VLLM_ARGS` | further engine arguments as JSON, of those in `SPEED` |

vLLM's own variables (`CUDA_VISIBLE_DEVICES`, `VLLM_CPU_KVCACHE_SPACE`, …) keep their meaning.
"""

import json
import os
from pathlib import Path
from typing import Any

from builders.model_files import load_config

SPEED = (
    "attention_backend", "block_size", "compilation_config", "cpu_offload_gb", "disable_custom_all_reduce",
    "distributed_executor_backend", "enforce_eager", "kv_cache_memory_bytes", "max_model_len",
    "max_num_batched_tokens", "max_num_seqs", "performance_mode", "pipeline_parallel_size",
)  # fmt: skip
"""Engine arguments of vLLM that decide where and how fast it computes, and not what."""


def layout(directory: Path, visible: int) -> dict[str, Any]:
    """vLLM's engine arguments for a model directory on a machine with `visible` GPUs (0: on the CPU).

    Raises ValueError for a variable that cannot be meant.
    """
    arguments: dict[str, Any] = {"tensor_parallel_size": _tensor_parallel(directory, visible)}
    if share := os.environ.get("PAIRWRIGHT_VLLM_MEMORY"):
        arguments["gpu_memory_utilization"] = _share(share)
    return arguments | _further()


def widest(heads: int, kv_heads: int, devices: int) -> int:
    """The most devices, of those given, over which attention heads can be split evenly (or KV heads repeated)."""
    fits = (n for n in range(devices, 0, -1) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0))
    return next(fits, 1)


def _tensor_parallel(directory: Path, visible: int) -> int:
    asked = os.environ.get("PAIRWRIGHT_TENSOR_PARALLEL")
    if asked is None:
        config = load_config(directory).get_text_config()
        heads = getattr(config, "num_attention_heads", None) or 1
        return widest(heads, getattr(config, "num_key_value_heads", None) or heads, visible)
    if not asked.isdigit() or int(asked) < 1:
        raise ValueError(f"PAIRWRIGHT_TENSOR_PARALLEL: a number of GPUs is expected (have '{asked}')")
    return int(asked)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"PAIRWRIGHT_VLLM_MEMORY: a share of the GPU's memory in (0, 1] is expected (have '{text}')")
    return share


def _further() -> dict[str, Any]:
    text = os.environ.get("PAIRWRIGHT_VLLM_ARGS") or "{}"
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f'PAIRWRIGHT_VLLM_ARGS: no JSON ({error}); write it as {{"max_num_seqs": 64}}') from None
    if not isinstance(given, dict) or (unknown := sorted(given.keys() - set(SPEED))):
        names = f"'{unknown[0]}' is not among" if isinstance(given, dict) else "an object of"
        raise ValueError(f"PAIRWRIGHT_VLLM_ARGS: {names} the arguments that change no answer ({', '.join(SPEED)})")
    return given
