"""Questions to OpenAI-compatible servers, answered whatever happens on the way: the one layer of retries.

It knows nothing of completions. A `Question` says how it is asked and how its answer is read, so that whoever asks
for something else (a judge for a structured verdict) goes through the same retries, limits and prices.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

from builders.engines.budget import Budget, answer_usd, worst_usd
from builders.engines.faults import (
    SAMPLING,
    Doubtful,
    Failed,
    Unanswerable,
    Unreachable,
    allowances,
    costs_nothing,
    in_answer,
    judge,
    mistake,
    not_my_dialect,
)
from builders.engines.lanes import Facts, Lane
from builders.engines.pool import Look, Pool
from builders.engines.servers import Limits, Server

T = TypeVar("T")
LONGEST_PAUSE_S, LONGEST_OUTAGE_PAUSE_S = 30.0, 300.0


class Question(NamedTuple, Generic[T]):
    """What is posted where, and how an answer is read."""

    path: str
    body: Callable[[Facts], dict[str, Any]]
    """Made anew for each attempt: servers speak dialects."""
    read: Callable[[Mapping[str, Any]], T | Unanswerable]
    """From the parsed answer. Raises `Failed` for one that is none."""
    harmless: Callable[[Facts], dict[str, Any]] | None = None
    """The same settings with a question that nobody refuses, to tell a bad setting from a refused question."""
    key: str = ""
    """The ledger's key of the answer, where there is a budget."""
    settings: str = SAMPLING
    """What of params a user may change if the server takes no such question."""


class Reply(NamedTuple, Generic[T]):
    """An answer, from which server, and how many requests for it have reached servers."""

    value: T | Unanswerable
    server: Server
    n_attempts: int


class GaveUp(NamedTuple):
    """A question that used up its attempts; the last failure."""

    label: str


class Transport:
    """Asks the servers of a pool. One event loop; enter the pool before asking. No attempt is sent that the budget
    has no room for.
    """

    def __init__(
        self,
        servers: tuple[Server, ...],
        limits: Limits,
        look: Look = lambda server, models, facts: None,
        budget: Budget | None = None,
    ):
        self.servers, self.limits, self.budget = servers, limits, budget
        self.pool = Pool(servers, limits, look)
        self.paused = 0
        """Questions between two attempts, which no server is busy with."""
        self._doubts = asyncio.Lock()
        set_on_retry_hooks([])  # they would print every failed attempt

    async def ask(self, question: Question[T]) -> Reply[T] | GaveUp:
        """The answer to one question, after as many attempts as it takes.

        Raises ValueError for what no attempt can mend (a key, a model's name, a setting), StopEarly if no server is
        there for too long. Then nothing else is asked either: all that wait for a server raise the same.
        """
        asking = _Asking(question)
        try:
            async for attempt in stamina.retry_context(on=self._pause, attempts=None, timeout=None):
                with attempt:
                    return await self._attempt(asking)
        except Failed as failure:
            return GaveUp(failure.label)
        raise AssertionError("an attempt returns or raises")

    @staticmethod
    def _pause(error: Exception) -> float | bool:
        return error.pause_s if isinstance(error, Failed) and error.pause_s >= 0 else False

    async def _attempt(self, asking: "_Asking[T]") -> Reply[T]:
        import openai

        self.paused, asking.paused = self.paused - asking.paused, False
        lane, number = await self.pool.acquire()
        answered = False
        try:
            asking.dialect = lane.facts.max_tokens
            body = asking.question.body(lane.facts)
            await self._take(asking, lane, body)
            async with asyncio.timeout(self.limits.timeout_s):  # the client's own is for each piece of an answer
                response = await _post(lane, number, asking.question.path, body)
            value, tokens = self._read(asking, response, lane.server.url)
            answered = True
        except openai.APIError as error:
            value = await self._after(error, asking, lane, number)
            answered = True
        except TimeoutError:
            raise self._failed(Failed("server", "time-out"), asking, lane, number) from None
        except Failed as failure:
            raise self._failed(failure, asking, lane, number) from None
        else:
            lane.heard(number, allowances(response.headers), time.monotonic())
            lane.succeeded(number, tokens)
            lane.accepts = True
            self.pool.answered(lane)
        finally:
            if self.budget and asking.taken:
                self.budget.settle(asking.question.key, asking.usd, asking.extra_usd, answered)
            self.pool.release(lane)
        return Reply(value, lane.server, asking.reached + 1)

    async def _take(self, asking: "_Asking[T]", lane: Lane, body: dict[str, Any]) -> None:
        """Takes the worst case of an attempt from the budget; what it costs is not known until it is answered."""
        asking.taken, asking.usd, asking.extra_usd, asking.model = False, None, 0.0, str(body.get("model"))
        if self.budget:
            harmless = asking.question.harmless
            bodies = [body, *([harmless(lane.facts)] if harmless else [])]
            worst = max(worst_usd(body, lane.server.url) for body in bodies)
            await self.budget.take(asking.question.key, worst, self.pool)
            asking.taken = True

    def _read(self, asking: "_Asking[T]", response: Any, url: str) -> tuple[T | Unanswerable, int]:
        try:
            body = response.json()
        except ValueError:
            raise Failed("server", "truncated JSON, or none") from None
        if not isinstance(body, dict):
            raise Failed("server", "an answer that is no object")
        asking.usd = answer_usd(body, asking.model, url) if self.budget else None
        if failure := in_answer(body):
            asking.usd = 0.0 if failure.kind == "throttled" else asking.usd
            raise failure
        usage = body.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        return asking.question.read(body), tokens if isinstance(tokens, int) else 0

    async def _after(self, error: Any, asking: "_Asking[T]", lane: Lane, number: int) -> Unanswerable:
        """What follows from an error: a reason why there is no answer; else it raises."""
        asking.usd = 0.0 if costs_nothing(error) else None
        response = getattr(error, "response", None)
        if response is not None:
            lane.heard(number, allowances(response.headers), time.monotonic())
            if not_my_dialect(error, asking.dialect) and lane.facts.switch(asking.dialect):
                raise self._failed(Failed("dialect", "another name of max_tokens"), asking, lane, number) from None
        outcome = judge(error, lane.server, self.servers, asking.question.settings)
        if isinstance(outcome, Doubtful):
            outcome = await self._resolve(outcome, asking, lane)
        if isinstance(outcome, Failed):
            raise self._failed(outcome, asking, lane, number) from None
        if isinstance(outcome, Unanswerable):
            lane.succeeded(number)
            self.pool.answered(lane)
            return outcome
        self.pool.halt(outcome)
        raise outcome from None

    async def _resolve(self, doubt: Doubtful, asking: "_Asking[T]", lane: Lane) -> Unanswerable | Exception:
        """A 400 is about this question if the server answers others of the same settings."""
        import openai

        async with self._doubts:
            if not lane.accepts and asking.question.harmless is not None:
                try:
                    await self._probe(asking, asking.question.harmless(lane.facts), lane)
                    lane.accepts = True
                except (openai.BadRequestError, openai.UnprocessableEntityError):
                    pass
                except openai.APIError as error:
                    outcome = judge(error, lane.server, self.servers, asking.question.settings)
                    return outcome if isinstance(outcome, Exception) else Failed("server", doubt.detail)
        if lane.accepts:
            return Unanswerable("refused", doubt.detail)
        return mistake(400, lane.server, doubt.detail, asking.question.settings)

    async def _probe(self, asking: "_Asking[T]", body: dict[str, Any], lane: Lane) -> None:
        """Asks a harmless question, which the reserved money covers too, in place of the attempt that cost nothing."""
        asking.usd = None
        try:
            response = await _post(lane, lane.sent, asking.question.path, body)
        except BaseException as error:
            asking.usd = 0.0 if costs_nothing(error) else None
            raise
        asking.usd = 0.0
        if self.budget:
            price = answer_usd(_object(response), asking.model, lane.server.url)
            asking.extra_usd = worst_usd(body, lane.server.url) if price is None else price

    def _failed(self, failure: Failed, asking: "_Asking[T]", lane: Lane, number: int) -> Failed:
        """Counts a failed attempt for the request and for the server, and says how long the request pauses."""
        now = time.monotonic()
        if isinstance(failure, Unreachable):
            self.pool.lost(lane, failure.label)
            failure.pause_s = 0.0  # it waits for a server
            return failure
        asking.reached += 1
        self.pool.failed(failure.label)
        if failure.wait_s is not None and lane.resume_at <= now:
            self.pool.paused(lane, now + failure.wait_s)
        if failure.kind == "throttled":
            lane.throttled(number, failure.wait_s, now)
        elif failure.kind == "server" and lane.failed(number, id(asking), failure.wait_s, now):
            self.pool.lost(lane, failure.label)
        failure.pause_s = self._back_off(asking.reached, lane) if asking.reached < self.limits.attempts else -1.0
        asking.paused = failure.pause_s >= 0
        self.paused += asking.paused
        return failure

    def _back_off(self, attempts: int, lane: Lane) -> float:
        """Full jitter (Brooker 2015), up to 30 s; while every server is down longer: an outage takes minutes."""
        if lane.state == "up" or self.pool.others_up(lane):
            return random.uniform(0, min(LONGEST_PAUSE_S, self.limits.backoff_s * 2**attempts))
        return random.uniform(0.5, 1) * min(LONGEST_OUTAGE_PAUSE_S, self.limits.backoff_s * 3**attempts)


class _Asking(Generic[T]):
    """One question on its way, and the failed requests for it that have reached a server."""

    def __init__(self, question: Question[T]):
        self.question, self.reached, self.paused, self.dialect, self.model = question, 0, False, "", ""
        self.taken = False
        """Whether the present attempt has money of the budget."""
        self.usd: float | None = None
        """What it cost; None is not known: it is under way, or lost."""
        self.extra_usd = 0.0


def _object(response: Any) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


async def _post(lane: Lane, number: int, path: str, body: dict[str, Any]) -> Any:
    import httpx2

    return await lane.client(number).post(path, cast_to=httpx2.Response, body=body)
