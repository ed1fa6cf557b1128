"""Runs a program that a model wrote, in a worker process of pydantic-monty, and says what it came to.

Monty is an interpreter of its own for a part of Python: it has no files, network, processes or environment to give
away, and it runs in a process that is killed when it does not end by itself. Only text comes back from there. Clock
and random numbers are fixed, so that a program comes to the same value every time.
"""

import builtins
import datetime
import importlib.metadata
import re
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, cast

from builders.checkers.workers import worker_count

TIME_S = 2.0
"""Seconds that a program may run; half as much again and its worker is killed."""
MEMORY = 64 << 20
"""Bytes of heap."""
RECURSION = 1_000
PRINTED = 10_000
"""Bytes that a program may print."""
MAX_VALUE = 400
"""A longer value is cut there; it equals nothing any more."""
MAX_ERROR = 2_000
RECYCLE = 10_000
"""Programs after which a worker is replaced."""

_PRELUDE = "import math\n_pairwright_str, _pairwright_type = str, type\n"
"""ReFT's programs may use `math` unasked; a program may call its own variables `str` or `type`."""
_RESULT = (
    "\n_pairwright_value = ({})\n[_pairwright_type(_pairwright_value).__name__, _pairwright_str(_pairwright_value)]"
)
_MISSING_NAME = re.compile(r"name '(\w+)' is not defined")
_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")
_MISSING_METHOD = re.compile(r"'(\w+)' object has no attribute '(\w+)'")
_LIMITS = {
    "feed time limit exceeded": "limit of time",
    "memory limit exceeded": "limit of memory",
    "Exceeds the limit (": "limit of digits",
}
"""What Monty says -> what we say: the same words every time, since they are stored."""
_LACKING = (
    "NotImplementedError: The monty", "NotImplementedError: Wildcard", "ModuleNotFoundError", "ImportError",
    "AttributeError: module",
)  # fmt: skip
_FORBIDDEN = "PermissionError"
PER_WORKER = 32
"""Programs that are worth another worker."""


class Outcome(NamedTuple):
    """What a program came to: its value as text and the name of its type, or the `error` that ended it.

    `undecided` says that the sandbox is why: it lacks what the program needs (`lacking`: a part of Python that another
    sandbox may have), forbids it, or ended it at a limit.
    """

    value: str | None = None
    kind: str = "NoneType"
    printed: str = ""
    error: str | None = None
    undecided: bool = False
    lacking: bool = False


class Sandbox:
    """Runs programs, each in a fresh session. The workers start with the first programs and end with `close`.

    There are `workers` of them at most (None: as `$PAIRWRIGHT_WORKERS` has it); what comes out is the same for any.
    """

    version = f"pydantic-monty {importlib.metadata.version('pydantic-monty')}"

    def __init__(self, time_s: float = TIME_S, workers: int | None = None):
        self.time_s, self.workers = time_s, workers or worker_count()
        self.pool: Any = None
        self.closing: weakref.finalize | None = None

    def run(self, program: str, result: str = "None") -> Outcome:
        """The value of the expression `result` after `program`.

        Imports of modules that the sandbox lacks are left out, since many programs never use what they import; one
        that does is undecided.
        """
        dropped: dict[str, str] = {}
        missing: set[str] = set()
        while True:
            outcome = self._feed(_PRELUDE + program + _RESULT.format(result))
            module = _MISSING_MODULE.search(outcome.error or "")
            if module is None or module[1] in missing:
                return _blamed(outcome, dropped)
            missing.add(module[1])
            program = _without(module[1], program, dropped)

    def run_all(self, programs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """The outcome of each (program, expression of its result), in order, on as many workers as pay."""
        lanes = min(self.workers, 1 + len(programs) // PER_WORKER)
        if lanes == 1:
            return [self.run(*program) for program in programs]
        self._open()
        outcomes: list[Outcome] = [Outcome()] * len(programs)
        todo = deque(range(len(programs)))

        def work() -> None:
            while True:
                try:
                    index = todo.popleft()
                except IndexError:
                    return
                outcomes[index] = self.run(*programs[index])

        with ThreadPoolExecutor(lanes) as threads:  # they wait for their workers, which do the work
            try:
                for lane in [threads.submit(work) for _ in range(lanes)]:
                    lane.result()
            finally:
                todo.clear()
        return outcomes

    def _feed(self, source: str) -> Outcome:
        """Everything that Monty raises is an outcome: the program's own mistake, or a limit."""
        from pydantic_monty import CollectString, MontyCrashedError, MontyError

        printed = CollectString(max_bytes=PRINTED)
        try:
            with self._session() as session:
                kind, value = session.feed_run(source, print_callback=printed)
        except MontyCrashedError as error:
            return Outcome(error="limit of time" if error.timed_out else "crash", undecided=True)
        except MontyError as error:
            return Outcome(error=f"{type(error.exception()).__name__}: {error.exception()}"[:MAX_ERROR])
        return Outcome(str(value)[:MAX_VALUE], str(kind), printed.output)  # a program may replace what makes them texts

    def _open(self) -> Any:
        if self.pool is None:
            from pydantic_monty import Monty

            self.pool = Monty(max_processes=self.workers, max_checkouts_per_worker=RECYCLE).__enter__()
            # a checker that nobody leaves must not leave its workers behind
            self.closing = weakref.finalize(self, self.pool.__exit__, None, None, None)
        return self.pool

    def _session(self) -> Any:
        limits = {"max_feed_duration_secs": self.time_s, "max_memory": MEMORY, "max_recursion_depth": RECURSION}
        clock = {"datetime": datetime.datetime(2000, 1, 1), "sleep": "zero", "random_start": {"seed": 0}}
        return self._open().checkout(limits=limits, os_policy=cast(Any, clock))

    def close(self) -> None:
        """Ends the workers; the sandbox may be used again."""
        if self.closing is not None:
            self.closing()
        self.pool = self.closing = None


def _without(module: str, program: str, dropped: dict[str, str]) -> str:
    """`program` without its imports of a module; `dropped` gets the names that these would have bound."""

    def leave_out(found: re.Match[str]) -> str:
        names = (found[3] or found[2] or module.partition(".")[0]).split(",")
        dropped.update((name.split()[-1], module) for name in names if name.strip())
        return found[1] + "pass"

    return _import_of(module).sub(leave_out, program)


@cache
def _import_of(module: str) -> re.Pattern[str]:
    name = re.escape(module)
    return re.compile(
        rf"^([ \t]*)(?:import[ \t]+{name}(?:[ \t]+as[ \t]+(\w+))?|from[ \t]+{name}[ \t]+import[ \t]+([^#\n(]+))"
        r"[ \t]*(?=#|$)",
        re.MULTILINE,
    )


def _blamed(outcome: Outcome, dropped: dict[str, str]) -> Outcome:
    """The outcome, `undecided` if its error is the sandbox's and CPython might have known better."""
    error = outcome.error
    if error is None or outcome.undecided:
        return outcome
    limit = next((said for words, said in _LIMITS.items() if words in error), None)
    name, method = _MISSING_NAME.search(error), _MISSING_METHOD.search(error)
    if limit:
        return outcome._replace(error=limit, undecided=True)
    if name and name[1] in (*dropped, "sympy"):
        return outcome._replace(error=f"no module {dropped.get(name[1], name[1])}", undecided=True, lacking=True)
    lacking = (
        error.startswith(_LACKING)
        or (name and hasattr(builtins, name[1]))
        or (method and hasattr(getattr(builtins, method[1], None), method[2]))
    )
    return outcome._replace(undecided=bool(lacking) or error.startswith(_FORBIDDEN), lacking=bool(lacking))
