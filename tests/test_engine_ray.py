"""Ray: where replicas go, what one of them does, and what a cluster answers when parts of it are killed."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders.engines import Request, load_engine
from builders.engines.ray import lay_out
from builders.engines.ray_replica import Replica, Source, Work
from builders.model_files import fingerprint, write_record
from builders.models import initialise, write_script
from schemas import Chat
from schemas.sections import Sampling
from stores.ledger import Ledger
from tests.pipeline import Checkout, kill, sampling_params, wait_for
from tests.test_engines import CONFIG, EXPLORE, GREEDY, WORDS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
NODE, GPU_NODE = {"CPU": 8.0}, {"CPU": 32.0, "GPU": 8.0}


def requests(count: int) -> list[Request]:
    return [Request(f"k{i:04d}", (Chat(role="user", content=WORDS[i % 2]),), "", "text") for i in range(count)]


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


# Where replicas go


@pytest.mark.parametrize(
    ("nodes", "environment", "expected"),
    [
        ([NODE], {}, ("hf", 1, 0, 8)),
        ([NODE, NODE], {}, ("hf", 2, 0, 8)),
        ([NODE, NODE], {"PAIRWRIGHT_RAY_REPLICAS": "3"}, ("hf", 3, 0, 4)),
        ([NODE, {"CPU": 2.0}], {"PAIRWRIGHT_RAY_REPLICAS": "5"}, ("hf", 5, 0, 2)),
        ([GPU_NODE, NODE], {}, ("vllm", 8, 1, 1)),
        ([GPU_NODE, GPU_NODE], {"PAIRWRIGHT_RAY_GPUS_PER_REPLICA": "4"}, ("vllm", 4, 4, 1)),
        ([GPU_NODE], {"PAIRWRIGHT_RAY_GPUS_PER_REPLICA": "0.5", "PAIRWRIGHT_RAY_ENGINE": "hf"}, ("hf", 16, 0.5, 1)),
        ([GPU_NODE], {"PAIRWRIGHT_RAY_GPUS_PER_REPLICA": "0"}, ("hf", 1, 0, 32)),
    ],
)
def test_replicas_fill_the_cluster_unless_told_otherwise(
    nodes: list[dict[str, float]], environment: dict[str, str], expected: tuple
) -> None:
    assert lay_out(nodes, environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PAIRWRIGHT_RAY_REPLICAS": "two"}, "PAIRWRIGHT_RAY_REPLICAS=two: not a number"),
        ({"PAIRWRIGHT_RAY_REPLICAS": "9"}, "=9: the cluster has room for 8 with 1 GPUs each; add nodes"),
        ({"PAIRWRIGHT_RAY_REPLICAS": "0"}, "=0: the cluster has room for 8"),
        ({"PAIRWRIGHT_RAY_GPUS_PER_REPLICA": "1.5"}, "above 1 it must be a whole number"),
        ({"PAIRWRIGHT_RAY_ENGINE": "openai"}, "PAIRWRIGHT_RAY_ENGINE=openai: not one of hf, vllm, scripted"),
    ],
)
def test_settings_that_make_no_sense_name_their_variable(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lay_out([GPU_NODE], environment)


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, script_dir: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"engine 'ray' needs Ray Data .*pip install 'pairwright\[ray\]'"):
        load_engine("ray", script_dir)


# The source, and a replica without a cluster


def test_a_source_gives_a_block_again_until_it_is_answered() -> None:
    async def scenario() -> list[bytes | None]:
        source = Source()
        waiting = asyncio.create_task(source.get(1))
        await source.put(0, b"first")
        assert [(await source.begin(0))[0] for _ in range(2)] == [1, 2]
        seen = [await source.get(0), await source.get(0)]
        await source.forget(0)
        seen.append(await source.get(0))
        assert not waiting.done()
        await source.finish(1)
        return [*seen, await waiting]

    assert asyncio.run(scenario()) == [b"first", b"first", b"", None]


def replica(model: Path, engine: str = "scripted", **changed: str) -> Replica:
    known = {"directory": str(model), "fingerprint": fingerprint(model)} | changed
    return Replica(Work(engine, precision="fp32", sampling=GREEDY, batch_size=4, environment={}, **known), None)


def test_a_replica_answers_calls_from_several_threads_each_with_its_own(script_dir: Path) -> None:
    [expected] = load_engine("scripted", script_dir).stream(requests(60), GREEDY, 60)
    by_key = {request.key: completion for request, completion in expected}
    one, found = replica(script_dir), {}

    def call(block: list[Request]) -> None:
        found[block[0].key] = one.complete(block)

    blocks = [requests(60)[start : start + 6] for start in range(0, 60, 6)]
    threads = [threading.Thread(target=call, args=(block,)) for block in blocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert found == {block[0].key: [by_key[request.key] for request in block] for block in blocks}


@pytest.mark.parametrize(
    ("engine", "changed", "message"),
    [
        ("hf", {}, "made from `script`; use engine 'scripted'"),
        (
            "scripted",
            {"directory": "/nowhere"},
            "no model directory /nowhere there; put it where all nodes can read it",
        ),
        ("scripted", {"fingerprint": "0" * 16}, "is another model there"),
    ],
)
def test_a_replica_without_its_model_says_so_to_every_call(
    script_dir: Path, engine: str, changed: dict[str, str], message: str
) -> None:
    broken = replica(script_dir, engine, **changed)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            broken.complete(requests(2))


# A cluster


def logging_source(path: Path) -> type[Source]:
    """A source that writes what happens to each block. Not of a module: so Ray sends it along, path and all."""

    def log(what: str, index: int) -> None:
        with path.open("a", encoding="utf-8") as file:
            print(what, index, file=file)

    class LoggingSource(Source):
        async def begin(self, index: int) -> tuple[int, str]:
            log("begin", index)
            return await super().begin(index)

        async def forget(self, index: int) -> None:
            log("forget", index)
            await super().forget(index)

    return LoggingSource


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two CPUs of this machine; what `RayEngine` finds running it uses."""
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_LOG_LEVEL": "ERROR"}
    ray.init("local", num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
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


def direct(directory: Path, count: int, sampling: Sampling) -> dict[str, Any]:
    engine = load_engine("hf", directory)
    return {r.key: completion for done in engine.stream(requests(count), sampling, 16) for r, completion in done}


@pytest.mark.slow
def test_replicas_complete_as_one_engine_and_read_no_further_than_they_must(
    cluster: Any, two_replicas: None, model_dir: Path
) -> None:
    asked, found = Reading(120), {}
    engine = load_engine("ray", model_dir)
    for done in engine.stream(asked, GREEDY, 8):
        assert asked.read <= len(found) + 2 * 4 * 8, "four blocks per replica"
        assert len(done) <= 8
        found |= {request.key: completion for request, completion in done}
    assert asked.read == 120
    assert found == direct(model_dir, 120, GREEDY)
    assert engine.device_s > 0
    wait_for(lambda: not replicas(), "end of the replicas", 20)


@pytest.mark.slow
def test_a_killed_replica_costs_only_what_it_had_in_flight(
    cluster: Any, two_replicas: None, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr("builders.engines.ray.Source", logging_source(log))
    found, killed = [], 0
    for done in load_engine("ray", model_dir).stream(requests(800), EXPLORE, 8):
        found += done
        if len(found) >= 80 and not killed and len(replicas()) == 2:
            killed = replicas()[0]
            os.kill(killed, signal.SIGKILL)
    assert killed
    assert len(found) == 800
    assert {request.key: completion for request, completion in found} == direct(model_dir, 800, EXPLORE)
    events = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    begun = [index for what, index in events if what == "begin"]
    assert 1 <= len(begun) - 100 <= 2, "the killed replica computed one block, and perhaps had one waiting"
    for again in {index for index in begun if begun.count(index) > 1}:
        assert events.index(["forget", again]) > max(i for i, e in enumerate(events) if e == ["begin", again])


@pytest.mark.slow
def test_requests_that_kill_every_replica_end_the_run(
    cluster: Any, script_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAIRWRIGHT_RAY_REPLICAS", "1")
    monkeypatch.setenv("PAIRWRIGHT_RAY_ENGINE", "scripted")
    monkeypatch.setenv("PAIRWRIGHT_SCRIPTED_DELAY", "1")
    ended = threading.Event()

    def shoot() -> None:
        while not ended.wait(0.7):
            for pid in replicas():
                os.kill(pid, signal.SIGKILL)

    shooting = threading.Thread(target=shoot)
    shooting.start()
    try:
        with pytest.raises(ValueError, match="4 replicas died with the same 2 requests from k0000") as error:
            list(load_engine("ray", script_dir).stream(requests(2), GREEDY, 8))
    finally:
        ended.set()
        shooting.join()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_an_error_of_a_replica_is_one_line(cluster: Any, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_RAY_ENGINE", "scripted")
    with pytest.raises(ValueError, match=r"^replica on \S+: .* engine 'scripted' needs a model made from") as error:
        list(load_engine("ray", model_dir).stream(requests(2), GREEDY, 8))
    assert "\n" not in str(error.value)
    wait_for(lambda: not replicas(), "end of the replicas", 20)


@pytest.mark.slow
def test_a_killed_run_continues_where_its_last_batch_was_committed(tmp_path: Path) -> None:
    params = sampling_params("scripted", 8)
    params["samples"]["irpo_0"] |= {"batch_size": 8, "engine": "ray"}
    checkout = Checkout(tmp_path, params)
    for stage in ("problems train", "models base", "prompts train"):
        checkout.call(sys.executable, "-m", *f"builders.{stage}".split())
    ledger = Ledger(Path(checkout.environment["PAIRWRIGHT_LEDGER"]))
    stage = sys.executable, "-m", "builders.samples", "irpo_0"
    environment = {"PAIRWRIGHT_RAY_REPLICAS": "2", "PAIRWRIGHT_RAY_ENGINE": "scripted"}
    running = checkout.start(*stage, **environment, PAIRWRIGHT_SCRIPTED_DELAY="0.5")
    wait_for(lambda: ledger.sql("select count(*) from completions")[1][0][0] >= 32, "batch")
    started = processes("ray", running.pid)
    kill(running)
    wait_for(lambda: not any("ray" in stat(pid)[0] for pid in started), "end of the cluster", 20)
    committed = ledger.sql("select key, batch from completions")[1]
    assert any(started)
    assert len(committed) < 320
    done = checkout.call(*stage, **environment)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("sampling base: ")]
    assert (lines, done.stdout) == ([], ""), "Ray's log is Ray's"
    assert set(committed) < set(ledger.sql("select key, batch from completions")[1])
    ledger.close()
    by_ray = checkout.bytes_of("data/samples/run=irpo_0")
    params["samples"]["irpo_0"]["engine"] = "scripted"
    checkout.write_params(params)
    checkout.call(*stage, PAIRWRIGHT_LEDGER=str(tmp_path / "another"))
    assert checkout.bytes_of("data/samples/run=irpo_0") == by_ray
