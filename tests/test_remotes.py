"""A team shares versions and a ledger: by a directory, an SSH server and an S3-compatible one, as the README says."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stores.ledger import Completion, Ledger
from stores.store import Store
from tests import s3_server, ssh_server, team
from tests.test_docs import blocks

pytestmark = pytest.mark.slow

Environment = dict[str, str]


class Remote(NamedTuple):
    """One kind of remote: the README's lines that name it, who may do what, and its files."""

    commands: list[str]
    writer: Environment
    reader: Environment
    stranger: Environment | None


CONFIGURE, SHARE, LEDGER = ([line.partition("  # ")[0].strip() for line in b.splitlines()] for b in blocks("shell"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return team.project(tmp_path_factory.mktemp("base") / "project")


@pytest.fixture
def ada(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ada's project."""
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "ledger"))
    return Path(shutil.copytree(base, tmp_path / "ada", symlinks=True))


@pytest.fixture(params=["/mnt/", "ssh://", "s3://"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    kind = request.param
    (add,) = [line for line in CONFIGURE if f"team {kind}" in line]
    (endpoint,) = [line for line in CONFIGURE if "endpointurl" in line]
    (verify,) = [line for line in CONFIGURE if "verify" in line]
    if kind == "/mnt/":
        yield Remote([add.replace("/mnt/team", str(tmp_path / "mnt")), verify], {}, {}, None)
    elif kind == "ssh://":
        with ssh_server.serve(tmp_path / "ssh") as ssh:
            commands = [add.replace("team-host", "team"), verify]
            yield Remote(commands, ssh.writer, ssh.reader, ssh.stranger)
    else:
        with s3_server.serve(tmp_path / "s3.log") as s3:
            commands = [add.replace("our-bucket", s3_server.BUCKET), re.sub(r"https://\S+", s3.url, endpoint), verify]
            yield Remote(commands, s3.writer, s3.reader, s3.stranger)


def test_a_version_comes_back_from_the_remote(ada: Path, remote: Remote) -> None:
    for command in remote.commands:
        team.run(command, ada)
    team.versions(ada)
    team.run("dvc push --all-tags", ada, remote.writer)
    before, cached = team.answers(ada, "v1.0"), team.files(ada / ".dvc/cache")
    shutil.rmtree(ada / ".dvc/cache")
    with Store.open(ada, rev="v1.0") as store, pytest.raises(ValueError, match="pairs/run=irpo_0") as error:
        store.sql("select * from pairs").fetchall()
    (command, *_) = re.findall(r"`(pairwright fetch [^`]+)`", str(error.value))
    if remote.stranger is not None:
        refused = team.shell(command, ada, remote.stranger)
        assert (refused.returncode, "Traceback" in refused.stdout) == (1, False), refused.stdout
    team.run(command, ada, remote.reader)
    with Store.open(ada, rev="v1.0") as store:
        assert len(store.sql("select * from pairs").fetchall()) == 4
    team.run("pairwright fetch v1.0", ada, remote.reader)
    assert team.answers(ada, "v1.0") == before
    fetched = team.files(ada / ".dvc/cache")
    assert fetched == {path: cached[path] for path in fetched}
    if remote.stranger is not None:  # who may read may not write
        (ada / "note").write_text("a new file")
        assert team.shell("dvc add -q note && dvc push note.dvc", ada, remote.reader).returncode != 0


def test_a_colleague_has_the_same_answers_and_the_ledger(ada: Path, tmp_path: Path) -> None:
    origin, theirs = tmp_path / "git.example.org/pairs.git", {"PAIRWRIGHT_LEDGER": "../other"}
    (add,) = [line for line in CONFIGURE if "/mnt/" in line]
    team.run(f"git init -q --bare -b main {origin} && git remote add origin {origin}", ada)
    team.run(add.replace("/mnt", str(tmp_path)), ada)
    team.versions(ada)
    ledger = Ledger(tmp_path / "ledger")
    ledger.append("c", "m0", [("c-1", Completion("8", "stop", 1, 1))], 1.0)
    ledger.close()
    push, clone, fetch, pull = SHARE
    team.run("dvc push --all-tags", ada)
    team.run(push, ada)
    team.run(clone.replace("https://git.example.org", str(origin.parent)), tmp_path)
    there = tmp_path / "pairs"
    assert "irpo_0" in team.run(fetch, there, theirs)
    export, add_it, commit, get, merge = LEDGER
    for command in (export, add_it, commit):
        team.run(command, ada)
    team.run(get, there, theirs)
    assert "1 entries added" in team.run(merge, there, theirs)
    assert "0 entries added" in team.run(merge, there, theirs)
    team.run(pull, there, theirs)
    assert team.answers(there, "v1.0") == team.answers(ada, "v1.0")
    with Store.open(ada) as mine_now, Store.open(there) as theirs_now:
        assert mine_now.sql(team.QUERIES[0]).fetchall() == theirs_now.sql(team.QUERIES[0]).fetchall()
