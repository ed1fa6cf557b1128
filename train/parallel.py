"""Several processes that train one model, one per device, as `torchrun` starts them.

Every process loads the same data and takes the same steps; of a batch each sees its share, in as many forwards as the
others, and what decides anything (losses, an accuracy, an error) is known to all. The first process ("rank 0") alone
holds locks, writes outputs and prints. A process on its own has no process group, and everything here is then the
identity.

`PAIRWRIGHT_TORCHRUN` names torchrun's arguments, with which a training stage starts itself again; a stage that is
started under torchrun needs no variable. `PAIRWRIGHT_CPU_OFFLOAD=1` keeps weights, gradients and optimizer in the CPU's
memory. None is a parameter: where a run is computed decides no row.
"""

import contextlib
import io
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from builders.model_files import device as default_device

SECTIONS = frozenset({"sft", "preference", "reference"})
"""Stages that several processes may compute."""
LAUNCHER, OFFLOAD = "PAIRWRIGHT_TORCHRUN", "PAIRWRIGHT_CPU_OFFLOAD"
_EXAMPLE = f"{LAUNCHER}='--standalone --nproc-per-node 8'"
_CONTRACT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun (and whoever else starts processes for torch.distributed) tells each of them."""
_PATIENCE = timedelta(hours=6)
"""How long the others wait for what one process does alone. Whoever dies is noticed by torchrun, at once."""
_FAILED, _LISTENING_S = "pairwright/errors", 3.0

T = TypeVar("T")


def relaunch(module: str, arguments: Sequence[str]) -> None:
    """Becomes torchrun with this module, where the environment asks for it and nobody has done so yet.

    Raises ValueError for what are no arguments of torchrun.
    """
    wanted = os.environ.get(LAUNCHER)
    if wanted and not launched():
        given = [*_torchrun_arguments(wanted), "-m", module, *arguments]
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *given])


def _torchrun_arguments(text: str) -> list[str]:
    """A text's words, if torchrun takes them and starts with them what follows."""
    from torch.distributed.run import determine_local_world_size, parse_args

    said = io.StringIO()
    try:
        words = shlex.split(text)
        with contextlib.redirect_stderr(said):
            known = parse_args([*words, "-m", "what.follows"])
        if known.training_script != "what.follows":
            raise ValueError(f"'{known.training_script}' is no argument of torchrun")
        determine_local_world_size(known.nproc_per_node)
    except (ValueError, SystemExit) as error:
        reason = said.getvalue().strip().rpartition("error: ")[2] if isinstance(error, SystemExit) else str(error)
        raise ValueError(f"{LAUNCHER}: '{text}': {reason}; give torchrun's arguments, as in {_EXAMPLE}") from None
    return words


def offloads() -> bool:
    """Whether the environment asks for weights, gradients and optimizer in the CPU's memory.

    Raises ValueError for another value than 0 and 1, and for a process on its own, whose model is not divided.
    """
    given = os.environ.get(OFFLOAD, "0")
    if given not in ("", "0", "1"):
        raise ValueError(f"{OFFLOAD}: '{given}' is neither 0 nor 1")
    if given == "1" and not active():
        raise ValueError(
            f"{OFFLOAD}: only under torchrun; set {LAUNCHER}='--standalone --nproc-per-node 1', or unset it"
        )
    return given == "1"


def launched() -> bool:
    """Whether this process is one of a group."""
    return all(name in os.environ for name in _CONTRACT)


def require_one(stage: str) -> None:
    """Ends a process of several: the stage trains in one, whatever others do (and does not start itself again)."""
    if launched():
        if os.environ["RANK"] == "0":
            print(f"{stage}: trains in one process; start it without torchrun", file=sys.stderr)
        sys.exit(1)


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Joins the process group that the environment describes, if it does, for as long as the block runs.

    Processes other than the first print nothing. Of what goes wrong the first error is raised; what it leads to in the
    other processes, or the same error there, ends them without a word.
    """
    if not launched():
        yield
        return
    if on_cuda := default_device().startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, size = next(iter(dist.rendezvous("env://", timeout=_PATIENCE)))
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        with contextlib.nullcontext() if leads() else _silence():
            yield
        dist.destroy_process_group()
    except Exception as error:
        if not _is_first(store, size):
            sys.exit(1)
        if _is_lost(error):
            what = str(error).strip().splitlines()[0]
            raise OSError(f"another process of this run has ended ({what}); run it again: it continues") from None
        raise


def _is_first(store: dist.Store, processes: int) -> bool:
    """Whether no process has failed before; who can no longer ask takes itself for the first.

    The store may live in the first process, which therefore waits a moment until the others have their answer.
    """
    try:
        number = store.add(_FAILED, 1)
        store.set(f"{_FAILED}/{rank()}", "")
        answered, until = [f"{_FAILED}/{n}" for n in range(processes)], time.monotonic() + _LISTENING_S
        while leads() and not store.check(answered) and time.monotonic() < until:
            time.sleep(0.02)
        return number == 1
    except RuntimeError:
        return True


def _is_lost(error: Exception) -> bool:
    """Whether an error only says that another process is no longer there."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    nowhere = io.StringIO()
    with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        yield


def active() -> bool:
    """Whether there is a process group, be it of one process."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if active() else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if active() else 1


def leads() -> bool:
    """Whether this is the process that holds locks, writes outputs and prints."""
    return rank() == 0


def device() -> torch.device:
    """Where this process computes."""
    name = default_device()
    on_own = active() and name.startswith("cuda")
    return torch.device("cuda", torch.cuda.current_device()) if on_own else torch.device(name)


def wait() -> None:
    """Until all processes have come here."""
    everyones(None)


def everyones(value: T) -> list[T]:
    """The value of every process, in the order of their numbers. Values are pickled."""
    found: list[T] = [value] * count()
    if active():
        dist.all_gather_object(found, value)
    return found


def agreed(value: T) -> T:
    """The first process's value."""
    found = [value]
    if active():
        dist.broadcast_object_list(found, src=0)
    return found[0]


def together(parts: Mapping[str, Sequence[Tensor]], names: Sequence[str] = ()) -> tuple[dict[str, Tensor], list[str]]:
    """Columns of examples (n,), which are measured in pieces, and the examples' names, over all processes."""
    mine = {name: torch.cat(list(pieces)) for name, pieces in parts.items() if pieces}
    if count() == 1:
        return mine, list(names)
    found = everyones(({name: values.cpu() for name, values in mine.items()}, list(names)))
    columns = list(dict.fromkeys(name for values, _ in found for name in values))
    whole = {column: torch.cat([values[column] for values, _ in found if column in values]) for column in columns}
    return whole, [name for _, some in found for name in some]


def share(groups: Sequence[list[int]], sizes: Sequence[int]) -> list[list[int]]:
    """This process's part of some micro-batches; `sizes` of all examples, by number."""
    return shares(groups, sizes, count())[rank()]


def shares(groups: Sequence[list[int]], sizes: Sequence[int], processes: int) -> list[list[list[int]]]:
    """The micro-batches of each process, equally many, in an order that their list alone decides.

    Where their number is no multiple of the processes', the largest are cut in two, where their halves are most alike;
    where there are too few examples, some micro-batches are empty, the last ones. Groups come by size, so that those
    which are computed at the same time are alike.
    """
    dealt = [list(numbers) for numbers in groups]
    for _ in range(-len(dealt) % processes):
        totals = [sum(sizes[i] for i in numbers) if len(numbers) > 1 else 0 for numbers in dealt]
        largest = max(range(len(dealt)), key=lambda i: (totals[i], -i))
        if totals[largest]:
            dealt[largest : largest + 1] = _halves(dealt[largest], sizes)
        else:
            dealt.append([])
    return [dealt[number::processes] for number in range(processes)]


def _halves(numbers: list[int], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Two parts, in order: examples that share a prompt follow each other."""
    before = list(accumulate(sizes[i] for i in numbers))
    cut = min(range(1, len(numbers)), key=lambda at: abs(2 * before[at - 1] - before[-1]))
    return numbers[:cut], numbers[cut:]
