"""What runs in the cluster: the source of requests, and a replica that answers them with one of our engines."""

import asyncio
import logging
import os
import pickle
import queue
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from builders.engines import Engine, Request, load_engine
from builders.model_files import fingerprint
from schemas.sections import Sampling
from stores.ledger import Completion

if TYPE_CHECKING:
    import numpy as np


BEAT_S = 2.0
"""How often a replica says that it lives."""


class Source:
    """Blocks of requests, until each is answered. A Ray actor beside the driver.

    They have places in a queue, since a read task that Ray has to run again asks for the same places again. Ray starts
    a killed replica anew and repeats its tasks; where its node is gone too, that may wait for ever. So a block that a
    replica holds without a sign of life for `patience_s` seconds gets another place, and its first answer counts.
    """

    def __init__(self, patience_s: float):
        self.patience_s = patience_s
        self.blocks: dict[int, bytes] = {}
        self.queue: list[int] = []
        self.added = asyncio.Condition()
        self.attempts: Counter[int] = Counter()
        self.held: dict[int, tuple[str, float]] = {}
        """By whom, and since when."""
        self.heard: dict[str, float] = {}
        self.last_words = "is there memory for model and batch_size?"

    async def put(self, index: int, block: bytes) -> None:
        self.blocks[index] = block
        await self._queue([index])

    async def get(self, place: int) -> tuple[int, bytes]:
        """The block in a place, as soon as there is one: its number and requests, none if it is answered by now."""
        async with self.added:
            await self.added.wait_for(lambda: place < len(self.queue))
        return self.queue[place], self.blocks.get(self.queue[place], b"")

    async def begin(self, index: int, replica: str) -> tuple[int, str]:
        """How often replicas have begun this block, this time included, and what the last one that died had to say.

        0 if it is answered. Blocks begin in the order of their numbers; one before this that nobody holds was on its
        way to a replica that died.
        """
        now = monotonic()
        for earlier in [i for i in self.blocks if i < index]:
            self.held.setdefault(earlier, ("", now))
        if index not in self.blocks:
            return 0, ""
        self.held[index], self.heard[replica] = (replica, now), now
        self.attempts[index] += 1
        return self.attempts[index], self.last_words

    async def alive(self, replica: str) -> None:
        """A sign of life, which also finds out who has given none."""
        now = self.heard[replica] = monotonic()
        lost = [i for i, (holder, since) in self.held.items() if now - self._seen(holder, since) > self.patience_s]
        for index in lost:
            del self.held[index]
        await self._queue(lost)

    async def dying(self, last_words: str) -> None:
        self.last_words = last_words

    async def forget(self, index: int) -> None:
        """The block is answered."""
        for known in (self.blocks, self.attempts, self.held):
            known.pop(index, None)

    def _seen(self, holder: str, since: float) -> float:
        return max(since, self.heard.get(holder, since))

    async def _queue(self, indices: list[int]) -> None:
        async with self.added:
            self.queue += indices
            self.added.notify_all()


def read(source: Any) -> Iterator[pa.Table]:
    """The blocks of a source in their places, one row each: number, pickled requests. It does not end."""
    import ray

    for place in count():
        index, block = ray.get(source.get.remote(place))
        yield pa.table({"block": [index], "requests": [block]})


ATTEMPTS = 4
"""Replicas that may die with one block. Ray would go on for ever, with a model that is too large for its node too."""


class Work(NamedTuple):
    """What all replicas of a run share."""

    engine: str
    directory: str
    fingerprint: str
    precision: str
    sampling: Sampling
    batch_size: int
    environment: Mapping[str, str]
    """Settings of the driver's environment that engines read."""


class Replica:
    """One engine, which several calls feed at once: the requests of the next block join those that still run.

    A thread drives the engine, since `Engine.stream` pulls its requests; it starts a stream when something waits.
    """

    def __init__(self, work: Work, source: Any):
        os.environ.update(work.environment)
        self.work, self.source, self.reported_s = work, source, 0.0
        self.name = f"{socket.gethostname()}-{uuid.uuid4().hex}"
        self.lock = threading.Lock()
        self.waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self.answers: dict[str, Future[Completion]] = {}
        self.engine: Engine | None = None
        self.failed: Exception | None = None
        threading.Thread(target=self._serve, daemon=True).start()
        if source is not None:
            threading.Thread(target=self._beat, daemon=True).start()

    def __call__(self, batch: "dict[str, np.ndarray]") -> dict[str, list]:
        """Answers one block: pickled completions in the order of its requests, and the device seconds since the last.

        What goes wrong is an answer too (`error`): Ray would wrap it in a page of its own frames.
        """
        index, packed = int(batch["block"][0]), batch["requests"][0]
        requests: list[Request] = pickle.loads(packed) if packed else []
        attempt, last_words = self._tell("begin", index, self.name)
        try:
            answers, error = self._attempt(attempt, last_words, requests), ""
        except Exception as failed:
            answers, error = [], _line(failed)
        return {
            "block": [index],
            "answers": [pickle.dumps(answers)],
            "device_s": [self._device_s()],
            "attempt": [attempt],
            "error": [error],
        }

    def _tell(self, what: str, *values: object) -> Any:
        import ray

        return ray.get(getattr(self.source, what).remote(*values))

    def _beat(self) -> None:
        while True:
            self._tell("alive", self.name)
            sleep(BEAT_S)

    def _attempt(self, attempt: int, last_words: str, requests: Sequence[Request]) -> list[Completion]:
        if attempt > ATTEMPTS:
            raise ValueError(
                f"{ATTEMPTS} replicas died with the same {len(requests)} requests from {requests[0].key}: {last_words}"
            )
        return self.complete(requests) if attempt else []

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions of some requests, in their order. Raises whatever the engine raised."""
        with self.lock:
            if self.failed:
                raise self.failed
            new = [request for request in requests if request.key not in self.answers]  # it may have the block already
            futures = [self.answers.setdefault(request.key, Future()) for request in requests]
        for request in new:
            self.waiting.put(request)
        return [future.result() for future in futures]

    def _serve(self) -> None:
        try:
            self.engine = self._load()
            while True:
                self._drain(self.engine, self.waiting.get())
        except Exception as error:
            logging.getLogger(__name__).exception("a replica failed")
            if self.engine and isinstance(error, OSError):
                self._die(error)
            with self.lock:
                self.failed = error
                for future in self.answers.values():
                    future.set_exception(error)

    def _die(self, error: OSError) -> None:
        """Ends this process, so that Ray starts another: the engine's own died, and here nothing would start it."""
        self._tell("dying", _line(error))
        os._exit(1)

    def _load(self) -> Engine:
        work, directory = self.work, Path(self.work.directory)
        if not directory.is_dir():
            raise ValueError(f"no model directory {directory} there; put it where all nodes can read it")
        if (found := fingerprint(directory)) != work.fingerprint:
            raise ValueError(f"{directory} is another model there ({found}, not {work.fingerprint}); copy it anew")
        return load_engine(work.engine, directory, work.precision)

    def _drain(self, engine: Engine, first: Request) -> None:
        for finished in engine.stream(_Arriving(first, self.waiting), self.work.sampling, self.work.batch_size):
            for request, completion in finished:
                with self.lock:
                    future = self.answers.pop(request.key)
                future.set_result(completion)

    def _device_s(self) -> float:
        with self.lock:
            total = self.engine.device_s if self.engine else 0.0
            new, self.reported_s = total - self.reported_s, total
        return new


class _Arriving:
    """What waits: an iterator that ends when nothing does, and goes on if it is asked again when something does.

    So an engine that asks while it computes is never drained between blocks.
    """

    def __init__(self, first: Request, waiting: queue.SimpleQueue[Request]):
        self.first, self.waiting = [first], waiting

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        try:
            return self.first.pop() if self.first else self.waiting.get_nowait()
        except queue.Empty:
            raise StopIteration from None


def _line(error: Exception) -> str:
    """An error and its node as one line; a user's mistake without the name of its class."""
    text = " ".join(str(error).split()) or repr(error)
    named = text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"
    return f"replica on {socket.gethostname()}: {named}"
