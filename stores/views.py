"""The store's SQL views: one per table over all runs of params, the graph of runs, and the joined views of `sql/`."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel

from schemas import TABLES, arrow_schema
from schemas.params import Params, run_inputs, stage_runs, table_runs
from stores.costs import ExecutionCost, SettingCost, execution_costs, setting_costs, sql_types
from stores.duck import Duck, literal, select_parts, sql_file
from stores.parquet import open_part
from stores.paths import rejects_dir, run_dir
from stores.sources import run_sources
from stores.speeds import StepSpeed, training_speeds

if TYPE_CHECKING:
    from pyarrow import dataset as pads

JOINED = ("demo_texts", "pair_texts", "lineage", "funnel", "token_lengths")
"""Views of `sql/`, each a SELECT over the tables and the views of literal rows."""

DERIVED = {
    "runs": "One row per built run of a table, with its rows and bytes.",
    "params": "One row per setting of a run in params.yaml; nested keys are dotted.",
    "run_inputs": "One row per edge between runs: `run` of `table` was made from `input_run` of `input_table`.",
    "run_sources": "One row per run behind a run: ids of `input_table` in `run` of `table` are found in `input_run`.",
    "run_costs": (ExecutionCost.__doc__ or "").strip(),
    "ledger_costs": (SettingCost.__doc__ or "").strip(),
    "training_speed": (StepSpeed.__doc__ or "").partition("\n")[0],
} | dict.fromkeys(JOINED, "")
"""View that is no table -> its grain (of `sql/`: the file's first line)."""

PAIR_ID = """left(sha256('["' || prompt_id || '","' || chosen_sample_id || '",' || chosen_start || ',' || chosen_end
  || ',"' || rejected_sample_id || '",' || rejected_start || ',' || rejected_end || ']'), 16)"""
"""`schemas.ids.digest` of [prompt id, chosen sample id, start, end, rejected sample id, start, end], in SQL."""

_LISTING = re.compile(r"\b(?:show|describe|\w+_(?:tables|views|columns|schema)|sqlite_master)\b", re.IGNORECASE)
"""What is in a query that asks for the views themselves."""

PartsOf = Callable[[Path], Sequence[Path]]
"""The local Parquet files of a run's directory (relative to the project); none: the run is not there."""


@dataclass(frozen=True)
class RunFiles:
    """One row per run of a table in params, with its local Parquet files, which are looked for when they are needed.

    `has` says whether a run is built where its files may be elsewhere: a version that is not (wholly) fetched.
    """

    table: str
    run: str
    section: str
    directory: Path
    parts_of: PartsOf
    has: Callable[[Path], bool] | None = None

    @cached_property
    def parts(self) -> tuple[Path, ...]:
        """Raises ValueError for files of another version that are not in the local cache, or damaged there."""
        return tuple(self.parts_of(self.directory))

    @property
    def built(self) -> bool:
        return self.has(self.directory) if self.has else bool(self.parts)

    @property
    def label(self) -> str:
        """The run's name; runs of rejects are named with their stage."""
        return f"{self.section}.{self.run}" if self.table == "rejects" else self.run

    def rows(self) -> int:
        """Raises ValueError for a corrupt or foreign file."""
        return sum(open_part(part, TABLES[self.table]).metadata.num_rows for part in self.parts)

    def bytes(self) -> int:
        return sum(part.stat().st_size for part in self.parts)


def local_parts(root: Path) -> PartsOf:
    """The files that lie in a checkout."""
    return lambda directory: sorted((root / directory).glob("part-*.parquet"))


def run_files(params: Params, parts_of: PartsOf, has: Callable[[Path], bool] | None = None) -> list[RunFiles]:
    """Every run of every table in params, whether it is built or not. What else lies in the directories is ignored."""
    runs = [
        (table, run, section, run_dir(table, run))
        for table in TABLES
        if table != "rejects"
        for run, section in table_runs(params, table).items()
    ]
    runs += [("rejects", n, section, rejects_dir(section, n)) for section, n, run in stage_runs(params) if run.rejects]
    return [RunFiles(table, run, section, path, parts_of, has) for table, run, section, path in runs]


class Views:
    """The store's views in one DuckDB, made when a query names them: binding a view opens its files.

    `guard` reads through Arrow data sets, so that no SQL needs to open files itself. `root` is the workspace whose
    executions the costs are of. With a `schema` they are in it, and made for queries that name it.
    """

    def __init__(
        self,
        duck: Duck,
        params: Params,
        files: Sequence[RunFiles],
        guard: bool = False,
        root: Path = Path(),
        schema: str | None = None,
    ):
        self.duck, self.params, self.files, self.guard, self.root = duck, params, files, guard, root
        self.schema, self._place = schema, f'"{schema}".' if schema else ""
        self._missing = {*TABLES, *DERIVED}
        if schema:
            duck.execute(f'create schema if not exists "{schema}"')

    def provide(self, query: str) -> None:
        """Makes the views that a query's text names; all of them for a query that lists them (`show tables`).

        Raises ValueError for a corrupt or foreign file.
        """
        words = set(re.findall(r"\w+", query.lower()))
        if not words & {*TABLES, *DERIVED} and _LISTING.search(query):
            self.provide_rest()
        elif self.schema is not None:
            self._provide(re.findall(rf'\b{self.schema.lower()}"?\s*\.\s*"?(\w+)', query.lower()))
        else:
            self._provide(words)

    def _provide(self, words: Collection[str]) -> None:
        for name in (*TABLES, *DERIVED):
            if name in words:
                self._make(name)

    def provide_rest(self) -> bool:
        """Makes the views that are still missing; whether there were any. A query can put a name together."""
        missing = sorted(self._missing)
        for name in missing:
            self._make(name)
        return bool(missing)

    def _make(self, name: str) -> None:
        if name not in self._missing:
            return
        if name in TABLES:
            self._table_view(name, [f for f in self.files if f.table == name and f.built and f.parts])
        elif name in JOINED:
            query = sql_file(__file__, name)
            self._provide(set(re.findall(r"\w+", query)))
            self.duck.execute(f"create view {self._place}{name} as {query}")
        else:
            self.duck.execute(f"create view {self._place}{name} as {_rows_query(*self._literal_rows(name))}")
        self._missing.discard(name)

    def _table_view(self, table: str, runs: Sequence[RunFiles]) -> None:
        first = f"{PAIR_ID} as pair_id, " if table == "pairs" else ""
        stage = ", null::varchar as stage" if table == "rejects" else ""
        branches = [f"select {first}*, null::varchar as run{stage} from ({select_parts([], table)})"]
        if runs:
            branches = [self._branch(table, run, first) for run in runs]
        self.duck.execute(f'create view {self._place}"{table}" as ' + " union all ".join(branches))

    def _branch(self, table: str, run: RunFiles, first: str) -> str:
        stage = f", {literal(run.section)} as stage" if table == "rejects" else ""
        source = self._dataset(run) if self.guard else select_parts(run.parts, table)
        return f"select {first}*, {literal(run.run)} as run{stage} from ({source})"

    def _dataset(self, run: RunFiles) -> str:
        """Registers a run as an Arrow data set; returns a SELECT of its columns (null: what an older version lacks)."""
        for part in run.parts:
            open_part(part, TABLES[run.table])
        name = f"{self.schema}/{run.table}@{run.label}" if self.schema else f"{run.table}@{run.label}"
        schema = arrow_schema(TABLES[run.table])
        self.duck.con.register(name, _light(run.parts, schema))
        return "select " + ", ".join(f'"{column}"' for column in schema.names) + f' from "{name}"'

    def _literal_rows(self, name: str) -> tuple[dict[str, str], Iterable[Sequence[Any]]]:
        edge = dict.fromkeys(("table", "run", "input_table", "input_run"), "varchar")
        match name:
            case "run_inputs":
                return dict.fromkeys(("table", "run", "slot", "input_table", "input_run"), "varchar"), run_inputs(
                    self.params
                )
            case "run_sources":
                return edge, run_sources(self.params)
            case "params":
                return dict.fromkeys(("section", "run", "key", "value"), "varchar"), params_rows(self.params)
            case "run_costs":
                return sql_types(ExecutionCost), execution_costs(self.root)
            case "ledger_costs":
                return sql_types(SettingCost), setting_costs()
            case "training_speed":
                runs = [files.run for files in self.files if files.table == "training"]
                return sql_types(StepSpeed), training_speeds(self.root, runs)
        kinds = {"table": "varchar", "run": "varchar", "section": "varchar", "rows": "bigint", "bytes": "bigint"}
        return kinds, [(f.table, f.run, f.section, f.rows(), f.bytes()) for f in self.files if f.built]


def _light(parts: Sequence[Path], schema: pa.Schema) -> "pads.Dataset":
    """An Arrow data set that answers small questions fast.

    DuckDB reads the first column where it needs none (`count(*)`), so those of fixed width come first; and pyarrow
    reads up to 16 row groups ahead of a `limit 1` within a fragment, but 4 fragments, so each row group is one.
    """
    import pyarrow.dataset as pads

    ordered = pa.schema(sorted(schema, key=lambda field: not pa.types.is_primitive(field.type)))
    files = pads.dataset([str(part) for part in parts], schema=ordered, format="parquet")
    groups = [group for file in files.get_fragments() for group in file.split_by_row_group()]
    return pads.FileSystemDataset(groups, ordered, files.format, files.filesystem) if groups else files


def params_rows(params: Params) -> Iterable[tuple[str, str, str, str | None]]:
    """(section, run, dotted key, value) of every setting of every run."""
    for section, name, run in stage_runs(params):
        for key, value in settings("", run):
            yield section, name, key, None if value is None else str(value)


def settings(prefix: str, block: BaseModel) -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of every setting of a block of params."""
    for key in type(block).model_fields:
        value = getattr(block, key)
        if isinstance(value, BaseModel):
            yield from settings(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _rows_query(columns: dict[str, str], rows: Iterable[Sequence[Any]]) -> str:
    """A SELECT of literal rows."""
    values = ", ".join("(" + ", ".join(_value(v) for v in row) + ")" for row in rows)
    names = ", ".join(f'"{column}"' for column in columns)
    nulls = ", ".join(f'null::{kind} as "{column}"' for column, kind in columns.items())
    rest = f" union all select * from (values {values}) as given({names})" if values else ""
    return f"select {nulls} where false{rest}"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return literal(value) if isinstance(value, str) else str(value)
