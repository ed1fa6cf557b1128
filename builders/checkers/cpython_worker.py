"""A worker process of `program_cpython`: reads [program, result expression] as JSON lines, answers with outcomes.

    python -P -s -S cpython_worker.py SECONDS REPOSITORY [PACKAGES' DIRECTORY]

It loads what programs may import, shuts itself in (`isolation`), proves that it is, and then forks a process for each
program, which gets limits of its own and a filter of system calls (`seccomp`). What a program does there ends with it.
Only text comes back, as JSON; nothing is unpickled. Standard library alone: no installed package is in sight but those
that are loaded.
"""

import contextlib
import fcntl
import gc
import importlib
import io
import json
import math
import os
import resource
import select
import signal
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

PACKAGES = ("sympy", "mpmath", "numpy", "numpy.linalg", "numpy.random")
"""What programs may import beside the standard library, where it is installed."""
_LOADED = (
    "array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "heapq", "itertools", "numbers", "operator", "random", "re", "socket", "statistics",
    "string", "textwrap", "threading", "typing",
)  # fmt: skip
MEMORY = 256 << 20
"""Bytes of address space that a program may take, beyond what the worker has."""
WALL_PER_CPU = 8.0
"""Times the limit of CPU time that a program may take by the clock: less than what the pool waits for a worker."""
PRINTED = 10_000
MAX_VALUE = 400
MAX_ERROR = 2_000
MAX_REPLY = 1 << 17
"""Bytes; what a program prints and returns is cut before."""
EPOCH = 946_684_800.0
_REPLY_TO = 3
"""File descriptor of a program's reply; 0 to 2 are empty."""
_LACKING = ("can't start new thread", "urandom")

Outcome = list[Any]
"""[value, kind, printed, error, undecided], as `sandbox.Outcome`."""


class _Printed(io.StringIO):
    def write(self, text: str) -> int:
        if self.tell() + len(text) > PRINTED:
            raise _TooMuch
        return super().write(text)


class _TooMuch(BaseException):
    """No `except Exception` of a program shall catch it."""


class _Worker:
    """Forks the processes of programs, one at a time."""

    def __init__(self, time_s: float):
        from builders.checkers.seccomp import Filter

        self.time_s, self.filter = time_s, Filter()
        self.nothing = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, 64)  # out of the replies' way
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        self.memory = pages * resource.getpagesize() + MEMORY

    def run(self, program: str, result: str) -> Outcome:
        """The outcome of one program."""
        source, target = os.pipe()
        child = os.fork()
        if child == 0:
            self._child(program, result, target)
        os.close(target)
        watched = os.pidfd_open(child)
        try:
            reply, reason = _reply(source, watched, time.monotonic() + self.time_s * WALL_PER_CPU)
        finally:
            os.kill(child, signal.SIGKILL)  # still ours to wait for, so it is no other process
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.close(watched)
            os.close(source)
        return _outcome(reply, status, reason)

    def _child(self, program: str, result: str, target: int) -> None:
        """Never returns: whatever happens, the process ends here."""
        try:
            self._confine(target)
            reply = json.dumps(_execute(program, result)).encode()
            while reply:
                reply = reply[os.write(_REPLY_TO, reply) :]
        finally:
            os._exit(0)

    def _confine(self, target: int) -> None:
        for descriptor in (0, 1, 2):
            os.dup2(self.nothing, descriptor)
        os.dup2(target, _REPLY_TO)
        os.closerange(_REPLY_TO + 1, 1024)
        seconds = math.ceil(self.time_s) + 1
        limits = {
            resource.RLIMIT_AS: self.memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: 32, resource.RLIMIT_NPROC: 0,
        }  # fmt: skip
        for limit, value in limits.items():
            resource.setrlimit(limit, (value, value))
        os.environ.clear()
        signal.setitimer(signal.ITIMER_PROF, self.time_s)
        self.filter.apply()


def _reply(source: int, watched: int, deadline: float) -> tuple[bytes, str | None]:
    """What a program's process writes until it ends; and why it is not waited for any longer."""
    reply, sources = b"", [source, watched]
    while sources:
        ready, _, _ = select.select(sources, (), (), max(deadline - time.monotonic(), 0.0))
        if not ready:
            return reply, "limit of time"
        if source in ready:
            piece = os.read(source, 65_536)
            reply += piece
            if len(reply) > MAX_REPLY:
                return reply, "limit of output"
            if piece:
                continue
        sources.remove(source if source in ready else watched)
    return reply, None


def _outcome(reply: bytes, status: int, reason: str | None) -> Outcome:
    """The reply is a program's own word: it is read with care."""
    by_signal = {signal.SIGPROF: "limit of time", signal.SIGXCPU: "limit of time", signal.SIGKILL: "killed"}
    if reason is None and status < 0:
        reason = by_signal.get(signal.Signals(-status), "crash")
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(reply)
        if reason is None and isinstance(found, list) and [type(v) for v in found] in _SHAPES:
            *texts, undecided = found
            limits = (MAX_VALUE, MAX_VALUE, PRINTED, MAX_ERROR)
            return [*(text and _storable(text[:n]) for text, n in zip(texts, limits, strict=True)), undecided]
    return [None, "NoneType", "", reason or "crash", True]


def _storable(text: str) -> str:
    """Without halves of surrogate pairs, which no table takes."""
    return text.encode(errors="replace").decode()


_SHAPES = [[value, str, str, error, bool] for value in (str, type(None)) for error in (str, type(None))]


def _execute(program: str, result: str) -> Outcome:
    """Runs a program here: its value, or what ended it."""
    names = {"__name__": "__main__"} | {name: sys.modules[name] for name in ("math", "sympy") if name in sys.modules}
    stated, kind, described = str, type, _described
    sys.stdout = sys.stderr = printed = _Printed()
    try:
        for module in ("random", "numpy.random"):
            if module in sys.modules:
                sys.modules[module].seed(0)
        exec(compile(program, "<program>", "exec", dont_inherit=True), names)
        value = eval(result, names)
        return [stated(value)[:MAX_VALUE], kind(value).__name__, printed.getvalue(), None, False]
    except BaseException as error:  # a program may raise anything
        return described(error)


def _described(error: BaseException) -> Outcome:
    """The error as text, and whether it is for want of something that a program outside of here would have."""
    kind = type(error).__name__
    try:
        text = str(error)[:MAX_VALUE]
    except BaseException:  # a program's own class of errors may fail at that
        text = ""
    said = f"{kind}: {text}"
    lacking = isinstance(error, OSError) or any(words in text for words in _LACKING)
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in sys.modules:
        said, lacking = f"no module {error.name}", True
    limit = "limit of digits" if "Exceeds the limit (" in text else None
    limit = "limit of output" if isinstance(error, _TooMuch) else limit
    limit = "limit of memory" if isinstance(error, MemoryError) else limit
    return [None, "NoneType", "", limit or said, bool(limit or lacking)]


def _load(packages: list[str]) -> tuple[list[str], list[str]]:
    """Loads what programs may import; returns the library's directories and the packages', where the rest is read."""
    paths = sysconfig.get_paths()
    for name in _LOADED:
        importlib.import_module(name)
    sys.path += packages
    found: dict[str, None] = {}
    for name in PACKAGES:
        with contextlib.suppress(ModuleNotFoundError):
            found |= dict.fromkeys(importlib.import_module(name).__path__)
    parts = [path for path in found if not any(path.startswith(other + "/") for other in found)]
    return sorted({paths["stdlib"], paths["platstdlib"]}), parts


def _warm_up() -> None:
    """Fills sympy's tables and loads what it loads late: each program would do it again, for ten times its own time."""
    if "sympy" in sys.modules:
        sympy = sys.modules["sympy"]
        x, y = sympy.symbols("x y")
        sympy.solve(sympy.Eq(2 * x + 1, 4), x)
        sympy.solve([x + y - 3, x - y - 1], [x, y])
        sympy.simplify((x**2 - 1) / (x - 1)).subs(x, sympy.Rational(1, 2)).evalf()


def _fix_clock() -> None:
    """A program comes to the same value whenever it runs, and does not wait."""
    import datetime

    class Date(datetime.date):
        today = classmethod(lambda cls: cls.fromtimestamp(EPOCH))

    class DateTime(datetime.datetime):
        now = classmethod(lambda cls, tz=None: cls.fromtimestamp(EPOCH, tz or datetime.UTC).replace(tzinfo=tz))
        today = utcnow = classmethod(lambda cls: cls.now())

    setattr(datetime, "date", Date)  # noqa: B010 - a module's class
    setattr(datetime, "datetime", DateTime)  # noqa: B010
    time.sleep = lambda seconds: None
    time.time = lambda: EPOCH


def main() -> None:
    """Serves until standard input ends."""
    sys.path.append(sys.argv[2])
    from builders.checkers.isolation import isolate
    from builders.checkers.proof import prove

    sys.path.pop()
    library, packages = _load(sys.argv[3:])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        worker = _Worker(float(sys.argv[1]))
        isolate(library, packages)
        prove(worker.run, [*library, *packages])
    except OSError as error:
        sys.exit(str(error))
    _warm_up()
    _fix_clock()
    gc.collect()
    gc.freeze()  # or every program's collection would copy the memory that is shared with it
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.run(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
