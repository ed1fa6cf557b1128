"""The two files of a finished batch: one line per question, in any order.

    {"custom_id": key, "response": {"status_code": 200, "body": {an answer of /chat/completions}}, "error": null}
    {"custom_id": key, "response": {"status_code": 400, "body": {"error": {…}}}, "error": null}
    {"custom_id": key, "response": null, "error": {"code": "batch_expired", "message": …}}

The output file has those with status 200, the error file the others.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from builders.engines.faults import Doubtful, Failed, Unanswerable, in_answer, judge, not_my_dialect
from builders.engines.servers import Server, redact
from builders.judging.questions import SETTINGS
from stores.ledger import Completion
from stores.stage import StopEarly

UNFINISHED = ("batch_expired", "batch_cancelled", "request_cancelled")
"""Codes of questions that were not asked: nothing failed."""
Read = Callable[[str, Mapping[str, Any]], Completion]
"""From a key and the body of an answer to a completion with its price in a batch. Raises Failed for none."""


class Line(NamedTuple):
    """What became of one question: an answer that the ledger keeps, or what to do about it.

    `Failed`: it may be asked again. `Doubtful`: a 400 that is about this question if others of these settings were
    answered. `ValueError`, `StopEarly`: all would fail so. None: it was not asked.
    """

    key: str
    outcome: Completion | Unanswerable | Failed | Doubtful | ValueError | StopEarly | None
    paid: bool
    """Whether it has failed and may have been paid for: an answer that is none."""


def read_lines(path: Path, keys: set[str], read: Read, server: Server, dialect: str) -> Iterator[Line | None]:
    """The lines of a file, without foreign keys and repeated ones; None for a line that is not whole.

    `dialect` is the name of the limit of tokens that was sent; a question that was refused for it is `Failed`, of this
    kind.
    """
    seen: set[str] = set()
    with path.open("rb") as file:
        for text in file:
            line = _parse(text)
            if line is None:
                yield None
            elif isinstance(key := line.get("custom_id"), str) and key in keys and key not in seen:
                seen.add(key)
                outcome = _outcome(key, line, read, server, dialect)
                yield Line(key, outcome, isinstance(outcome, Failed) and _status(line) == 200)


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text) if text.strip() else {}
    except ValueError:
        return None
    return line if isinstance(line, dict) else {}


def _status(line: Mapping[str, Any]) -> object:
    response = line.get("response")
    return response.get("status_code") if isinstance(response, Mapping) else None


def _outcome(key: str, line: Mapping[str, Any], read: Read, server: Server, dialect: str) -> Any:
    response, error = line.get("response"), line.get("error")
    if not isinstance(response, Mapping):
        code = str(error.get("code") if isinstance(error, Mapping) else error or "no answer")
        return None if code in UNFINISHED else Failed("server", redact(code, (server,)))
    status, body = _status(line), response.get("body")
    if status != 200:
        return _refusal(status if isinstance(status, int) else 500, body, server, dialect)
    if not isinstance(body, Mapping):
        return Failed("server", "an answer that is no object")
    try:
        return in_answer(body) or read(key, body)
    except Failed as failure:
        return failure


def _refusal(status: int, body: object, server: Server, dialect: str) -> Any:
    """What an error's status and body mean, as if the question had been asked online."""
    import httpx2
    import openai

    response = httpx2.Response(status, request=httpx2.Request("POST", "http://batch"))
    error = openai.APIStatusError("", response=response, body=body)
    if dialect and not_my_dialect(error, dialect):
        return Failed("dialect", f"no setting {dialect}")
    return judge(error, server, (server,), SETTINGS)
