"""Ends what a killed process leaves behind: `python reaper.py OWNER MARK`, started by the process OWNER.

vLLM's engine core outlives a SIGKILL of the process that started it, and would keep the device's memory from the run
that continues. This remembers the processes that start with MARK in their environment (vLLM overwrites it when it names
itself), until a line on standard input says that all have; when OWNER is gone, it kills them.
"""

import contextlib
import os
import select
import sys
import time

import psutil

VARIABLE = "PAIRWRIGHT_ENGINE_OWNER"
_STARTING, _RUNNING = 1.0, 0.2  # seconds between two looks; a process imports for longer before it names itself


def marked(owner: int, mark: str) -> set[psutil.Process]:
    """The processes below OWNER that carry the mark, or vLLM's name."""
    found = set()
    with contextlib.suppress(psutil.Error):  # gone meanwhile
        for process in psutil.Process(owner).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                named = process.cmdline()[:1] and process.cmdline()[0].startswith("VLLM::")
                if process.pid != os.getpid() and (named or process.environ().get(VARIABLE) == mark):
                    found.add(process)
    return found


def main(owner: int, mark: str) -> None:
    """Returns when OWNER and all that it started are gone."""
    known, started = marked(owner, mark), False
    while os.getppid() == owner and not started:
        known |= marked(owner, mark)
        started = bool(select.select([sys.stdin], [], [], _STARTING)[0] and sys.stdin.readline())
    known |= marked(owner, mark)
    while os.getppid() == owner:
        time.sleep(_RUNNING)
    for process in known:
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
