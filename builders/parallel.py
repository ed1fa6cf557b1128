"""A stage's Python work on all cores: one function over parts of its scope, results in order."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from builders.checkers.workers import worker_count
from stores.buckets import divided
from stores.stage import Stage

MIN_ROWS = 50_000
"""With fewer, starting processes takes longer than the work."""
T = TypeVar("T")
ROWS_AT_ONCE = 100_000
"""Of one call: as many as a row group has at most, since whole row groups are read."""


def by_range(function: Callable[[Stage], Iterator[T]], stage: Stage, rows: int) -> Iterator[T]:
    """`function(stage)`, computed in `$PAIRWRIGHT_WORKERS` processes where `rows` make it worth their start.

    The result is the same whatever their number: each call gets the stage in a narrower scope, and they are put
    together in order. Only a few parts are ahead of the one that is taken, so memory is bounded.

    Raises OSError if a process dies.
    """
    workers = min(worker_count(), max(rows // MIN_ROWS, 1))
    if workers == 1:
        yield from function(stage)
        return
    context = multiprocessing.get_context("spawn")  # forks would inherit threads and locks
    with ProcessPoolExecutor(workers, context, _begin) as pool:
        waiting: deque[Future[list[T]]] = deque()
        for part in divided(stage.scope, max(rows // ROWS_AT_ONCE, 4 * workers)):
            waiting.append(pool.submit(_listed, function, stage.narrowed(part, [])))
            if len(waiting) > 2 * workers:
                yield from _result(waiting.popleft())
        while waiting:
            yield from _result(waiting.popleft())


def _listed(function: Callable[[Stage], Iterator[T]], stage: Stage) -> list[T]:
    return list(function(stage))


def _result(future: "Future[list[T]]") -> list[T]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise OSError("a worker process died; with too little memory, lower PAIRWRIGHT_WORKERS") from None


def _begin() -> None:
    """What a worker starts itself (checkers run programs in processes) must not be as many again."""
    os.environ["PAIRWRIGHT_WORKERS"] = "1"
    _end_with_parent()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
