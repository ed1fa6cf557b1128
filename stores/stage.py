"""The driver of every stage: `python -m builders.<section> <run>` (`report` has no runs, and takes no argument).

It reads params, hands the run to the stage's function, and moves the tables that it wrote into place together, at the
end. A failed or killed stage leaves nothing half-written; of two processes that build one run, the second is refused.
A user's mistake is one line and exit code 1; a stage that stops early (budget spent, batch pending) writes no table
and exits 75.

A stage whose function is `partitioned` can also be built one bucket of problems at a time, by as many commands as one
likes: `python -m builders.<section> <run> --bucket 3/16`. They leave pieces, which the plain command joins (and
completes, where buckets are missing) to the bytes that it would have written without them.
"""

import contextlib
import copy
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import TABLES, Reject, Row
from schemas.params import STAGES, Params, load_params
from stores.buckets import WHOLE, Bucket, Range, Scope, parse_bucket, uncovered
from stores.parquet import Batches, count_rows, read_table, rows_to_table, scan_table, write_table
from stores.paths import DATA, rejects_dir, run_dir
from stores.pieces import REJECTS, Piece, Pieces, add_cost, cost_of, hashed_columns, scan_piece, write_pieces
from stores.run_log import RunCost, RunLog, timed
from stores.spool import RejectSpool
from stores.stage_parser import stage_parser
from stores.staging import locked, replace_directory

EXIT_STOPPED_EARLY = 75

Finish = Callable[[Iterator[pa.Table], int], Iterator[pa.Table]]
"""What decides about a whole run's rows, such as a cap: gets all of them and their number, returns those to write."""


class StopEarly(Exception):
    """The stage cannot finish now and nothing is wrong; its message says how to continue."""


class Stage:
    """One execution of one run of a stage: its configuration, its inputs and its outputs.

    `config` is the run's row of params (an instance of the section's class); `name` is its key. A section without
    runs, `report`, is its own row and key; it drops no candidates, so it has no rejects. `scope` is what part of the
    run is being built: inputs are read, and rows are expected, of its problems alone.
    """

    def __init__(
        self,
        section: str,
        name: str,
        root: Path = Path(),
        params: Params | None = None,
        bucket: Bucket | None = None,
    ):
        self.section, self.name, self.root, self.bucket = section, name, root, bucket
        self.params = params or load_params(root / "params.yaml")
        runs = getattr(self.params, section) if section in STAGES else {section: getattr(self.params, section)}
        if name not in runs:
            known = ", ".join(f"'{n}'" for n in sorted(runs)) or "none"
            raise ValueError(f"no run '{name}' under '{section}' in params.yaml (have {known})")
        self.config: Any = runs[name]
        self.cost = RunCost(str(root.resolve()), section, name)
        self.pieces = Pieces(section, name, self.params, root)
        self.finish: Finish | None = None
        self._run_staging = root / DATA / ".staging" / f"{section}-{name}"
        self._staging = self._run_staging.with_name(f"{section}-{name}-{bucket.name}") if bucket else self._run_staging
        self.scope: Scope = (bucket.range,) if bucket else WHOLE
        self._targets: list[tuple[Range, Path]] = [(bucket.range, self._staging)] if bucket else []
        self._outputs: list[tuple[Path, Path]] = []
        self._spool = RejectSpool(self.scratch / "rejects")
        self._after: list[Callable[[], None]] = []

    @property
    def scratch(self) -> Path:
        """A directory for what a stage need not hold in memory; it goes when the stage ends."""
        return self._staging / ".scratch"

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds what this run (or its bucket) stages, which is empty at first and removed at the end.

        The operating system releases it when the holder ends, however it ends. Buckets of one run can be built at
        once. Raises ValueError if another process builds the same, or the whole while this is a bucket, or the other
        way around.
        """
        self._staging.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            whole = self._run_staging.with_suffix(".lock")
            buckets = "other processes build buckets of this run here"
            stack.enter_context(locked(whole, "builds this run here", self.bucket is not None, buckets))
            if self.bucket is not None:
                one = self._staging.with_suffix(".lock")
                stack.enter_context(locked(one, f"builds bucket {self.bucket} of this run here"))
            else:
                self._forget_buckets()
            self.discard()
            try:
                yield
            finally:
                self.discard()

    def _forget_buckets(self) -> None:
        """Removes what killed buckets have staged, and their locks, which nobody can hold beside the whole run."""
        for left in self._staging.parent.glob(f"{self._staging.name}-*-of-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def dir(self, table: str, run: str) -> Path:
        """Directory of an input run.

        Raises ValueError if it is not there.
        """
        path = run_dir(table, run, self.root)
        if not path.is_dir():
            raise ValueError(f"{path}: not there; build it with `dvc repro`, or restore it with `dvc checkout {path}`")
        return path

    def read(self, table: str, run: str, columns: Sequence[str] | None = None, whole: bool = False) -> pa.Table:
        """A run of a table in memory: its rows in the scope, or the `whole` of it."""
        return read_table(self.dir(table, run), TABLES[table], columns, WHOLE if whole else self.scope)

    def scan(
        self, table: str, run: str, columns: Sequence[str] | None = None, whole: bool = False
    ) -> Iterable[pa.Table]:
        """A run of a table in batches, in the order of its key: its rows in the scope, or the `whole` of it."""
        scope = WHOLE if whole else self.scope
        return scan_table(self.dir(table, run), TABLES[table], columns, scope=scope)

    def rows(self, table: str, run: str, whole: bool = False) -> int:
        """The number of rows of a run in the scope, or of the `whole` of it (from the footers of its files)."""
        if whole or self.scope == WHOLE:
            return count_rows(self.dir(table, run), TABLES[table])
        return sum(len(batch) for batch in self.scan(table, run, [TABLES[table].key[0]]))

    def write(self, row_class: type[Row], batches: Batches, digest: Sequence[str] = ()) -> int:
        """Stages this run's part of a table; `batches` come in the order of the key. Returns the number of rows."""
        if self._targets:
            for _, directory in self._targets:
                directory.mkdir(parents=True, exist_ok=True)
            return write_pieces(self._targets, row_class, batches, digest)
        if self.finish is None:
            return self._put(row_class, batches, digest)
        self.scratch.mkdir(parents=True, exist_ok=True)
        everything = Piece(WHOLE[0], self.scratch, {})
        total = write_pieces([(everything.range, everything.directory)], row_class, batches, digest)
        return self._put(row_class, self.finish(scan_piece(everything, row_class.table), total), digest)

    def _put(self, row_class: type[Row], batches: Batches, digest: Sequence[str]) -> int:
        final = run_dir(row_class.table, self.name, self.root)
        return write_table(self.stage_dir(final), row_class, batches, digest)

    def write_rows(self, row_class: type[Row], rows: Iterable[Row]) -> int:
        """`write` for a small table, from row objects in any order."""
        return self.write(row_class, [rows_to_table(row_class, rows)])

    def reject(self, rejects: Iterable[Reject] | pa.Table) -> None:
        """Keeps dropped candidates; they are written when the stage ends."""
        self._spool.add(rejects if isinstance(rejects, pa.Table) else rows_to_table(Reject, rejects))

    def narrowed(self, scope: Scope, targets: list[tuple[Range, Path]]) -> "Stage":
        """This execution in a smaller scope, which writes pieces: to every range's directory what lies in it."""
        narrow = copy.copy(self)
        narrow.scope, narrow._targets = scope, targets
        return narrow

    def join(self, pieces: Sequence[Piece]) -> None:
        """Writes the run's tables and rejects from its pieces, which are in order and cover everything."""
        for row_class in (TABLES[table] for table in STAGES[self.section].writes):
            batches = chain.from_iterable(scan_piece(piece, row_class.table) for piece in pieces)
            if self.finish is not None:
                total = sum(len(b) for piece in pieces for b in scan_piece(piece, row_class.table))
                batches = self.finish(batches, total)
            self._put(row_class, batches, hashed_columns(pieces[0], row_class))
        for piece in pieces:
            for batch in scan_piece(piece, REJECTS) if piece.cost else ():
                self.reject(batch)
            add_cost(self.cost, piece)

    def stage_dir(self, final: Path) -> Path:
        """A directory to fill, which takes the place of `final` when the stage ends."""
        staged = self._staging / final.relative_to(self.root / DATA)
        staged.mkdir(parents=True, exist_ok=True)
        self._outputs.append((staged, final))
        return staged

    def commit(self) -> None:
        """Moves all outputs into place."""
        if self.section in STAGES and STAGES[self.section].rejects:
            write_table(self.stage_dir(rejects_dir(self.section, self.name, self.root)), Reject, self._spool.sorted())
        for staged, final in self._outputs:
            replace_directory(staged, final)
        self.discard()
        for action in self._after:
            action()

    def commit_piece(self) -> None:
        """Moves this bucket's piece into place, with the record of what decided it."""
        assert self.bucket is not None, "only a bucket is a piece"
        write_pieces(self._targets, Reject, self._spool.unsorted())
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.pieces.write_record(self._staging, cost_of(self.cost))
        replace_directory(self._staging, self.pieces.path(self.bucket))

    def after_commit(self, action: Callable[[], None]) -> None:
        """Something to do when all outputs are in place, such as removing the checkpoints that led to them."""
        self._after.append(action)

    def discard(self) -> None:
        """Removes what was staged."""
        shutil.rmtree(self._staging, ignore_errors=True)


class Partitioned:
    """A stage's function whose rows of a problem depend on that problem's inputs alone, so that it works in any scope.

    `finish`, given the stage, returns what decides about the whole run's rows, or None.
    """

    def __init__(self, build: Callable[[Stage], None], finish: Callable[[Stage], Finish | None] | None = None):
        self.build, self.finish, self.__doc__ = build, finish, build.__doc__

    def __call__(self, stage: Stage) -> None:
        """Builds the stage's bucket; or the whole run, from its valid pieces if it has any."""
        stage.finish = self.finish(stage) if self.finish else None
        pieces = [] if stage.bucket else stage.pieces.valid()
        if not stage.bucket:
            stage.after_commit(stage.pieces.remove)
        if not pieces:
            self.build(stage)
            return
        targets = [(part, stage.scratch / "{}-{}".format(*part)) for part in uncovered(p.range for p in pieces)]
        rest = "and builds the rest" if targets else "which are all"
        print(f"{stage.section}.{stage.name}: joins {len(pieces)} pieces, {rest}", file=sys.stderr)
        if targets:
            self.build(stage.narrowed(tuple(part for part, _ in targets), targets))
        stage.join(sorted([*pieces, *(Piece(part, directory, {}) for part, directory in targets)]))


def partitioned(finish: Callable[[Stage], Finish | None] | None = None) -> Callable[..., Partitioned]:
    """Decorates the function of a stage that can be built by bucket."""
    return partial(Partitioned, finish=finish)


Estimate = Callable[[Stage, int], str]
"""Says what a run will cost, after a pilot of so many answers."""


def run_stage(
    section: str,
    build: Callable[[Stage], None],
    argv: Sequence[str] | None = None,
    estimate: Estimate | None = None,
) -> None:
    """The `main` of a stage module: runs `build` for the run named on the command line, then exits the process.

    With `--estimate`, where there is such a function, it prints what that says, and writes no table.
    """
    parser = stage_parser(section, isinstance(build, Partitioned), estimate is not None)
    arguments = parser.parse_args(argv)
    name = getattr(arguments, "run", section)
    with errors_as_exits(section, name):
        buckets = [parse_bucket(text) for text in getattr(arguments, "bucket", ())]
        if len(buckets) > 1:
            raise ValueError(f"--bucket: one command builds one bucket, not {' and '.join(map(str, buckets))}")
        bucket = buckets[0] if buckets else None
        pilot = getattr(arguments, "estimate", None)
        if estimate is not None and pilot is not None:
            print(estimate(Stage(section, name, bucket=bucket), pilot))
            return
        execute(section, name, build, bucket=bucket)


@contextlib.contextmanager
def errors_as_exits(section: str, name: str) -> Iterator[None]:
    """Ends the process with one line and a code where the block stops early or finds a mistake of the user."""
    place = f"{section}.{name}" if section in STAGES else section
    try:
        yield
    except StopEarly as stop:
        print(f"{place}: {stop}", file=sys.stderr)
        sys.exit(EXIT_STOPPED_EARLY)
    except (ValueError, OSError) as error:
        print(f"{place}: {error}", file=sys.stderr)
        sys.exit(1)


def execute(
    section: str, name: str, build: Callable[[Stage], None], root: Path = Path(), bucket: Bucket | None = None
) -> None:
    """Runs one stage in this process, as its module's `main` does, with errors raised.

    A `bucket` leaves a piece, or nothing where a valid one is there; its cost is counted when the whole run joins it.
    """
    stage = Stage(section, name, root, bucket=bucket)
    with stage.exclusive():
        if bucket is not None:
            _build_piece(stage, build)
            return
        with RunLog().measure(section, name) as cost:
            stage.cost = cost
            build(stage)
            stage.commit()


def _build_piece(stage: Stage, build: Callable[[Stage], None]) -> None:
    assert isinstance(build, Partitioned), "only a partitioned stage has buckets"
    assert stage.bucket is not None, "a piece is a bucket"
    stage.pieces.decided  # noqa: B018 - before anything is read: what changes from now on makes the piece stale
    if stage.pieces.find(stage.bucket) is not None:
        print(f"{stage.section}.{stage.name}: piece {stage.bucket} is there already", file=sys.stderr)
        return
    with timed(stage.cost):
        build(stage)
    stage.commit_piece()
