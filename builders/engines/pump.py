"""From requests that are read as they are needed to lists of answers, as they finish: an event loop inside a generator.

The loop runs only while the caller waits for the next list. While the caller commits one, nothing is sent; when it
closes the generator, or a commit fails, nothing is sent any more. An answer keeps its place among those in flight
until it is committed, so a kill loses no more answers than requests may be in flight.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from builders.engines.pool import CONTINUE
from builders.engines.transport import GaveUp, Transport
from stores.stage import StopEarly

K = TypeVar("K")
R = TypeVar("R")
Ask = Callable[[K], Coroutine[Any, Any, R | GaveUp]]
GIVE_UP_AFTER = 32
"""Requests in a row that used up their attempts, without an answer between them, after which no more are sent."""
DRAIN_S = 60.0
"""How long requests that are in flight may still be answered once no more are sent: they are paid for."""
FASTEST_S, SLOWEST_S = 0.005, 1.0


def answered(
    transport: Transport, requests: Iterable[K], ask: Ask[K, R], batch_size: int
) -> Generator[list[tuple[K, R]]]:
    """Lists of (request, answer), each at most `batch_size` long, and at least every second while there are any.

    Raises what `ask` raises, after the answers of what was in flight; at the end StopEarly, if requests used up their
    attempts.
    """
    with asyncio.Runner() as runner:
        pump = _Pump(transport, iter(requests), ask, batch_size)
        runner.run(transport.pool.open())
        try:
            while batch := runner.run(pump.next()):
                began = time.monotonic()
                yield batch
                pump.committed(time.monotonic() - began)
        finally:
            runner.run(pump.close())
    if pump.error is not None:
        raise pump.error
    if pump.gave_up:
        times = f"{transport.limits.attempts} times each, the last one: {pump.last_label}"
        raise StopEarly(f"{pump.gave_up} requests failed ({times}); {CONTINUE}")


class _Pump(Generic[K, R]):
    """The tasks of one stream, and what they have answered."""

    def __init__(
        self,
        transport: Transport,
        requests: Iterator[K],
        ask: Ask[K, R],
        batch_size: int,
    ):
        self.transport, self.pool, self.requests, self.ask = transport, transport.pool, requests, ask
        self.batch_size = batch_size
        self.tasks: dict[asyncio.Task, K] = {}
        self.finished: list[tuple[K, R]] = []
        self.error: BaseException | None = None
        self.gave_up, self.last_label, self._in_a_row = 0, "", 0
        self._every_s, self._due, self._read_all = FASTEST_S, 0.0, False

    async def next(self) -> list[tuple[K, R]]:
        """The next answers; none when all is answered, or will not be."""
        end: float | None = None
        while True:
            self._fill()
            now = time.monotonic()
            if self.finished and (now >= self._due or len(self.finished) >= self.batch_size or not self.tasks):
                batch, self.finished = self.finished[: self.batch_size], self.finished[self.batch_size :]
                return batch
            if self.pool.stop and end is None:
                end = now + DRAIN_S
            if not self.tasks or (end is not None and (not self.pool.in_flight or now >= end)):
                return self._last()
            await self.pool.change((self._due if self.finished else end or now + SLOWEST_S) - now)

    def _last(self) -> list[tuple[K, R]]:
        """What is there when no more are awaited."""
        for task in [task for task in self.tasks if task.done()]:  # released, but not yet called back
            self._done(task)
        self.error = self.error or self.pool.stop
        batch, self.finished = self.finished, []
        return batch

    def committed(self, seconds: float) -> None:
        """The last list took so long to commit: a fifth of the time goes into commits, at most."""
        self._every_s = min(max(4 * seconds, FASTEST_S), SLOWEST_S)
        self._due = time.monotonic() + self._every_s

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.pool.close()

    def _fill(self) -> None:
        """Starts as many requests as the servers take now; those that pause between attempts take no place."""
        width = self.pool.width
        while not self._read_all and not self.pool.stop:
            asking = len(self.tasks) - self.transport.paused + len(self.finished)
            if asking >= width or len(self.tasks) >= 10 * width + 100:
                return
            read = list(islice(self.requests, 1))
            if not read:
                self._read_all = True
                return
            task = asyncio.get_running_loop().create_task(self.ask(read[0]))
            self.tasks[task] = read[0]
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task) -> None:
        if task not in self.tasks:
            return
        request = self.tasks.pop(task)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self.error = self.error or error
            self.pool.halt(error)
        elif isinstance(answer := task.result(), GaveUp):
            self._failed(answer)
        else:
            self.finished.append((request, answer))
            self._in_a_row = 0
        self.pool.changed()

    def _failed(self, failure: GaveUp) -> None:
        self.gave_up, self.last_label, self._in_a_row = self.gave_up + 1, failure.label, self._in_a_row + 1
        if self._in_a_row >= GIVE_UP_AFTER:
            self.pool.halt(StopEarly(f"{self._in_a_row} requests in a row failed ({failure.label}); {CONTINUE}"))
