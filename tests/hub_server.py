"""A local stand-in for the Hub's read side: the requests that `snapshot_download` makes for a pinned commit."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789" * 4


@contextmanager
def hub_server(files: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """Serves `{"models/owner/name": {path: content}}` at one commit; yields the endpoint."""

    served = {}
    for repo, contents in files.items():
        served[f"/api/{repo}/tree/{COMMIT}"] = json.dumps(_tree(contents)).encode()
        base = f"/{repo.removeprefix('models/')}/resolve/{COMMIT}"
        served |= {f"{base}/{path}": content for path, content in contents.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            body = served.get(self.path.partition("?")[0])
            self.send_response(404 if body is None else 200)
            headers = {
                "ETag": f'"{_oid(body or b"")}"',
                "X-Repo-Commit": COMMIT,
                "Content-Length": str(len(body or b"")),
            }
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body and body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree(contents: dict[str, bytes]) -> list[dict]:
    return [
        {"type": "file", "path": path, "size": len(content), "oid": _oid(content)} for path, content in contents.items()
    ]


def directory_files(directory: Path) -> dict[str, bytes]:
    """The files of a directory as a repository's content."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
