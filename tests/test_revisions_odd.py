"""Odd repositories: each answers as Git and DVC would, or says in one line why not."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from stores.dvc_files import outputs
from stores.revisions import Snapshot
from stores.store import Store
from tests.small_store import build
from tests.versions import Project

COUNT = "select count(*) from samples where run = 'irpo_0'"


@pytest.fixture
def project(workspace: Path) -> Project:
    """v1.0: the small store; main: the same, with another message."""
    build(workspace)
    project = Project(workspace)
    project.commit(tag="v1.0")
    project.commit("second")
    return project


def count(root: Path, rev: str) -> int:
    with Store.open(root, rev=rev) as store:
        return store.sql(COUNT).fetchall()[0][0]


def git(cwd: Path, *arguments: str) -> None:
    names = [f"{name}=x" for name in ("user.name", "user.email")] + ["protocol.file.allow=always"]
    subprocess.run(["git", *[part for name in names for part in ("-c", name)], *arguments], cwd=cwd, check=True)


def use_cache(root: Path, project: Project) -> None:
    (root / ".dvc/config.local").write_text(f"[cache]\n    dir = {project.cache}\n")


def test_a_shallow_clone_has_the_versions_that_git_has(project: Project, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{project.root}", "shallow")
    use_cache(tmp_path / "shallow", project)
    assert count(tmp_path / "shallow", "main") == 6
    for absent in ("v1.0", "HEAD~1", project.git("rev-parse", "v1.0").strip()):
        with pytest.raises(ValueError, match=f"no tag, branch, commit or experiment '{absent}'.*`git fetch"):
            count(tmp_path / "shallow", absent)


def test_a_detached_head_is_no_hindrance(project: Project) -> None:
    project.git("checkout", "-q", "--detach", "v1.0")
    assert count(project.root, "HEAD") == count(project.root, "main") == 6


def test_a_project_in_a_submodule_and_one_around_it(project: Project, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "around")
    git(tmp_path / "around", "submodule", "--quiet", "add", str(project.root), "inner")
    use_cache(tmp_path / "around/inner", project)
    assert count(tmp_path / "around/inner", "v1.0") == 6
    around = tmp_path / "around"
    build(around)
    (around / ".dvc").mkdir()
    git(around, "add", "params.yaml")
    git(around, "commit", "-qm", "with a submodule")
    assert not any(f.built for f in Store.open(around, rev="HEAD").files)


@pytest.mark.parametrize("what", ["HEAD:params.yaml", "HEAD^{tree}"])
def test_a_tag_of_what_is_no_commit_names_no_version(project: Project, what: str) -> None:
    project.git("tag", "odd", project.git("rev-parse", what).strip())
    with pytest.raises(ValueError, match="no tag, branch, commit or experiment 'odd'"):
        count(project.root, "odd")


def test_a_tag_of_a_tag_is_its_commit(project: Project) -> None:
    project.git("tag", "-a", "-m", "one", "one", "v1.0")
    project.git("tag", "-a", "-m", "two", "two", "one")
    assert Snapshot.at(project.root, "two").commit == project.git("rev-parse", "v1.0").strip()


def test_a_version_from_before_anything_was_built(project: Project) -> None:
    project.git("rm", "-q", "--cached", "dvc.lock")
    project.git("commit", "-qm", "no lock")
    with Store.open(project.root, rev="HEAD") as store:
        assert not any(row.built for row in store.runs())
        with pytest.raises(ValueError, match="samples run 'irpo_0' is not built"):
            store.dataset("samples", run="irpo_0")
    project.git("rm", "-q", "--cached", "params.yaml")
    project.git("commit", "-qm", "no params")
    with pytest.raises(ValueError, match=r"params.yaml: Git has no such file at HEAD"):
        Store.open(project.root, rev="HEAD")


def test_paths_that_are_not_utf_8(project: Project) -> None:
    odd = os.fsencode(project.root) + b"/notes-\xff\xfe.dvc.txt"
    Path(os.fsdecode(odd)).write_text("x")
    project.git("add", "-A")
    project.git("commit", "-qm", "odd")
    assert count(project.root, "HEAD") == 6
    assert Snapshot.at(project.root, "HEAD").local(os.fsdecode(b"notes-\xff\xfe.dvc.txt")).read_text() == "x"


def test_a_cache_with_links_into_another_place(project: Project, tmp_path: Path) -> None:
    """As people make of a cache that became too large: its files are symbolic links."""
    for path in [path for path in project.cache.rglob("*") if path.is_file()]:
        path.rename(moved := tmp_path / path.name)
        path.symlink_to(moved)
    assert count(project.root, "v1.0") == 6


def test_where_nothing_can_be_remembered_it_is_read_all_the_same(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "file"))
    assert count(project.root, "v1.0") == 6


def test_a_relative_root_stays_where_it_was(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(rev="v1.0") as store:
        monkeypatch.chdir(tmp_path)
        assert store.sql(COUNT).fetchall() == [(6,)]


def test_stages_that_work_in_a_directory_of_their_own() -> None:
    """DVC writes their paths as seen from there."""
    md5 = "0" * 32
    out = {"path": "out", "hash": "md5", "md5": md5}
    graph = {"a": {"wdir": "sub", "cmd": "x"}, "b": {"foreach": ["x"], "do": {"wdir": "deep/er", "cmd": "x"}}}
    files = {
        "dvc.yaml": {"stages": graph},
        "dvc.lock": {"stages": {"a": {"outs": [out]}, "b@x": {"outs": [out]}, "gone": {"outs": [out]}}},
        "pipe/f.dvc": {"wdir": "../other", "outs": [out]},
    }
    found = outputs({path: yaml.safe_dump(content).encode() for path, content in files.items()}, "v1.0")
    assert sorted(found) == ["deep/er/out", "other/out", "out", "sub/out"]


@pytest.mark.parametrize(
    "entry", [{"relpath": "../../../x"}, {"relpath": "/x"}, {"md5": "../../../../precious"}, {"md5": "/precious"}]
)
def test_a_listing_that_leads_elsewhere_is_refused(project: Project, entry: dict[str, str], tmp_path: Path) -> None:
    """Whoever writes a repository could make one: nothing outside the cache is read, and `fetch` removes nothing."""
    from stores.fetching import fetch

    (tmp_path / "precious").write_text("mine")
    listing = json.dumps([{"md5": "0" * 32, "relpath": "part-00000.parquet"} | entry]).encode()
    name = hashlib.md5(listing).hexdigest()
    path = project.cache / "files/md5" / name[:2] / f"{name[2:]}.dir"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(listing)
    lock = project.root / "dvc.lock"
    loaded = yaml.safe_load(lock.read_text())
    (out,) = [o for o in loaded["stages"]["samples@irpo_0"]["outs"] if o["path"].startswith("data/samples")]
    out["md5"] = f"{name}.dir"
    lock.write_text(yaml.safe_dump(loaded))
    project.git("commit", "-qam", "odd")
    for attempt in (lambda: count(project.root, "HEAD"), lambda: fetch("HEAD", root=project.root)):
        with pytest.raises(ValueError, match="its listing in DVC's cache names what is not below it"):
            attempt()
    assert (tmp_path / "precious").read_text() == "mine"
