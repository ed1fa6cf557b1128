"""`pairwright doctor` finds what is broken, names the remedy, and shows no secret."""

import json
import os
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from builders import doctor, doctor_remotes, doctor_storage
from builders.commands import doctor as command
from builders.doctor import Finding, examine_packages, reach
from builders.engines.servers import servers
from stores.ledger import Completion, Ledger
from stores.printing import Format
from tests import stage_world as world
from tests.conftest import REPOSITORY
from tests.test_ledger_upgrade import FIRST, write_old

KEY = "sk-secret-of-mine"


def states(found: list[Finding], check: str) -> list[str]:
    return [finding.state for finding in found if finding.check == check]


def test_the_shipped_constraints_are_looked_up() -> None:
    found = {finding.check: finding for finding in examine_packages(REPOSITORY / "constraints.txt")}
    assert found["python"].state == "ok"
    assert found["packages"].state in ("ok", "warning")


@pytest.mark.parametrize(
    ("constraints", "state", "detail"),
    [
        ("duckdb==1.0.0\n", "warning", "not as tested: duckdb "),
        ("# comment\nPyArrow==1.0\n", "problem", "(tested: 1.0)"),
        (None, "warning", "there is no"),
    ],
)
def test_other_versions_are_named(tmp_path: Path, constraints: str | None, state: str, detail: str) -> None:
    if constraints:
        (tmp_path / "constraints.txt").write_text(constraints)
    *_, found = examine_packages(tmp_path / "constraints.txt")
    assert (found.state, detail in found.detail, bool(found.remedy)) == (state, True, True)


def test_a_missing_package_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["no-such-package>=1", 'left-out; extra == "dev"', "numpy<1"])
    *_, found = examine_packages(REPOSITORY / "constraints.txt")
    assert found.state == "problem"
    assert found.detail.startswith("no-such-package is missing; numpy ")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {KEY}"
        self.send_response(200 if known and self.path == "/v1/models" else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_servers_are_asked_and_no_secret_is_shown() -> None:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    environment = {"PAIRWRIGHT_BASE_URLS": f"{url},{url},http://127.0.0.1:9/v1", "PAIRWRIGHT_API_KEYS": f"{KEY},x,y"}
    found = [reach(one) for one in servers(environment)]
    server.shutdown()
    server.server_close()
    assert [(one.state, one.detail) for one in found] == [
        ("ok", "server 1 of 3 answers (200)"),
        ("problem", "server 2 of 3 refuses the key (401)"),
        ("problem", "server 3 of 3 does not answer (ConnectError)"),
    ]


def test_a_whole_ledger_is_fit_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    (found,) = doctor_storage.ledger(tmp_path / "none", deep=False)
    assert (found.state, "none yet" in found.detail) == ("ok", True)
    assert not (tmp_path / "none").exists()
    ledger = Ledger(tmp_path)
    entries = [(f"a-{i:04d}", Completion("long " * 40, "stop", 1, 1)) for i in range(400)]
    ledger.append("a", "m0", entries, 1.0)
    ledger.db.execute("pragma wal_checkpoint(truncate)")
    ledger.close()
    (found,) = doctor_storage.ledger(tmp_path, deep=False)
    assert (found.state, found.detail.startswith("400 entries, 0.1 MB, whole, can be written")) == ("ok", True)
    assert {path.name for path in tmp_path.iterdir()} == {"ledger.sqlite"}
    content = bytearray((tmp_path / "ledger.sqlite").read_bytes())
    content[8 * 4096 :] = os.urandom(len(content) - 8 * 4096)
    (tmp_path / "ledger.sqlite").write_bytes(content)
    (found,) = doctor_storage.ledger(tmp_path, deep=False)
    assert (found.state, "backup" in found.remedy) == ("problem", True)


def test_a_ledger_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = doctor_storage.ledger(tmp_path / "file", deep=False)
    assert (found.state, "cannot be made" in found.detail) == ("problem", True)


def test_a_large_ledger_is_read_whole_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(tmp_path).close()
    monkeypatch.setattr(doctor_storage, "_LARGE", 1)
    details = [next(doctor_storage.ledger(tmp_path, deep)).detail for deep in (False, True)]
    assert ["not read whole" in detail for detail in details] == [True, False]


def test_an_earlier_ledger_is_left_as_it_is(tmp_path: Path) -> None:
    write_old(tmp_path, FIRST)
    before = (tmp_path / "ledger.sqlite").read_bytes()
    (found,) = doctor_storage.ledger(tmp_path, deep=True)
    assert (found.state, "of an earlier version" in found.detail) == ("ok", True)
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


def test_a_ledger_on_a_network_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\nnone /proc proc rw 0 0\n")
    assert doctor_storage.filesystem(tmp_path / "ledger", mounts) == "nfs4"
    assert doctor_storage.filesystem(Path("/usr"), mounts) == "ext4"
    monkeypatch.setattr(doctor_storage, "filesystem", lambda *_: "nfs4")
    first, _ = doctor_storage.ledger(tmp_path, deep=False)
    assert (first.check, first.state) == ("ledger place", "problem")


@pytest.mark.parametrize(
    ("possible", "configured", "state"),
    [
        ("reflink, hardlink, symlink", None, "ok"),
        ("hardlink, symlink", None, "warning"),
        ("hardlink, symlink", "reflink,hardlink\n", "ok"),
        ("symlink", "hardlink", "warning"),
        ("<https://error.dvc.org/no-dvc-cache>", None, "ok"),
    ],
)
def test_copies_of_the_cache_are_a_warning(possible: str, configured: str | None, state: str) -> None:
    assert doctor_remotes.links(possible, configured).state == state


@pytest.mark.parametrize(
    ("config", "state", "said"),
    [
        ({}, "warning", "none: versions lie on this machine alone"),
        ({"remote.a.url": "/mnt/x", "remote.b.url": "s3://x"}, "warning", "`dvc remote default a`"),
        ({"remote.a.url": "/mnt/x", "core.remote": "b"}, "problem", "the default remote 'b' has no URL (have a)"),
        ({"remote.a.url": "/mnt/x", "core.remote": "a"}, "ok", "'a' (local)"),
        ({"remote.a.b.url": f"s3://{KEY}@x", "core.remote": "a.b"}, "ok", "'a.b' (s3)"),
        (
            {"remote.a.url": f"gone://{KEY}", "core.remote": "a"},
            "problem",
            "constraints.txt -e '.[far]'",
        ),
    ],
)
def test_the_default_remote(config: dict[str, str], state: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor_remotes._PACKAGES, "gone", ("no_such_module", "far"))
    found = doctor_remotes.remote(config)
    assert (found.state, said in found.detail + found.remedy, KEY in str(found)) == (state, True, False)


def test_a_cache_on_another_disk_is_a_warning(tmp_path: Path) -> None:
    assert doctor_remotes.cache(tmp_path / "a" / "cache", tmp_path / "data").state == "ok"
    assert doctor_remotes.cache(Path("/proc/cache"), tmp_path / "data").state == "warning"


def test_disks_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"data/": tmp_path / "a" / "b", "the ledger": tmp_path}
    (found,) = doctor_storage.disks(places)
    assert found.detail.endswith("GB free for data/, the ledger")
    monkeypatch.setattr(doctor_storage, "_TOO_LITTLE", 1e18)
    (found,) = doctor_storage.disks(places)
    assert found.state == "problem"


def test_a_directory_that_is_no_project(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer import Exit

    with pytest.raises(Exit) as end:
        command(format=Format.json)
    assert end.value.exit_code == 1
    found = [Finding(**row) for row in json.loads(capsys.readouterr().out)]
    assert [states(found, check) for check in ("params.yaml", "git", "dvc")] == [["problem"]] * 3
    assert states(found, "device") != []
    assert states(found, "ledger") == ["ok"]


def test_a_machine_without_git_is_examined_to_the_end(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workspace))
    found = list(doctor_storage.examine_storage(workspace, deep=False))
    assert states(found, "git") == ["problem"]
    assert states(found, "ledger") == ["ok"]


@pytest.mark.slow
def test_a_project_is_fit(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    world.write_params(samples={"drawn": world.SAMPLES | {"engine": "openai"}})
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    (workspace / "constraints.txt").write_bytes((REPOSITORY / "constraints.txt").read_bytes())
    for commands in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "a"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"] if commands[0] == "git" else []
        subprocess.run([commands[0], *identity, *commands[1:]], check=True, capture_output=True)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("PAIRWRIGHT_BASE_URLS", "http://127.0.0.1:9/v1")
    command()
    out = capsys.readouterr().out
    assert "problem" not in out
    assert "OPENAI_API_KEY: yes" in out
    assert "the server: not asked" in out
    assert (KEY in out, "127.0.0.1" in out) == (False, False)
    (workspace / "params.yaml").write_text("seed: 0\n")
    found = {finding.check: finding for finding in doctor.examine(workspace)}
    assert (found["params.yaml"].state, found["git"].detail) == ("problem", "not committed: params.yaml")


@pytest.mark.slow
def test_a_remote_is_asked_only_if_the_network_may_be(workspace: Path) -> None:
    remote = workspace.parent / "remote"
    subprocess.run(f"git init -q && dvc init -q && dvc remote add -q -d team {remote}", shell=True, check=True)

    asked = doctor_remotes.examine_remotes(workspace, "hardlink", workspace / ".dvc/cache", network=False)
    assert [(finding.state, finding.detail) for finding in asked if finding.check == "dvc remote"] == [
        ("ok", "'team' (local)"),
        ("warning", "what comes from 'team' is not compared with its checksum"),
        ("ok", "the remote: not asked (--network asks)"),
    ]
    assert doctor_remotes.reach(workspace)[1:3] == ("warning", "the remote's directory is not there")
    remote.mkdir()
    assert doctor_remotes.reach(workspace)[1:3] == ("ok", "the remote answers; nothing was pushed to it yet")
    (remote / "files/md5").mkdir(parents=True)
    assert doctor_remotes.reach(workspace)[1:3] == ("ok", "the remote answers")
