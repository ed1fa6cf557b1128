"""Engine `openai` in processes that are killed, on a full disk, and against the real `vllm serve`."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import models
from builders.engines import Request
from builders.engines.hf import HfEngine
from builders.engines.openai import OpenaiEngine
from builders.model_files import fingerprint
from schemas.sections import Sampling
from stores.ledger import Ledger
from stores.paths import run_dir
from stores.stage import execute
from tests import stage_world as world
from tests.conftest import REPOSITORY
from tests.fault_server import MODEL, Act, Asked, FaultServer
from tests.hosted_world import KEY, ask, complete, connect
from tests.pipeline import wait_for
from tests.test_engine_vllm import questions, same_but_for_ties
from tests.vllm_world import model_dir, real

__all__ = ["model_dir"]  # a fixture
pytestmark = pytest.mark.slow
PROMPTS, N, AT_ONCE = 150, 2, 8


@pytest.fixture
def hosted(workspace: Path) -> Path:
    """A workspace with prompts for a hosted model."""
    write_world(PROMPTS)
    return workspace


def write_world(count: int) -> None:
    asked = [world.problem(f"Legs of {i} cats?") for i in range(count)]
    world.write("problems", "train", asked)
    world.write("prompts", "train", [world.prompt(p) for p in asked])
    world.write_params(
        models={"base": {"path": "data/none", "vocabulary": "none", "hosted": MODEL}},
        samples={"drawn": world.SAMPLES | {"engine": "openai", "n": N}},
    )
    execute("models", "base", models.run)


def start(cwd: Path, code: str = "") -> subprocess.Popen[str]:
    """`python -m builders.samples drawn` in a process of its own; `code` runs before it."""
    module = f"{code}\nfrom builders.samples import run\nfrom stores.stage import run_stage\nrun_stage('samples', run)"
    return subprocess.Popen(
        [sys.executable, *(["-c", module, "drawn"] if code else ["-m", "builders.samples", "drawn"])],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Everything that a process printed."""
    out, error = process.communicate(timeout=600)
    assert process.returncode == code, error
    return out + error


def committed() -> int:
    ledger = Ledger()
    count = ledger.sql("select count(*) from completions")[1][0][0]
    ledger.close()
    return count


def sometimes(asked: Asked) -> Act:
    """One request in ten fails, when it is asked for the first time."""
    faults = (Act(500), Act(cut=True), Act(429, headers={"retry-after-ms": "20"}), Act(content='{"choices": [{'))
    return faults[asked.number // 10 % 4] if asked.number % 10 == 3 and asked.before == 0 else Act()


def test_a_killed_run_pays_no_more_than_what_was_in_flight(hosted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(sometimes, delay_s=0.05).running() as server:
        connect(monkeypatch, server, max_concurrency=AT_ONCE)
        process = start(hosted)
        wait_for(lambda: server.answered >= PROMPTS * N // 2, "answers")
        process.kill()
        process.communicate()
        time.sleep(0.2)
        before, kept = server.answered, committed()
        assert before - AT_ONCE <= kept <= before
        assert not run_dir("samples", "drawn").exists()
        finish(start(hosted))
        assert PROMPTS * N <= server.answered <= PROMPTS * N + AT_ONCE
        sent, answered = len(server.asked), server.answered
        assert sent - answered <= 2 * PROMPTS * N // 10, "failed attempts, one in ten at most"
        finish(start(hosted))
        assert len(server.asked) == sent, "a second run asks nothing"
        write_world(PROMPTS + 1)
        finish(start(hosted))
        assert server.answered == answered + N, "one more prompt asks its own requests"
    assert len(world.read("samples", "drawn")) == (PROMPTS + 1) * N


def test_two_processes_never_pay_for_the_same_request(
    hosted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", hosted, other], check=True)
    with FaultServer(delay_s=0.01).running() as server:
        connect(monkeypatch, server, max_concurrency=AT_ONCE)
        for process in [start(hosted), start(other)]:
            finish(process)
        assert len(server.asked) == PROMPTS * N
    for root in (hosted, other):
        assert (root / run_dir("samples", "drawn")).is_dir()


_FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
"""


def test_a_full_disk_stops_before_the_next_request(hosted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(lambda asked: Act(text="word " * 400), delay_s=0.02).running() as server:
        connect(monkeypatch, server, max_concurrency=AT_ONCE)
        said = finish(start(hosted, _FULL), 1)
        assert "PAIRWRIGHT_LEDGER" in said.strip().splitlines()[-1]
        kept = committed()
        assert 0 < kept < PROMPTS * N
        assert len(server.asked) <= kept + AT_ONCE
        finish(start(hosted))
        assert server.answered <= PROMPTS * N + AT_ONCE


def test_an_interrupt_ends_it_and_keys_are_nowhere(
    hosted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = Act(500, content=f'{{"error": {{"message": "your header was Bearer {KEY}"}}}}')
    with FaultServer(lambda a: echo if a.number % 7 == 0 else Act(), delay_s=0.05).running() as server:
        connect(monkeypatch, server, max_concurrency=AT_ONCE)
        monkeypatch.setenv("OPENAI_LOG", "debug")
        # Whatever started the tests may ignore interrupts, as a shell's background jobs do, and so would the child.
        heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        process = start(hosted, heeds)
        wait_for(lambda: server.answered >= 50, "answers")
        process.send_signal(signal.SIGINT)
        _, trace = process.communicate(timeout=300)
        assert process.returncode != 0
        said = trace + finish(start(hosted))
        assert server.answered <= PROMPTS * N + AT_ONCE
    assert "never retrieved" not in said
    assert "was destroyed" not in said
    assert KEY not in said
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


# The real server


@pytest.fixture(scope="module")
def vllm_serve(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """`vllm serve` with our model under its fingerprint; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": model_dir, "served-model-name": fingerprint(model_dir), "dtype": "float32", "port": port,
               "max-num-seqs": 8, "block-size": 32}  # fmt: skip
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        wait_for(lambda: process.poll() is not None or healthy(port), f"vLLM ({log})", 300)
        assert process.poll() is None, log.read_text()[-4000:]
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture
def served(vllm_serve: int, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> OpenaiEngine:
    monkeypatch.setenv("PAIRWRIGHT_BASE_URLS", f"http://127.0.0.1:{vllm_serve}/v1,http://localhost:{vllm_serve}/v1")
    return OpenaiEngine.load(model_dir)


@real
def test_greedy_completions_of_vllm_serve_are_those_of_hf(served: OpenaiEngine, model_dir: Path) -> None:
    sampling = Sampling(temperature=0.0, max_new_tokens=24, logprobs=True)
    asked: list[Request] = []
    for prefill, rendering in (("", "text"), ("So Anna", "text"), ("", "chat"), ("First, Anna", "chat")):
        asked += [
            request._replace(key=f"{len(asked) + i}") for i, request in enumerate(questions(12, prefill, rendering))
        ]
    ours = complete(served, asked, sampling)
    hf = HfEngine.load(model_dir)
    theirs = {r.key: c for batch in hf.stream(asked, sampling, 16) for r, c in batch}
    assert ours.keys() == theirs.keys()
    assert same_but_for_ties(ours, theirs, sampling) >= 0.95 * len(asked)
    for key in (key for key in ours if ours[key].token_ids == theirs[key].token_ids):
        assert ours[key]._replace(logprobs=None, served_by=None) == theirs[key]._replace(logprobs=None)
        assert ours[key].logprobs == pytest.approx(theirs[key].logprobs, abs=1e-3)
    assert served.device_s > 0


@real
def test_draws_are_seeded_stop_strings_cut_and_long_prompts_answered_here(served: OpenaiEngine) -> None:
    explore = Sampling(temperature=1.0, max_new_tokens=24)
    asked = [request._replace(key=f"{request.key}-{i}") for request in questions(4) for i in range(4)]
    first, again = complete(served, asked, explore), complete(served, asked, explore)
    assert len({completion.text for completion in first.values()}) > 12
    assert sum(first[key].text == again[key].text for key in first) >= 15
    stop = next(word for completion in first.values() for word in completion.text.split()[2:])
    stopped = complete(served, asked, explore.model_copy(update={"stop": [stop]}))
    assert all(stop not in completion.text for completion in stopped.values())
    assert any(completion.text != first[key].text for key, completion in stopped.items())
    assert complete(served, [ask("k", "Anna " * 300, rendering="text")], explore)["k"].finish_reason == "over_long"


@real
def test_a_model_by_name_behind_vllm_serve_continues_a_prefill(
    vllm_serve: int, model_dir: Path, tmp_path: Path, served: OpenaiEngine
) -> None:
    """The same weights asked as a hosted model: the server renders, and continues the same prefill."""
    from tests.hosted_world import engine

    sampling = Sampling(temperature=0.0, max_new_tokens=24)
    asked = questions(6, "First, Anna", "chat")
    by_name = complete(engine(tmp_path, fingerprint(model_dir)), asked, sampling)
    ours = complete(served, asked, sampling)
    assert sum(by_name[key].text.strip() == ours[key].text.strip() for key in ours) >= 5
    assert all(by_name[key].n_prompt_tokens == ours[key].n_prompt_tokens for key in ours)
