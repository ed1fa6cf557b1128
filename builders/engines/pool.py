"""The servers together: a request goes to the least loaded one that is there; one that is lost is looked at until it is
back, and its requests go elsewhere.
"""

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

from builders.engines.lanes import Facts, Lane
from builders.engines.servers import Limits, Server
from stores.stage import StopEarly

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CLIENTS = 16
"""Per server; each has a pool of connections."""
CONTINUE = "what was answered is in the ledger, and the same command continues"
SAID_FROM_S = 10.0
LOOK_S = 30.0
"""Longest wait for what a server says about itself."""

Look = Callable[[Server, list[dict[str, Any]] | None, Facts], None]
"""Takes the models that a server lists (None: it lists none), and notes facts. Raises ValueError for a wrong server."""


class Pool:
    """Lanes of one event loop, between `open` and `close`."""

    def __init__(self, servers: tuple[Server, ...], limits: Limits, look: Look):
        self.servers, self.limits, self.look = servers, limits, look
        self.stop: BaseException | None = None
        self.lanes: list[Lane] = []
        self._failing_since: float | None = None
        self._last_failure = ""
        self._looking: set[asyncio.Task] = set()

    async def open(self) -> None:
        """Makes the clients, in the running event loop."""
        self._changed = asyncio.Event()
        self.lanes = [Lane(server, _clients(server, self.limits), self.limits) for server in self.servers]
        for lane in self.lanes:
            if lane.state == "down":
                self._look_for(lane)

    async def close(self) -> None:
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        for client in chain.from_iterable(lane.clients for lane in self.lanes):
            await client.close()

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self.lanes)

    @property
    def width(self) -> int:
        """How many requests all servers that are there take at once."""
        return sum(1 if lane.state == "trial" else int(lane.limit) for lane in self.lanes if lane.state != "down") or 1

    async def acquire(self) -> tuple[Lane, int]:
        """A lane for one request, and the request's number there; waits until a server takes it.

        Raises the reason to stop, if there is one: StopEarly when no server was there for too long.
        """
        while True:
            now = time.monotonic()
            self._check(now)
            loads = [(load, lane.server.number, lane) for lane in self.lanes if (load := lane.load(now)) is not None]
            if loads:
                lane = min(loads)[2]
                return lane, lane.take()
            await self.change(min([self._give_up_at(), *(lane.opens_at(now) for lane in self.lanes)]) - now)

    def changed(self) -> None:
        """Wakes those that wait for a lane."""
        self._changed.set()
        self._changed = asyncio.Event()

    def halt(self, reason: BaseException) -> None:
        """No more requests are sent; the first reason counts."""
        self.stop = self.stop or reason
        self.changed()

    def release(self, lane: Lane) -> None:
        lane.in_flight -= 1
        self.changed()

    def answered(self, lane: Lane) -> None:
        """A server has answered a question, however it answered."""
        self._failing_since = None
        if lane.reported:
            _say(f"{lane.server.place} is back")
            lane.reported = False

    def failed(self, label: str) -> None:
        """Something failed; if nothing is answered from now on, the stage stops some time."""
        self._last_failure = label
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self.changed()  # who waits for a lane waits no longer than this now

    def paused(self, lane: Lane, until: float) -> None:
        """A server asks to be left alone; that it takes long is said once."""
        if until - time.monotonic() >= SAID_FROM_S:
            _say(f"{lane.server.place} asks for a pause of {until - time.monotonic():,.0f} s")

    def lost(self, lane: Lane, label: str) -> None:
        """A server is down: nothing is sent to it until it answers a look, and then one request on trial."""
        if not lane.reported:
            _say(f"{lane.server.place} is down ({label}); looking whether it is back")
            lane.reported = True
        if lane.state != "down":
            lane.state = "down"
            self._look_for(lane)
        self.failed(label)

    def others_up(self, lane: Lane) -> bool:
        return any(other.state == "up" for other in self.lanes if other is not lane)

    def _give_up_at(self) -> float:
        return math.inf if self._failing_since is None else self._failing_since + self.limits.outage_s

    def _check(self, now: float) -> None:
        if now >= self._give_up_at():
            outage = f"no answer for {self.limits.outage_s:.0f} s (last failure: {self._last_failure})"
            self.halt(StopEarly(f"{outage}; {CONTINUE}"))
        away = min(lane.closed_until(now) for lane in self.lanes) - now
        if away > self.limits.outage_s:
            self.halt(StopEarly(f"rate limits ask to wait for {away:,.0f} s; {CONTINUE}"))
        if self.stop:
            raise self.stop

    async def change(self, seconds: float = math.inf) -> None:
        """Waits until a request is released, a server is back or all is halted, but no longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(seconds) else max(0.0, seconds)):
                await self._changed.wait()

    def _look_for(self, lane: Lane) -> None:
        task = asyncio.get_running_loop().create_task(self._until_back(lane))
        self._looking.add(task)
        task.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task) -> None:
        self._looking.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.halt(error)  # else all would wait for a server that nobody looks for

    async def _until_back(self, lane: Lane) -> None:
        while not self.stop:
            await asyncio.sleep(lane.probe_pause())
            try:
                models = await _models(lane)
                self.look(lane.server, models, lane.facts)
            except ConnectionError as error:
                self.lost(lane, str(error))
            except ValueError as error:
                self.halt(error)
            else:
                lane.state = "trial" if lane.answered or self._failing_since else "up"
                self.changed()
                return


async def _models(lane: Lane) -> list[dict[str, Any]] | None:
    """What `/models` lists; None if the server has no such list. Raises ConnectionError if it is not there."""
    import httpx2
    import openai

    try:
        response = await lane.client().get("/models", cast_to=httpx2.Response, options={"timeout": LOOK_S})
        listed = response.json()
    except openai.APIStatusError as error:
        if error.status_code >= 500:
            raise ConnectionError(f"{error.status_code}") from None
        return None
    except openai.APIConnectionError as error:
        raise ConnectionError(type(error.__cause__ or error).__name__) from None
    except ValueError:
        return None
    models = listed.get("data") if isinstance(listed, dict) else None
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else None


def _clients(server: Server, limits: Limits) -> "list[AsyncOpenAI]":
    """Clients without retries of their own: there is one layer of them, and it is ours."""
    import httpx2
    import openai

    unlimited = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx2.Timeout(limits.timeout_s, connect=min(limits.timeout_s, 10.0))
    tls = httpx2.create_ssl_context()
    return [
        openai.AsyncOpenAI(
            base_url=server.url,
            api_key=server.key or "EMPTY",
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(limits=unlimited, timeout=timeout, verify=tls),
        )
        for _ in range(min(CLIENTS, limits.most))
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
