"""Ends what a killed process leaves behind: `python reaper.py OWNER MARK`, started by the process OWNER.

vLLM's engine core outlives a SIGKILL of the process that started it, and would keep the device's memory from the run
that continues. This waits until OWNER is gone, then kills whatever has MARK in its environment.
"""

import contextlib
import os
import sys
import time

import psutil

VARIABLE = "PAIRWRIGHT_ENGINE_OWNER"
_EVERY = 0.2  # seconds


def reap(mark: str) -> None:
    """Kills the processes that were started with the mark, except this one."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone meanwhile, or another user's
            if process.pid != os.getpid() and process.environ().get(VARIABLE) == mark:
                process.kill()


if __name__ == "__main__":
    while os.getppid() == int(sys.argv[1]):
        time.sleep(_EVERY)
    reap(sys.argv[2])
