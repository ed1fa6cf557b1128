"""An OpenAI-compatible server on this machine that fails as it is told, and counts what it is asked and answers.

    python -m tests.fault_server --delay 0.2 --capacity 64     # prints its base URL; GET /counts gives the counts

It speaks raw HTTP/1.1, so that it can cut an answer in the middle of its body.
"""

import argparse
import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MODEL = "gpt-4o-mini-2024-07-18"


class Asked(NamedTuple):
    """One POST: its path and body, its number among all, and how often just this had been asked before."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    number: int
    before: int

    @property
    def question(self) -> str:
        """The last message, or the prompt."""
        prompt = self.body.get("prompt")
        return self.body["messages"][-1]["content"] if prompt is None else str(prompt)


@dataclass
class Act:
    """What the server does with a request: answers it, or fails in some way."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: str | None = None
    """The body, in place of a completion or an error."""
    text: str = "Final answer: 8"
    finish_reason: str = "stop"
    fields: dict[str, Any] = field(default_factory=dict)
    """More fields of the answer."""
    delay_s: float = 0.0
    cut: bool = False
    """Whether the connection ends in the middle of the body."""


class Other(NamedTuple):
    """A whole answer; `cut` ends the connection in the middle of its body."""

    status: int
    content: str
    headers: dict[str, str] | None = None
    cut: bool = False


Plan = Callable[[Asked], Act]


class FaultServer:
    """A server in a thread. `capacity`: more requests at once get a 429 without a word when to come back."""

    def __init__(self, plan: Plan = lambda asked: Act(), delay_s: float = 0.0, capacity: int | None = None):
        self.plan, self.delay_s, self.capacity = plan, delay_s, capacity
        self.models: list[dict[str, Any]] | None = None
        self.is_down = False
        """Whether everything, `/models` too, is answered by a 503."""
        self.asked: list[Asked] = []
        self.answered = self.at_once = self.most_at_once = self.looks = self.port = 0
        self.first = self.last = 0.0
        """When the first request came, and when the last answer went."""
        self._before: dict[str, int] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultServer"]:
        """Runs it in a thread until the block ends."""
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        self._do(self.listen())
        try:
            yield self
        finally:
            self._do(self.vanish())
            self._do(self._finish())
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def refuse_connections(self) -> None:
        """Closes the port and all connections, as when the process ends."""
        self._do(self.vanish())

    def accept_connections(self) -> None:
        """Listens again on the same port."""
        self._do(self.listen())

    def _do(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    async def vanish(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _finish(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        self._writers.discard(writer)
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request on a connection; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if (other := self.other(method, path, headers, content)) is not None:
            await _write(writer, *other)
            return not other.cut
        if method == "GET":
            await _write(writer, *self._get(path))
            return True
        asked = self._note(path, json.loads(content), headers)
        act = self._act(asked)
        works = act.status == 200
        self.at_once += works
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(act.delay_s or self.delay_s * works)
        finally:
            self.at_once -= works
        await _write(writer, act.status, _content(asked, act), act.headers, act.cut)
        self.answered += act.status == 200 and not act.cut and act.content is None
        self.last = time.monotonic()
        return not act.cut

    def other(self, method: str, path: str, headers: dict[str, str], content: bytes) -> "Other | None":
        """The answer to a request that is no question; None where it is one, or a look."""
        return None

    def _get(self, path: str) -> tuple[int, str]:
        if path == "/counts":
            counts = {"asked": len(self.asked), "answered": self.answered, "most": self.most_at_once}
            return 200, json.dumps(counts | {"seconds": self.last - self.first})
        self.looks += 1
        if self.is_down:
            return 503, ""
        return (404, "") if self.models is None else (200, json.dumps({"object": "list", "data": self.models}))

    def _note(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Asked:
        same = json.dumps([body.get("messages"), body.get("prompt"), body.get("seed")])
        self._before[same] = self._before.get(same, -1) + 1
        self.first = self.first or time.monotonic()
        asked = Asked(path, body, headers, len(self.asked), self._before[same])
        self.asked.append(asked)
        return asked

    def _act(self, asked: Asked) -> Act:
        if self.is_down:
            return Act(503)
        if self.capacity is not None and self.at_once >= self.capacity:
            return Act(429)
        return self.plan(asked)


def _content(asked: Asked, act: Act) -> str:
    if act.content is not None:
        return act.content
    if act.status != 200:
        return json.dumps({"error": {"message": f"made up {act.status}", "code": None}})
    chat = asked.path.endswith("/chat/completions")
    said = {"message": {"role": "assistant", "content": act.text}} if chat else {"text": act.text}
    n_prompt, n_tokens = len(asked.question.split()), len(act.text.split()) + 1
    usage = {"prompt_tokens": n_prompt, "completion_tokens": n_tokens, "total_tokens": n_prompt + n_tokens}
    choice = {"index": 0, "finish_reason": act.finish_reason} | said
    answer = {"id": "x", "model": asked.body["model"], "system_fingerprint": "fp_1", "choices": [choice]}
    return json.dumps(answer | {"usage": usage} | act.fields)


async def _write(
    writer: asyncio.StreamWriter, status: int, content: str, headers: dict[str, str] | None = None, cut: bool = False
) -> None:
    body = content.encode()
    lines = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    writer.write(head.encode() + (body[: len(body) // 2] if cut else body))
    await writer.drain()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until an answer")
    parser.add_argument("--capacity", type=int, help="requests at once; more get a 429")
    parser.add_argument("--text", default=Act.text, help="what is answered")
    arguments = parser.parse_args()
    server = FaultServer(lambda asked: Act(text=arguments.text), delay_s=arguments.delay, capacity=arguments.capacity)

    async def serve() -> None:
        await server.listen()
        print(server.url, flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
