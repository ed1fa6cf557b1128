"""How much each server takes at once, found out by asking: additive increase, multiplicative decrease.

Until the first refusal the limit doubles with every round of answers (as TCP's slow start, RFC 5681); 429, 5xx and
time-outs halve it, once for all requests that were in flight together. Then it doubles up to 90 % of where it was
refused and grows slowly beyond.
"""

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from builders.engines.faults import Allowance
from builders.engines.servers import Limits, Server

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FIRST = 16
"""Requests in flight at first."""
SLOWLY = 0.25
"""Growth per round of answers above the threshold."""
FAILURES = 5
"""Failures in a row, of more than one request, after which a server is down."""
PROBE_EVERY_S = 30.0
"""Longest pause between looks at a server that is down."""


class Facts:
    """What a server said about itself (`/models`), and which dialect it turned out to speak."""

    def __init__(self, is_openai: bool):
        self.is_vllm = False
        self.max_model_len: int | None = None
        self.max_tokens = "max_completion_tokens" if is_openai else "max_tokens"
        """The name of the limit in chat requests."""
        self._switched = False

    def switch(self, refused: str) -> bool:
        """Takes the other name of the limit after one was refused; false if that one has been refused too."""
        if self.max_tokens == refused and not self._switched:
            self.max_tokens = "max_tokens" if refused == "max_completion_tokens" else "max_completion_tokens"
            self._switched = True
        return self.max_tokens != refused


class Lane:
    """One server: whether it is there, how many requests it takes at once, and until when it asks for a pause.

    Times are those of one monotonic clock, in seconds, and given by the caller.
    """

    def __init__(self, server: Server, clients: "Sequence[AsyncOpenAI]", limits: Limits):
        self.server, self.clients, self.limits = server, clients, limits
        self.facts = Facts(server.is_openai)
        self.state: Literal["up", "down", "trial"] = "up" if server.is_openai else "down"
        self.limit = float(min(max(FIRST, limits.least), limits.most))
        self.threshold = math.inf
        self.in_flight = self.sent = self.answered = self.looks = 0
        self.resume_at = 0.0
        self.reported = False
        """Whether it was said that it is down."""
        self.accepts = False
        """Whether it has answered a question with these settings: what it refuses then is refused for its content."""
        self._halved_at = self._busy_at = self._throttles = self._failures = 0
        self._failed: set[int] = set()
        self._allowed, self._allowed_until = math.inf, 0.0
        """How many requests may have been sent in all until then."""
        self._tokens = 0.0

    def client(self, number: int = 0) -> "AsyncOpenAI":
        """One of several for a request: a client looks through all of its connections whenever it uses one."""
        return self.clients[number % len(self.clients)]

    def load(self, now: float) -> float | None:
        """The share of its limit that is in flight; None if it takes no request now."""
        most = 1 if self.state == "trial" else int(self.limit)
        if self.state == "down" or now < self.resume_at or self.in_flight >= most or self.allowed(now) <= 0:
            return None
        return self.in_flight / most

    def allowed(self, now: float) -> float:
        """How many more requests the rate limits leave."""
        return self._allowed - self.sent if now < self._allowed_until else math.inf

    def closed_until(self, now: float) -> float:
        """Until when the server wants nothing, whatever is answered; the past if it does not say so."""
        return max(self.resume_at, self._allowed_until if self.allowed(now) <= 0 else 0.0)

    def opens_at(self, now: float) -> float:
        """When a server that takes nothing for now may take something again without any answer."""
        until = self.closed_until(now)
        return until if until > now else math.inf

    def take(self) -> int:
        """Counts a request that is sent, and numbers it."""
        self.in_flight, self.sent = self.in_flight + 1, self.sent + 1
        if self.in_flight >= 0.75 * self.limit:
            self._busy_at = self.sent
        return self.sent

    def heard(self, number: int, allowances: list[Allowance], now: float) -> None:
        """Takes the rate limits that came with the answer to a request; until they are reset, the strictest count.

        Requests overtake each other, so what one answer leaves may be less, or more, than what there is.
        """
        scarce = min(((self._requests(a), a.reset_s) for a in allowances), default=None)
        if scarce is not None and (now >= self._allowed_until or number + scarce[0] < self._allowed):
            self._allowed, self._allowed_until = number + scarce[0], now + scarce[1]

    def _requests(self, allowance: Allowance) -> float:
        per_request = max(self._tokens, 1.0) if allowance.what == "tokens" else 1.0
        return allowance.left // per_request

    def succeeded(self, number: int, tokens: int | None = None) -> None:
        """An answer of so many tokens: the server is there and may be asked for more at once."""
        self.state, self.answered = "up", self.answered + 1
        self.looks = self._throttles = self._failures = 0
        self._failed.clear()
        if tokens is not None:
            self._tokens += (tokens - self._tokens) / min(self.answered, 100)
        # A limit that was not used while this was in flight, or is younger, has not been tried by it.
        if self._halved_at < number <= self._busy_at:
            growth = 1.0 if self.limit < self.threshold else SLOWLY / self.limit
            self.limit = min(self.limit + growth, self.limits.most)

    def throttled(self, number: int, wait_s: float | None, now: float) -> None:
        """A 429: the server pauses for as long as it says, else for longer each time while it refuses everything."""
        self._throttles += self._halve(number)
        if wait_s is None and self._throttles > FAILURES:
            longest = min(PROBE_EVERY_S, self.limits.outage_s / 2)  # what we choose is no reason to stop
            wait_s = random.uniform(0, min(longest, self.limits.backoff_s * 2 ** (self._throttles - FAILURES)))
        if wait_s is not None:
            self.resume_at = max(self.resume_at, now + wait_s)

    def failed(self, number: int, asker: int, wait_s: float | None, now: float) -> bool:
        """A 5xx, a time-out or a cut answer to `asker`; true if the server now counts as down."""
        self._halve(number)
        self._failures += 1
        self._failed.add(asker)
        if wait_s is not None:
            self.resume_at = max(self.resume_at, now + wait_s)
        many = self._failures >= FAILURES and len(self._failed) > 1
        return self.state == "trial" or (self.state == "up" and many)

    def _halve(self, number: int) -> bool:
        """Halves the limit, unless that request was sent before it was halved last."""
        if number <= self._halved_at:
            return False
        refused = self.limit if self.in_flight < self.limit / 2 else min(self.limit, self.in_flight)
        self.threshold, self.limit = 0.9 * refused, max(self.limits.least, refused / 2)
        self._halved_at = self.sent
        return True

    def probe_pause(self) -> float:
        """Seconds until the next look at a server that is down: none before the first, then longer and longer."""
        self.looks += 1
        longest = min(PROBE_EVERY_S, self.limits.backoff_s * 2 ** min(self.looks, 30))
        return 0.0 if self.looks == 1 else random.uniform(0.5, 1) * longest
