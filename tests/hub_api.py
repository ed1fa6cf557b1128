"""The Hub's HTTP interface over `tests.hub_repos`: every request that huggingface_hub and datasets make of it.

    python -m tests.hub_api DIRECTORY [--port 8000]     # prints the endpoint; the tokens are those of `TOKENS`

Faults are planned per request: a status, a cut connection, or a function that is called while the request is under
way (it may commit, or end a process).
"""

import argparse
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_repos import Refusal, Repositories
from tests.hub_routes import ROUTES, Request


class Account(NamedTuple):
    """Whom a token belongs to, and what it may do there."""

    user: str
    role: Literal["write", "read"]
    organizations: tuple[str, ...] = ()


WRITE, READ, STRANGER = "hf_writetoken", "hf_readtoken", "hf_strangertoken"
TOKENS = {
    WRITE: Account("ann", "write", ("team",)),
    READ: Account("ann", "read", ("team",)),
    STRANGER: Account("eve", "write"),
}


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD /path" matches: `times` times, after `after` that go well."""

    matches: str
    status: int | None = None
    """The answer instead; the request is not carried out."""
    cut: Literal["before", "after"] | None = None
    """The connection ends without an answer, before or after the request is carried out."""
    call: Callable[[], object] | None = None
    """Is called when half of the request's body has been read (or at once, where it has none)."""
    times: int = 1_000
    after: int = 0

    def applies(self, line: str) -> bool:
        if not re.search(self.matches, line) or self.times == 0:
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Hub:
    """A running server; `asked` are the requests so far, as "METHOD /path"."""

    repositories: Repositories
    tokens: dict[str, Account] = field(default_factory=lambda: dict(TOKENS))
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    received: int = 0
    """Bytes of large files that were sent."""
    page: int = 1_000
    """Entries of one page of a tree."""
    endpoint: str = ""

    def account(self, authorization: str | None) -> Account | None:
        """Raises Refusal (401) for a token that is not known."""
        if authorization is None:
            return None
        account = self.tokens.get(authorization.removeprefix("Bearer "))
        if account is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return account

    def writes(self) -> list[str]:
        """The requests so far that change something."""
        return [line for line in self.asked if re.match("(PUT|POST|DELETE) ", line) and not _READS.search(line)]


_READS = re.compile("/(preupload|validate-yaml|paths-info)\\b")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._serve()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD  # noqa: N815

    def _serve(self) -> None:
        line = f"{self.command} {unquote(urlsplit(self.path).path)}"
        fault = next((fault for fault in self.hub.faults if fault.applies(line)), None)
        self.hub.asked.append(line)
        self.close_connection = True
        body = self._body(fault.call if fault else None)
        if fault and fault.cut == "before":
            return
        if fault and fault.status:
            self._answer_refusal(Refusal(fault.status, "a planned fault"))
            return
        try:
            answer = self._route(body)
        except Refusal as refusal:
            self._answer_refusal(refusal)
            return
        if not (fault and fault.cut == "after"):
            self._send(*answer)

    def _route(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(self.path)
        account = self.hub.account(self.headers.get("Authorization"))
        for method, pattern, serve in ROUTES:
            found = re.fullmatch(pattern, parts.path)
            if found and self.command in method.split():
                groups = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
                request = Request(self.hub, self.command, account, groups, query, self.headers, body)
                return serve(request)
        raise Refusal(404, f"no route {parts.path}")

    def _body(self, call: Callable[[], object] | None) -> bytes:
        """The request's body; `call` is called in its middle."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(iter(self._chunk, b""))
            if call:
                call()
            return body
        length = int(self.headers.get("Content-Length") or 0)
        first = self.rfile.read(length // 2)
        if call:
            call()
        return first + self.rfile.read(length - length // 2)

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        content = self.rfile.read(size)
        self.rfile.readline()
        return content

    def _answer_refusal(self, refusal: Refusal) -> None:
        headers = {"X-Error-Message": refusal.message}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        self._send(refusal.status, headers, json.dumps({"error": refusal.message}).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        } | headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server's."""


@contextmanager
def hub(root: Path, port: int = 0, **settings: Any) -> Iterator[Hub]:
    """A Hub whose repositories lie under `root`, running until the block ends."""
    running = Hub(Repositories(root), **settings)
    server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": running}))
    running.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    with hub(arguments.directory, arguments.port) as running:
        print(running.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
