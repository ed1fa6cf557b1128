"""The driver of every stage: `python -m builders.<section> <run>` (`report` has no runs, and takes no argument).

It reads params, hands the run to the stage's function, and moves the tables that it wrote into place together, at the
end. A failed or killed stage leaves nothing half-written; of two processes that build one run, the second is refused.
A user's mistake is one line and exit code 1; a stage that stops early (budget spent, batch pending) writes no table
and exits 75.
"""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import TABLES, Reject, Row, arrow_schema
from schemas.params import STAGES, Params, load_params
from stores.parquet import Batches, count_rows, read_table, rows_to_table, scan_table, sort_table, write_table
from stores.paths import DATA, rejects_dir, run_dir
from stores.run_log import RunCost, RunLog

EXIT_STOPPED_EARLY = 75


class StopEarly(Exception):
    """The stage cannot finish now and nothing is wrong; its message says how to continue."""


class Stage:
    """One execution of one run of a stage: its configuration, its inputs and its outputs.

    `config` is the run's row of params (an instance of the section's class); `name` is its key. A section without
    runs, `report`, is its own row and key; it drops no candidates, so it has no rejects.
    """

    def __init__(self, section: str, name: str, root: Path = Path(), params: Params | None = None):
        self.section, self.name, self.root = section, name, root
        self.params = params or load_params(root / "params.yaml")
        runs = getattr(self.params, section) if section in STAGES else {section: getattr(self.params, section)}
        if name not in runs:
            known = ", ".join(f"'{n}'" for n in sorted(runs)) or "none"
            raise ValueError(f"no run '{name}' under '{section}' in params.yaml (have {known})")
        self.config: Any = runs[name]
        self.cost = RunCost(str(root.resolve()), section, name)
        self._staging = root / DATA / ".staging" / f"{section}-{name}"
        self._outputs: list[tuple[Path, Path]] = []
        self._rejects: list[pa.Table] = []
        self._after: list[Callable[[], None]] = []

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds what this run stages, which is empty at first and removed at the end.

        The operating system releases it when the holder ends, however it ends. Raises ValueError if another process
        builds this run in this workspace.
        """
        self._staging.parent.mkdir(parents=True, exist_ok=True)
        with self._staging.with_suffix(".lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                other = f"another process ({file.read().strip()}) builds this run here"
                raise ValueError(f"{other}; wait until it has ended") from None
            file.truncate(0)
            print(os.getpid(), file=file, flush=True)
            self.discard()
            try:
                yield
            finally:
                self.discard()

    def dir(self, table: str, run: str) -> Path:
        """Directory of an input run.

        Raises ValueError if it is not there.
        """
        path = run_dir(table, run, self.root)
        if not path.is_dir():
            raise ValueError(f"{path}: not there; build it with `dvc repro`, or restore it with `dvc checkout {path}`")
        return path

    def read(self, table: str, run: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A run of a table in memory."""
        return read_table(self.dir(table, run), TABLES[table], columns)

    def scan(self, table: str, run: str, columns: Sequence[str] | None = None) -> Iterable[pa.Table]:
        """A run of a table in batches, in the order of its key."""
        return scan_table(self.dir(table, run), TABLES[table], columns)

    def rows(self, table: str, run: str) -> int:
        """The number of rows of a run, from the footers of its files."""
        return count_rows(self.dir(table, run), TABLES[table])

    def write(self, row_class: type[Row], batches: Batches, digest: Sequence[str] = ()) -> int:
        """Stages this run's part of a table; `batches` come in the order of the key. Returns the number of rows."""
        final = run_dir(row_class.table, self.name, self.root)
        return write_table(self.stage_dir(final), row_class, batches, digest)

    def write_rows(self, row_class: type[Row], rows: Iterable[Row]) -> int:
        """`write` for a small table, from row objects in any order."""
        return self.write(row_class, [rows_to_table(row_class, rows)])

    def reject(self, rejects: Iterable[Reject] | pa.Table) -> None:
        """Keeps dropped candidates; they are written when the stage ends."""
        table = rejects if isinstance(rejects, pa.Table) else rows_to_table(Reject, rejects)
        self._rejects.append(table.cast(arrow_schema(Reject)))

    def stage_dir(self, final: Path) -> Path:
        """A directory to fill, which takes the place of `final` when the stage ends."""
        staged = self._staging / final.relative_to(self.root / DATA)
        staged.mkdir(parents=True, exist_ok=True)
        self._outputs.append((staged, final))
        return staged

    def commit(self) -> None:
        """Moves all outputs into place."""
        if self.section in STAGES:
            rejects = sort_table(Reject, pa.concat_tables([rows_to_table(Reject, []), *self._rejects]))
            write_table(self.stage_dir(rejects_dir(self.section, self.name, self.root)), Reject, [rejects])
        for staged, final in self._outputs:
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                final.replace(staged.with_name(staged.name + ".old"))
            staged.replace(final)
        self.discard()
        for action in self._after:
            action()

    def after_commit(self, action: Callable[[], None]) -> None:
        """Something to do when all outputs are in place, such as removing the checkpoints that led to them."""
        self._after.append(action)

    def discard(self) -> None:
        """Removes what was staged."""
        shutil.rmtree(self._staging, ignore_errors=True)


def run_stage(section: str, build: Callable[[Stage], None], argv: Sequence[str] | None = None) -> None:
    """The `main` of a stage module: runs `build` for the run named on the command line, then exits the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    has_runs = section in STAGES
    if len(arguments) != has_runs or any(argument.startswith("-") for argument in arguments):
        usage = f" RUN   (a run under '{section}' in params.yaml)" if has_runs else "   (no arguments)"
        print(f"usage: python -m <package>.{section}{usage}", file=sys.stderr)
        sys.exit(2)
    name = arguments[0] if has_runs else section
    place = f"{section}.{name}" if has_runs else section
    try:
        execute(section, name, build)
    except StopEarly as stop:
        print(f"{place}: {stop}", file=sys.stderr)
        sys.exit(EXIT_STOPPED_EARLY)
    except (ValueError, OSError) as error:
        print(f"{place}: {error}", file=sys.stderr)
        sys.exit(1)


def execute(section: str, name: str, build: Callable[[Stage], None], root: Path = Path()) -> None:
    """Runs one stage in this process, as its module's `main` does, with errors raised."""
    stage = Stage(section, name, root)
    with stage.exclusive(), RunLog().measure(section, name) as cost:
        stage.cost = cost
        build(stage)
        stage.commit()
