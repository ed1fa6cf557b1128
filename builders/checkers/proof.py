"""Proves to a worker of `program_cpython` that it is shut in, before it runs the first program.

Once for the walls around the worker (what it sees, whom it reaches, what it may do), and once for a program's process
by a program that tries. Isolation that does not isolate, as where a kernel or a container ignores part of it, is an
error: then nothing runs. The standard library alone.
"""

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_ATTEMPTS = r"""
import ctypes, mmap, os, socket, threading

def attempt(name, act):
    try:
        act()
    except (OSError, RuntimeError, ValueError, MemoryError):
        return []
    return [name]

def write(path):
    with open(path, "w") as file:
        file.write("x")

def fork():
    if os.fork() == 0:
        os._exit(0)

def system_call(name, *given):
    if getattr(ctypes.CDLL(None), name)(*given) != -1:
        return
    raise OSError(name)

def solution():
    found = attempt("read a file", lambda: open("/etc/passwd").read())
    found += attempt("see processes", lambda: os.listdir("/proc"))
    for path in ("/x", "/tmp/x", "/dev/shm/x"):
        found += attempt("write a file", lambda: write(path))
    found += attempt("open a socket", socket.socket)
    found += attempt("open a local socket", lambda: socket.socket(socket.AF_UNIX))
    found += attempt("fork", fork)
    found += attempt("start a thread", threading.Thread(target=print).start)
    found += attempt("start a program", lambda: os.execv("/bin/true", ["true"]))
    found += attempt("signal the worker", lambda: os.kill(1, 9))
    found += attempt("leave its group", os.setsid)
    found += attempt("make namespaces", lambda: system_call("unshare", 0x10000000))
    found += attempt("mount", lambda: system_call("mount", b"x", b"/", b"tmpfs", 0, None))
    found += attempt("trace a process", lambda: system_call("ptrace", 16, 1, 0, 0))
    found += attempt("take memory", lambda: mmap.mmap(-1, 1 << 30))  # taken, not filled: that would take time
    found += ["read the environment"] if os.environ else []
    return ", ".join(found) or "nothing"
"""


def prove(run: Callable[[str, str], Sequence[Any]], visible: Sequence[str]) -> None:
    """Raises OSError that says what is not blocked. `run` runs a program: its value comes first, its error fourth."""
    _prove_walls(visible)
    value, _, _, error, _ = run(_ATTEMPTS, "solution()")
    if error is not None:
        raise OSError(f"the proof of the isolation failed: {error}")
    if value != "nothing":
        raise OSError(f"the isolation does not hold: a program could {value}")


def _prove_walls(visible: Sequence[str]) -> None:
    """The namespaces by themselves, without the filter of system calls."""
    seen = {path.name for path in Path("/").iterdir()}
    if seen != {path.split("/")[1] for path in visible}:
        raise OSError(f"the isolation does not hold: the root directory has {', '.join(sorted(seen))}")
    if os.getpid() != 1 or os.getppid() != 0:
        raise OSError("the isolation does not hold: other processes are in sight")
    for path in ("/", *visible):
        if not os.statvfs(path).f_flag & os.ST_RDONLY:
            raise OSError(f"the isolation does not hold: {path} can be written")
    for address in ("127.0.0.1", "192.0.2.1"):  # the second is for documentation: nobody's
        if _works(lambda address=address: socket.socket(type=socket.SOCK_DGRAM).connect((address, 9))):
            raise OSError(f"the isolation does not hold: {address} has a route")


def _works(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True
