"""A model whose weights, gradients and optimizer states are divided among the processes that train it: FSDP2.

Each layer is gathered before it computes and let go of after it, and so are, as one, the embeddings, the last norm and
the head. All work on the model happens inside the forward of a root module, which gathers the latter: the head is used
by itself here (`train.logprobs`), not by the model's own forward.

Precision: the divided weights and all sums over processes are float32. With `bf16` layers are gathered in bfloat16 and
compute under autocast as in one process: products in bfloat16, what autocast keeps wide, and the head, in float32. Only
the layers' vectors (norms' weights, biases), which one process keeps in float32, are rounded as well.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed.checkpoint as checkpoint
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from train import parallel
from train.saving import LAST_IS_INTACT

T = TypeVar("T")


class Root(nn.Module):
    """Has a model's weights at hand while some work on it is done."""

    reshard: Callable[[], None]
    """What FSDP adds to a module that it divides."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], T]) -> T:
        """What the work returns: tensors, where it has gradients."""
        return work()


def shard(model: nn.Module, half: bool) -> Root:
    """Divides a model in place and moves it to the device. Each process brings the whole model, the same.

    `half`: layers are gathered in bfloat16. Where the environment asks for it (`parallel.offloads`), what is divided
    lies in the CPU's memory, as does the optimizer. Gradients are summed over processes, not averaged: losses are
    divided by counts of the whole batch already.
    """
    device = parallel.device()
    mesh = init_device_mesh(device.type, (parallel.count(),))
    away = CPUOffloadPolicy(pin_memory=device.type == "cuda") if parallel.offloads() else OffloadPolicy()
    narrow = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in reversed(list(model.modules())):  # inner ones first
        if isinstance(layer, GradientCheckpointingLayer):
            policy = narrow if half else MixedPrecisionPolicy()
            fully_shard(layer, mesh=mesh, mp_policy=policy, offload_policy=away)
    root = Root(model)
    fully_shard(root, mesh=mesh, offload_policy=away)
    for module in _divided(root):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        module.set_reduce_scatter_unused_params(True, recurse=False)  # experts that no token of a process is sent to
    return root


def within(root: Root, work: Callable[[], T]) -> T:
    """What some work with the model returns; afterwards its weights are divided again, as whoever asks for them expects
    (where gradients are taken, after the backward).
    """
    found = root(work)
    if not torch.is_grad_enabled():
        root.reshard()
    return found


@contextlib.contextmanager
def gathered(root: Root) -> Iterator[None]:
    """All weights lie in full on every device, and no process waits for another to use them."""
    for module in _divided(root):
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    yield
    for module in _divided(root):
        module.reshard()
        module.set_reshard_after_forward(module is not root, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be divided, in full, on every process; all must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collect(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divided tensors in full in the first process's CPU memory; nothing elsewhere. One at a time is on the device."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if parallel.leads():
            found[name] = full.cpu()
    return found


def save(tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Writes tensors, divided ones and each process's own, into one directory: safetensors that say which part of what
    they hold. Raises OSError in all processes where one cannot write.
    """
    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    try:
        checkpoint.save(dict(tensors), storage_writer=writer)
    except checkpoint.CheckpointException as error:
        raise OSError(f"{directory}: {_reason(error)}; {LAST_IS_INTACT}") from None


def load(tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Fills tensors, divided among any number of processes, with what any number wrote.

    Raises ValueError in all processes where one cannot read.
    """
    alone = not parallel.active()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # so it is, where one process reads
        try:
            checkpoint.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(directory)), no_dist=alone)
        except checkpoint.CheckpointException as error:
            raise ValueError(_reason(error)) from None


def names(directory: Path) -> set[str]:
    """What tensors a directory holds."""
    return set(HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata)


def _reason(error: BaseException) -> str:
    """What went wrong in the first process that failed, in one line."""
    failures = getattr(error, "failures", {})
    first = next((failure[0] for failure in failures.values()), error)
    return " ".join(str(first).split())


def _divided(root: Root) -> list[Any]:
    return [module for module in root.modules() if isinstance(module, FSDPModule)]
