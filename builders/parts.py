"""Stages whose SQL holds what it joins, built some problems at a time: in bounded memory, and on all cores."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from builders.parallel import by_range
from schemas import Row
from stores.buckets import divided
from stores.progress import progress
from stores.stage import Stage

ROWS_AT_ONCE = 100_000
"""Rows of the inputs that one part reads, about: as many as a row group has at most."""

Input = tuple[str, str]
"""A table and a run of it."""


class Built(NamedTuple):
    """The rows of a part of a stage's scope, in order, and the candidates that it dropped."""

    rows: pa.Table
    rejects: pa.Table


def write_by_parts(
    stage: Stage,
    row_class: type[Row],
    build: Callable[[Stage], Built],
    inputs: Sequence[Input],
    digest: Sequence[str] = (),
) -> None:
    """Writes a run's table and rejects from `build(stage)` of narrower scopes, which are put together in order.

    `inputs` are what the stage's work grows with; `build` is a function of a module, for it runs in other processes.
    """
    total = sum(stage.rows(*of) for of in inputs)

    def rows() -> Iterator[pa.Table]:
        with progress(f"{stage.section} {stage.name}", total, "rows") as bar:
            for count, built in by_range(partial(_parts, build, inputs), stage, total):
                stage.reject(built.rejects)
                bar.advance(count)
                yield built.rows

    stage.write(row_class, rows(), digest)


def _parts(build: Callable[[Stage], Built], inputs: Sequence[Input], stage: Stage) -> Iterator[tuple[int, Built]]:
    """(rows read, what came of them) of every part of a scope."""
    total = sum(stage.rows(*of) for of in inputs)
    for scope in divided(stage.scope, max(-(-total // ROWS_AT_ONCE), 1)):
        part = stage.narrowed(scope, [])
        yield sum(part.rows(*of) for of in inputs), build(part)
