"""The calls of the OpenAI Batch API (files and batches, https://platform.openai.com/docs/guides/batch), with retries.

What failed is tried again as questions are (`builders.engines.faults` says what an error means); when that is of no
use, the stage stops early: everything that matters is on the disk. Only `create` must not simply be repeated: a reply
may be lost after the batch was made, so it is looked for before another is created.
"""

import math
import os
import random
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

from builders.engines.faults import Doubtful, Failed, Unanswerable, Unreachable, judge
from builders.engines.servers import Server, limits
from builders.judging.batch_parts import Part
from stores.stage import StopEarly

if TYPE_CHECKING:
    from openai import APIError, OpenAI
    from openai.types import Batch

ENDPOINT = "/v1/chat/completions"
TAG = "pairwright"
CONTINUE = "what was answered is in the ledger, and the same command continues"
LONGEST_PAUSE_S = 30.0
SETTLED_AFTER = 20
"""A batch whose creation got no reply appears in the list within this many times the mean first pause (10 s)."""
T = TypeVar("T")


class Absent(Exception):
    """The server says 404 (405, 410): there is no such thing."""


class BatchClient:
    """One server's files and batches. Keys and URLs are in no message."""

    def __init__(self, server: Server):
        self.server, self.limits = server, limits()
        set_on_retry_hooks([])  # they would print every failed attempt

    @cached_property
    def _openai(self) -> "OpenAI":
        import httpx2
        import openai

        timeout = httpx2.Timeout(self.limits.timeout_s, connect=min(self.limits.timeout_s, 10.0))
        return openai.OpenAI(
            base_url=self.server.url, api_key=self.server.key or "EMPTY", max_retries=0, timeout=timeout
        )

    def close(self) -> None:
        """Ends its connections."""
        if "_openai" in vars(self):
            self._openai.close()

    def upload(self, questions: Path, name: str) -> str:
        """The id of a file of questions on the server."""

        def send() -> str:
            with questions.open("rb") as file:
                sent = self._openai.files.create(file=(name, file, "application/jsonl"), purpose="batch")
            return _id(sent)

        return self._here(send)

    def create(self, part: Part) -> "Batch":
        """The batch of an uploaded part: made, or found if a reply was lost."""
        asked = False

        def make() -> "Batch":
            nonlocal asked
            if asked and (found := self._listed(part)):
                return found
            part.sent_at, asked = time.time(), True
            made = self._openai.batches.create(
                completion_window="24h",
                endpoint=ENDPOINT,
                input_file_id=part.file_id,
                metadata={TAG: part.part, "context": part.context},
            )
            return _whole(made)

        return self._here(make)

    def find(self, part: Part) -> "Batch | None":
        """The batch of a part that was sent, if there is one."""
        part.sent_at = time.time()  # whoever sent it may have ended a moment ago
        return self._here(lambda: self._listed(part))

    def _listed(self, part: Part) -> "Batch | None":
        """Looks through all batches: metadata name ours, or else (gateways may lose them) the uploaded file does.

        One that was asked for a moment ago may not be listed yet, and is waited for.
        """
        settled = min(part.sent_at, time.time()) + SETTLED_AFTER * self.limits.backoff_s
        while True:
            last_look = time.time() >= settled
            for batch in self._openai.batches.list(limit=100):
                if (batch.metadata or {}).get(TAG) == part.part or batch.input_file_id == part.file_id:
                    return _whole(batch)
            if last_look:
                return None
            time.sleep(max(0.0, min(1.0, settled - time.time())))

    def retrieve(self, part: Part) -> "Batch":
        """A batch as it is now. Raises ValueError if the server knows none of this id."""
        return self._known(part, self._openai.batches.retrieve)

    def cancel(self, part: Part) -> "Batch":
        """Asks for the end of a batch; what is answered by then will be there."""
        return self._known(part, self._openai.batches.cancel)

    def _known(self, part: Part, call: "Callable[[str], Batch]") -> "Batch":
        batch_id = part.batch_id
        assert batch_id is not None, "only what was created is asked for"
        try:
            return self._ask(lambda: _whole(call(batch_id)))
        except Absent:
            raise ValueError(
                f"{self.server.place} knows no batch {batch_id}: it was submitted to another server, or with a key of"
                " another project; set these as they were then, or give it up with"
                f" `python -m builders.judging.batches --forget {part.context}`"
            ) from None

    def download(self, file_id: str, path: Path) -> bool:
        """Writes a file of the server to a path; False if the server has it no more."""

        def fetch() -> None:
            with self._openai.files.with_streaming_response.content(file_id) as response, path.open("wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)

        try:
            self._ask(fetch)
        except Absent:
            return False
        return True

    def remove(self, file_id: str) -> None:
        """Removes a file of the server, so that no batch can begin with it; none there is as good."""
        try:
            self._ask(lambda: self._openai.files.delete(file_id))
        except Absent:
            return

    def _here(self, call: Callable[[], T]) -> T:
        try:
            return self._ask(call)
        except Absent as absent:
            raise ValueError(
                f"{self.server.place} has no Batch API ({absent}); set `mode: online`, or the base URL of one that has"
            ) from None

    def _ask(self, call: Callable[[], T]) -> T:
        """What a call returns, after as many attempts as it takes.

        Raises Absent, ValueError for what no attempt can mend, StopEarly when all attempts failed.
        """
        patience = _Patience(self)
        try:
            for attempt in stamina.retry_context(on=patience.pause, attempts=None, timeout=None):
                with attempt:
                    return self._once(call)
        except Failed as failure:
            why = f"{self.server.place} does not answer about batches ({failure.label})"
            raise StopEarly(f"{why}; {CONTINUE}") from None
        raise AssertionError("an attempt returns or raises")

    def _once(self, call: Callable[[], T]) -> T:
        import httpx2
        import openai

        try:
            return call()
        except openai.APIError as error:
            raise self._meaning(error) from None
        except httpx2.TransportError as error:
            raise Failed("server", f"connection lost ({type(error).__name__})") from None
        except ValueError:
            raise Failed("server", "truncated JSON, or none") from None

    def _meaning(self, error: "APIError") -> Exception:
        status = getattr(error, "status_code", None)
        if status in (404, 405, 410, 501):
            return Absent(str(status))
        meaning = judge(error, self.server, (self.server,))
        if isinstance(meaning, Unanswerable | Doubtful):
            remedy = "make them smaller (PAIRWRIGHT_BATCH_SIZE), or set `mode: online`"
            return ValueError(f"{self.server.place} takes no such batch: {meaning.detail}; {remedy}")
        return meaning


class _Patience:
    """How long to pause after a failed attempt: full jitter, as long as the server asks; False: give up."""

    def __init__(self, client: BatchClient):
        self.limits, self.failed, self.began = client.limits, 0, time.monotonic()

    def pause(self, error: Exception) -> float | bool:
        if not isinstance(error, Failed):
            return False
        self.failed += not isinstance(error, Unreachable)
        pause = random.uniform(0.5, 1) * min(LONGEST_PAUSE_S, self.limits.backoff_s * 2 ** min(self.failed + 1, 10))
        pause = max(pause, error.wait_s or 0.0)
        late = time.monotonic() + pause - self.began >= self.limits.outage_s
        return False if late or self.failed >= self.limits.attempts else pause


def _id(found: object) -> str:
    """The id of an object of the server. Raises Failed for an answer that is none."""
    identifier = getattr(found, "id", None)
    if not isinstance(identifier, str) or not identifier:
        raise Failed("server", "an answer that is no object of the Batch API")
    return identifier


def _whole(batch: "Batch") -> "Batch":
    _id(batch)
    return batch


def number(name: str, default: float, least: float = 0) -> float:
    """`$PAIRWRIGHT_<name>`. Raises ValueError for a value that is no number, or too small."""
    text = os.environ.get(f"PAIRWRIGHT_{name}", "")
    try:
        value = float(text or default)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise ValueError(f"PAIRWRIGHT_{name}={text}: not a number from {least:g}")
    return value
