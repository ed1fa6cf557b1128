"""The label page's server: what it answers, to whom, and what it does with everything else."""

import http.client
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from builders.label_files import read_labels
from builders.labelling.appending import LabelFile
from builders.labelling.maths import Typesetter
from builders.labelling.server import MAX_BODY, PAGE, TOKEN_HEADER, LabelServer
from builders.labelling.session import Session
from builders.labelling.tasks import Task, run_tasks
from schemas import Sample
from tests.label_world import Serving, build, hash_of

LABELS = Path("labels/ada.jsonl")


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def said(self) -> Any:
        return json.loads(self.body)


class Served:
    """A running server, and requests to it as the page sends them, but for what a test changes."""

    def __init__(self, server: LabelServer, samples: list[Sample]):
        self.server, self.samples = server, samples

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Host": f"127.0.0.1:{self.server.server_port}",
            "Origin": f"http://127.0.0.1:{self.server.server_port}",
            "Sec-Fetch-Site": "same-origin",
            TOKEN_HEADER: self.server.token,
        }

    def ask(self, method: str, path: str, body: bytes | None = None, **change: str | None) -> Reply:
        headers = self.headers | ({"Content-Type": "application/json"} if body is not None else {})
        given = headers | {name.replace("_", "-"): value for name, value in change.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=120)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None and "Content-Length" not in given:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        reply = connection.getresponse()
        found = Reply(reply.status, reply.headers, reply.read())
        connection.close()
        return found

    def label(self, **change: Any) -> bytes:
        sample = self.samples[0]
        given = {"sample_id": sample.sample_id, "hash": hash_of(sample), "first_error": 1}
        return json.dumps(given | change).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Sample], list[Task], Typesetter]]:
    """Samples, their tasks, and what typesets them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("world"))
        samples = build()
        tasks = run_tasks("people")
    typesetter = Typesetter()
    yield samples, tasks, typesetter
    typesetter.close()


@pytest.fixture
def served(workspace: Path, world: tuple[list[Sample], list[Task], Typesetter]) -> Iterator[Served]:
    samples, tasks, typesetter = world
    with LabelServer(Session(tasks, LabelFile(LABELS), "Ada", 0, typesetter)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Served(server, samples)
        server.shutdown()
        thread.join()


def saved() -> list[int | None]:
    return [located.label.first_error for located in read_labels(LABELS)]


def test_a_label_is_on_the_disk_when_it_is_reported_saved(served: Served) -> None:
    assert served.ask("GET", "/api/overview").said["answered"] == [False] * 3
    assert served.ask("GET", "/api/task/0").said["others"] == []
    reply = served.ask("POST", "/api/label", served.label())
    assert (reply.status, reply.said["own"]["first_error"], saved()) == (200, 1, [1])
    assert [other["labeler"] for other in reply.said["others"]] == ["solomon"]
    about = {"sample_id": served.samples[0].sample_id, "hash": hash_of(served.samples[0])}
    assert served.ask("POST", "/api/withdraw", json.dumps(about).encode()).said == {"own": None, "others": []}
    assert served.ask("GET", "/api/overview").said["answered"] == [False] * 3


@pytest.mark.parametrize("path", PAGE)
def test_the_page_needs_no_token_and_runs_nothing_inline(served: Served, path: str) -> None:
    reply = served.ask("GET", path, **{TOKEN_HEADER: None})
    assert (reply.status, reply.headers["Content-Type"]) == (200, PAGE[path][1])
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in reply.headers["Content-Security-Policy"]
    assert "unsafe" not in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert not any(name.lower().startswith("access-control-") for name in reply.headers)
    assert served.server.token.encode() not in reply.body
    assert b"//cdn" not in reply.body
    assert b"https://" not in reply.body.replace(b"https://www.w3.org", b"")


def test_looking_changes_nothing(served: Served) -> None:
    before = LABELS.read_bytes(), LABELS.stat().st_mtime_ns
    for path in (*PAGE, "/api/overview", "/api/task/0", "/api/task/2"):
        assert served.ask("GET", path).status == 200
        head = served.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
    assert (LABELS.read_bytes(), LABELS.stat().st_mtime_ns) == before


REFUSED = {
    "another host's name": (421, {"Host": "evil.example"}),
    "another host's name with our port": (421, {"Host": "evil.example:{port}"}),
    "another port": (421, {"Host": "127.0.0.1:1"}),
    "no host": (421, {"Host": None}),
    "another origin": (403, {"Origin": "https://evil.example"}),
    "a page without an origin": (403, {"Origin": "null"}),
    "another port's origin": (403, {"Origin": "http://127.0.0.1:1"}),
    "another site": (403, {"Origin": None, "Sec_Fetch_Site": "cross-site"}),
    "this machine's other ports": (403, {"Origin": None, "Sec_Fetch_Site": "same-site"}),
    "no token": (401, {TOKEN_HEADER: None}),
    "another token": (401, {TOKEN_HEADER: "x" * 32}),
    "a token of no ASCII": (401, {TOKEN_HEADER: "é"}),
    "a form": (415, {"Content_Type": "application/x-www-form-urlencoded"}),
    "plain text, as a form may send": (415, {"Content_Type": "text/plain"}),
    "no type": (415, {"Content_Type": None}),
    "no length": (411, {"Content_Length": None}),
    "a negative length": (411, {"Content_Length": "-1"}),
    "a length that is none": (411, {"Content_Length": "1e3"}),
    "in chunks": (411, {"Transfer_Encoding": "chunked"}),
    "too long": (413, {"Content_Length": str(MAX_BODY + 1)}),
}


@pytest.mark.parametrize(("status", "change"), REFUSED.values(), ids=REFUSED)
def test_a_foreign_request_is_refused_and_writes_nothing(
    served: Served, status: int, change: dict[str, str | None]
) -> None:
    port = str(served.server.server_port)
    given = {name: value and value.replace("{port}", port) for name, value in change.items()}
    reply = served.ask("POST", "/api/label", served.label(), **given)
    assert (reply.status, list(reply.said), saved()) == (status, ["error"], [])
    assert not any(name.lower().startswith("access-control-") for name in reply.headers)


@pytest.mark.parametrize("change", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {TOKEN_HEADER: None}])
def test_nobody_else_reads_either(served: Served, change: dict[str, Any]) -> None:
    for path in ("/api/overview", "/api/task/0"):
        reply = served.ask("GET", path, **change)
        assert reply.status in (401, 403, 421)
        assert b"Problem" not in reply.body


def test_this_machine_has_two_names(served: Served) -> None:
    port = served.server.server_port
    names = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert served.ask("POST", "/api/label", served.label(), **names).status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "NONSENSE"])
def test_other_methods_do_nothing(served: Served, method: str) -> None:
    reply = served.ask(method, "/api/label", served.label())
    assert (reply.status, saved()) == (501, [])
    assert not any(name.lower().startswith("access-control-") for name in reply.headers)


PATHS = [
    "/page.html", "/../page.js", "/../params.yaml", "/..%2fparams.yaml", "/%2e%2e/params.yaml", "//etc/passwd",
    "/page.js/../server.py", "/api", "/api/task/", "/api/task/3", "/api/task/-1", "/api/task/0/", "/api/task/0?x",
    "/api/task/%D9%A3", "/api/task/99999999999999999999", "/labels/ada.jsonl", "/server.py", "/page.js?x",
    "http://evil.example/", "*",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_route_is_not_found(served: Served, path: str) -> None:
    reply = served.ask("GET", path)
    assert (reply.status, reply.said) == (404, {"error": "no such page"})


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/overview", "/api/task/0", "/api/label/"])
def test_only_two_routes_take_something(served: Served, path: str) -> None:
    assert (served.ask("POST", path, served.label()).status, saved()) == (404, [])


BODIES = {
    "no JSON": (b"{", "Invalid JSON"),
    "not UTF-8": (b'"\xff"', "Invalid JSON"),
    "half a character": (b'{"sample_id": "\\ud83d"}', "Invalid JSON"),
    "a list": (b"[]", "valid object|object"),
    "an unknown field": ({"labeler": "Eve"}, "labeler: Extra inputs are not permitted"),
    "a time": ({"labeled_at": "2020-01-01T00:00:00Z"}, "labeled_at: Extra inputs"),
    "a text for a step": ({"first_error": "1"}, "first_error: Input should be a valid integer"),
    "a negative step": ({"first_error": -1}, "first_error: .*greater than or equal to 0"),
    "no such step": ({"first_error": 99}, "first_error is 99, but the sample has 3 steps"),
    "another sample": ({"sample_id": "../../x"}, "load the page again"),
    "another text": ({"hash": "0" * 16}, "load the page again"),
    "a long remark": ({"rationale": "x" * 10_001}, "rationale: .*at most 10000"),
    "a correction of nothing": ({"first_error": None, "correction": "x"}, "says that none is wrong"),
    "deep": (b"[" * 100_000, "recursion limit|Invalid JSON"),
}


@pytest.mark.parametrize(("body", "message"), BODIES.values(), ids=BODIES)
def test_a_body_of_another_shape_is_refused_in_one_line(
    served: Served, body: bytes | dict[str, Any], message: str
) -> None:
    reply = served.ask("POST", "/api/label", body if isinstance(body, bytes) else served.label(**body))
    assert (reply.status, saved()) == (400, [])
    (error,) = reply.said.values()
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error


def test_what_is_saved_is_one_line_whatever_it_says(served: Served) -> None:
    words = 'a\nb\r\n\u2028</script><img src=x onerror=alert(1)>{"sample_id": 1}\x00\u202e 🐈'
    assert served.ask("POST", "/api/label", served.label(rationale=words, correction="c")).status == 200
    (located,) = read_labels(LABELS)
    assert located.label.rationale == words
    assert LABELS.read_bytes().count(b"\n") == 1


def test_a_full_disk_is_no_success(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        reply = served.ask("POST", "/api/label", served.label())
    assert (reply.status, reply.said) == (507, {"error": "not saved: No space left on device"})
    assert LABELS.read_bytes() == b""
    assert served.ask("GET", "/api/overview").said["answered"] == [False] * 3


RAW = {
    "no HTTP": b"hello\r\n\r\n",
    "a long line": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n",
}


@pytest.mark.parametrize("sent", RAW.values(), ids=RAW)
def test_what_is_hardly_http_is_refused(served: Served, sent: bytes) -> None:
    port = served.server.server_port
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(sent.replace(b"{port}", str(port).encode()))
        reply = connection.makefile("rb").read()
    assert reply.startswith((b"HTTP/1.1 4", b'{"error"')), reply[:100]
    assert b"<" not in reply
    assert served.ask("GET", "/api/overview").status == 200


def test_a_connection_that_goes_away_ends_nothing(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    port = served.server.server_port
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.sendall(b"GET /page.js HTTP/1.1\r\n")
    assert served.ask("GET", "/api/overview").status == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_port_in_use_is_named(served: Served) -> None:
    port = served.server.server_port
    with pytest.raises(ValueError, match=rf"--port {port}: Address already in use; leave it out"):
        LabelServer(served.server.session, port)


def label_until_it_dies(serving: Serving, samples: list[Sample], reported: list[int]) -> None:
    """Sends labels whose remarks are numbers, and notes those that were reported saved."""
    port, token = serving.url.removeprefix("http://127.0.0.1:").split("/#")
    headers = {TOKEN_HEADER: token, "Content-Type": "application/json"}
    with (
        closing(http.client.HTTPConnection("127.0.0.1", int(port), timeout=120)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        for number in count(len(reported)):
            sample = samples[number % 3]
            given = {"sample_id": sample.sample_id, "hash": hash_of(sample), "first_error": number // 3 % 3}
            connection.request("POST", "/api/label", json.dumps(given | {"rationale": str(number)}), headers)
            assert json.loads(connection.getresponse().read())["own"]["first_error"] == number // 3 % 3
            reported.append(number)


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_label_that_was_reported_saved(workspace: Path) -> None:
    samples = build()
    reported: list[int] = []
    for kills in range(1, 9):
        serving = Serving()
        killer = threading.Timer(0.02 + 0.03 * kills, serving.process.kill)
        killer.start()
        label_until_it_dies(serving, samples, reported)
        serving.end(signal.SIGKILL)
        LabelFile(LABELS)
        found = [int(located.label.rationale or "") for located in read_labels(LABELS)]
        assert set(reported) <= set(found)
        assert len(found) <= len(reported) + kills, "at each kill, one label may be saved that was not reported"
    assert len(reported) > 20


def test_it_listens_on_this_machine_alone(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"
    assert served.server.url == f"http://127.0.0.1:{served.server.server_port}/#{served.server.token}"
    assert len(served.server.token) >= 32
