"""Starting and ending vLLM: its layout, what it cannot apply, and what is left of it when its process is killed."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from builders.engines import load_engine, vllm_start
from builders.engines.vllm import seed
from builders.engines.vllm_layout import layout, widest
from builders.model_files import load_model, write_record
from builders.models import write_script
from tests.pipeline import Checkout, sampling_params, wait_for
from tests.test_adapters import logits
from tests.test_faults import batches, wait_for_batches
from tests.vllm_world import CONFIG, environment, model_dir, real, write_adapted

__all__ = ["environment", "model_dir"]  # fixtures


def test_a_seed_belongs_to_its_key() -> None:
    seeds = {seed(f"k{i}") for i in range(1000)}
    assert len(seeds) == 1000
    assert seed("k0") == seed("k0")
    assert all(0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "devices", "expected"),
    [(32, 8, 8, 8), (32, 8, 6, 4), (12, 2, 8, 6), (14, 2, 8, 2), (32, 4, 16, 16), (7, 1, 4, 1), (8, 8, 0, 1)],
)
def test_heads_are_split_evenly(heads: int, kv_heads: int, devices: int, expected: int) -> None:
    assert widest(heads, kv_heads, devices) == expected


def test_the_layout_comes_from_the_environment(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout(model_dir, 8) == {"tensor_parallel_size": 2}
    monkeypatch.setenv("PAIRWRIGHT_TENSOR_PARALLEL", "1")
    monkeypatch.setenv("PAIRWRIGHT_VLLM_MEMORY", "0.5")
    monkeypatch.setenv("PAIRWRIGHT_VLLM_ARGS", '{"max_num_seqs": 4}')
    assert layout(model_dir, 8) == {"tensor_parallel_size": 1, "gpu_memory_utilization": 0.5, "max_num_seqs": 4}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PAIRWRIGHT_TENSOR_PARALLEL", "two", r"PAIRWRIGHT_TENSOR_PARALLEL: a number of GPUs .* \(have 'two'\)"),
        ("PAIRWRIGHT_TENSOR_PARALLEL", "0", "PAIRWRIGHT_TENSOR_PARALLEL: a number of GPUs"),
        ("PAIRWRIGHT_VLLM_MEMORY", "80%", r"PAIRWRIGHT_VLLM_MEMORY: a share .* in \(0, 1\] .* \(have '80%'\)"),
        ("PAIRWRIGHT_VLLM_MEMORY", "1.5", "PAIRWRIGHT_VLLM_MEMORY: a share"),
        ("PAIRWRIGHT_VLLM_ARGS", "max_num_seqs=4", "PAIRWRIGHT_VLLM_ARGS: no JSON"),
        ("PAIRWRIGHT_VLLM_ARGS", "[1]", "PAIRWRIGHT_VLLM_ARGS: an object of the arguments that change no answer"),
        ("PAIRWRIGHT_VLLM_ARGS", '{"quantization": "fp8"}', "'quantization' is not among the arguments that change no"),
    ],
)
def test_a_layout_that_cannot_be_meant(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        layout(model_dir, 8)


def test_without_vllm_one_line_says_how_to_get_it(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.engines.vllm_start.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"engine 'vllm' needs vLLM: `pip install .*, or use engine 'hf'"):
        load_engine("vllm", model_dir)


def test_a_directory_without_weights_names_its_engine(tmp_path: Path) -> None:
    write_script(tmp_path, ["a"])
    write_record(tmp_path, {"source": "script"})
    with pytest.raises(ValueError, match="made from `script`; use engine 'scripted'"):
        load_engine("vllm", tmp_path)


@real
@pytest.mark.parametrize("config", [{"use_dora": True}, {"r": 600}])
def test_an_adapter_that_vllm_cannot_apply_is_merged(
    tmp_path: Path, config: dict, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """vLLM then runs a copy, which is gone when it ends."""
    core = SimpleNamespace(running=True)
    core.shutdown = lambda: setattr(core, "running", False)
    parallel = SimpleNamespace(parallel_config=SimpleNamespace(world_size=1))
    asked: dict = {}
    engine = SimpleNamespace(engine_core=core, vllm_config=parallel)
    monkeypatch.setattr(vllm_start, "_engine", lambda arguments: asked.update(arguments) or engine)
    directory = write_adapted(tmp_path / "model", tmp_path / "adapter", **config)
    started = vllm_start.start(directory, "fp32")
    copy = Path(asked["model"])
    assert started.adapter is None
    assert "enable_lora" not in asked
    assert "vLLM runs a merged copy of it: " in capfd.readouterr().err
    write_record(copy, {})
    assert (logits(load_model(copy)) - logits(load_model(directory))).abs().max() < 1e-6
    assert core.running
    started.stop()
    assert not core.running
    assert not copy.exists()


def descendants(process: psutil.Process, name: str) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if name in " ".join(child.cmdline())]


@real
def test_killed_in_the_middle_it_leaves_no_process_and_generates_nothing_twice(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    params = sampling_params("hf", 20)
    params["samples"]["irpo_0"]["engine"] = "vllm"
    params["models"]["base"]["config"] = CONFIG  # vLLM's kernels for CPUs want heads of 32 or more
    checkout = Checkout(tmp_path, params)
    checkout.repro("models@base", "prompts@train")
    process = checkout.start(sys.executable, "-m", "builders.samples", "irpo_0")
    wait_for_batches(checkout, 3)
    left = descendants(psutil.Process(process.pid), "VLLM::")
    assert len(left) >= 2, "an engine core and a worker"
    os.kill(process.pid, 9)  # this process alone, as the kernel's out-of-memory killer does
    process.wait()
    committed = batches(checkout)
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in left), "end of vLLM", 20)
    assert 3 * 16 <= sum(n for n, _ in committed) < 40 * 20
    checkout.call(sys.executable, "-m", "builders.samples", "irpo_0")
    assert batches(checkout)[: len(committed)] == committed
    keys = [key for _, batch in batches(checkout) for key in batch.split(",")]
    assert len(keys) == len(set(keys)) == 40 * 20, "each request once"
