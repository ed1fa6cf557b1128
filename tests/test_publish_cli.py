"""`pairwright publish`, and `hf://…` as a revision, on the command line: what they print, which names they take."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores.cli import main
from tests.conftest import REPOSITORY
from tests.hub_api import WRITE, Hub, hub
from tests.publish_world import Project, pairs, rewards

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in huggingface_hub, of httpx2
RELEASE = {"pairs": [pairs(3)], "rewards": [rewards(4)]}


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("committed"))
    made.release(RELEASE)
    return made


@pytest.fixture
def server(committed: Project, tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that the client of this process asks, with a token that may write; and a release in the checkout."""
    committed.copy(workspace)
    with hub(tmp_path / "hub") as running:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.endpoint)
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        yield running


def pairwright(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["pairwright", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_publish_says_what_it_does(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = pairwright(monkeypatch, capsys, "publish", "team/sums", "--tag", "v1.0", "--dry-run")
    assert (code, err, out.splitlines()[-1]) == (0, "", "dry run: nothing was sent")
    assert server.writes() == []
    code, out, err = pairwright(monkeypatch, capsys, "publish", "team/sums", "--tag", "v1.0", "--private")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"published: {server.endpoint}/datasets/team/sums  (hf://team/sums@v1.0)"
    code, out, _ = pairwright(monkeypatch, capsys, "publish", "team/sums", "--tag", "v1.0")
    assert out.splitlines() == [
        "keep    tag v1.0, which holds all of this",
        f"nothing to send: {server.endpoint}/datasets/team/sums  (hf://team/sums@v1.0)",
    ]


NAMES = {
    "no organisation": (["sums"], "'sums' is no repository of the Hub; give ORG/NAME"),
    "a path": (["team/../../etc"], "is no repository of the Hub"),
    "a URL": (["http://evil.example/x"], "is no repository of the Hub"),
    "an option": (["team/--private"], "is no repository of the Hub"),
    "a query": (["team/sums?x=1"], "is no repository of the Hub"),
    "too long": (["team/" + "x" * 96], "at most 96 characters"),
    "a tag that is a path": (["team/sums", "--tag", "../main"], "'../main' is no tag"),
    "a tag that is a ref": (["team/sums", "--tag", "refs/heads/main"], "is no tag; give letters, digits"),
    "a tag with a newline": (["team/sums", "--tag", "v1\nx"], "is no tag"),
    "a tag named main": (["team/sums", "--tag", "main"], "could be mistaken for a branch or a commit"),
    "a tag like a commit": (["team/sums", "--tag", "0123abc"], "could be mistaken for a branch or a commit"),
    "a release that is a path": (["team/sums", "--release", "../../etc"], "no release '../../etc'"),
    "a revision that is an option": (["team/sums", "--rev", "--output=x"], "cannot name a revision"),
    "a revision of shell": (["team/sums", "--rev", "$(touch x)"], "cannot name a revision"),
    "merge without a model": (["team/sums", "--merge"], "--merge is for --model; leave it out"),
    "a model and a release": (["team/sums", "--model", "m", "--release", "main"], "--release does not go with --model"),
}


@pytest.mark.parametrize(("arguments", "message"), NAMES.values(), ids=NAMES)
def test_names_are_checked_before_anything_is_asked(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = pairwright(monkeypatch, capsys, "publish", *arguments)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert message in err
    assert server.asked == []


def test_a_published_version_is_not_exported_for_trainers(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("export-for", "trl", "irpo_0", "out", "--rev", "hf://team/sums@v1.0")
    code, out, err = pairwright(monkeypatch, capsys, *arguments)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "hf://team/sums@v1.0 is a published release, without the tables that are exported" in err
    assert server.asked == []
    assert not Path("out").exists()


def run(server: Hub, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with a Hub cache of its own."""
    settings = {
        "HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITE,
        "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(REPOSITORY), "PAIRWRIGHT_LEDGER": str(home / "ledger"),
    }  # fmt: skip
    command = [sys.executable, "-m", "stores", *arguments]
    return subprocess.run(command, env=os.environ | settings | environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_published_version_is_described(server: Hub, tmp_path: Path) -> None:
    assert run(server, tmp_path / "ann", "publish", "team/sums", "--tag", "v1.0").returncode == 0
    home, version = tmp_path / "bob", ("--rev", "hf://team/sums@v1.0")
    runs = run(server, home, "runs", *version, "--format", "csv")
    assert runs.stdout.splitlines()[1] == "pairs,irpo_0,export,True,3,"
    assert "chosen" in run(server, home, "describe", "pairs", *version).stdout
    assert "chosen" in run(server, home, "describe", "pairs", *version, HF_HUB_OFFLINE="1").stdout
    check = run(server, home, "check", *version)
    assert (check.returncode, len(check.stderr.splitlines())) == (1, 1)


@pytest.mark.slow
def test_a_published_version_is_asked(server: Hub, tmp_path: Path) -> None:
    assert run(server, tmp_path / "ann", "publish", "team/sums", "--tag", "v1.0").returncode == 0
    home, version = tmp_path / "bob", ("--rev", "hf://team/sums@v1.0", "--format", "csv")
    query = "select count(*) as n from pairs"
    for offline in ("0", "1"):
        asked = run(server, home, "sql", query, *version, HF_HUB_OFFLINE=offline)
        assert (asked.stdout, asked.stderr) == ("n\n3\n", "")
    attack = run(server, home, "sql", "copy (select 1) to 'x.csv'", *version)
    assert attack.returncode == 1
    assert "only one SELECT" in attack.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_TOKEN": "hf_nonsense"}, "the Hub refuses your token; log in with `hf auth login`, or set HF_TOKEN"),
        ({"HF_TOKEN": "hf_\u00e9"}, "your token has characters that no token has"),
        ({"HF_TOKEN": ""}, "you are not logged in; log in with `hf auth login`, or set HF_TOKEN"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no answer from http://127.0.0.1:9"),
        ({"HF_ENDPOINT": "nonsense"}, "nonsense"),
    ],
)
def test_a_login_or_network_that_will_not_do_is_one_line(
    server: Hub, tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    done = run(server, tmp_path / "home", "publish", "team/sums", **environment)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_" not in done.stderr
