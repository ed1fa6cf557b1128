"""The guard: SQL of the command line reads the store, and can do nothing else."""

from pathlib import Path

import duckdb
import pytest

from stores.store import Store
from tests.small_store import build

SECRET = "a file outside the store"


@pytest.fixture
def guarded(workspace: Path) -> Store:
    build(workspace)
    (workspace / "secret.txt").write_text(SECRET)
    (workspace / "secret.csv").write_text(f"column\n{SECRET}\n")
    return Store.open(guard=True)


ATTACKS = {
    "copy": "copy (select 1) to 'out.csv'",
    "copy in a CTE": "with x as (copy (select 1) to 'out.csv') select 1",
    "copy of a table in a CTE": "with x as (copy samples to 'out.parquet') select * from x",
    "overwrite the store": "with x as (copy (select 1) to 'data/samples/run=irpo_0/part-00000.parquet') select 1",
    "explain analyze copy": "explain analyze copy (select 1) to 'out.csv'",
    "read parquet": "select * from read_parquet('data/samples/run=irpo_0/part-00000.parquet')",
    "read csv": "select * from read_csv('secret.csv')",
    "read text": "select * from read_text('/etc/passwd')",
    "read blob": "select * from read_blob('secret.txt')",
    "read a file by its name": "select * from 'secret.csv'",
    "list files": "select * from glob('/etc/*')",
    "parquet metadata": "select * from parquet_metadata('data/samples/run=irpo_0/part-00000.parquet')",
    "through query()": "select * from query('select * from read_text(''secret.txt'')')",
    "attach": "attach 'other.db'",
    "attach memory": "attach ':memory:' as other",
    "install": "install httpfs",
    "load": "load 'httpfs'",
    "set": "set enable_external_access = true",
    "unlock": "set lock_configuration = false",
    "reset": "reset enable_external_access",
    "pragma": "pragma enable_profiling",
    "export": "export database 'out'",
    "import": "import database 'out'",
    "insert": "insert into samples select * from samples",
    "insert into a registered run": 'insert into "samples@irpo_0" select * from "samples@irpo_0"',
    "delete": "delete from samples",
    "insert in a CTE": "with x as (insert into samples select * from samples returning 1) select * from x",
    "drop": "drop view samples",
    "create": "create table mine as select 1",
    "two statements": "select 1; copy (select 1) to 'out.csv'",
    "secret": "create secret (type s3)",
    "network": "select * from read_csv('http://127.0.0.1:9/x.csv')",
    "network parquet": "select * from 'https://127.0.0.1:9/x.parquet'",
}


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("query", ATTACKS.values(), ids=ATTACKS)
def test_attacks_are_refused_in_one_line_and_change_nothing(guarded: Store, workspace: Path, query: str) -> None:
    before = files(workspace)
    with pytest.raises(ValueError) as error:
        guarded.sql(query).fetchall()
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)
    assert files(workspace) == before


REACH_FILES = ["copy", "copy in a CTE", "overwrite the store", "read parquet", "read text", "list files", "attach"]
CHANGE_SETTINGS = ["install", "load", "set", "unlock", "reset", "export", "secret"]


@pytest.mark.parametrize("attack", REACH_FILES + CHANGE_SETTINGS)
def test_the_connection_itself_is_locked(guarded: Store, workspace: Path, attack: str) -> None:
    """The refusal of statements is not what protects: the same SQL fails on the bare connection."""
    guarded.sql("select count(*) from samples")
    before = files(workspace)
    con = guarded._views.duck.con  # type: ignore[union-attr]
    with pytest.raises(duckdb.Error):
        con.execute(ATTACKS[attack]).fetchall()
    assert files(workspace) == before


def test_python_variables_are_out_of_reach(guarded: Store) -> None:
    import pyarrow as pa

    not_for_sql = pa.table({"a": [1]})
    for store in (guarded, Store.open()):
        with pytest.raises(ValueError, match="does not exist"):
            store.sql("select * from not_for_sql")
    assert len(not_for_sql) == 1


@pytest.mark.parametrize(
    "query",
    [
        "select * from pair_texts order by all",
        "select * from lineage order by all",
        "select * from demo_texts order by all",
        "from funnel",
        "summarize rewards",
        "describe samples",
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 4) select sum(i) from n",
        "select * from query_table('demos') order by all",
        "select * from query('select count(*) from sam' || 'ples')",
    ],
)
def test_what_only_reads_the_store_answers_the_same_with_and_without_guard(guarded: Store, query: str) -> None:
    answer = guarded.sql(query).fetchall()
    assert answer == Store.open().sql(query).fetchall()
    assert answer


def test_the_guard_explains_how_to_lift_it(guarded: Store) -> None:
    with pytest.raises(ValueError, match=r"Permission Error: .*--unsafe"):
        guarded.sql("select * from read_text('secret.txt')").fetchall()
    assert Store.open().sql("select content from read_text('secret.txt')").fetchall() == [(SECRET,)]
