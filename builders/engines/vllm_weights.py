"""Replacing the weights of a running vLLM by those of a model in this process, without a restart.

vLLM computes in processes of its own, so weights go through memory that both see: on CUDA a buffer on the device, else
an anonymous file in memory, which is gone when its last holder is. They are sent in chunks; a receiver copies a chunk
before it confirms it, so that one buffer serves them all, and whatever is sent takes no more memory than that.

vLLM's own layer-wise reload takes them: it accepts names and shapes as a checkpoint has them, whatever vLLM fuses, cuts
for several devices, converts to its precision or packs for its kernels. (Loading into the parameters directly, as is
often done on GPUs, leaves packed copies of the old weights in use on a CPU.)
"""

import math
import mmap
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import LLMEngine

RECEIVER = f"{__name__}.Receiver"
"""What vLLM's workers learn to do (`worker_extension_cls`)."""
CHUNK = 256 * 2**20
"""Bytes that are sent together; a larger tensor goes alone."""
_ALIGNED = 64

Entry = tuple[str, str, list[int], int]
"""Name, dtype, shape and place in the buffer (bytes) of one tensor."""
Named = tuple[str, "Tensor"]


class Sender:
    """This process's end: a buffer that the workers of one vLLM see too. It grows to the largest chunk.

    `limit`: bytes that are sent together.
    """

    def __init__(self, engine: "LLMEngine", limit: int = CHUNK):
        self.engine, self.limit = engine, limit
        self._buffer: Tensor | None = None

    def send(self, weights: Iterable[Named]) -> None:
        """Replaces all weights. Names and shapes are those of the model's checkpoint; tied ones may come once or twice.

        Raises ValueError if some are missing; what vLLM then holds is of no use.
        """
        self._tell("begin_weights")
        for chunk in chunks(weights, self.limit):
            entries, size = layout(chunk)
            buffer = self._room(size, chunk[0][1])
            for (_, tensor), (*_, place) in zip(chunk, entries, strict=True):
                _part(buffer, place, tensor.dtype, tensor.shape).copy_(tensor.detach())
            _finish(buffer)
            self._tell("take_weights", [list(entry) for entry in entries])
        if missing := sorted({name for names in self._tell("end_weights") for name in names}):
            few = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise ValueError(
                f"weights of vLLM's model that were not sent: {few}; use engine 'hf' for this architecture"
            )

    def _room(self, size: int, like: "Tensor") -> "Tensor":
        """The shared buffer, which has room for `size` bytes."""
        if self._buffer is None or self._buffer.numel() < size:
            with _shared(size, like) as (self._buffer, handle):
                self._tell("open_weights", handle)
        return self._buffer

    def _tell(self, method: str, *arguments: Any) -> list[Any]:
        return self.engine.collective_rpc(method, args=arguments)


class Receiver:
    """A worker's end. vLLM makes it a base of its worker class, and calls it by name in every process of a model."""

    if TYPE_CHECKING:
        model_runner: Any
        vllm_config: Any
        synchronize_device: Any

    def open_weights(self, handle: str | bytes) -> None:
        """Opens the buffer that the sender shares: a path (a file in memory), or a pickled handle of CUDA memory."""
        self._weights_buffer = opened(handle)

    def begin_weights(self) -> None:
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        model = self.model_runner.get_model()
        self._weights_missing: set[str] | None = {name for name, _ in model.named_parameters()}
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)

    def take_weights(self, entries: list[Entry]) -> None:
        """Loads one chunk, copied out of the buffer: a layer whose parts come in several chunks waits for all."""
        import torch
        from vllm.config import set_current_vllm_config

        parts = copied(self._weights_buffer, entries)
        self.synchronize_device()
        with set_current_vllm_config(self.vllm_config), torch.no_grad():
            loaded = self.model_runner.get_model().load_weights(iter(parts))
        known = self._weights_missing is not None and loaded is not None
        self._weights_missing = self._weights_missing - loaded if known else None  # pyrefly: ignore

    def end_weights(self) -> list[str]:
        """Puts what came into use; returns the names of what did not come."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config):
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            for layer in _tied(model):
                layer.quant_method.process_weights_after_loading(layer)
        self.synchronize_device()
        return sorted(self._weights_missing or ())


def _tied(model: Any) -> list[Any]:
    """Layers whose weights are another layer's (a head that is the embedding): nothing is loaded into them, so that the
    reload would leave them with the packed copy that they made of the old ones."""
    owners, tied = set[int](), []
    for layer in model.modules():
        own = {id(parameter) for parameter in layer.parameters(recurse=False)}
        if own & owners and hasattr(layer, "quant_method"):
            tied.append(layer)
        owners |= own
    return tied


# Chunks


def chunks(weights: Iterable[Named], limit: int) -> Iterator[list[Named]]:
    """Tensors in the order in which they come, together at most `limit` bytes, or one larger one."""
    chunk, size = list[Named](), 0
    for name, tensor in weights:
        if chunk and size + tensor.nbytes > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, tensor))
        size += tensor.nbytes
    if chunk:
        yield chunk


def layout(chunk: list[Named]) -> tuple[list[Entry], int]:
    """Where each tensor of a chunk lies in the buffer, and the bytes that they take with what aligns them."""
    entries, size = list[Entry](), 0
    for name, tensor in chunk:
        entries.append((name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), size))
        size += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
    return entries, size


def copied(buffer: "Tensor", entries: Iterable[Entry]) -> list[Named]:
    """Copies of the tensors in a buffer."""
    import torch

    return [(name, _part(buffer, place, getattr(torch, dtype), shape).clone()) for name, dtype, shape, place in entries]


def _part(buffer: "Tensor", place: int, dtype: Any, shape: Any) -> "Tensor":
    """The tensor that lies at a place of a buffer of bytes, as a view."""
    size = math.prod(shape) * dtype.itemsize
    return buffer[place : place + size].view(dtype).view(tuple(shape))


# Shared memory


@contextmanager
def _shared(size: int, like: "Tensor") -> Iterator[tuple["Tensor", str | bytes]]:
    """A new buffer of bytes on the device of the tensors that will be sent, and how others open it meanwhile."""
    import torch

    if like.is_cuda:
        from multiprocessing.reduction import ForkingPickler

        import torch.multiprocessing  # it registers how CUDA memory is shared

        buffer = torch.empty(size, dtype=torch.uint8, device=like.device)
        yield buffer, bytes(ForkingPickler.dumps(buffer))
        return
    if not hasattr(os, "memfd_create"):
        raise ValueError("weights are sent to vLLM on Linux only; use engine 'hf'")
    with os.fdopen(os.memfd_create("pairwright-weights"), "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # fails here, and not as a bus error, where there is no memory
        yield _mapped(file), f"/proc/{os.getpid()}/fd/{file.fileno()}"


def opened(handle: str | bytes) -> "Tensor":
    """The buffer that another process shares under this path or handle."""
    if isinstance(handle, bytes):
        return pickle.loads(handle)  # from the process that started this one
    with Path(handle).open("r+b") as file:
        return _mapped(file)


def _mapped(file: Any) -> "Tensor":
    import torch

    return torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=torch.uint8)


def _finish(buffer: "Tensor") -> None:
    """Waits until what was copied into the buffer is there for other processes."""
    if buffer.is_cuda:
        import torch

        torch.cuda.synchronize(buffer.device)
