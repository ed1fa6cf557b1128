"""Ray Data: replicas of one model on many GPUs and nodes, each of them one of our own engines.

Absent on purpose: `ray.data.llm`. Its extra `ray[llm]` pins one release of vLLM, which is not ours, and CUDA-only
packages; and it renders, continues and decodes prompts in stages of its own, so its completions would not be those of
the engines `vllm` and `hf`. A replica here is that engine, so a completion does not depend on how many there are.

Ray Data wants its whole input before it runs; ours is read as it is needed. So its source is one read task, which asks
an actor for one block of requests after the other, and the driver puts a block there whenever an answer comes back:
what is read ahead, held in memory or lost with a node is never more than a few blocks per replica. A block is
`batch_size` requests in one row. Ray Data neither splits nor merges rows, so a block is what is tried again and what
the caller commits.
"""

import logging
import math
import os
import pickle
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from builders.engines import Finished, Request
from builders.engines.ray_replica import Replica, Source, Work, read
from builders.model_files import fingerprint
from schemas.sections import Sampling

ENGINES = ("hf", "vllm", "scripted")
CALLS = {"vllm": 8}
"""Blocks that a replica holds at once (else 3): requests of the next ones fill the places of those that ended."""
PATIENCE_S = 60.0
"""Without a sign of life from a replica, until others are given its blocks."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Of a cluster that we start. It holds requests and answers, not weights; what exceeds it goes to the disk."""
FORWARDED = ("PAIRWRIGHT_DEVICE", "PAIRWRIGHT_SCRIPTED", "PAIRWRIGHT_TENSOR_PARALLEL", "PAIRWRIGHT_VLLM_", "VLLM_")
"""Starts of the names of variables that engines read, on whichever node."""
OWN = ("VLLM_API_KEY", "VLLM_HOST_IP", "VLLM_PORT")
"""Those of them that stay here: a secret, which no engine reads, and what differs between nodes."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else the driver's C++ half writes among our progress
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what the nodes send to the driver, a paragraph for every process that dies
    "RAY_process_group_cleanup_enabled": "1",  # what a killed replica had started would keep its GPU
}


class Replicas(NamedTuple):
    """Which engine runs how often, and what each replica holds of a node."""

    engine: str
    count: int
    gpus: float
    cpus: int

    @property
    def calls(self) -> int:
        return CALLS.get(self.engine, 3)

    @property
    def blocks(self) -> int:
        """Blocks in flight: those that replicas hold, and for each two on their way there and back."""
        return self.count * (self.calls + 2)


class RayEngine:
    """Replicas of a model directory in a Ray cluster: that of `$RAY_ADDRESS`, else one of this machine's own.

    `$PAIRWRIGHT_RAY_REPLICAS` (default: all that fit on GPUs, else one per node), `$PAIRWRIGHT_RAY_GPUS_PER_REPLICA`
    (default 1, or 0 without GPUs) and `$PAIRWRIGHT_RAY_ENGINE` (default `vllm` on GPUs, `hf` on CPUs) lay them out.
    `device_s` is summed over the replicas. Each `stream` starts replicas anew.
    """

    def __init__(self, directory: Path, precision: str):
        self.directory, self.precision, self.device_s = directory.resolve(), precision, 0.0

    @classmethod
    def load(cls, directory: Path, precision: str = "fp32") -> "RayEngine":
        """Checks what can be checked without a cluster.

        Raises ValueError if Ray Data is not installed, or if the directory holds no model.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise ValueError(f"engine 'ray' needs Ray Data ({error}); pip install 'pairwright[ray]'") from None
        fingerprint(directory)
        return cls(directory, precision)

    def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        """Completes the requests in blocks of `batch_size`, in whatever order the replicas finish them.

        Raises ValueError, in one line, for what a replica cannot do, and OSError if the cluster fails.
        """
        import ray

        unread = enumerate(_blocks(requests, batch_size))
        with _cluster(), _one_line_errors():
            replicas = lay_out([n["Resources"] for n in ray.nodes() if n["Alive"]], os.environ)
            first = list(islice(unread, replicas.blocks))
            if not first:
                return
            replicas = replicas._replace(count=min(replicas.count, len(first)))
            work = self._work(replicas, sampling, batch_size)
            feed = _Feed(first, unread)
            for row in _rows(feed.source, replicas, work):
                if row["error"]:
                    raise ValueError(row["error"])
                self.device_s += row["device_s"]
                if row["attempt"] > 1:
                    print(f"ray: a replica died; batch {row['block']} was generated again", file=sys.stderr)
                if answered := feed.answered(row["block"]):
                    yield list(zip(answered, pickle.loads(row["answers"]), strict=True))
                    feed.more()
                if not feed.asked:
                    return
            assert not feed.asked, f"{len(feed.asked)} blocks without an answer"

    def _work(self, replicas: Replicas, sampling: Sampling, batch_size: int) -> Work:
        settings = {n: value for n, value in os.environ.items() if n.startswith(FORWARDED) and n not in OWN}
        if not replicas.gpus:
            settings.setdefault("PAIRWRIGHT_DEVICE", "cpu")  # a replica sees what GPUs there are, but was given none
        known = fingerprint(self.directory)
        return Work(replicas.engine, str(self.directory), known, self.precision, sampling, batch_size, settings)


def lay_out(nodes: Sequence[Mapping[str, float]], environment: Mapping[str, str]) -> Replicas:
    """The replicas that the environment asks for, on nodes given by their resources (`CPU`, `GPU`).

    Raises ValueError for a setting that makes no sense, and for more replicas than there is room for.
    """
    has_gpus = any(node.get("GPU") for node in nodes)
    gpus = _number(environment, "PAIRWRIGHT_RAY_GPUS_PER_REPLICA", float(has_gpus))
    if gpus > 1 and gpus % 1:
        raise ValueError(f"PAIRWRIGHT_RAY_GPUS_PER_REPLICA={gpus:g}: above 1 it must be a whole number")
    engine = environment.get("PAIRWRIGHT_RAY_ENGINE") or ("vllm" if gpus else "hf")
    if engine not in ENGINES:
        raise ValueError(f"PAIRWRIGHT_RAY_ENGINE={engine}: not one of {', '.join(ENGINES)}")
    cores = [int(node.get("CPU", 0)) for node in nodes]
    room = sum(math.floor(node.get("GPU", 0) / gpus + 1e-9) for node in nodes) if gpus else sum(cores)
    wanted = _number(environment, "PAIRWRIGHT_RAY_REPLICAS", room if gpus else sum(n > 0 for n in cores))
    if not 1 <= wanted <= room or wanted % 1:
        each = f"{gpus:g} GPUs" if gpus else "a CPU"
        raise ValueError(
            f"PAIRWRIGHT_RAY_REPLICAS={wanted:g}: the cluster has room for {room} with {each} each; add nodes, or"
            " change PAIRWRIGHT_RAY_REPLICAS or PAIRWRIGHT_RAY_GPUS_PER_REPLICA"
        )
    return Replicas(engine, int(wanted), gpus, 1 if gpus else _cpus_each(cores, int(wanted)))


def _cpus_each(cores: Sequence[int], count: int) -> int:
    """The most CPUs that each of `count` replicas can have. Ray makes them its number of OpenMP threads."""
    return max(n for n in range(1, max(cores) + 1) if sum(have // n for have in cores) >= count)


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}={text}: not a number of 0 or more")
    return number


def _blocks(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    unread = iter(requests)
    return iter(lambda: list(islice(unread, size)), [])


class _Feed:
    """The blocks that were asked for and not answered, here and in the source."""

    def __init__(self, first: Sequence[tuple[int, list[Request]]], unread: Iterator[tuple[int, list[Request]]]):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Source)
        self.source: Any = actor.options(num_cpus=0, scheduling_strategy=here).remote(PATIENCE_S)
        self.asked: dict[int, list[Request]] = {}
        self.unread = unread
        for index, block in first:
            self._put(index, block)

    def more(self) -> None:
        """Reads one more, if there is one."""
        for index, block in islice(self.unread, 1):
            self._put(index, block)

    def answered(self, index: int) -> list[Request] | None:
        """The requests of a block, once: Ray may run a task again whose answer was here already."""
        self.source.forget.remote(index)
        return self.asked.pop(index, None)

    def _put(self, index: int, block: list[Request]) -> None:
        self.asked[index] = block
        self.source.put.remote(index, pickle.dumps(block))


def _rows(source: Any, replicas: Replicas, work: Work) -> Iterator[dict[str, Any]]:
    """One row per answered block, as soon as it is."""
    from ray.data import ActorPoolStrategy, DataContext, read_datasource

    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a block may well take longer than half an hour
    context.target_max_block_size = 1  # bytes: every row leaves its task at once, as a block of its own
    pool = ActorPoolStrategy(
        size=replicas.count,
        max_concurrent_calls_per_actor=replicas.calls,
        max_tasks_in_flight_per_actor=replicas.calls,
        enable_true_multi_threading=True,
    )
    answers = read_datasource(_stream_source(source), num_cpus=0, override_num_blocks=1).map_batches(
        Replica,
        fn_constructor_args=(work, source),
        batch_size=1,
        compute=pool,
        num_cpus=replicas.cpus,
        num_gpus=replicas.gpus,
    )  # a replica that dies is restarted, and its blocks are tried again: that is Ray Data's default

    for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _stream_source(source: Any):
    """Ray Data's view of a source: one read task, which runs beside the driver."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Requests(Datasource):
        supports_distributed_reads = False

        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
            return [ReadTask(partial(read, source), BlockMetadata(None, None, None, None))]

    return Requests()


@contextmanager
def _cluster() -> Iterator[None]:
    """Ray, without its log on our terminal and its usage reports; one that this process has started already is used.

    Raises ValueError if there is none at `$RAY_ADDRESS`, or none that lets us in.
    """
    import ray

    _quiet()
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        _reach(address or "local")
        with _silent_stderr():
            ray.init(
                address or "local",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=None if address else OBJECT_STORE_BYTES,
                include_dashboard=None if address else False,
            )
    except OSError as error:
        raise ValueError(
            f"RAY_ADDRESS={address}: no cluster that answers ({_first_line(error)}); start one (`ray start --head`),"
            " set RAY_AUTH_MODE=token if it wants a token, or unset RAY_ADDRESS to use this machine alone"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Fails at once where nobody listens: Ray itself tries for minutes.

    Raises ValueError for a Ray Client, whose driver is no part of the cluster; OSError if nobody listens.
    """
    if address.startswith("ray://"):
        raise ValueError(f"RAY_ADDRESS={address}: give HOST:PORT of `ray start --head`, and run on one of its machines")
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _quiet() -> None:
    """Leaves what Ray Data logs to its file."""
    import ray.data  # noqa: F401

    logger = logging.getLogger("ray.data")
    for handler in [h for h in logger.handlers if h.name == "console"]:
        logger.removeHandler(handler)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drops what is written to file descriptor 2: Ray's C++ half announces there that it will be quiet."""
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns what Ray raises when it gives up into one line with a remedy."""
    from ray.data.exceptions import SystemException
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, SystemException) as error:
        cause = error.__cause__ or error
        line = f"Ray gave up ({type(cause).__name__}: {_first_line(cause)})"
        raise OSError(f"{line}; see Ray's logs on its nodes. Run it again: what was committed is kept") from None


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), repr(error)).strip()
