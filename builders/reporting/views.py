"""What is built of the runs in params: the store's views, and which of the runs are missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas import TABLES
from schemas.params import Params, stage_runs
from stores.duck import Duck, sql_file
from stores.paths import run_dir
from stores.views import Views, local_parts, run_files

READ = (*TABLES, "runs", "run_inputs", "run_sources", "token_lengths")


def open_views(duck: Duck, params: Params, root: Path) -> list[tuple[str, str]]:
    """Makes the store's views and `evaluated`, the runs of `evaluate` that are built; returns those not built.

    The runs, as (section, name), come from params, never from what lies in the directory. A run is built when all of
    its tables are there.

    Raises ValueError for a corrupt or foreign file, naming it.
    """
    files = run_files(params, local_parts(root))
    Views(duck, params, files).provide(" ".join(READ))
    there = {(file.table, file.run) for file in files if file.parts}
    there |= {("models", name) for _, name, _ in stage_runs(params) if run_dir("models", name, root).is_dir()}
    missing = [(s, n) for s, n, run in stage_runs(params) if not there.issuperset((table, n) for table in run.writes)]
    strings(duck, "evaluated", ["run"], [(n,) for n in params.evaluate if ("evaluate", n) not in missing])
    return missing


def strings(duck: Duck, name: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """A small relation of strings that the report's SELECTs join with."""
    duck.execute(f"create temp table {name} ({', '.join(f'{column} varchar' for column in columns)})")
    if rows:
        duck.con.executemany(f"insert into {name} values ({', '.join('?' * len(columns))})", rows)


def report_sql(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return sql_file(__file__, name)


def report_rows(duck: Duck, name: str, **params: Any) -> list[dict[str, Any]]:
    """The rows of `sql/<name>.sql`."""
    return duck.table(report_sql(name), params or None).to_pylist()
