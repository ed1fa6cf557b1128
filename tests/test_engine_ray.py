"""Ray without a cluster: where replicas go, and what one of them does."""

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from builders.engines import Finished, Request, load_engine
from builders.engines.ray import lay_out
from builders.engines.ray_replica import Replica, Source, Work, _Arriving
from builders.model_files import fingerprint, write_record
from builders.models import write_script
from schemas import Chat
from schemas.sections import Sampling
from tests.pipeline import wait_for
from tests.test_engines import GREEDY, WORDS

NODE, GPU_NODE = {"CPU": 8.0}, {"CPU": 32.0, "GPU": 8.0}


def requests(count: int) -> list[Request]:
    return [Request(f"k{i:04d}", (Chat(role="user", content=WORDS[i % 2]),), "", "text") for i in range(count)]


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


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1: no cluster that answers .*refused.*; start one"),
        ("ray://head:10001", "RAY_ADDRESS=ray://head:10001: give HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, script_dir: Path, address: str, message: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=message):
        list(load_engine("ray", script_dir).stream(requests(2), GREEDY, 2))


# The source, and a replica without a cluster


def test_a_source_gives_a_block_again_until_it_is_answered() -> None:
    async def scenario() -> None:
        source = Source(patience_s=60)
        waiting = asyncio.create_task(source.get(1))
        await source.put(0, b"first")
        assert [await source.get(0) for _ in range(2)] == [(0, b"first")] * 2, "a read task may be run again"
        assert [(await source.begin(0, "one"))[0] for _ in range(2)] == [1, 2]
        await source.forget(0)
        assert await source.get(0) == (0, b"")
        assert (await source.begin(0, "two"))[0] == 0, "nobody computes what is answered"
        assert not waiting.done()
        await source.put(1, b"second")
        assert await waiting == (1, b"second")

    asyncio.run(scenario())


def test_blocks_of_a_silent_replica_are_given_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("builders.engines.ray_replica.monotonic", lambda: now)

    async def scenario() -> None:
        nonlocal now
        source = Source(patience_s=60)
        for index in range(4):
            await source.put(index, b"%d" % index)
        for index, holder in ((0, "silent"), (2, "alive"), (3, "alive")):  # block 1 was lost on its way
            await source.begin(index, holder)
        now = 60.0
        await source.alive("alive")
        assert len(source.queue) == 4
        now = 61.0
        await source.alive("alive")
        assert [await source.get(place) for place in (4, 5)] == [(0, b"0"), (1, b"1")]
        await source.alive("alive")
        assert len(source.queue) == 6, "once"

    asyncio.run(scenario())


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
        thread.join(timeout=120)
    assert found == {block[0].key: [by_key[request.key] for request in block] for block in blocks}


def test_a_replica_that_gets_a_block_again_answers_it_once(script_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was silent for long, and its own blocks are given to it again while it still has them."""
    scripted, read = load_engine("scripted", script_dir), []

    class Slow:
        device_s = 0.0

        def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
            both.wait(20)
            read.extend(requests)
            yield from scripted.stream(read, sampling, batch_size)

    both = threading.Barrier(2)
    monkeypatch.setattr("builders.engines.ray_replica.load_engine", lambda *_: Slow())
    one, found = replica(script_dir), []
    threads = [threading.Thread(target=lambda: found.append(one.complete(requests(3)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(one.answers) == 3, "requests")
    time.sleep(0.1)
    both.wait(20)
    for thread in threads:
        thread.join(timeout=120)
    assert [request.key for request in read] == [request.key for request in requests(3)]
    assert len(found) == 2
    assert found[0] == found[1]
    assert one.failed is None


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


class Failing:
    """An engine that fails as soon as it is asked."""

    device_s = 0.0

    def __init__(self, error: Exception):
        self.error = error

    def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        raise self.error
        yield


@pytest.mark.parametrize(("error", "replaced"), [(OSError("vLLM died"), True), (ValueError("no"), False)])
def test_a_replica_whose_engine_died_is_replaced(
    script_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, replaced: bool
) -> None:
    ended: list[Exception] = []
    monkeypatch.setattr(Replica, "_die", lambda self, error: ended.append(error))
    monkeypatch.setattr("builders.engines.ray_replica.load_engine", lambda *_: Failing(error))
    with pytest.raises(type(error), match=str(error)):
        replica(script_dir).complete(requests(2))
    assert ended == [error] * replaced


def test_what_arrives_joins_what_was_read() -> None:
    first, second, third = requests(3)
    waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()
    arriving = _Arriving(first, waiting)
    waiting.put(second)
    assert list(arriving) == [first, second]
    waiting.put(third)
    assert list(arriving) == [third], "an engine that asks again is not told that all is over"
