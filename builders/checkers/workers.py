"""A pool of worker processes that answer one question at a time and can be killed while they do.

A worker is a program that writes a JSON line when it is ready, then one for each JSON line that it reads. A worker that
dies, or that answers nothing within its wall-clock limit, is replaced, and its question stays unanswered (None).
Workers are programs of their own, not forks: the parent may hold threads, a GPU or a database.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

START_S = 120.0
PER_WORKER = 64
"""Questions that are worth another worker: starting one costs as much as a hundred."""
WALL_PER_CPU = 10.0
"""A worker limits its own CPU time; on a busy machine that may take this many times as long."""


def worker_count() -> int:
    """`$PAIRWRIGHT_WORKERS`, else the cores that this process may use.

    Raises ValueError if the variable is no positive number.
    """
    configured = os.environ.get("PAIRWRIGHT_WORKERS")
    if configured is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not configured.isdigit() or int(configured) < 1:
        raise ValueError(f"PAIRWRIGHT_WORKERS is {configured!r}: give the number of worker processes, 1 or more")
    return int(configured)


class Start(NamedTuple):
    """How a worker is started: flags of Python, the program's arguments, its environment (None: this process's)."""

    flags: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] | None = None


class _Worker:
    """One process; `task` is the number of the question that it works on."""

    def __init__(self, program: Path, timeout_s: float, errors: IO[bytes], start: "Start"):
        # -P: the program's directory must not become a place to import from
        command = [sys.executable, "-P", *start.flags, str(program), str(timeout_s), *start.arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0, process_group=0,
            env=start.environment,
        )  # fmt: skip
        self.wall_s, self.buffer, self.ready = timeout_s * WALL_PER_CPU, b"", False
        self.task: int | None = None
        self.deadline = time.monotonic() + START_S

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def ask(self, task: int, question: object) -> bool:
        """Sends a question; False if the worker has died."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
        except OSError:
            return False
        self.task, self.deadline = task, time.monotonic() + self.wall_s
        return True

    def answer(self) -> list[Any] | None:
        """[the answer] once its line is complete, [] before, None if the worker has died."""
        data = os.read(self.output.fileno(), 65_536)
        self.buffer += data
        if not data:
            return None
        line, newline, rest = self.buffer.partition(b"\n")
        self.buffer = rest if newline else self.buffer
        return [json.loads(line)] if newline else []

    def kill(self) -> None:
        """Ends the process and whatever it has started: they are one group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class WorkerPool:
    """Up to `workers` processes of `program`, started when they are first needed. `timeout_s` is CPU time."""

    def __init__(self, program: Path, workers: int | None, timeout_s: float, start: Start = Start()):  # noqa: B008
        self.start = start
        self.program, self.size, self.timeout_s = program, workers or worker_count(), timeout_s
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.errors: IO[bytes] | None = None
        self.failed_starts = 0

    def run(self, questions: Sequence[Any], advance: Callable[[int], None]) -> list[Any]:
        """The answers in order; None where a worker died or took too long. `advance` hears of each one settled."""
        answers: list[Any] = [None] * len(questions)
        waiting = list(range(len(questions)))[::-1]
        left = len(questions)
        while left:
            self._start(min(self.size, 1 + left // PER_WORKER))
            self._assign(waiting, questions)
            for task, answer in self._settled():
                answers[task], left = answer, left - 1
                advance(1)
        return answers

    def _start(self, count: int) -> None:
        if self.errors is None:
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the workers
        while len(self.workers) < count:
            worker = _Worker(self.program, self.timeout_s, self.errors, self.start)
            self.workers.append(worker)
            self.selector.register(worker.output, selectors.EVENT_READ, worker)

    def _assign(self, waiting: list[int], questions: Sequence[Any]) -> None:
        for worker in [w for w in self.workers if w.ready and w.task is None]:
            if waiting and not worker.ask(waiting[-1], questions[waiting[-1]]):
                self._discard(worker)  # it died idle: the next one takes the question
            elif waiting:
                waiting.pop()

    def _settled(self) -> Iterator[tuple[int, Any]]:
        """(question, answer) of whoever answers, dies or runs out of time next."""
        soonest = min((w.deadline for w in self.workers if w.task is not None or not w.ready), default=0.0)
        for key, _ in self.selector.select(max(soonest - time.monotonic(), 0.0)):
            worker = key.data
            answer = worker.answer()
            if answer is None:
                yield from self._discard(worker)
            elif answer and not worker.ready:
                worker.ready, self.failed_starts = True, 0
            elif answer:
                assert worker.task is not None, "a worker answered unasked"
                task, worker.task = worker.task, None
                yield task, answer[0]
        now = time.monotonic()
        for worker in [w for w in self.workers if (w.task is not None or not w.ready) and w.deadline <= now]:
            yield from self._discard(worker)

    def _discard(self, worker: _Worker) -> list[tuple[int, None]]:
        self.workers.remove(worker)
        self.selector.unregister(worker.output)
        worker.kill()
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= 3:
                raise OSError(f"{self.program.name} does not start: {self._last_error()}")
        return [(worker.task, None)] if worker.task is not None else []

    def _last_error(self) -> str:
        assert self.errors is not None
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a message"

    def close(self) -> None:
        """Ends all workers; the pool may be used again."""
        for worker in self.workers:
            self.selector.unregister(worker.output)
            worker.kill()
        self.workers = []
        if self.errors is not None:
            self.errors.close()
            self.errors = None
