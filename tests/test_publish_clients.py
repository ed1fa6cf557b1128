"""The real huggingface_hub and datasets clients against a Hub on this machine, each in a process of its own.

Their settings are read when they are imported, so what runs here is small programs.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import export_world
from tests.conftest import REPOSITORY
from tests.hub_api import READ, WRITE, Fault, Hub, hub
from tests.publish_world import Project, pairs, rewards

pytestmark = pytest.mark.slow
NAME = "team/sums"
REPO = ("datasets", NAME)
TWO = {"pairs": [pairs(30), pairs(30, 30)], "rewards": [rewards(4)]}


@pytest.fixture
def project(workspace: Path) -> Project:
    made = Project(workspace)
    made.release(TWO)
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    with hub(tmp_path / "hub") as running:
        yield running


class Client:
    """Runs programs with the environment of a client of this Hub."""

    def __init__(self, server: Hub, home: Path):
        self.environment = os.environ | {
            "HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITE,
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(REPOSITORY),
            "PAIRWRIGHT_LEDGER": str(home / "ledger"),
        }  # fmt: skip

    def start(self, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, *command], env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *command: str) -> str:
        """What a program prints; it must end well."""
        with self.start(*command) as process:
            out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    def publish(self, *options: str) -> tuple[int, str]:
        """(exit code, everything printed) of `pairwright publish`."""
        with self.start("-m", "stores", "publish", NAME, *options) as process:
            out, err = process.communicate()
        return process.returncode, out + err


@pytest.fixture
def client(server: Hub, tmp_path: Path, project: Project) -> Client:
    return Client(server, tmp_path / "home")


LOAD = """
import json, os, sys
from datasets import get_dataset_config_names, load_dataset
name, revision, streaming = sys.argv[1], sys.argv[2], sys.argv[3] == "stream"
found = {}
for config in get_dataset_config_names(name, revision=revision):
    rows = load_dataset(name, config, revision=revision, split="train", streaming=streaming)
    found[config] = list(rows)
found["default"] = len(list(load_dataset(name, revision=revision, split="train", streaming=True)))
print(json.dumps(found), flush=True)
os._exit(0)
"""
"""Ends without Python's own end, in which a thread that reads ahead of a stream may abort the process."""


@pytest.mark.parametrize("how", ["load", "stream"])
def test_datasets_loads_and_streams_all_configs_of_a_tag(
    client: Client, project: Project, server: Hub, how: str
) -> None:
    assert client.publish("--tag", "v1.0", "--private")[0] == 0
    project.release({"pairs": [pairs(1)], "rewards": [rewards(1)]})
    assert client.publish("--tag", "v1.1")[0] == 0
    expected = {"pairs": [*TWO["pairs"][0], *TWO["pairs"][1]], "rewards": list(TWO["rewards"][0]), "default": 60}
    assert json.loads(client("-c", LOAD, NAME, "v1.0", how).splitlines()[-1]) == expected


ASK = """
import json, sys
from stores.store import Store
with Store.open(sys.argv[1], guard=True) as store:
    print(json.dumps({c: store.sql(f"select * from {c}").to_arrow().to_pylist() for c in store.configs}, default=str))
"""


def test_what_export_writes_is_what_is_loaded(server: Hub, workspace: Path, tmp_path: Path) -> None:
    made, client = Project(workspace), Client(server, tmp_path / "home")
    export_world.build()
    release = export_world.release()
    made.track(release.as_posix())
    code, said = client.publish("--release", release.name, "--tag", "v1.0")
    assert code == 0, said
    configs = json.loads((release / "provenance.json").read_text())["configs"]
    assert len(configs) == 6
    expected = {}
    for config, found in configs.items():
        rows = pa.concat_tables(pq.read_table(release / path) for path in found["files"]).to_pylist()
        expected[config] = json.loads(json.dumps(rows, default=str))
    loaded = json.loads(client("-c", LOAD, NAME, "v1.0", "load").splitlines()[-1])
    assert {config: loaded[config] for config in configs} == expected
    assert json.loads(client("-c", ASK, f"hf://{NAME}@v1.0")) == expected
    card = server.repositories.content(*REPO, "README.md").decode()
    assert f'load_dataset("{NAME}"' in card
    assert made.git("rev-parse", "HEAD") in card


API = """
import json, sys
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
name, stale = sys.argv[1:]
api = HfApi()
print(api.whoami()["name"])
print([tag.name for tag in api.list_repo_refs(name, repo_type="dataset").tags])
print([commit.title for commit in api.list_repo_commits(name, repo_type="dataset")])
try:
    late = [CommitOperationAdd("a", b"1")]
    api.create_commit(name, late, commit_message="late", repo_type="dataset", parent_commit=stale)
except HfHubHTTPError as error:
    print(error.response.status_code)
print(sorted(f.rfilename for f in api.dataset_info(name, revision="v1.0").siblings))
api.update_repo_settings(name, repo_type="dataset", gated="manual")
print(api.dataset_info(name).gated)
print([p.path for p in api.get_paths_info(name, ["README.md", "pairs"], repo_type="dataset")])
with open(snapshot_download(name, repo_type="dataset", revision="v1.0") + "/provenance.json") as file:
    print(json.load(file)["configs"]["pairs"]["rows"])
"""


def test_huggingface_hub_sees_what_was_published(client: Client, server: Hub) -> None:
    assert client.publish("--tag", "v1.0")[0] == 0
    stale = server.repositories.history(*REPO)[-1]["id"]
    said = client("-c", API, NAME, stale).splitlines()
    assert said[:2] == ["ann", "['v1.0']"]
    assert said[2].startswith("['Release main at revision ")
    assert (said[3], said[5], said[6], said[7]) == ("412", "manual", "['README.md', 'pairs']", "60")
    assert len(json.loads(said[4].replace("'", '"'))) == 6
    assert client.publish("--tag", "v1.0")[0] == 0
    assert len(server.repositories.history(*REPO)) == 2


def killed_at(client: Client, server: Hub, request: str, *options: str) -> None:
    """Kills a publish while the server is reading the body of a request."""
    process: list[subprocess.Popen[str]] = []

    def kill() -> None:
        process[0].send_signal(signal.SIGKILL)
        process[0].wait()

    server.faults.append(Fault(request, times=1, call=kill))
    process.append(client.start("-m", "stores", "publish", NAME, *options))
    with process[0]:
        process[0].communicate()
    assert process[0].returncode == -signal.SIGKILL
    server.faults.clear()


@pytest.mark.parametrize("request_", ["POST /api/repos/create", "PUT /lfs/", "POST .*/commit/", "POST .*/tag/"])
def test_a_kill_leaves_the_last_good_state_and_the_next_run_completes(
    client: Client, project: Project, server: Hub, request_: str
) -> None:
    if "create" not in request_:
        assert client.publish("--tag", "v1.0")[0] == 0
    before = server.repositories.files(*REPO) if server.repositories.names() else {}
    project.release({"pairs": [pairs(5)], "rewards": [rewards(9)]})
    killed_at(client, server, request_, "--tag", "v1.1")
    time.sleep(0.2)
    if "tag" not in request_ and server.repositories.names():
        now = server.repositories.files(*REPO)
        whole = {"README.md", "provenance.json", *(f"{c}/train-00000-of-00001.parquet" for c in ("pairs", "rewards"))}
        assert now == before or set(now) - {".gitattributes"} in (whole, set())
    assert client.publish("--tag", "v1.1")[0] == 0
    provenance = json.loads(server.repositories.content(*REPO, "provenance.json", "v1.1"))
    assert provenance["configs"]["pairs"]["rows"] == 5
    assert len(server.repositories.history(*REPO)) == (2 if "create" in request_ else 3)
    assert "pairs/train-00001-of-00002.parquet" not in server.repositories.files(*REPO)


def test_two_at_once_make_one_version_each_or_say_so(client: Client, project: Project, server: Hub) -> None:
    assert client.publish()[0] == 0
    project.release({"pairs": [pairs(5)], "rewards": [rewards(9)]})
    running = [client.start("-m", "stores", "publish", NAME, "--tag", tag) for tag in ("a", "b")]
    ended = []
    for process in running:
        with process:
            ended.append((process.communicate(), process.returncode))
    assert 0 in [code for _, code in ended]
    for (_, err), code in ended:
        assert code == 0 or "changed since it was read, and nothing was overwritten; run the command again" in err
    assert len(server.repositories.history(*REPO)) == 3


FAULTS: dict[str, tuple[Callable[[Hub, dict[str, Any]], object], str]] = {
    "revoked": (lambda server, _: server.tokens.update({WRITE: server.tokens[READ]}), "no permission"),
    "failing": (lambda server, _: server.faults.append(Fault("POST .*/commit/", status=500)), "the Hub fails (500)"),
    "cut": (lambda server, _: server.faults.append(Fault("POST .*/commit/", cut="before")), "no answer from"),
    "gone": (lambda _, environment: environment.update(HF_ENDPOINT="http://127.0.0.1:9"), "no answer from"),
}


@pytest.mark.parametrize(("cause", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_are_one_line_and_change_nothing(
    client: Client, project: Project, server: Hub, cause: Callable[[Hub, dict[str, Any]], object], message: str
) -> None:
    assert client.publish()[0] == 0
    head = server.repositories.resolve(*REPO, "main")
    project.release({"pairs": [pairs(5)], "rewards": [rewards(9)]})
    cause(server, client.environment)
    code, said = client.publish("--tag", "v1.1")
    (line,) = [line for line in said.splitlines() if line.startswith("pairwright: ")]
    assert (code, "Traceback" in said, message in line) == (1, False, True)
    assert server.repositories.resolve(*REPO, "main") == head
    assert server.repositories.refs(*REPO)["tags"] == {}


FULL = """
import sys
from pathlib import Path
from stores.store import Store
(Path(sys.argv[1]) / "filler").write_bytes(b"x" * (2**20 - 2**17))
try:
    print(Store.open("hf://team/sums@v1.0").sql("select count(*) from pairs").fetchall())
except ValueError as error:
    print(error)
(Path(sys.argv[1]) / "filler").unlink()
print(Store.open("hf://team/sums@v1.0").sql("select count(*) from pairs").fetchall())
"""


def test_a_full_disk_is_one_line_and_the_next_try_completes(
    client: Client, project: Project, server: Hub, tmp_path: Path
) -> None:
    wide = pairs(2_000)
    project.release({"pairs": [[{**row, "chosen": os.urandom(64).hex()} for row in wide]]})
    assert client.publish("--tag", "v1.0")[0] == 0
    small = tmp_path / "small"
    small.mkdir()
    client.environment |= {"HF_HOME": str(small)}
    mount = f'mount -t tmpfs -o size=1m tmpfs "{small}" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    command += [sys.executable, "-c", FULL, str(small)]
    done = subprocess.run(command, env=client.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert re.fullmatch(r"hf://team/sums@\w{12} cannot be read: the disk is full; free space, or let .*", said[0])
    assert said[1:] == ["[(2000,)]"]
