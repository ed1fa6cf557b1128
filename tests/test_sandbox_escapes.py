"""Neither sandbox lets a program out, and none that tries, hangs, dies or takes too much disturbs the others."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from builders.checkers.cpython import CPythonSandbox
from builders.checkers.sandbox import MAX_VALUE, Outcome, Sandbox
from tests import escapes

SECRET = "pairwright-secret-5d41402abc4b2a76"
_LINUX = sys.platform == "linux"


def isolation_allowed() -> bool:
    """Whether this machine lets us make namespaces, found without our own code."""
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "true"]
    return _LINUX and subprocess.run(command, capture_output=True, check=False).returncode == 0


class Prey(NamedTuple):
    """What programs are after."""

    directory: Path
    port: int
    servers: list[socket.socket]
    victim: subprocess.Popen[bytes]

    def filled(self, program: str) -> str:
        return program.format(
            secret=str(self.directory / "secret.txt"), made=str(self.directory / "made"), port=self.port,
            victim=self.victim.pid,
        )  # fmt: skip

    def check_unharmed(self) -> None:
        assert {path.name for path in self.directory.iterdir()} == {"secret.txt"}
        assert (self.directory / "secret.txt").read_text() == SECRET
        assert (self.directory / "secret.txt").stat().st_mode & 0o777 == 0o644
        assert self.victim.poll() is None
        for server in self.servers:
            with pytest.raises(BlockingIOError):
                server.recv(1) if server.type == socket.SOCK_DGRAM else server.accept()


@pytest.fixture(scope="module")
def prey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prey]:
    directory = tmp_path_factory.mktemp("prey")
    (directory / "secret.txt").write_text(SECRET)
    (directory / "secret.txt").chmod(0o644)
    directory.chmod(0o755)
    stream, datagram = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    datagram.bind(stream.getsockname())
    servers = [stream, datagram]
    if _LINUX:
        servers.append(socket.socket(socket.AF_UNIX))
        servers[-1].bind("\0pairwright-escape")
        servers[-1].listen()
    for server in servers:
        server.setblocking(False)
    victim = subprocess.Popen(["sleep", "3600"])
    os.environ["TOKEN"] = SECRET
    try:
        yield Prey(directory, stream.getsockname()[1], servers, victim)
    finally:
        del os.environ["TOKEN"]
        victim.kill()
        victim.wait()
        for server in servers:
            server.close()


def open_sandbox(kind: str) -> Sandbox | CPythonSandbox:
    if kind == "cpython" and not isolation_allowed():
        pytest.skip("this machine does not allow user namespaces")
    return Sandbox(time_s=1.0, workers=2) if kind == "monty" else CPythonSandbox(time_s=1.0, workers=2)


@pytest.fixture(scope="module", params=["monty", "cpython"])
def sandbox(request: pytest.FixtureRequest, prey: Prey) -> Iterator[Sandbox | CPythonSandbox]:
    opened = open_sandbox(request.param)
    yield opened
    opened.close()


ATTEMPTS = [
    (f"{kind}: {name}", program)
    for kind in ("FILES", "SOCKETS", "PROCESSES", "SECRETS", "ATTRIBUTES", "PICKLES", "REPLIES")
    for name, program in getattr(escapes, kind).items()
]


def test_nothing_gets_out(sandbox: Sandbox | CPythonSandbox, prey: Prey) -> None:
    """Each attempt between two sums: it reaches nothing, and they come out right."""
    programs = []
    for index, (_, program) in enumerate(ATTEMPTS):
        programs += [(prey.filled(program), "ans"), (f"ans = {index} + 1", "ans")]
    outcomes = sandbox.run_all(programs)
    assert [outcome.value for outcome in outcomes[1::2]] == [str(index + 1) for index in range(len(ATTEMPTS))]
    told = {name: outcome for (name, _), outcome in zip(ATTEMPTS, outcomes[::2], strict=True)}
    assert [name for name, outcome in told.items() if SECRET in repr(outcome) or "TOKEN=" in repr(outcome)] == []
    prey.check_unharmed()


def test_what_an_attempt_comes_to(sandbox: Sandbox | CPythonSandbox, prey: Prey) -> None:
    """It fails, and is told from a wrong answer: undecided, or an error of its own."""
    kinds = (escapes.FILES, escapes.SOCKETS, escapes.PROCESSES, escapes.SECRETS)
    attempts = {name: program for kind in kinds for name, program in kind.items()}
    outcomes = sandbox.run_all([(prey.filled(program), "ans") for program in attempts.values()])
    without_error = {n for n, outcome in zip(attempts, outcomes, strict=True) if outcome.error is None}
    assert without_error <= {"read what is open", "read lines", "the library's environment", "the stack"}
    by_name = dict(zip(attempts, outcomes, strict=True))
    assert by_name["read what is open"].value in (None, "")
    assert by_name["write"].undecided
    assert by_name["connect"].undecided


@pytest.mark.slow
@pytest.mark.parametrize("name", escapes.GREEDY)
def test_a_greedy_program_ends(sandbox: Sandbox | CPythonSandbox, name: str) -> None:
    program, error = escapes.GREEDY[name]
    started = time.monotonic()
    greedy, after = sandbox.run_all([(program, "ans"), ("ans = 2", "ans")])
    assert after == Outcome("2", "int")
    assert time.monotonic() - started < 30.0  # by the clock, on a busy machine
    assert max(len(text) for text in (greedy.value or "", greedy.error or "", greedy.printed)) <= 11_000
    if error is not None:
        assert (greedy.error or "").startswith(error)
        assert greedy.undecided == (error != "RecursionError")
    if name == "a long value" and greedy.value is not None:
        assert greedy.value == "x" * MAX_VALUE


def test_a_programs_word_is_read_with_care(sandbox: Sandbox | CPythonSandbox) -> None:
    """Whatever it writes where its reply is expected, the outcome is one, and the worker goes on."""
    if isinstance(sandbox, Sandbox):
        pytest.skip("Monty's programs have no descriptors")
    found = dict(
        zip(escapes.REPLIES, sandbox.run_all([(p.format(), "ans") for p in escapes.REPLIES.values()]), strict=True)
    )
    assert {name: outcome.error for name, outcome in found.items()} == {
        "no JSON": "crash", "another shape": "crash", "wrong types": "crash", "too deep": "crash",
        "a second reply": "crash", "no reply": "crash", "closed": "crash", "closed and busy": "limit of time",
        "a flood": "limit of output",
    }  # fmt: skip
    assert all(outcome.undecided for outcome in found.values())


def _descendants(pid: int) -> set[int]:
    children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    found = set(children)
    for child in children:
        try:
            found |= _descendants(child)
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["monty", "cpython"])
def test_a_worker_killed_from_outside_hurts_one_program(kind: str) -> None:
    """While 200 programs run on two workers, some of which hang, take memory or crash, one worker is killed."""
    bad = ["while True:\n    pass", "x = [1]\nwhile True:\n    x = x + x", "import ctypes\nctypes.string_at(1)"]
    programs = [(bad[i % 3] if i % 40 == 7 else f"ans = {i} * 2", "ans") for i in range(200)]
    others = _descendants(os.getpid())  # whatever earlier tests left running, multiprocessing's own process for one
    with contextlib.closing(open_sandbox(kind)) as sandbox:
        sandbox.run_all([("ans = 1", "ans")])
        workers = _descendants(os.getpid()) - others
        assert workers

        def kill() -> None:
            time.sleep(0.3)
            os.kill(max(workers), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        outcomes = sandbox.run_all(programs)
        killer.join()
        wrong = [i for i, outcome in enumerate(outcomes) if i % 40 != 7 and outcome.value != str(i * 2)]
        assert len(wrong) <= 1
        assert all(outcomes[i].undecided for i in wrong)
        assert all(outcome.value is None for outcome in outcomes[7::40])
        assert sandbox.run_all([("ans = 5", "ans")])[0].value == "5"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_leaving_ends_all_processes(prey: Prey) -> None:
    if not isolation_allowed():
        pytest.skip("this machine does not allow user namespaces")
    before = _descendants(os.getpid())
    opened = CPythonSandbox(time_s=0.5, workers=1)
    opened.start()
    started = _descendants(os.getpid()) - before
    assert len(started) == 2  # the worker, and what it waits for in the namespace
    opened.close()
    deadline = time.monotonic() + 10.0
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.02)
