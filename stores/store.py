"""`Store.open()`: every table of a checkout, over all runs of its params, for SQL, training and checks."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from schemas import TABLES
from schemas.ids import digest
from schemas.params import Params, load_params, parse_params, table_runs
from stores.checks import Violation, check_models, check_tables
from stores.duck import Duck, sql_file
from stores.hub_release import is_hub_url
from stores.named import NamedQuery, find, near
from stores.paths import WORKSPACE, ledger_dir, run_dir
from stores.query import Parameters, Result, connect, run_query
from stores.sources import RunSource, run_sources
from stores.views import DERIVED, RunFiles, Views, local_parts, run_files

if TYPE_CHECKING:
    from datasets import Dataset

    from stores.diff import Diff
    from stores.revisions import Snapshot

TEXTS = {"pair_texts": ("run", "prompt_id", "rank"), "demo_texts": ("run", "prompt_id", "sample_id")}
"""Joined views that `dataset` gives too, with their order."""


_FOUND = ("prompt", "sample", "chosen", "rejected", "prediction", "reward", "label")
_LABELLED = {
    "labelers": "names",
    "label_models": "models, with their versions,",
    "labeler_versions": "versions of the code",
    "label_templates": "templates, where judges,",
}


HEAD = 30
"""First rows of a table among which `describe` looks for examples."""


class RunRow(NamedTuple):
    """One row per run of a table (`models` included) in params; rows and bytes are None where it is not built."""

    table: str
    run: str
    section: str
    built: bool
    rows: int | None
    bytes: int | None


class Description(NamedTuple):
    """What a table or view holds; `columns` are (name, type, meaning), `runs` the table's rows of `Store.runs`.

    `head` are its first rows: examples of its values, of which `examples` gives some different ones of a column.
    """

    name: str
    grain: str
    columns: list[tuple[str, str, str]]
    runs: list[RunRow]
    head: list[tuple]

    @property
    def example(self) -> dict[str, Any] | None:
        names = [name for name, _, _ in self.columns]
        return dict(zip(names, self.head[0], strict=True)) if self.head else None

    def examples(self, column: str, most: int = 3) -> list[Any]:
        place = [name for name, _, _ in self.columns].index(column)
        found: list[Any] = []
        for value in (row[place] for row in self.head):
            if value is not None and value not in found:
                found.append(value)
        return found[:most]


class Store:
    """The tables of one version, read-only. Which runs there are is what its params say."""

    def __init__(
        self,
        params: Params,
        files: Sequence[RunFiles],
        root: Path,
        guard: bool = False,
        snapshot: "Snapshot | None" = None,
    ):
        self.params, self.files, self.root, self.guard, self.snapshot = params, list(files), root, guard, snapshot
        self._views: Views | None = None

    @classmethod
    def open(cls, root: Path | str = Path(), guard: bool = False, rev: str | None = None) -> "Store":
        """The store of the checkout at `root`, or of a tag, branch, commit or DVC experiment `rev` of its repository.

        Another version is read from DVC's cache, without a checkout; a file of it is looked for, and its hash checked,
        when a query reads it. `rev="workspace"` is the checkout; `hf://ORG/NAME@v1.0`, as `rev` or as `root`, is a
        published release (`stores.release_store`).

        With `guard`, its SQL reads the store and nothing else: it cannot write, attach, install, change settings, or
        reach other files or the network. Scans of text are about twice as slow then.

        Raises ValueError if there is no such version, or it has no valid params.yaml.
        """
        if published := next((name for name in (rev, root) if is_hub_url(name)), None):
            from stores.release_store import ReleaseStore

            return ReleaseStore.at(str(published), guard)
        root = Path(root)
        if rev is None or rev == WORKSPACE:
            params = load_params(root / "params.yaml")
            return cls(params, run_files(params, local_parts(root)), root, guard)
        from stores.revisions import Snapshot  # what a query of the checkout does not need

        snapshot = Snapshot.at(root, rev)
        params = parse_params(snapshot.text("params.yaml"), f"params.yaml at {rev}", older=True)
        return cls(params, run_files(params, snapshot.parts_of, snapshot.has), root, guard, snapshot)

    @property
    def revision(self) -> str | None:
        """The full commit id of the version; None for the checkout."""
        return self.snapshot.commit if self.snapshot else None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        if self._views is not None:
            self._views.duck.con.close()

    @property
    def _project(self) -> Path:
        """Where the project's own queries lie."""
        return self.root

    def views_in(self, duck: Duck, schema: str | None = None) -> Views:
        """The store's views in a connection that may have those of other versions, too, each in a schema."""
        return Views(duck, self.params, self.files, self.guard, self.root, schema)

    def sql(self, query: str, params: Parameters = None) -> Result:
        """The answer to one query over the store's views.

        `params` are values for `$name` (a mapping) or `?` (a sequence). Raises ValueError, one line that points at the
        place, for a query that DuckDB refuses; with the guard, also for anything but one SELECT.
        """
        self._views = self._views or self.views_in(connect(self.guard))
        return run_query(self._views.duck.con, query, params, [self._views])

    def query(self, name: str | NamedQuery, /, **params: Any) -> Result:
        """The answer to a named query, shipped or of the project's `queries/`: `query("accuracy", run="irpo_0")`.

        Raises ValueError for an unknown name or parameter, and as `sql` does, naming the file.
        """
        named = find(self._project, name) if isinstance(name, str) else name
        values = named.values(params)
        try:
            return self.sql(named.text, values or None)
        except ValueError as error:
            raise ValueError(f"{named.name if named.shipped else named.path}: {error}") from None

    def dataset(self, table: str, run: str | None = None) -> "Dataset":
        """A table (or `pair_texts`, `demo_texts`), all runs or one, as a memory-mapped `datasets.Dataset`.

        Its Arrow file lies in `cache/` beside the ledger and may be deleted at any time.

        Raises ValueError for an unknown table or run, or one that is not built.
        """
        from datasets import Dataset

        files = self._decisive_files(table, run)
        where, order = ("where run = ?" if run else ""), ", ".join(TEXTS.get(table, ()))
        query = f'select * from "{table}" {where} {"order by " + order if order else ""}'
        sources = run_sources(self.params) if table in TEXTS else []
        path = _cached(query, run, files, sources)
        if not path.exists():
            _write_stream(path, self.sql(query, [run] if run else None))
        return Dataset.from_file(str(path))

    def _decisive_files(self, table: str, run: str | None) -> list[Path]:
        """All files that decide what `dataset` holds."""
        if table not in TABLES and table not in TEXTS:
            raise ValueError(f"no table '{table}'{near(table, [*TABLES, *TEXTS])}")
        if run is not None:
            self._built(table.removesuffix("_texts") + "s" if table in TEXTS else table, run)
        whole = ("pairs", "demos", "prompts", "samples") if table in TEXTS else (table,)
        return [
            part
            for f in self.files
            if f.table in whole and (table in TEXTS or run in (None, f.run)) and f.built
            for part in f.parts
        ]

    def _built(self, table: str, run: str) -> None:
        found = [f for f in self.files if f.table == table and f.run == run]
        if not found:
            known = sorted({f.run for f in self.files if f.table == table})
            raise ValueError(f"no run '{run}' of {table} in params.yaml{near(run, known)}")
        if not any(f.built for f in found):
            raise ValueError(f"{table} run '{run}' is not built; run `dvc repro`, or restore it with `dvc checkout`")

    def runs(self, table: str | None = None) -> list[RunRow]:
        """Every run of every table (or of one) in params, built or not; of another version also what is not fetched.

        Raises ValueError for a corrupt or foreign file.
        """
        rows = [self._run_row(f) for f in self.files if table in (None, f.table)]
        for run, section in table_runs(self.params, "models").items() if table in (None, "models") else ():
            size = self._model_bytes(run_dir("models", run))
            rows.append(RunRow("models", run, section, size is not None, None, size))
        return rows

    def _run_row(self, f: RunFiles) -> RunRow:
        if not f.built:
            return RunRow(f.table, f.run, f.section, False, None, None)
        if self.snapshot is not None and not self.snapshot.is_local(f.directory):
            return RunRow(f.table, f.run, f.section, True, None, self.snapshot.size(f.directory))
        return RunRow(f.table, f.run, f.section, True, f.rows(), f.bytes())

    def _model_bytes(self, directory: Path) -> int | None:
        if self.snapshot is not None:
            return self.snapshot.size(directory)
        files = self._files_of(directory)
        return sum(path.stat().st_size for path in files.values()) if files else None

    def describe(self, table: str) -> Description:
        """Grain, columns, runs and first rows of a table or view.

        Raises ValueError for an unknown name.
        """
        if table not in TABLES and table not in DERIVED:
            raise ValueError(f"no table or view '{table}'{near(table, [*TABLES, *DERIVED])}")
        result, means = self.sql(f'select * from "{table}"'), meanings(table)
        columns = [(c, t.lower(), means.get(c, "")) for c, t in zip(result.columns, result.types, strict=True)]
        return Description(table, grain(table), columns, self.runs(table), result.head(HEAD))

    def check(self, deep: bool = False) -> list[Violation]:
        """What is wrong with the built runs: an empty list if nothing is.

        `deep` also hashes the files of model directories, and of another version all that is in the local cache.
        """
        found = [*check_tables(self.params, self.files), *check_models(self.params, self._files_of, deep)]
        damaged = self.snapshot.damaged(".") if deep and self.snapshot is not None else {}
        return found + [Violation("", "", "content is that of the hash", 1, str(path)) for path in damaged.values()]

    def _files_of(self, directory: Path) -> dict[str, Path] | None:
        """The files of a model's directory by their path below it, wherever they lie; None if it is not there."""
        if self.snapshot is None:
            here = self.root / directory
            found = {str(path.relative_to(here)): path for path in here.rglob("*") if path.is_file()}
            return found if here.is_dir() else None
        if not self.snapshot.has(directory):
            return None
        contents = self.snapshot.contents(directory)
        return {str(Path(path).relative_to(directory)): content.path for path, content in contents.items()}

    def diff(
        self, old: str, new: str = WORKSPACE, tables: Sequence[str] = ("pairs",), runs: Sequence[str] = ()
    ) -> "Diff":
        """What came, went and changed from one version of this repository to another, and why (see `stores.diff`).

        `tables` are compared row by row, in all runs or in `runs`. Use it as a context; it reads when it is asked.

        Raises ValueError for a version, table or run that is not there.
        """
        from stores.diff import Diff

        versions = [Store.open(self.root, rev=name) for name in (old, new)]
        return Diff(versions[0], versions[1], tables, runs, (old, new))

    def show(self, identity: str, run: str | None = None) -> str:
        """A pair for a human, by pair id or prompt id (then all its pairs), in all runs or one.

        Raises ValueError if there is none, saying why where the rejects know.
        """
        from stores.show import show

        return show(self, identity, run)


def grain(name: str) -> str:
    """What one row of a table or view is."""
    if name in TABLES:
        return (TABLES[name].__doc__ or "").partition("\n")[0]
    return DERIVED[name] or sql_file(__file__, name).partition("\n")[0].removeprefix("-- ")


def meanings(table: str) -> dict[str, str]:
    """Column -> its field's description, of the table itself or, for another view, of the first table that has it."""
    classes = [TABLES[table]] if table in TABLES else list(TABLES.values())
    found = {"run": "run of params", "stage": "stage that dropped it", "pair_id": "hash of prompt, samples and spans"}
    found |= {f"{what}_run": f"run of params that the {what} was found in" for what in _FOUND}
    found |= {name: f"{what} of those who labelled the sample's steps" for name, what in _LABELLED.items()}
    for row_class in classes:
        for name, info in row_class.model_fields.items():
            found.setdefault(name, info.description or "")
    return found


def _cached(query: str, run: str | None, files: Sequence[Path], sources: Sequence[RunSource]) -> Path:
    """Where the Arrow file of a query over these files, joined along `sources`, lies: any change renames it."""
    stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    versions = {table: row_class.version for table, row_class in TABLES.items()}
    return ledger_dir() / "cache" / f"{digest([versions, query, run, stats, sources], 32)}.arrow"


def _write_stream(path: Path, result: Result) -> None:
    """Writes an Arrow stream under its final name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        reader = result.batches()
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
