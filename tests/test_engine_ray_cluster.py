"""Ray: what a local cluster of two replicas answers, and what it does when parts of it are killed."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import models, problems, prompts, samples
from builders.engines import Request, load_engine
from builders.engines.ray_replica import Source
from builders.model_files import write_record
from builders.models import initialise, write_script
from schemas.sections import Sampling
from stores.ledger import Ledger
from stores.stage import execute
from tests.pipeline import EMPTY, sampling_params, wait_for
from tests.test_engine_ray import requests
from tests.test_engines import CONFIG, GREEDY, WORDS

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]


class Reading:
    """Requests, and how many of them were read."""

    def __init__(self, count: int):
        self.count, self.read = count, 0

    def __iter__(self) -> Iterator[Request]:
        for request in requests(self.count):
            self.read += 1
            yield request


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    initialise(CONFIG, WORDS, 0, directory, "models.base")
    write_record(directory, {"source": "config"})
    return directory


@pytest.fixture(scope="module")
def script_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("script")
    write_script(directory, [f"Final answer: {i}" for i in range(20)])
    write_record(directory, {"source": "script"})
    return directory


def logging_source(path: Path) -> type[Source]:
    """A source that writes what happens to each block. Not of a module: so Ray sends it along, path and all."""

    def log(what: str, index: int) -> None:
        with path.open("a", encoding="utf-8") as file:
            print(what, index, file=file)

    class LoggingSource(Source):
        async def begin(self, index: int, replica: str) -> tuple[int, str]:
            log("begin", index)
            return await super().begin(index, replica)

        async def forget(self, index: int) -> None:
            log("forget", index)
            await super().forget(index)

    return LoggingSource


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each on this machine, the first of which says it has a GPU too."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_LOG_LEVEL": "ERROR"}
    import ray
    from ray.cluster_utils import Cluster

    nodes = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=nodes | {"num_gpus": 1})
    cluster.add_node(**nodes)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    wait_for(lambda: not processes("raylet"), "end of the cluster", 20)


def stat(pid: int) -> tuple[str, int]:
    """(title, parent) of a process; an empty title if there is none."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        return title, int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return "", 0


def processes(title: str, ancestor: int = os.getpid()) -> list[int]:
    """Descendants of a process whose command line holds a string."""
    every = {int(entry.name): stat(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")}

    def descends(pid: int) -> bool:
        while pid := every.get(pid, ("", 0))[1]:
            if pid == ancestor:
                return True
        return False

    return [pid for pid, (found, _) in every.items() if title in found and descends(pid)]


def replicas() -> list[int]:
    return processes("ray::MapWorker")


@pytest.fixture
def two_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_RAY_REPLICAS", "2")
    monkeypatch.setenv("PAIRWRIGHT_RAY_GPUS_PER_REPLICA", "0")


def direct(directory: Path, count: int, sampling: Sampling) -> dict[str, Any]:
    [done] = load_engine("hf", directory).stream(requests(count), sampling, count)
    return {request.key: completion for request, completion in done}


def begun(log: Path) -> list[str]:
    """The blocks that replicas began, by their number, in order."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [line.removeprefix("begin ") for line in lines if line.startswith("begin ")]


def test_replicas_complete_as_one_engine_and_read_no_further_than_they_must(
    cluster: Any, two_replicas: None, model_dir: Path
) -> None:
    asked, found = Reading(120), {}
    engine = load_engine("ray", model_dir)
    for done in engine.stream(asked, GREEDY, 8):
        assert asked.read <= len(found) + 2 * 5 * 8, "five blocks per replica"
        assert len(done) <= 8
        found |= {request.key: completion for request, completion in done}
    assert asked.read == 120
    assert found == direct(model_dir, 120, GREEDY)
    assert engine.device_s > 0
    wait_for(lambda: not replicas(), "end of the replicas", 20)


def test_a_killed_replica_costs_only_what_it_had_in_flight(
    cluster: Any, two_replicas: None, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr("builders.engines.ray.Source", logging_source(log))
    long, found, killed = Sampling(temperature=1.0, max_new_tokens=100), [], 0
    for done in load_engine("ray", model_dir).stream(requests(480), long, 16):
        found += done
        if not killed and len(found) >= 48 and len(replicas()) == 2:
            killed = replicas()[0]
            os.kill(killed, signal.SIGKILL)
    assert killed
    assert len(found) == 480
    assert {request.key: completion for request, completion in found} == direct(model_dir, 480, long)
    assert 1 <= len(begun(log)) - 30 <= 3, "what the killed replica held"
    events = log.read_text(encoding="utf-8").splitlines()
    last = {event: row for row, event in enumerate(events)}
    assert all(last[f"begin {i}"] < events.index(f"forget {i}") for i in range(30)), "what was answered is not begun"


def test_requests_that_kill_every_replica_end_the_run(
    cluster: Any, script_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAIRWRIGHT_RAY_ENGINE", "scripted")
    monkeypatch.setenv("PAIRWRIGHT_SCRIPTED_DELAY", "60")
    log = tmp_path / "log"
    monkeypatch.setattr("builders.engines.ray.Source", logging_source(log))

    def shoot() -> None:
        for shots in range(4):
            wait_for(lambda shots=shots: len(begun(log)) > shots, "replica that begins", 50)
            for pid in replicas():
                os.kill(pid, signal.SIGKILL)

    shooting = threading.Thread(target=shoot)
    shooting.start()
    with pytest.raises(
        ValueError, match="4 replicas died with the same 2 requests from k0000: is there memory"
    ) as error:
        list(load_engine("ray", script_dir).stream(requests(2), GREEDY, 8))
    shooting.join()
    assert len(begun(log)) == 5
    assert "\n" not in str(error.value)


def test_an_error_of_a_replica_is_one_line(cluster: Any, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_RAY_ENGINE", "scripted")
    with pytest.raises(ValueError, match=r"^replica on \S+: .* engine 'scripted' needs a model made from") as error:
        list(load_engine("ray", model_dir).stream(requests(2), GREEDY, 8))
    assert "\n" not in str(error.value)
    wait_for(lambda: not replicas(), "end of the replicas", 20)


def test_what_a_lost_node_held_is_given_to_the_others(
    cluster: Any, two_replicas: None, script_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAIRWRIGHT_RAY_ENGINE", "scripted")
    monkeypatch.setenv("PAIRWRIGHT_SCRIPTED_DELAY", "0.2")
    monkeypatch.setattr("builders.engines.ray.PATIENCE_S", 6.0)
    found: list[str] = []
    for done in load_engine("ray", script_dir).stream(requests(240), GREEDY, 8):
        found += [request.key for request, _ in done]
        if len(found) == 80:
            assert len(replicas()) == 2
            cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    assert sorted(found) == [request.key for request in requests(240)]


def test_a_killed_run_continues_where_its_last_batch_was_committed(workspace: Path) -> None:
    params = sampling_params("scripted", 8)
    params["samples"]["irpo_0"]["batch_size"] = 8

    def stage(engine: str) -> list[str]:
        params["samples"]["irpo_0"]["engine"] = engine
        (workspace / "params.yaml").write_text(yaml.safe_dump(EMPTY | params), encoding="utf-8")
        return [sys.executable, "-m", "builders.samples", "irpo_0"]

    def rows() -> bytes:
        return (workspace / "data/samples/run=irpo_0/part-00000.parquet").read_bytes()

    command = stage("scripted")
    for section, run, build in (
        ("problems", "train", problems),
        ("models", "base", models),
        ("prompts", "train", prompts),
    ):
        execute(section, run, build.run)
    execute("samples", "irpo_0", samples.run)
    expected = rows()
    (workspace / "data/samples/run=irpo_0/part-00000.parquet").unlink()
    ledger = Ledger(workspace / "ledger")
    environment = os.environ | {
        "PAIRWRIGHT_RAY_REPLICAS": "2", "PAIRWRIGHT_RAY_ENGINE": "scripted", "PAIRWRIGHT_LEDGER": str(ledger.root),
    }  # fmt: skip
    command = stage("ray")
    with subprocess.Popen(command, env=environment | {"PAIRWRIGHT_SCRIPTED_DELAY": "0.5"}) as running:
        wait_for(lambda: ledger.sql("select count(*) from completions")[1][0][0] >= 32, "batch")
        cluster = [pid for name in ("raylet", "gcs_server", "ray::MapWorker") for pid in processes(name, running.pid)]
        agents = processes("ray::", running.pid)
        running.kill()
    assert len(cluster) >= 4
    wait_for(lambda: not any(stat(pid)[0] for pid in cluster), "end of the cluster", 30)
    for pid in agents:  # those of the nodes take another minute
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    committed = ledger.sql("select key, batch from completions")[1]
    assert len(committed) < 320
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("sampling base: ")]
    assert (lines, done.stdout) == ([], ""), "Ray's log is Ray's"
    assert set(committed) < set(ledger.sql("select key, batch from completions")[1])
    assert rows() == expected
    ledger.close()
