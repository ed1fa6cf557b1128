"""A command under a limit of time and memory, and what it and its children took."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

INTERVAL_S = 0.05


class Limits(NamedTuple):
    """Of one command with all of its processes."""

    seconds: float
    gib: float


def run_limited(
    command: Sequence[str], limits: Limits, cwd: Path, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """`outcome` (`ok`, `over 10 minutes`, `over 16 GiB`, or `failed:` and its last line), CPU and wall seconds, and the
    peak GiB of resident memory of all its processes together, looked at twenty times a second.

    CPU-seconds are those of the command and of the processes that it waited for; of one that was ended, up to then.
    """
    errors = cwd / "errors.txt"
    with errors.open("wb") as file:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | (environment or {}), stdout=file, stderr=file, start_new_session=True
        )
        outcome, peak, seen = _watch(process, limits, started)
        wall = time.perf_counter() - started
        _, status, usage = os.wait4(process.pid, 0) if process.returncode is None else (0, process.returncode, None)
        process.returncode = os.waitstatus_to_exitcode(status) if usage else process.returncode
    if outcome == "ok" and process.returncode:
        outcome = "failed: " + _last_line(errors)
    cpu = max(seen, usage.ru_utime + usage.ru_stime) if usage else seen
    return {"outcome": outcome, "cpu_s": cpu, "wall_s": wall, "peak_gib": peak}


def _watch(process: subprocess.Popen[bytes], limits: Limits, started: float) -> tuple[str, float, float]:
    """(outcome, peak GiB, CPU-seconds seen) at the end of a command, which is brought about at a limit."""
    root, peak, cpu = psutil.Process(process.pid), 0.0, 0.0
    while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
        resident, cpu = _usage(root, cpu)
        peak = max(peak, resident)
        over = time.perf_counter() - started > limits.seconds
        if over or resident > limits.gib:
            os.killpg(process.pid, signal.SIGKILL)
            return (f"over {limits.seconds / 60:g} minutes" if over else f"over {limits.gib:g} GiB"), peak, cpu
        time.sleep(INTERVAL_S)
    return "ok", peak, cpu


def _usage(root: psutil.Process, before: float) -> tuple[float, float]:
    """(GiB that a process and its descendants hold now, CPU-seconds of all so far, at least `before`)."""
    resident = seconds = 0.0
    for process in [root, *_children(root)]:
        try:
            resident += process.memory_info().rss / 2**30
            seconds += sum(process.cpu_times()[:2])
        except psutil.Error:
            continue
    return resident, max(seconds, before)


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


def _last_line(errors: Path) -> str:
    lines = errors.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
