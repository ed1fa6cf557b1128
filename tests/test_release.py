"""Releases of data in a real Git repository with a real `dvc status`: all of it is done, or nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from stores import release_git
from stores.release import CHANGELOG, make, plan
from stores.release_text import with_entry
from stores.store import Store
from tests.conftest import REPOSITORY
from tests.pipeline import wait_for
from tests.small_store import build, rows, write
from tests.test_store_cli import Terminal
from tests.versions import Project

IDENTITY = {
    f"GIT_{who}_{what}": "somebody@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}
HEAD = "# stages of a project  (by hand)\n"


@pytest.fixture
def project(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The small store, committed; its dvc.yaml has a comment and odd spaces."""
    for name, value in (IDENTITY | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}).items():
        monkeypatch.setenv(name, value)
    build(workspace)
    write(workspace, "samples", "none", [])
    (workspace / "data" / "none").write_text("")
    project = Project(workspace)
    project.commit()
    definition = workspace / "dvc.yaml"
    definition.write_text(HEAD + definition.read_text() + "\n# the end\n")
    project.git("commit", "-qam", "dvc.yaml by hand")
    return project


@pytest.fixture(autouse=True)
def _without_dvc(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick tier takes it that all is built: `dvc status` takes a second. The slow one asks."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(release_git.Checkout, "require_built", lambda *_: None)


def rebuild(project: Project, pairs: int) -> None:
    """Another version of the pairs, as `dvc repro` and `git commit` leave it."""
    write(project.root, "pairs", "irpo_0", rows()["pairs", "irpo_0"][:pairs])
    lock = {"schema": "2.0", "stages": project._lock()}
    (project.root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    project.git("commit", "-qam", "rebuilt", "--allow-empty")


def state(project: Project) -> tuple:
    """All that a release could change."""
    files = {
        name: (project.root / name).read_text() for name in ("dvc.yaml", CHANGELOG) if (project.root / name).exists()
    }
    return (
        files, project.git("rev-parse", "HEAD"), project.git("tag"), project.git("status", "--porcelain"),
        project.git("diff", "--cached"), sorted(path.name for path in project.root.iterdir()),
    )  # fmt: skip


@pytest.fixture
def pairwright(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def test_a_release_is_a_commit_of_two_files_and_its_tags(project: Project, pairwright: Terminal) -> None:
    before = (project.root / "dvc.yaml").read_text()
    code, _, err = pairwright("release", "pairs", "v1.0", "--notes", "First pairs.")
    assert (code, err) == (0, "")
    assert project.git("show", "--name-only", "--format=%s%n%b", "HEAD").split("\n") == [
        "Release pairs v1.0", "First pairs.", "", "", CHANGELOG, "dvc.yaml", "",
    ]  # fmt: skip
    assert project.git("tag", "--points-at", "HEAD").split() == ["pairs@v1.0.0", "v1.0"]
    assert (
        project.git("for-each-ref", "--format=%(objecttype) %(contents:subject)", "refs/tags").splitlines()
        == ["tag Release pairs v1.0"] * 2
    )
    assert project.git("status", "--porcelain") == ""
    assert (project.root / "dvc.yaml").read_text() == before + (
        "artifacts:\n  pairs:\n    path: data/pairs\n    type: dataset\n    desc: pairs of Pairwright, irpo_0\n"
        "    labels: [pairwright]\n    meta:\n      version: v1.0\n      rows: 4\n      runs: [irpo_0]\n"
    )
    changelog = (project.root / CHANGELOG).read_text()
    assert changelog.startswith("# Data changelog\n")
    assert "\n## pairs v1.0 (" in changelog
    assert (
        "\n\nFirst pairs.\n\n### Rows\n\n| table | run | rows |\n| --- | --- | --- |\n| pairs | irpo\\_0 | 4 |\n"
        in changelog
    )
    with Store.open(rev="v1.0") as store:
        assert store.sql("select count(*) from pairs").fetchall() == [(4,)]


@pytest.mark.slow
@pytest.mark.slow
def test_notes_are_in_commit_tag_and_changelog_as_they_are(project: Project) -> None:
    notes = "# First pairs\n\n#2 is mended."
    make(plan(project.root, "pairs", "v1.0", notes))
    assert notes in (project.root / CHANGELOG).read_text()
    for ref in ("HEAD", "v1.0"):
        assert notes in project.git("for-each-ref", "--format=%(contents)", "--points-at", ref)
        assert notes in project.git("log", "-1", "--format=%B", ref)


def test_a_new_section_comes_before_the_others_with_or_without_a_heading() -> None:
    assert with_entry(None, "## b\n").startswith("# Data changelog\n")
    assert with_entry("# Ours\n\n## a\n", "## b\n") == "# Ours\n\n## b\n\n## a\n"
    assert with_entry("## a\n", "## b\n") == "## b\n\n## a\n"


@pytest.mark.slow
def test_the_next_release_says_what_differs_from_the_last_one(project: Project) -> None:
    make(plan(project.root, "pairs", "v1.0", "First."))
    rebuild(project, 3)
    make(plan(project.root, "pairs", "v1.1", "Second."))
    changelog = (project.root / CHANGELOG).read_text()
    second, first = changelog.split("\n## ")[1:]
    assert first.startswith("pairs v1.0")
    assert "### Since v1.0" in second
    assert "| pairs | irpo\\_0 | removed | other | no recorded cause | 1 |" in second
    assert "| pairs\\_outcome | irpo\\_0 | pairs | kept | 4 | 3 |" in second
    entry = yaml.safe_load((project.root / "dvc.yaml").read_text())["artifacts"]["pairs"]
    assert entry["meta"] == {"version": "v1.1", "rows": 3, "runs": ["irpo_0"]}
    assert Store.open(rev="v1.0").sql("select count(*) from pairs").fetchall() == [(4,)]
    rebuild(project, 3)
    assert "Since v1.1: no row differs." in plan(project.root, "pairs", "v1.2", "").entry
    assert "### Since v1.0" in plan(project.root, "pairs", "v1.2", "", since="v1.0").entry


@pytest.mark.slow
def test_dvc_reads_the_artifact(project: Project, tmp_path: Path) -> None:
    from dvc.api import artifacts_show
    from dvc.repo import Repo

    make(plan(project.root, "pairs", "v1.0", "First."))
    rebuild(project, 3)
    make(plan(project.root, "pairs", "v1.1", "Second."))
    first = project.git("rev-parse", "v1.0^{commit}").strip()
    assert artifacts_show("pairs", version="v1.0.0", repo=str(project.root)) == {"rev": first, "path": "data/pairs"}
    assert artifacts_show("pairs", repo=str(project.root))["rev"] == project.git("rev-parse", "HEAD").strip()
    with Repo(str(project.root)) as repo:
        (artifact,) = [artifacts["pairs"] for artifacts in repo.artifacts.read().values()]
        assert (artifact.type, artifact.meta["version"]) == ("dataset", "v1.1")
    Repo.get(str(project.root), "data/pairs", out=str(tmp_path / "got"), rev="pairs@v1.0.0")
    assert [path.name for path in (tmp_path / "got").rglob("*.parquet")] == ["part-00000.parquet"]


def test_a_dry_run_shows_all_and_does_nothing(project: Project, pairwright: Terminal) -> None:
    before = state(project)
    code, out, _ = pairwright("release", "pairs", "v1.0", "--notes", "First pairs.", "--dry-run")
    assert code == 0
    for part in ("## pairs v1.0 (", "+artifacts:", "tag v1.0", "tag pairs@v1.0.0", "commit: Release pairs v1.0"):
        assert part in out
    assert state(project) == before


def test_what_a_user_has_staged_or_changed_is_not_swept_in(project: Project) -> None:
    (project.root / "staged.txt").write_text("mine")
    project.git("add", "staged.txt")
    (project.root / ".gitignore").write_text((project.root / ".gitignore").read_text() + "x\n")
    make(plan(project.root, "pairs", "v1.0", ""))
    assert project.git("show", "--name-only", "--format=", "HEAD").split() == [CHANGELOG, "dvc.yaml"]
    assert project.git("status", "--porcelain").splitlines() == [" M .gitignore", "A  staged.txt"]


@pytest.mark.slow
def test_an_entry_that_a_person_wrote_keeps_what_it_says(project: Project) -> None:
    path = project.root / "dvc.yaml"
    ours = "artifacts:\n    pairs:   # ours\n        path: data/pairs\n        desc: Ours.\n        meta: {owner: me}\n"
    path.write_text(ours.replace("{owner: me}", "\n            owner: me") + path.read_text())
    project.git("commit", "-qam", "an artifact")
    make(plan(project.root, "pairs", "v1.0", ""))
    text = path.read_text()
    assert text.startswith("artifacts:\n    pairs:   # ours\n        path: data/pairs\n        desc: Ours.\n")
    assert yaml.safe_load(text)["artifacts"]["pairs"] == {
        "path": "data/pairs", "desc": "Ours.", "type": "dataset", "labels": ["pairwright"],
        "meta": {"owner": "me", "version": "v1.0", "rows": 4, "runs": ["irpo_0"]},
    }  # fmt: skip


REFUSED: list[tuple[str, str, Callable[[Project], object], str]] = [
    ("-d", "v1.0", lambda p: None, "'-d' cannot name an artifact"),
    ("pa irs", "v1.0", lambda p: None, "'pa irs' cannot name an artifact"),
    ("../x", "v1.0", lambda p: None, "'../x' cannot name an artifact"),
    ("pairs", "--force", lambda p: None, "'--force' cannot name a version"),
    ("pairs", "v1 0", lambda p: None, "'v1 0' cannot name a version"),
    ("pairs", "v1..0", lambda p: None, "'v1..0' cannot name a tag of Git"),
    ("pairs", "v1.0.lock", lambda p: None, "'v1.0.lock' cannot name a tag of Git"),
    ("pairs", "v1\n", lambda p: None, "'v1\\n' cannot name a version"),
    ("pairs", "HEAD", lambda p: None, "'HEAD' cannot name a version"),
    ("pairs", "abc1234", lambda p: None, "'abc1234' cannot name a version"),
    ("nothing", "v1.0", lambda p: None, "nothing is called 'nothing'"),
    ("training", "v1.0", lambda p: None, "params.yaml has no run of 'training'"),
    ("pairs", "v1.0", lambda p: p.git("tag", "v1.0"), "the tag 'v1.0' exists already"),
    ("pairs", "v1.0", lambda p: p.git("tag", "pairs@v1.0.0"), "the tag 'pairs@v1.0.0' exists already"),
    ("pairs", "v1.0", lambda p: p.git("branch", "v1.0"), "a branch is called 'v1.0'"),
    ("pairs", "v1.0", lambda p: p.git("checkout", "-q", "--detach"), "no branch is checked out (detached HEAD)"),
    ("pairs", "v1.0", lambda p: edit(p, "params.yaml"), "params.yaml: not as in the last commit"),
    ("pairs", "v1.0", lambda p: edit(p, "dvc.yaml"), "dvc.yaml: not as in the last commit"),
    ("pairs", "v1.0", lambda p: edit(p, "dvc.lock"), "dvc.lock: not as in the last commit"),
    ("pairs", "v1.0", lambda p: edit(p, CHANGELOG), "DATA_CHANGELOG.md: not as in the last commit"),
    (
        "pairs", "v1.0", lambda p: (p.root / "data/pairs/run=irpo_0/part-00000.parquet").unlink(),
        "not up to date with dvc.lock: pairs_outcome@irpo_0; run `dvc repro`",
    ),
    (
        "pairs", "v1.0", lambda p: write(p.root, "pairs", "irpo_0", rows()["pairs", "irpo_0"][:1]),
        "not up to date with dvc.lock: pairs_outcome@irpo_0; run `dvc repro`",
    ),
    (
        "pairs", "v1.0", lambda p: add_artifact(p, "version: v0.9"),
        "the last release of pairs, 'v0.9', has no tag here; `git fetch --tags` gets it",
    ),
    (
        "pairs", "v1.0", lambda p: cut_off(p),
        "the last release of pairs, 'v1.0', has no tag here; `git fetch --tags` gets it, or `git tag -a v1.0 ",
    ),
    ("pairs", "v1.0", lambda p: add_artifact(p, "{}", flow=True), "dvc.yaml: 'artifacts.pairs' is not in block style"),
]  # fmt: skip
QUICK = (0, 3, 5, 12, 15)
"""Those of the quick tier."""


def cut_off(project: Project) -> None:
    """A release whose process was killed before it made its tags."""
    make(plan(project.root, "pairs", "v1.0", ""))
    project.git("tag", "--delete", "v1.0", "pairs@v1.0.0")


def edit(project: Project, name: str) -> None:
    with (project.root / name).open("a") as file:
        file.write("# changed\n")


def add_artifact(project: Project, meta: str, flow: bool = False) -> None:
    entry = (
        f"  pairs: {{path: x, meta: {meta}}}\n"
        if flow
        else f"  pairs:\n    path: data/pairs\n    meta:\n      {meta}\n"
    )
    with (project.root / "dvc.yaml").open("a") as file:
        file.write(f"artifacts:\n{entry}")
    project.git("commit", "-qam", "an artifact")


@pytest.mark.parametrize(
    ("name", "version", "change", "message"),
    [
        pytest.param(*case, marks=() if i in QUICK else pytest.mark.slow, id=case[3][:30])
        for i, case in enumerate(REFUSED)
    ],
)
def test_what_keeps_a_release_from_being_made_is_one_line(
    project: Project, pairwright: Terminal, name: str, version: str, change: Callable[[Project], object], message: str
) -> None:
    change(project)
    before = state(project)
    code, out, err = pairwright("release", "--notes", "x", "--", name, version)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"pairwright: {message}"), err
    assert state(project) == before


def test_outside_a_repository_it_says_so(workspace: Path, pairwright: Terminal) -> None:
    build(workspace)
    code, _, err = pairwright("release", "pairs", "v1.0")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "a release needs a Git repository" in err


def hook(project: Project, name: str, script: str) -> None:
    path = project.root / ".git" / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


FAULTS: list[tuple[str, str, str]] = [
    ("pre-commit", "echo no such release >&2; exit 1", "git commit: no such release"),
    ("commit-msg", "echo bad message >&2; exit 1", "git commit: bad message"),
    ("pre-commit", "echo '# changed' >> dvc.yaml; echo mended dvc.yaml >&2; exit 1", "git commit: mended dvc.yaml"),
    ("pre-commit", "printf 'na\\357ve\\n' >&2; exit 1", "git commit: na\ufffdve"),
    ("reference-transaction", 'if grep -q "pairs@v1.0.0"; then echo no tags >&2; exit 1; fi', "git tag: "),
]


@pytest.mark.parametrize(
    ("name", "script", "message"),
    [pytest.param(*fault, marks=() if fault[0] == "reference-transaction" else pytest.mark.slow) for fault in FAULTS],
)
def test_a_hook_that_refuses_leaves_all_as_it_was(
    project: Project, pairwright: Terminal, name: str, script: str, message: str
) -> None:
    (project.root / "staged.txt").write_text("mine")
    project.git("add", "staged.txt")
    hook(project, name, script)
    before = state(project)
    code, _, err = pairwright("release", "pairs", "v1.0", "--notes", "x")
    assert (code, len(err.splitlines())) == (1, 1)
    assert err.startswith(f"pairwright: {message}")
    assert state(project) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_release_that_is_ended_leaves_all_as_it_was(project: Project, tmp_path: Path, number: int) -> None:
    """The commit is under way, in a hook, with the index locked."""
    started = tmp_path / "started"
    hook(project, "pre-commit", f"touch '{started}'; sleep 30")
    before = state(project)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "stores", "release", "pairs", "v1.0"]
    heeded = partial(signal.signal, number, signal.SIG_DFL)  # though what runs the tests may ignore it (`nohup`)
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=project.root, env=environment, stdout=quiet, preexec_fn=heeded)
    wait_for(started.exists, "commit")
    process.send_signal(number)
    assert process.wait(20)
    assert state(project) == before
    (project.root / ".git" / "hooks" / "pre-commit").unlink()
    make(plan(project.root, "pairs", "v1.0", ""))


def test_a_full_disk_leaves_all_as_it_was(
    project: Project, pairwright: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, written = state(project), release_git._write

    def full(path: Path, text: str) -> None:
        if path.name == CHANGELOG:
            raise OSError(28, "No space left on device", str(path))
        written(path, text)

    monkeypatch.setattr(release_git, "_write", full)
    code, _, err = pairwright("release", "pairs", "v1.0")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "No space left on device" in err
    assert state(project) == before


def test_no_name_of_a_user_is_an_option_or_reaches_a_shell(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    start = release_git.subprocess.Popen

    def recorded(command, **settings):
        calls.append(command)
        assert not settings.get("shell")
        return start(command, **settings)

    monkeypatch.setattr(release_git.subprocess, "Popen", recorded)
    make(plan(project.root, "pairs", "v1.0", "$(touch injected); `touch injected`"))
    assert not (project.root / "injected").exists()
    for command in calls:
        for place in (i for i, argument in enumerate(command) if argument == "v1.0"):
            assert "--end-of-options" in command[:place]


@pytest.mark.slow
def test_a_release_of_an_export_is_of_the_runs_in_it(project: Project) -> None:
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    params["export"] = {"first": {"pairs": ["irpo_0"], "demos": ["star"], "model": "none"}}
    (project.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    directory = project.root / "data" / "export" / "first"
    directory.mkdir(parents=True)
    (directory / "README.md").write_text("a card")
    add_export(project)
    make(plan(project.root, "first", "v1.0", ""))
    entry = yaml.safe_load((project.root / "dvc.yaml").read_text())["artifacts"]["first"]
    assert (entry["path"], entry["meta"]["runs"], entry["meta"]["rows"]) == ("data/export/first", ["star", "irpo_0"], 6)
    rebuild(project, 3)
    add_export(project)
    text = plan(project.root, "first", "v1.1", "").entry
    assert "| pairs | irpo\\_0 | removed | other | no recorded cause | 1 |" in text


def add_export(project: Project) -> None:
    """The stage of the export, as `dvc repro` and `git commit` leave it."""
    definition = yaml.safe_load((project.root / "dvc.yaml").read_text())
    out = "data/export/${key}"
    definition["stages"]["export"] = {"foreach": "${export}", "do": {"cmd": "true", "outs": [out]}}
    (project.root / "dvc.yaml").write_text(yaml.safe_dump(definition))
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())
    added = {"path": "data/export/first", "hash": "md5", **project._add(Path("data/export/first"))}
    lock["stages"]["export@first"] = {"cmd": "true", "outs": [added]}
    (project.root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    project.git("commit", "-qam", "exported")
