"""The guard: SQL of the command line reads the store, and can do nothing else."""

import os
import tempfile
from pathlib import Path

import duckdb
import pytest

from stores.store import Store
from stores.versions import open_versions
from tests.small_store import build
from tests.versions import Project

SECRET = "a file outside the store"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in the checkout and at v1.0, and files that SQL must not reach. Nothing here changes it."""
    root = tmp_path_factory.mktemp("guard") / "workspace"
    root.mkdir()
    build(root)
    Project(root).commit(tag="v1.0")
    (root / "secret.txt").write_text(SECRET)
    (root / "secret.csv").write_text(f"column\n{SECRET}\n")
    (root / "spill" / f"pairwright-{os.getpid()}").mkdir(parents=True)
    return root


@pytest.fixture
def guarded(world: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(world.parent / "ledger"))
    monkeypatch.setattr(tempfile, "tempdir", str(world / "spill"))
    monkeypatch.chdir(world)
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
    "copy of a CTE inside another": "with a as (with x as (copy (select 1) to 'out.csv') select 1) from a",
    "copy where DuckDB spills": "with x as (copy (select 1) to 'spill/out.csv') select 1",
    "explained copy where DuckDB spills": "explain analyze with x as (copy (select 1) to 'spill/out.csv') select 1",
    "explain behind a comment": "/* */ explain analyze with x as (copy (select 1) to 'spill/out.csv') select 1",
    "update in a CTE": "with x as (update samples set text = '' returning 1) select * from x",
    "copy through query()": "from query('with x as (copy (select 1) to ''spill/out.csv'') select 1')",
    "query() of what is put together": "from query('select * from read_te' || 'xt(''secret.txt'')')",
    "query() in query()": "from query('from query(''from read_text(secret.txt)'')')",
    "read json": "from read_json('secret.csv')",
    "sniff csv": "from sniff_csv('secret.csv')",
    "read a database": "from read_duckdb('secret.txt')",
    "qualified function": "from system.main.read_text('secret.txt')",
    "function in a subquery": "select (select content from read_text('secret.txt'))",
    "function in a join": "select * from samples, lateral (from read_text('secret.txt'))",
    "serialized SQL": "from json_execute_serialized_sql(json_serialize_sql('from read_text(''secret.txt'')'))",
    "secrets": "from duckdb_secrets()",
    "settings": "from duckdb_settings()",
    "logging to a file": "from enable_logging('QueryLog', storage := 'file', storage_path := 'out.csv')",
    "profiling to a file": "from enable_profiling(save_location := 'out.json')",
    "forget logs": "from truncate_duckdb_logs()",
    "environment": "select getenv('HOME')",
    "set variable": "set variable x = 1",
    "use": "use memory",
    "call": "call pragma_version()",
    "prepare": "prepare p as select 1",
    "execute": "execute p",
    "transaction": "begin",
    "comment": "comment on view samples is 'mine'",
    "macro": "create macro m() as 1",
    "vacuum": "vacuum",
    "detach": "detach memory",
    "merge": "merge into samples using samples s on true when matched then delete",
    "copy from": "copy samples from 'secret.csv'",
    "copy database": "copy from database memory to other",
    "pivot with statements of its own": "pivot rewards on verdict using count(*)",
}


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("query", ATTACKS.values(), ids=ATTACKS)
def test_attacks_are_refused_in_one_line_and_change_nothing(guarded: Store, world: Path, query: str) -> None:
    before = files(world)
    with pytest.raises(ValueError) as error:
        guarded.sql(query).fetchall()
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)
    assert files(world) == before


REACH_FILES = ["copy", "copy in a CTE", "overwrite the store", "read parquet", "read text", "list files", "attach"]
CHANGE_SETTINGS = ["install", "load", "set", "unlock", "reset", "export", "secret"]


@pytest.mark.parametrize("attack", REACH_FILES + CHANGE_SETTINGS)
def test_the_connection_itself_is_locked(guarded: Store, world: Path, attack: str) -> None:
    """The refusal of statements is not what protects: the same SQL fails on the bare connection."""
    guarded.sql("select count(*) from samples")
    before = files(world)
    con = guarded._views.duck.con  # type: ignore[union-attr]
    with pytest.raises(duckdb.Error):
        con.execute(ATTACKS[attack]).fetchall()
    assert files(world) == before


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
        "select * from query('select count(*) from samples')",
        "select count(*) from query_table('sam' || 'ples')",
        "pivot rewards on verdict in ('correct', 'wrong') using count(*) group by run",
        "select * from duckdb_keywords() order by all limit 3",
        "explain select 1",
        "select i, s from range(2) r(i), unnest(['a', 'b']) u(s) order by all",
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


def test_what_is_refused_is_pointed_at(guarded: Store) -> None:
    with pytest.raises(ValueError, match="line 2, column 7: Permission Error: the function read_text is not") as error:
        guarded.sql("select 1\n from read_text('secret.txt')")
    assert error.value.__notes__ == ["   from read_text('secret.txt')\n        ^"]


def test_the_directory_that_duckdb_spills_to_is_out_of_reach(guarded: Store, world: Path) -> None:
    """DuckDB itself would write there: it is the only directory that the connection may write to."""
    spill = world / "spill" / f"pairwright-{os.getpid()}"
    guarded.sql("select count(*) from samples")
    write = f"with x as (copy (select 1) to '{spill}/out.csv') select 1"
    for query in (write, f"explain analyze {write}", f"from read_text('{spill}/*')", f"from glob('{spill}/*')"):
        with pytest.raises(ValueError, match="Permission Error"):
            guarded.sql(query).fetchall()
    assert list(spill.iterdir()) == []


def test_versions_are_guarded_alike(guarded: Store, world: Path) -> None:
    with open_versions(["v1.0", "workspace"], guard=True) as versions:
        assert versions.sql("select count(*) from v1_0.samples, workspace.samples").fetchall() == [(64,)]
        before = files(world)
        for query in ATTACKS.values():
            with pytest.raises(ValueError):
                versions.sql(query).fetchall()
        assert files(world) == before
