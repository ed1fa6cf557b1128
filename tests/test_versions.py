"""Several versions in one query: each is a schema, views are made when they are named, nothing leads to a wrong one."""

from pathlib import Path

import pytest

from stores.versions import Versions, open_versions, schema_name
from tests.small_store import build, prompts, sample, write
from tests.versions import Project


@pytest.fixture
def project(workspace: Path) -> Project:
    """v1.0: 8 samples; main: 3; the workspace: 4."""
    build(workspace)
    project = Project(workspace)
    project.commit(tag="v1.0")
    write(workspace, "samples", "irpo_0", [sample(prompts()[0], 0, "new")])
    project.commit()
    write(workspace, "samples", "irpo_0", [sample(prompts()[0], i, "newer") for i in range(2)])
    return project


COUNTS = """
select (select count(*) from v1_0.samples) as old, (select count(*) from r_main.samples) as new,
  (select count(*) from workspace.samples) as newest
"""


@pytest.mark.parametrize("guard", [False, True], ids=["fast", "guarded"])
def test_each_version_is_a_schema(project: Project, guard: bool) -> None:
    with open_versions(["v1.0", "main", "workspace"], guard=guard) as versions:
        assert versions.sql(COUNTS).fetchall() == [(8, 3, 4)]
        joined = "select count(*) from v1_0.pair_texts a join r_main.pair_texts b using (pair_id) where a.run = b.run"
        assert versions.sql(joined).fetchall() == [(4,)]
        gone = "select sample_id from v1_0.samples except select sample_id from workspace.samples"
        assert len(versions.sql(gone).fetchall()) == 4
        assert versions.sql("select count(*) from v1_0.funnel").fetchall() == [(16,)]
        assert versions.sql("from query_table('v1_0.' || 'samples')").fetchall()


def test_with_several_versions_it_must_be_said_which(project: Project) -> None:
    with open_versions(["v1.0", "main"]) as versions:
        for query in ("select * from samples", "select * from r_main.rewards join samples using (sample_id)"):
            with pytest.raises(ValueError, match=r"samples does not exist! Did you mean .*v1_0\.samples") as error:
                versions.sql(query)
            assert error.value.__notes__[-1] == "(the versions are the schemas v1_0, r_main)"


@pytest.mark.parametrize("guard", [False, True], ids=["fast", "guarded"])
def test_one_version_needs_no_schema_but_has_it(project: Project, guard: bool) -> None:
    with open_versions(["v1.0"], guard=guard) as versions:
        assert versions.sql("select count(*) from samples").fetchall() == [(8,)]
        assert versions.sql("select count(*) from v1_0.samples join samples using (sample_id)").fetchall() == [(8,)]
        assert {("samples",), ("pair_texts",)} <= set(versions.sql("show tables").fetchall())


def test_only_the_files_that_are_named_are_read(project: Project) -> None:
    project.forget("data/rewards")
    with open_versions(["v1.0", "workspace"]) as versions:
        assert versions.sql("select count(*) from workspace.rewards, v1_0.answers").fetchall() == [(12,)]
        with pytest.raises(ValueError, match=r"`pairwright fetch v1\.0 data/rewards/run=irpo_0`"):
            versions.sql("select count(*) from v1_0.rewards")


@pytest.mark.parametrize(
    ("rev", "expected"),
    [
        ("v1.0", "v1_0"), ("feature/x-y", "feature_x_y"), ("0450af5", "r_0450af5"), ("HEAD~1", "HEAD_1"),
        ("main", "r_main"), ("Temp", "r_Temp"), ("workspace", "workspace"), ("größe", "größe"), ('a";drop', "a__drop"),
    ],
)  # fmt: skip
def test_a_schema_is_the_revision_as_an_identifier(rev: str, expected: str) -> None:
    assert schema_name(rev) == expected
    with Versions({}) as versions:
        versions._duck.execute(f'create schema "{expected}"')


@pytest.mark.parametrize("other", ["v1_0", "V1.0"])
def test_two_versions_of_one_name_are_refused(project: Project, other: str) -> None:
    with pytest.raises(ValueError, match=f"'v1.0' and '{other}' would both be the schema {schema_name(other)}"):
        open_versions(["v1.0", other])


def test_a_version_that_is_given_twice_is_one(project: Project) -> None:
    with open_versions(["v1.0", "v1.0"]) as versions:
        assert list(versions.stores) == ["v1_0"]
