"""The page's server: for one person, on this machine alone.

It binds to 127.0.0.1. A request must name it as its host (so that no other site's name leads here), come from the page
itself or from no page, and carry the token that is drawn at each start and stands in the page's address behind `#`
(which browsers send nowhere). Reading changes nothing; writing takes JSON of a known shape and size. What is not a
route is not found: no path is ever looked up in the file system.
"""

import hmac
import json
import re
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from builders.labelling.session import Answer, Session, Withdrawal, mistake

HOST = "127.0.0.1"
MAX_BODY = 256 * 1024
"""Bytes of a request's body."""
IDLE_S = 30
"""How long a connection may say nothing."""
JSON = "application/json; charset=utf-8"
TOKEN_HEADER = "X-Pairwright-Token"
_Shape = TypeVar("_Shape", bound=BaseModel)
_HERE = Path(__file__).parent
PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/acts.js": ("acts.js", "text/javascript; charset=utf-8"),
    "/maths.js": ("maths.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is not answered: its status, and why."""

    def __init__(self, status: HTTPStatus, why: str):
        super().__init__(why)
        self.status = status


class LabelServer(ThreadingHTTPServer):
    """Serves one session. `port` 0 takes a free one. Raises ValueError for a port that cannot be had."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0):
        self.session, self.token = session, secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            why = error.strerror or error
            raise ValueError(f"--port {port}: {why}; leave it out, and a free one is taken") from None
        self.names = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.origins = {f"http://{name}" for name in self.names}

    @property
    def url(self) -> str:
        """The page's address, with the token."""
        return f"http://{HOST}:{self.server_port}/#{self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no error; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer  # pyrefly: ignore
    server_version, sys_version = "Pairwright", ""
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S

    def do_GET(self) -> None:
        self._respond(self._read)

    def do_POST(self) -> None:
        self._respond(self._write)

    def do_HEAD(self) -> None:
        self._respond(self._read)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (other methods, lines that are too long or no HTTP), as all else is refused."""
        self.close_connection = True
        self._send(HTTPStatus(code), JSON, _json({"error": HTTPStatus(code).phrase}))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are not worth a line each, and their paths are anybody's text."""

    def _respond(self, answer: Callable[[], tuple[str, bytes]]) -> None:
        try:
            self._check_sender()
            kind, body = answer()
        except Refused as refused:
            self._refuse(refused.status, str(refused))
        except ValueError as error:
            why = mistake(error) if isinstance(error, ValidationError) else str(error)
            self._refuse(HTTPStatus.BAD_REQUEST, why)
        except OSError as error:  # a full disk: the page must not say that it is saved
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, f"not saved: {error.strerror or error}")
        else:
            self._send(HTTPStatus.OK, kind, body)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # the body has perhaps not been read
        self._send(status, JSON, _json({"error": why}))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _check_sender(self) -> None:
        """Only this page, under this machine's own names, and nobody else's page."""
        if self.headers.get_all("Host", []) not in [[name] for name in self.server.names]:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, f"this is {HOST}:{self.server.server_port} and no other host")
        if any(origin not in self.server.origins for origin in self.headers.get_all("Origin", [])):
            raise Refused(HTTPStatus.FORBIDDEN, "another origin")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise Refused(HTTPStatus.FORBIDDEN, "another site")

    def _check_token(self) -> None:
        given = self.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(), self.server.token.encode()):
            raise Refused(HTTPStatus.UNAUTHORIZED, "open the address that `pairwright label serve` printed")

    def _read(self) -> tuple[str, bytes]:
        """A file of the page, or what the session says."""
        if self.path in PAGE:
            name, kind = PAGE[self.path]
            return kind, (_HERE / name).read_bytes()
        self._check_token()
        if self.path == "/api/overview":
            return JSON, _json(self.server.session.overview())
        asked = re.fullmatch("/api/task/([0-9]{1,9})", self.path)
        if asked is None or int(asked[1]) >= len(self.server.session.tasks):
            raise Refused(HTTPStatus.NOT_FOUND, "no such page")
        return JSON, _json(self.server.session.task(int(asked[1])))

    def _write(self) -> tuple[str, bytes]:
        self._check_token()
        session = self.server.session
        match self.path:
            case "/api/label":
                return JSON, _json(session.answer(self._body(Answer)))
            case "/api/withdraw":
                return JSON, _json(session.withdraw(self._body(Withdrawal)))
        raise Refused(HTTPStatus.NOT_FOUND, "no such page")

    def _body(self, shape: type[_Shape]) -> _Shape:
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", length) or "Transfer-Encoding" in self.headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length, and the body whole")
        if int(length) > MAX_BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY:,} bytes")
        return shape.model_validate_json(self.rfile.read(int(length)))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
