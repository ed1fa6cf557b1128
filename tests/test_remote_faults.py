"""What goes wrong with DVC's cache and its remotes: it is said in one line, nothing wrong is read, and it can go on."""

import hashlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stores.store import Store
from tests import s3_server, ssh_server, team

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two versions and a directory as remote, to which they were pushed."""
    root = tmp_path_factory.mktemp("base") / "project"
    team.run(f"dvc remote add -q -d team {root.parent / 'remote'}", team.project(root))
    team.versions(root)
    team.run("dvc push -q --all-tags", root)
    return root


@pytest.fixture
def ada(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ada's project, with a remote of her own to break."""
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "ledger"))
    root = Path(shutil.copytree(base, tmp_path / "ada", symlinks=True))
    shutil.copytree(base.parent / "remote", tmp_path / "remote")
    (root / ".dvc/config.local").write_text(f"['remote \"team\"']\n    url = {tmp_path / 'remote'}\n")
    return root


def refusal(root: Path, query: str = "select * from pairs") -> str:
    """Why v1.0 is not read."""
    with Store.open(root, rev="v1.0") as store, pytest.raises(ValueError) as error:
        store.sql(query).fetchall()
    return str(error.value)


def printed(message: str) -> str:
    """The command that a message names."""
    return re.findall(r"`(pairwright fetch [^`]+)`", message)[0]


def said(command: str, root: Path, extra: dict[str, str] | None = None) -> str:
    """The one line of a command that must fail."""
    done = team.shell(command, root, extra)
    assert (done.returncode, done.stdout.count("\n")) == (1, 1), done.stdout
    return done.stdout


def cached(root: Path, directory: str, version: str = "v1.0") -> list[Path]:
    """The cache files of a tracked directory: its listing, then its files."""
    with Store.open(root, rev=version) as store:
        assert store.snapshot is not None
        listing = store.snapshot.outs[directory].path(root / ".dvc/cache")
        return [listing, *store.snapshot.files(directory).values()]


def spoil(path: Path) -> None:
    """Another byte in a file, which stays write-protected as DVC left it: so DVC takes it for whole."""
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.chmod(0o444)


def whole(directory: Path) -> bool:
    """Whether every file below `files/md5` that has its final name is what that says."""
    found = {path: content for path, content in team.files(directory / "files/md5").items() if "." not in path[3:4]}
    return all(hashlib.md5(c).hexdigest() == path.replace("/", "").removesuffix(".dir") for path, c in found.items())


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_file_is_never_read_and_the_named_command_replaces_it(ada: Path, which: int) -> None:
    before = team.answers(ada, "v1.0")
    damaged = cached(ada, "data/pairs/run=irpo_0")[which]
    spoil(damaged)
    message = refusal(ada)
    assert (str(damaged) in message, "damaged" in message, "\n" in message) == (True, True, False)
    if which:  # DVC's own command does not see it
        assert "up to date" in team.run("dvc fetch --all-tags", ada)
        assert refusal(ada) == message
    team.run(printed(message), ada)
    assert team.answers(ada, "v1.0") == before


def test_a_file_that_is_damaged_at_the_remote_is_no_success(ada: Path, tmp_path: Path) -> None:
    part = cached(ada, "data/pairs/run=irpo_0")[1]
    spoil(tmp_path / "remote" / part.relative_to(ada / ".dvc/cache"))
    part.unlink()
    command = printed(refusal(ada))
    message = said(command, ada)
    assert ("remote" in message, str(part.relative_to(ada / ".dvc/cache")) in message) == (True, True), message
    assert "select" not in refusal(ada)


def test_what_the_remote_lacks_is_named(ada: Path, tmp_path: Path) -> None:
    shutil.rmtree(ada / ".dvc/cache")
    shutil.rmtree(tmp_path / "remote/files")
    assert "the remote lacks" in said("pairwright fetch v1.0", ada)
    assert "the remote lacks data/pairs/run=irpo_0" in said("pairwright fetch v1.0 data/pairs", ada)


def test_without_a_remote_that_is_said_and_with_one_it_goes_on(ada: Path, tmp_path: Path) -> None:
    shutil.rmtree(ada / ".dvc/cache")
    shutil.rmtree(ada / ".git")
    (ada / ".dvc/config").write_text("")
    local = (ada / ".dvc/config.local").rename(tmp_path / "later")
    team.run("git init -q -b main && git add -A && git commit -qm one && git tag v1.0", ada)  # what is v2.0 elsewhere
    assert "no default remote to fetch from; `dvc remote add -d" in said("pairwright fetch v1.0 data/pairs", ada)
    local.rename(ada / ".dvc/config.local")
    team.run("dvc remote default --local team && pairwright fetch v1.0", ada)
    assert len(team.answers(ada, "v1.0")[0]) == 3


def test_a_remote_that_is_away_or_refuses_the_key_is_said(ada: Path, tmp_path: Path) -> None:
    shutil.rmtree(ada / ".dvc/cache")
    with s3_server.serve(tmp_path / "log") as s3:
        config = f"['remote \"team\"']\n    url = s3://{s3_server.BUCKET}/pairs\n    endpointurl = {s3.url}\n"
        (ada / ".dvc/config.local").write_text(config)
        refused = said("pairwright fetch v1.0 data/pairs", ada, s3.stranger)
        nobody = said("pairwright fetch v1.0 data/pairs", ada)
    away = said("pairwright fetch v1.0 data/pairs", ada, s3.writer)
    assert ("Forbidden" in refused, "credentials" in nobody, "Could not connect" in away) == (True, True, True)
    assert not any(secret in refused + away for secret in (*s3.stranger.values(), *s3.writer.values()))


def killed(command: str, root: Path, keys: dict[str, str], when: Callable[[], bool]) -> None:
    """Runs a command and kills it in the middle."""
    with subprocess.Popen(command.split(), cwd=root, env=team.environment(keys), stdout=-3, stderr=-3) as process:
        while not when():
            assert process.poll() is None, f"{command} was too fast to be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)


def halves(directory: Path) -> int:
    """How many files have begun to come, and are not all there."""
    return sum(path.is_file() and path.suffix == ".tmp" for path in directory.rglob("*"))


def test_a_killed_push_and_a_killed_fetch_go_on(ada: Path, tmp_path: Path) -> None:
    before, cache = team.answers(ada, "v1.0"), ada / ".dvc/cache"
    (ada / ".dvc/config.local").write_text("['remote \"team\"']\n    url = ssh://team/pairs\n")
    with ssh_server.serve(tmp_path / "ssh", pause_s=0.05) as slow:
        there = slow.root / "pairs"
        killed("dvc push --all-tags", ada, slow.writer, lambda: halves(there) > 0)
        assert whole(there)
    with ssh_server.serve(tmp_path / "ssh") as ssh:
        team.run("dvc push --all-tags", ada, ssh.writer)
    shutil.rmtree(cache)
    with ssh_server.serve(tmp_path / "ssh", pause_s=0.05) as slow:
        killed("pairwright fetch v1.0", ada, slow.reader, lambda: cache.exists() and halves(cache) > 0)
        assert whole(cache)
    with ssh_server.serve(tmp_path / "ssh") as ssh:
        team.run("pairwright fetch v1.0", ada, ssh.reader)
    assert (team.answers(ada, "v1.0"), whole(cache)) == (before, True)


FULL = """
mount -t tmpfs -o size=9m tmpfs "$1" || exit 77  # DVC leaves what it began there, up to 3 MB
head -c 6000000 /dev/zero > "$1/filler"
pairwright fetch v1.0 && exit 1
rm "$1/filler"
pairwright fetch v1.0 && pairwright check --rev v1.0
"""


def test_a_full_disk_is_said_and_with_room_it_goes_on(ada: Path, tmp_path: Path) -> None:
    shutil.rmtree(ada / ".dvc/cache")
    small = tmp_path / "small"
    small.mkdir()
    team.run(f"dvc cache dir --local {small}", ada)
    enter = ["unshare", "--map-root-user", "--mount", "bash", "-c", FULL, "bash", str(small)]
    done = subprocess.run(enter, cwd=ada, env=team.environment(), capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert done.stderr.count("\n") == 1, done.stderr
    assert (done.returncode, "No space left on device" in done.stderr) == (0, True), done.stdout
