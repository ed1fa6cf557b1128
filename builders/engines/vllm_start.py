"""Starting vLLM with one of our model directories, and ending it whatever happens to this process."""

import json
import os
import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from builders.engines.reaper import VARIABLE
from builders.engines.vllm_layout import layout
from builders.engines.vllm_weights import RECEIVER
from builders.model_files import adapter_of, check_language_model, load_model, load_tokenizer, trusts_code

if TYPE_CHECKING:
    from vllm import LLMEngine
    from vllm.lora.request import LoRARequest

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM allows as `max_lora_rank`."""


_SHARED_MEMORY = 0.5
"""Share of a GPU's memory for a vLLM beside a training process, unless the environment says another."""


class Started(NamedTuple):
    """A running vLLM, the adapter that every request is to use, its devices, and what ends it."""

    engine: "LLMEngine"
    adapter: "LoRARequest | None"
    devices: int
    stop: Callable[[], None]


def start(directory: Path, precision: str, synchronised: bool = False) -> Started:
    """Starts vLLM with the model of a directory, its adapter applied; or, `synchronised`, ready to take other weights
    in place of all of them, which it may need before it can be asked.

    Raises ValueError if vLLM is not installed, for a directory without weights, and for a layout that cannot be meant,
    OSError if vLLM does not start.
    """
    check_language_model(directory)
    if find_spec("vllm") is None:
        raise ValueError(
            "engine 'vllm' needs vLLM: `pip install -c constraints.txt -e '.[vllm]'` on a machine with GPUs (its build"
            " for CPUs: see .ci/run), or use engine 'hf'"
        )
    set_environment()
    with ExitStack() as cleanup:
        arguments, adapter = engine_arguments(directory, precision), adapter_of(directory)
        if synchronised:
            arguments, adapter = receiving(arguments), None
        if adapter and (reason := _unservable(adapter)):
            print(f"{directory}: vLLM runs a merged copy of it: {reason}", file=sys.stderr)
            arguments["model"] = cleanup.enter_context(_merged(directory, precision))
            adapter = None
        engine = cleanup.enter_context(_running(arguments | (_lora(adapter) if adapter else {})))
        devices = engine.vllm_config.parallel_config.world_size
        return Started(engine, _request(adapter), devices, cleanup.pop_all().close)


def set_environment() -> None:
    """What vLLM reads when it is imported.

    Its processes are spawned, not forked: a fork would hold the ledger's lock and its database, whoever lives longer.
    """
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    for name, value in (("VLLM_LOGGING_LEVEL", "ERROR"), ("VLLM_NO_USAGE_STATS", "1")):
        os.environ.setdefault(name, value)


@contextmanager
def _running(arguments: dict[str, Any]) -> Iterator["LLMEngine"]:
    """A vLLM that ends with the block, and soon after this process if that is killed."""
    with ExitStack() as cleanup:
        with cleanup.enter_context(_reaper()):
            engine = _engine(arguments)
        cleanup.callback(_stop, engine.engine_core)
        _watch(engine.engine_core)
        yield engine


def _stop(core: Any) -> None:
    """Ends vLLM's processes, and what it leaves open here: it never closes the context of its sockets."""
    core.shutdown()
    if hasattr(core, "output_queue_thread"):
        core.output_queue_thread.join()  # it has sockets of that context, which end with it
        core.ctx.destroy(linger=0)


def _watch(core: Any) -> None:
    """Lets whoever waits hear of the death of the engine core, where that is a process of its own."""
    if hasattr(core, "output_queue_thread"):  # none of these holds the client, which ends when nobody does
        known = core.output_queue_thread, core.outputs_queue, core.utility_results
        threading.Thread(target=_tell_of_death, args=known, daemon=True).start()


def _tell_of_death(reader: threading.Thread, outputs: queue.Queue, calls: dict[int, Future]) -> None:
    """Ends the wait for an engine core that was killed: vLLM's reader then ends without a word, and `step` waits on, as
    does a call of its workers.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    reader.join()
    outputs.put(EngineDeadError())
    for answer in list(calls.values()):
        answer.set_exception(EngineDeadError())


@contextmanager
def _reaper() -> Iterator[AbstractContextManager[None]]:
    """A process that waits until this one is gone, and then kills what was started within the context it gives."""
    mark = uuid.uuid4().hex
    command = [sys.executable, str(Path(__file__).with_name("reaper.py")), str(os.getpid()), mark]
    silent = subprocess.DEVNULL  # whoever waits for this process's output to end need not wait for its reaper
    with subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.PIPE, stdout=silent, stderr=silent, text=True
    ) as reaper:
        try:
            yield _marking(reaper, mark)
        finally:
            reaper.kill()


@contextmanager
def _marking(reaper: subprocess.Popen[str], mark: str) -> Iterator[None]:
    os.environ[VARIABLE] = mark
    try:
        yield
    finally:
        del os.environ[VARIABLE]
    assert reaper.stdin is not None
    print("started", file=reaper.stdin, flush=True)


def _engine(arguments: dict[str, Any]) -> "LLMEngine":
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    try:  # batches as large as those of the `LLM` class: nobody waits for a single answer here
        return LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
    except RuntimeError as error:
        raise OSError(f"vLLM did not start (its own message is above): {' '.join(str(error).split())}") from None


def engine_arguments(directory: Path, precision: str) -> dict[str, Any]:
    import torch
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    return {
        "model": str(directory),
        "dtype": _DTYPES[precision],
        "trust_remote_code": trusts_code(directory),
        "load_format": "safetensors",
        "generation_config": "vllm",  # a model's own may bring top_k or penalties, which would change what params say
        "logprobs_mode": "raw_logprobs",
        "enable_prefix_caching": True,
        "enable_chunked_prefill": not cpu,  # vLLM 0.32 dies of a request with a seed whose prefill is cut there
        "max_model_len": -1,  # as long as the model and the memory allow
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    } | layout(directory, 0 if cpu else torch.cuda.device_count())


def receiving(arguments: dict[str, Any]) -> dict[str, Any]:
    """Engine arguments of a vLLM that takes weights, and on CUDA sleeps while its device is used for training."""
    from vllm.platforms import current_platform

    receiving = {"worker_extension_cls": RECEIVER}
    if current_platform.is_cpu():
        return arguments | receiving
    return {"gpu_memory_utilization": _SHARED_MEMORY} | arguments | receiving | {"enable_sleep_mode": True}


# LoRA adapters


def _lora(adapter: Path) -> dict[str, Any]:
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank_limit(_config(adapter))}


def _request(adapter: Path | None) -> "LoRARequest | None":
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(adapter.resolve())) if adapter else None


def _config(adapter: Path) -> dict[str, Any]:
    return json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))


def _rank_limit(config: dict[str, Any]) -> int:
    """The least `max_lora_rank` that vLLM allows and the adapter fits; the greatest where it fits none."""
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return next((limit for limit in _RANKS if limit >= rank), _RANKS[-1])


def _unservable(adapter: Path) -> str | None:
    """Why vLLM cannot serve an adapter as it is (DoRA, saved modules, a rank above 512, …); None if it can."""
    from vllm.config import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    config = _config(adapter)
    try:
        PEFTHelper.from_dict(config).validate_legal(LoRAConfig(max_lora_rank=_rank_limit(config)))  # pyrefly: ignore
    except ValueError as error:
        return str(error)
    return None


@contextmanager
def _merged(directory: Path, precision: str) -> Iterator[str]:
    """A temporary copy of a model directory with its adapter merged."""
    with TemporaryDirectory(prefix="pairwright-") as copy:
        load_model(directory, _DTYPES[precision]).save_pretrained(copy)
        load_tokenizer(directory).save_pretrained(copy)
        yield copy
