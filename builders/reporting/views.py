"""DuckDB views of everything that the runs in params have built: one view per table, with the run as a column."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import TABLES, arrow_schema
from schemas.params import STAGES, Params, run_inputs, stage_runs, table_runs
from stores.duck import Duck, literal, sql_file
from stores.paths import rejects_dir, run_dir


def open_views(duck: Duck, params: Params, root: Path) -> list[tuple[str, str]]:
    """Makes the views; returns the (section, run) that are not built.

    Views: every table with `run`; `rejects` with `stage` and `run`; `inputs`, the edges between runs; `evaluated`, the
    runs of `evaluate` that are built. The runs come from params, never from what lies in the directory. A run counts as
    built when all of its tables are there.

    Raises ValueError for a corrupt or foreign file, naming it.
    """
    missing = [(section, name) for section, name, run in stage_runs(params) if not _is_built(run.writes, name, root)]
    for table in TABLES:
        if table != "rejects":
            runs = [(name, s) for name, s in table_runs(params, table).items() if (s, name) not in missing]
            _view(duck, table, [(run_dir(table, name, root), {"run": name}) for name, _ in runs])
    rejected = [(s, name) for s in STAGES for name in getattr(params, s) if rejects_dir(s, name, root).is_dir()]
    _view(duck, "rejects", [(rejects_dir(s, name, root), {"stage": s, "run": name}) for s, name in rejected])
    duck.register("inputs", _strings(["table", "run", "slot", "input_table", "input_run"], run_inputs(params)))
    duck.register("evaluated", _strings(["run"], [(n,) for n in params.evaluate if ("evaluate", n) not in missing]))
    return missing


def register_strings(duck: Duck, name: str, columns: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    """A small relation of strings as a view."""
    duck.register(name, _strings(columns, rows))


def report_sql(name: str) -> str:
    """The text of `builders/sql/report_<name>.sql`."""
    return sql_file(str(Path(__file__).parent), f"report_{name}")


def report_rows(duck: Duck, name: str, **params: Any) -> list[dict[str, Any]]:
    """The rows of `builders/sql/report_<name>.sql`."""
    return duck.table(report_sql(name), params or None).to_pylist()


def _is_built(tables: tuple[str, ...], run: str, root: Path) -> bool:
    return all(run_dir(table, run, root).is_dir() for table in tables)


def _view(duck: Duck, table: str, parts: list[tuple[Path, dict[str, str]]]) -> None:
    """`table` over directories, each with the values of its partition columns."""
    columns = ", ".join(f'"{name}"' for name in arrow_schema(TABLES[table]).names)
    partitions = ("stage", "run") if table == "rejects" else ("run",)
    nothing = dict.fromkeys(partitions, "")
    duck.view(f"{table}_of_no_run", table, [])
    selects = [f'select {_constants(nothing)}, {columns} from "{table}_of_no_run"']
    for number, (directory, values) in enumerate(parts):
        name = f"{table}_{number}"
        duck.view(name, table, [directory])
        selects.append(f'select {_constants(values)}, {columns} from "{name}"')
    duck.execute(f'create view "{table}" as {" union all ".join(selects)}')


def _constants(values: dict[str, str]) -> str:
    return ", ".join(f'{literal(value)} as "{name}"' for name, value in values.items())


def _strings(columns: list[str], rows: Sequence[tuple[str, ...]]) -> pa.Table:
    return pa.table({c: pa.array([row[i] for row in rows], pa.string()) for i, c in enumerate(columns)})
