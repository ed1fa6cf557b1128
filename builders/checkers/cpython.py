"""Runs programs in CPython, shut in by the operating system: for what Monty lacks, and only where a user asks for it.

Each program gets a process of its own, forked from a worker that has loaded the standard library, sympy, mpmath and
numpy. What holds it, in layers: namespaces without a network, other processes or any file but those libraries, which
are read-only (`isolation`); a filter that leaves it the system calls of computing and reading (`seccomp`); limits of
time, memory and output; no capabilities, an empty environment. A worker tries all that before its first program, and
does not start if anything gives way (`proof`).

It protects the machine, its files, its network, its other processes and the secrets in this process's environment from
what a model writes. It does not protect from a hole in the kernel behind the calls that are left, nor from side
channels (time, caches); programs share a core and its memory with whatever else runs there, up to their limits. A
program can read the source of the installed libraries, and it can lie about its own value, as it could by computing it
wrongly. Monty has no kernel behind it and is the better wall: it goes first, and this is off by default.
"""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import builders
from builders.checkers import _ignore
from builders.checkers.cpython_worker import PACKAGES
from builders.checkers.sandbox import TIME_S, Outcome
from builders.checkers.workers import Start, WorkerPool

_REMEDY = (
    "use the checker without `_cpython`, or run on Linux where user namespaces are allowed (sysctl"
    " user.max_user_namespaces, kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0;"
    " in a container, a seccomp profile that lets `unshare` and `mount` through)"
)
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
"""All that a worker gets, and where the loader looks: its own secrets would be in a program's memory."""


def _version() -> str:
    """Of all that decides a value: Python, and the packages that programs may import."""
    found = []
    for name in dict.fromkeys(package.partition(".")[0] for package in PACKAGES):
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join([f"cpython {platform.python_version()}", *found])


class CPythonSandbox:
    """A pool of isolated workers. `time_s` is a program's CPU time; `workers` as `$PAIRWRIGHT_WORKERS` has it."""

    version = _version()

    def __init__(self, time_s: float = TIME_S, workers: int | None = None):
        repository = str(Path(builders.__file__).parent.parent)
        start = Start(("-s", "-S"), (repository, *_directories()), _ENVIRONMENT | _loader())
        self.pool = WorkerPool(Path(__file__).with_name("cpython_worker.py"), workers, time_s, start)

    def start(self) -> None:
        """Starts a worker now, unless one runs.

        Raises ValueError, with the reason, where the isolation is not available: nothing runs without it.
        """
        if not self.pool.workers:
            self.run_all([("", "0")])

    def run_all(self, programs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """The outcome of each (program, expression of its result), in order; raises ValueError as `start`."""
        if sys.platform != "linux":
            raise ValueError(f"the isolation of CPython needs Linux, and this is {sys.platform}; {_REMEDY}")
        try:
            found = self.pool.run(programs, _ignore)
        except OSError as error:
            self.close()
            raise ValueError(f"the isolation of CPython is not available here: {error}; {_REMEDY}") from None
        return [Outcome(*one) if one else Outcome(error="crash", undecided=True) for one in found]

    def close(self) -> None:
        """Ends the workers; the sandbox may be used again."""
        self.pool.close()


def _directories() -> list[str]:
    """Where the packages are installed that programs may import."""
    specs = [importlib.util.find_spec(name) for name in PACKAGES if "." not in name]
    places = [place for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return list(dict.fromkeys(str(Path(place).parent) for place in places))


def _loader() -> dict[str, str]:
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
