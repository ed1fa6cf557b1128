"""Versions without a checkout: the same answers as DVC's own, for every way to name one; nothing damaged is read."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas import Sample
from stores.dvc_files import cache_dir, outputs
from stores.git import Repository
from stores.revisions import Snapshot
from stores.store import Store
from stores.verified import damaged
from tests import small_store
from tests.conftest import REPOSITORY
from tests.small_store import build, prompts, sample, write
from tests.versions import Project

DVC_WORLD = """
import json, subprocess, sys
from pathlib import Path
from dvc.api import DVCFileSystem
from dvc.repo import Repo

def git(*arguments):
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], check=True, capture_output=True)

def commit(message):
    git("add", "--all")
    git("commit", "-qm", message)

git("init", "-q", "-b", "main")
repo = Repo.init(subdir=False)
Path("dvc.yaml").write_text('''
stages:
  make:
    foreach: ${runs}
    do:
      cmd: mkdir -p out/${key}/deep && echo ${item} | tee out/${key}/a out/${key}/deep/b file_${key} count_${key}.json
      params: ["runs.${key}"]
      outs: ["out/${key}", "file_${key}", {"count_${key}.json": {cache: false}}]
''')
Path("given").mkdir()
Path("committed").mkdir()
Path("committed/none").write_text("none")
for name in ("x", "y"):
    Path("given", name).write_text(name)
Path("single").write_text("one")
Path("params.yaml").write_text("runs: {one: 1, two: 2}")
repo.add(["given", "single"])
repo.reproduce()
commit("first")
git("tag", "-a", "v1.0", "-m", "annotated")
Path("params.yaml").write_text("runs: {one: 1, two: 3}")
Path("single").write_text("two")
repo.add(["single"])
repo.reproduce()
commit("second")
git("branch", "feature/three")
Path("params.yaml").write_text("runs: {two: 4}")
repo.reproduce()
repo.experiments.save(name="faint-echo")
git("checkout", "-q", "feature/three")
Path("params.yaml").write_text("runs: {two: 5}")
repo.reproduce()
commit("third")
git("remote", "add", "origin", ".")
git("update-ref", "refs/remotes/origin/theirs", "HEAD~2")
paths = ["out/one/a", "out/one/deep/b", "out/two/a", "file_one", "file_two", "given/x", "given/y", "single",
         "out/one", "out/two", "given", "count_two.json", "committed/none"]
answers = {}
for rev in sys.argv[1:]:
    fs = DVCFileSystem(rev=rev)
    there = [path for path in paths if fs.exists(path)]
    content = {path: fs.read_text(path) for path in there if fs.isfile(path)}
    dvc = {path: (fs.info(path).get("dvc_info") or {}).get("md5") for path in there}
    answers[rev] = {"commit": fs.repo.scm.resolve_rev(fs.repo.get_rev()), "md5": dvc, "content": content}
Path("answers.json").write_text(json.dumps(answers))
"""
NAMES = ["v1.0", "main", "feature/three", "faint-echo", "theirs", "HEAD", "HEAD~1", "v1.0^{commit}"]


@pytest.mark.slow
def test_every_answer_is_that_of_dvc(workspace: Path, tmp_path: Path) -> None:
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(tmp_path / "site"), "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", DVC_WORLD, *NAMES]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(Path("answers.json").read_text())
    kept_by_dvc = 0
    for name, expected in answers.items():
        snapshot = Snapshot.at(Path(), name)
        assert snapshot.commit == expected["commit"], name
        assert snapshot.commit == Snapshot.at(Path(), snapshot.commit[:9]).commit
        for path, content in expected["content"].items():
            assert snapshot.local(path).read_text() == content, (name, path)
        for path, md5 in expected["md5"].items():
            if md5 is not None and path in snapshot.outs:
                assert snapshot.outs[path].md5 == md5, (name, path)
                kept_by_dvc += 1
            elif md5 is not None and "/" in path:
                assert snapshot.contents(path)[path].hash == md5, (name, path)
        assert sorted(snapshot.files("given")) == ["x", "y"]
    assert kept_by_dvc > 30
    tree = {name: answer["content"]["file_two"].strip() for name, answer in answers.items()}
    assert tree == {
        "v1.0": "2", "main": "3", "feature/three": "5", "faint-echo": "4", "theirs": "2", "HEAD": "5", "HEAD~1": "3",
        "v1.0^{commit}": "2",
    }  # fmt: skip


@pytest.fixture
def project(workspace: Path) -> Project:
    """v1.0: the small store; main: its first sample reads 'new'."""
    build(workspace)
    write(workspace, "samples", "none", [])
    (workspace / "data" / "none").write_text("")
    project = Project(workspace)
    project.commit(tag="v1.0")
    write(workspace, "samples", "irpo_0", [sample(prompts()[0], 0, "new")])
    project.commit()
    return project


TEXTS = "select text from samples where run = 'irpo_0' order by sample_id"


@pytest.mark.parametrize("guard", [False, True], ids=["fast", "guarded"])
def test_a_store_at_a_revision_answers_as_its_checkout_did(project: Project, guard: bool) -> None:
    drawn = [s for s in small_store.rows()["samples", "irpo_0"] if isinstance(s, Sample)]
    old = [(s.text,) for s in sorted(drawn, key=lambda s: s.sample_id)]
    with Store.open(guard=guard, rev="v1.0") as store, Store.open(guard=guard, rev="main") as new:
        assert store.sql(TEXTS).fetchall() == old
        assert new.sql(TEXTS).fetchall() == Store.open(rev="workspace").sql(TEXTS).fetchall() == [("new",)]
        assert store.sql("select count(*) from pair_texts where chosen is not null").fetchall() == [(4,)]
        assert store.sql("select count(*) from funnel").fetchall()[0][0] > 10
        assert store.revision == project.git("rev-parse", "v1.0").strip()
        assert Store.open().revision is None


def test_runs_describe_show_dataset_and_check_of_a_revision(project: Project) -> None:
    store = Store.open(rev="v1.0")
    rows = {(r.table, r.run): r for r in store.runs()}
    assert (rows["samples", "irpo_0"].rows, rows["samples", "irpo_1"].built) == (6, False)
    assert store.describe("samples").example is not None
    assert "[user] Question: How many legs" in store.show(prompts()[0].prompt_id)
    assert len(store.dataset("samples", run="irpo_0")) == 6
    assert len(Store.open().dataset("samples", run="irpo_0")) == 1
    assert store.check(deep=True) == []


def test_params_of_a_revision_may_lack_newer_sections(project: Project) -> None:
    path = project.root / "params.yaml"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if line != "pairs_import: {}"))
    project.git("commit", "-qam", "older")
    with pytest.raises(ValueError, match="pairs_import: missing"):
        Store.open()
    assert len(Store.open(rev="HEAD").sql(TEXTS).fetchall()) == 1


def test_what_git_has_is_read_from_git(project: Project) -> None:
    snapshot = Snapshot.at(Path(), "v1.0")
    (part,) = snapshot.parts_of("data/samples/run=none")
    assert part.read_bytes() == Path("data/samples/run=none/part-00000.parquet").read_bytes()
    assert snapshot.local("data/none").read_bytes() == b""
    part.write_bytes(b"somebody wrote here")
    assert snapshot.parts_of("data/samples/run=none")[0].read_bytes()[:4] == b"PAR1"


def test_what_is_not_in_the_cache_names_the_command_that_fetches_it(project: Project) -> None:
    project.git("checkout", "-q", "v1.0")
    project.forget("data/samples/run=irpo_0")  # main's
    store = Store.open(rev="main")
    assert store.sql("select count(*) from rewards").fetchall() == [(6,)]
    with pytest.raises(ValueError, match=r"`pairwright fetch main data/samples/run=irpo_0` gets it from the remote"):
        store.sql(TEXTS)
    row = next(r for r in store.runs() if (r.table, r.run) == ("samples", "irpo_0"))
    assert (row.built, row.rows) == (True, None)
    assert row.bytes
    assert [v.check for v in store.check() if v.run == "irpo_0" and v.table == "samples"] == ["readable"]


def one_byte(content: bytes) -> bytes:
    return content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]


@pytest.mark.parametrize("damage", [one_byte, lambda _: b"", lambda c: c[:-1]], ids=["flipped", "emptied", "cut"])
def test_a_damaged_file_of_the_cache_is_never_read(project: Project, damage: Callable[[bytes], bytes]) -> None:
    (part,) = Snapshot.at(Path(), "main").parts_of("data/samples/run=irpo_0")
    assert Store.open(rev="main").sql(TEXTS).fetchall() == [("new",)]
    part.chmod(0o644)
    part.write_bytes(damage(part.read_bytes()))
    for guard in (False, True):
        with pytest.raises(
            ValueError, match=rf"{part}: damaged, not data/samples/run=irpo_0/.* of main; `pairwright fetch"
        ):
            Store.open(rev="main", guard=guard).sql(TEXTS).fetchall()
    assert [v.check for v in Store.open(rev="main").check(deep=True)][-1] == "content is that of the hash"


def test_a_file_is_hashed_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Snapshot.at(Path(), "v1.0")
    (part,) = snapshot.parts_of("data/samples/run=irpo_0")
    hashed: list[Path] = []
    monkeypatch.setattr("stores.verified._is", lambda path, _: hashed.append(path) or True)
    assert snapshot.parts_of("data/samples/run=irpo_0") == [part]
    assert hashed == []
    os.utime(part, (2, 2))
    snapshot.parts_of("data/samples/run=irpo_0")
    assert hashed == [part]


def test_only_what_a_query_reads_is_hashed(project: Project, tmp_path: Path) -> None:
    Store.open(rev="v1.0").sql("select count(*) from rewards").fetchall()
    assert len(list((tmp_path / "ledger" / "cache" / "verified").iterdir())) <= 2  # a listing and a part


INJECTIONS = ["-h", "--upload-pack=x", "--output=/tmp/x", "a b", "a\nb", "HEAD:params.yaml", "main..v1.0", ":/first",
              "v1*", "refs/[m]ain", "", "a\0b", "x^{/a b}"]  # fmt: skip


@pytest.mark.parametrize("name", INJECTIONS)
def test_names_that_git_would_read_otherwise_are_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Repository, "_git", lambda *_, **__: pytest.fail("Git was asked"))
    with pytest.raises(ValueError, match="cannot name a revision"):
        Store.open(rev=name)


@pytest.mark.parametrize("name", ["nothing", "$(id)", "`id`", "v1;id", "'", "main&", "0" * 40])
def test_no_name_reaches_a_shell_or_an_argument(project: Project, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    arguments: list[str] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **rest: arguments.extend(command) or run(command, **rest))
    with pytest.raises(ValueError, match="no tag, branch, commit or experiment"):
        Store.open(rev=name)
    assert arguments
    assert not any(name in argument for argument in arguments)


def test_a_branch_with_an_odd_name_is_one(project: Project) -> None:
    project.git("branch", "odd/$(id)'&;ü", "v1.0")
    assert len(Store.open(rev="odd/$(id)'&;ü").sql(TEXTS).fetchall()) == 6


def test_an_experiment_of_several_baselines_is_that_of_this_one(project: Project) -> None:
    old, head = (project.git("rev-parse", name).strip() for name in ("v1.0", "main"))
    for baseline, commit in ((old, old), (head, head)):
        project.git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/mine", commit)
    project.git("update-ref", "refs/exps/exec/EXEC_HEAD", old)
    assert Snapshot.at(Path(), "mine").commit == head
    project.git("commit", "-q", "--allow-empty", "-m", "neither")
    with pytest.raises(ValueError, match="'mine' names several commits"):
        Snapshot.at(Path(), "mine")
    with pytest.raises(ValueError, match="no tag, branch"):
        Snapshot.at(Path(), "EXEC_HEAD")


CONFIGS = {
    # what: ({file: cache.dir}, expected), relative to the test's directory
    "default": ({}, "project/.dvc/cache"),
    "relative": ({"project/.dvc/config": "../../shared"}, "shared"),
    "local before shared": ({"project/.dvc/config": "a", "project/.dvc/config.local": "b"}, "project/.dvc/b"),
    "user's": ({"global/config": "mine"}, "global/mine"),
    "system's": ({"system/config": '"quoted"  # a comment'}, "system/quoted"),
    "project before user's": ({"project/.dvc/config": "a", "global/config": "b"}, "project/.dvc/a"),
}


@pytest.mark.parametrize(("files", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_the_cache_is_where_dvc_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: str
) -> None:
    for level in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"DVC_{level}_CONFIG_DIR", str(tmp_path / level.lower()))
    (tmp_path / "project" / ".dvc").mkdir(parents=True)
    for file, value in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(
            f"[core]\n    remote = r\n['remote \"r\"']\n    url = x\n[cache]\n    dir = {value}\n"
        )
    assert cache_dir(tmp_path / "project") == tmp_path / expected


def test_a_configured_cache_and_a_sub_directory(workspace: Path, tmp_path: Path) -> None:
    """The project is a directory of a larger repository; its cache is shared."""
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=workspace, check=True)
    inner = workspace / "inner"
    inner.mkdir()
    build(inner)
    project = Project(inner, cache=tmp_path / "shared")
    (inner / ".git").rename(tmp_path / "unused")
    project.commit(tag="v1.0")
    assert len(Store.open(inner, rev="v1.0").sql(TEXTS).fetchall()) == 6
    assert not (inner / ".dvc" / "cache").exists()


def test_a_worktree_reads_through_its_own_configuration(project: Project, tmp_path: Path) -> None:
    project.git("worktree", "add", "-q", str(tmp_path / "other"), "v1.0")
    shared = tmp_path / "other" / ".dvc" / "config.local"
    shared.write_text(f"[cache]\n    dir = {project.root / '.dvc' / 'cache'}\n")
    assert len(Store.open(tmp_path / "other", rev="v1.0").sql(TEXTS).fetchall()) == 6


def test_hooks_of_git_do_not_lead_elsewhere(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(REPOSITORY / ".git"))
    assert Snapshot.at(Path(), "v1.0").commit == project.git("rev-parse", "v1.0").strip()


LOCK = b"""
stages:
  {old}: {{outs: [{{path: data/x, hash: md5, md5: "00000000000000000000000000000001"}}]}}
  {new}: {{outs: [{{path: data/x, hash: md5, md5: "00000000000000000000000000000002"}}]}}
"""
GRAPH = b"stages: {plain: {cmd: a}, each: {foreach: '${runs}', do: {cmd: a}}, listed: {foreach: [k, 1], do: {cmd: a}}}"


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (("gone", "plain"), "2"),
        (("each@gone", "each@here"), "2"),
        (("listed@1", "gone@1"), "1"),
        (("plain@x", "listed@k"), "2"),
        (("plain", "each@here"), None),
        (("gone", "each@gone"), None),
    ],
)
def test_of_two_stages_with_one_output_the_one_that_is_left_counts(
    stages: tuple[str, str], expected: str | None
) -> None:
    lock = LOCK.decode().format(old=stages[0], new=stages[1]).encode()
    files = {"dvc.lock": lock, "dvc.yaml": GRAPH, "params.yaml": b"runs: {here: 1}"}
    if expected is None:
        with pytest.raises(ValueError, match="data/x is an output of several stages"):
            outputs(files, "v1.0")
    else:
        assert outputs(files, "v1.0")["data/x"].md5.lstrip("0") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<<<<<<< HEAD\na: [", "dvc.lock at v1.0: not valid YAML"),
        (b"[]", "dvc.lock at v1.0: not a file of DVC"),
        (b"stages: {a: {outs: [{path: x, md5: 1a}]}}", "dvc.lock at v1.0: x has no MD5"),
    ],
)
def test_a_broken_lock_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outputs({"dvc.lock": content}, "v1.0")


def test_outside_a_project_it_says_so(workspace: Path) -> None:
    with pytest.raises(ValueError, match=r"no DVC project here \(no directory `.dvc`\)"):
        Store.open(rev="v1.0")
    (workspace / ".dvc").mkdir()
    with pytest.raises(ValueError, match="not a git repository"):
        Store.open(rev="v1.0")


def test_damage_is_seen_by_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"what is 1\n")
    right, wrong = ("affdc26823a2b15758db4e1ff64c1aa1f6099225", "b00ed37934b3c26869ec5f20075d2bb2071aa336")
    assert damaged({tmp_path / "a": wrong}) == [tmp_path / "a"]
    assert damaged({tmp_path / "a": right}) == damaged({}) == []
