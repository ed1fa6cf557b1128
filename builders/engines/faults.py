"""What an answer that is none means: try again, never try again, or stop.

    connection refused, no such host          Unreachable: no attempt; the server is down
    429                                       Failed `throttled`, the server is paused (`Retry-After`)
    408, 409, 425, 5xx, time-out, cut body    Failed `server`
    200 with truncated JSON or no completion  Failed `server`
    400 about the length, 413                 Unanswerable `over_long`
    400, 403, 422 about content               Unanswerable `refused`
    400, 422 about the name of a setting      Failed `dialect`, once: it is asked by the other name
    other 400, 422                            Unanswerable `refused`, if the server answers a harmless question
    401, 403, 404, other 4xx                  ValueError: one line with place and remedy
    402, 429 `insufficient_quota`             StopEarly: the same command continues once there is money

Texts of servers pass through `redact`; those of a 401 are left out, they may repeat a part of the key.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from builders.engines.servers import Server, redact
from stores.stage import StopEarly

if TYPE_CHECKING:
    from openai import APIError, APIStatusError

_LENGTH = re.compile(
    r"context.?length|context.?window|maximum (context|model|input)|max_model_len|too (long|many tokens)"
)
_CONTENT = re.compile(r"content.?(filter|policy|management)|moderation|flagged|responsibleai|safety|usage polic")
_SETTING = re.compile(r"unsupported|not supported|unknown|unrecogni[sz]ed|not permitted|extra.(forbidden|fields)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Failed(Exception):
    """One attempt that failed; another may not. `wait_s` is how long the server asks to be left alone."""

    def __init__(self, kind: Literal["throttled", "server", "dialect"], label: str, wait_s: float | None = None):
        super().__init__(label)
        self.kind, self.label, self.wait_s = kind, label, wait_s
        self.pause_s = 0.0
        """How long this request pauses before its next attempt."""


class Unreachable(Failed):
    """The server was not there: nothing was asked."""

    def __init__(self, label: str):
        super().__init__("server", label)


class Unanswerable(NamedTuple):
    """There is no answer and never will be one."""

    reason: Literal["over_long", "refused"]
    detail: str


class Doubtful(Exception):
    """A 400 that may be about this request or about all of them."""

    def __init__(self, detail: str):
        super().__init__(detail)
        self.detail = detail


SAMPLING = "`sampling`, `rendering`"
"""What of params decides a request, unless somebody else asks."""


def judge(
    error: "APIError", server: Server, hidden: tuple[Server, ...], settings: str = SAMPLING
) -> Unanswerable | Exception:
    """What to do about an error of the client: a reason why there is no answer, or an exception to raise.

    `settings` are what a user may change if the server takes no such request.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        return _judge_status(error, server, hidden, settings)
    if isinstance(error, openai.APITimeoutError) and not _unconnected(error):
        return Failed("server", "time-out")
    if isinstance(error, openai.APIConnectionError) and _unconnected(error):
        return Unreachable(type(error.__cause__).__name__)
    return Failed("server", f"connection lost ({type(error.__cause__ or error).__name__})")


def _unconnected(error: "APIError") -> bool:
    import httpx2

    return isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)


def costs_nothing(error: BaseException) -> bool:
    """Whether an attempt that ended so was surely not answered: nobody was there, or it was refused with a status.

    A gateway that gave up waiting (408, 504, 524) may have had it answered all the same.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code not in (408, 504, 524)
    return isinstance(error, openai.APIConnectionError) and _unconnected(error)


def _judge_status(
    error: "APIStatusError", server: Server, hidden: tuple[Server, ...], settings: str
) -> Unanswerable | Exception:
    status, said = error.status_code, _said(error.body)
    label = f"{type(error).__name__} {status}"
    detail = redact(f"{status}: {said.message}", hidden)
    match status:
        case 429 if said.code == "insufficient_quota":
            return StopEarly(
                f"{server.place}: the quota is used up (429); the same command continues when there is more"
            )
        case 402:
            return StopEarly(
                f"{server.place}: the balance is used up (402); the same command continues when there is more"
            )
        case 429:
            return Failed("throttled", label, asked_to_wait(error.response.headers))
        case 408 | 409 | 425:
            return Failed("server", label)
        case status if status >= 500:
            return Failed("server", label, asked_to_wait(error.response.headers))
        case 413:
            return Unanswerable("over_long", detail)
        case 400 | 422 if _LENGTH.search(said.everything):
            return Unanswerable("over_long", detail)
        case 400 | 403 | 422 if _CONTENT.search(said.everything):
            return Unanswerable("refused", detail)
        case 400 | 422 if not _SETTING.search(said.everything):
            return Doubtful(detail)
    return mistake(status, server, detail, settings)


def mistake(status: int, server: Server, detail: str, settings: str) -> ValueError:
    """What no attempt can mend, with the remedy."""
    if status == 401:
        return ValueError(f"{server.place} refuses the key (401); set OPENAI_API_KEY or PAIRWRIGHT_API_KEYS")
    remedy = {
        403: "; the key may not use this model",
        404: "; check the model's name and the base URL (it usually ends in /v1)",
    }.get(status, f"; change {settings} or the model")
    return ValueError(f"{server.place} answers {detail}{remedy}")


class _Said(NamedTuple):
    message: str
    code: str
    everything: str


def _said(body: object) -> _Said:
    """The error object of a body, in the shapes that servers use (`error` is an object, a text, or missing)."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(error, Mapping):
        return _Said(str(error or ""), "", str(error or "").lower())
    message = error.get("message") or error.get("detail") or ""
    code = str(error.get("code") or error.get("type") or "")
    return _Said(str(message), code, f"{code} {error.get('type')} {message} {error.get('metadata', '')}".lower())


def not_my_dialect(error: "APIStatusError", name: str) -> bool:
    """Whether the server refuses a setting because of its name."""
    said = _said(error.body).everything
    return error.status_code in (400, 422) and name in said and bool(_SETTING.search(said) and not _LENGTH.search(said))


def in_answer(body: Mapping[str, Any]) -> Failed | None:
    """The failure that a gateway reports with status 200."""
    error = body.get("error")
    if not error:
        return None
    code = error.get("code") if isinstance(error, Mapping) else None
    return Failed("throttled" if code == 429 else "server", f"error {code} in an answer")


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds of `retry-after-ms` or `Retry-After` (seconds, or a date); None without them.

    See RFC 9110, section 10.2.3.
    """
    exact = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d+(\.\d+)?", exact):
        return float(exact) / 1000
    after = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", after):
        return float(after)
    return _until(after) if after else None


def _until(date: str) -> float | None:
    import time
    from email.utils import mktime_tz, parsedate_tz

    parsed = parsedate_tz(date)
    return max(0.0, mktime_tz(parsed) - time.time()) if parsed else None


def duration(text: str) -> float | None:
    """Seconds of `1s`, `6m0s`, `20ms` or `1.5`, as `x-ratelimit-reset-*` has them; None for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Allowance(NamedTuple):
    """How many more `requests` or `tokens` a server says that it takes, and for how many seconds that holds."""

    what: Literal["requests", "tokens"]
    left: int
    reset_s: float


def allowances(headers: Mapping[str, str]) -> list[Allowance]:
    """The `x-ratelimit-remaining-*` and `-reset-*` headers of an answer; what is missing or unreadable is left out."""
    found = []
    for what in ("requests", "tokens"):
        left = headers.get(f"x-ratelimit-remaining-{what}", "")
        reset = duration(headers.get(f"x-ratelimit-reset-{what}", ""))
        if left.isdecimal() and reset is not None:
            found.append(Allowance(what, int(left), reset))
    return found
