"""Processes that train together on the CPU, started as torchrun starts them, but from one that has imported all."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PATIENCE_S = 600
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.ranks_world", "tests.training_world", "peft", "torch.distributed.checkpoint"])


def start(count: int, work: Callable[..., None], *given: Any) -> Sequence[BaseProcess]:
    """So many processes, each of which does the work; one on its own is no group. What they print goes to
    `rank-<n>.txt` of this directory.
    """
    port = free_port()
    ranks = [_context.Process(target=_rank, args=(n, count, port, dict(os.environ), work, given)) for n in range(count)]
    for rank in ranks:
        rank.start()
    return ranks


def end(ranks: Sequence[BaseProcess]) -> list[int | None]:
    """The exit codes. Once one has failed the others are ended, as torchrun does it."""
    for rank in ranks:
        rank.join(PATIENCE_S)
    for rank in ranks:
        rank.kill()
    return [rank.exitcode for rank in ranks]


def together(count: int, work: Callable[..., None], *given: Any) -> None:
    """Does the work in so many processes, all of which end well."""
    codes = end(start(count, work, *given))
    assert codes == [0] * count, "\n".join(said(n) for n in range(count))


def said(rank: int) -> str:
    return Path(f"rank-{rank}.txt").read_text()


def stage(place: str) -> None:
    """What `python -m train.<section> <run>` does."""
    from tests.training_world import STAGES
    from train.command import train_stage

    section, run = place.split(".")
    train_stage(section, STAGES[section], [run])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(
    number: int, count: int, port: int, environment: dict[str, str], work: Callable[..., None], given: tuple
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if count > 1:
        os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": str(number)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with Path(f"rank-{number}.txt").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # pyrefly: ignore
    work(*given)
