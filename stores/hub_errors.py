"""What the Hub's client raises, as one line that says what to do. A token is never part of it."""

import contextlib
import errno
from collections.abc import Iterator

_STATUS = {
    409: "it exists already",
    412: "it has changed since it was read, and nothing was overwritten; run the command again",
    413: "too large for the Hub",
    429: "too many requests; run the command again in some minutes",
}
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@contextlib.contextmanager
def hub_errors(what: str, endpoint: str, token: str | bool | None = None) -> Iterator[None]:
    """Turns errors of the Hub's client into ValueError: `what`, then why. `token`: not the environment's own."""
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import get_token

    try:
        yield
    except (HTTPError, InvalidURL, OSError, RuntimeError, ValueError) as error:
        secret = token if isinstance(token, str) else get_token()
        reason = explain(error, endpoint, logged_in=bool(secret))
        line = f"{what}: {reason}"
        raise ValueError(line.replace(secret, "<token>") if secret else line) from None


def explain(error: BaseException, endpoint: str, logged_in: bool) -> str:
    """The meaning of an error and its remedy."""
    from httpx2 import LocalProtocolError, RequestError
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RevisionNotFoundError

    cause = error.__cause__
    if cause is not None and isinstance(error, RuntimeError | LocalEntryNotFoundError):
        return explain(cause, endpoint, logged_in)  # what an upload's thread, or a look into the cache, wraps
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnicodeEncodeError | LocalProtocolError):  # its text may hold the header, and so the token
        return f"your token has characters that no token has; {_LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "it is not in the Hub's local cache, and HF_HUB_OFFLINE switches the Hub off; unset it"
    if isinstance(error, LocalEntryNotFoundError):
        return f"it is not (wholly) in the Hub's local cache, and {endpoint} gives no answer; check the network"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision; check the name behind the @"
    if status is not None:
        said = " ".join(str(getattr(error, "server_message", None) or "no message").split())
        return _of_status(status, said, logged_in)
    if isinstance(error, RequestError):
        return f"no answer from {endpoint} ({reason}); check the network, then run the command again"
    if getattr(error, "errno", None) == errno.ENOSPC:
        return "the disk is full; free space, or let HF_HOME be on another disk"
    return reason


def _of_status(status: int, said: str, logged_in: bool) -> str:
    if status == 401:
        return f"the Hub refuses your token; {_LOGIN}" if logged_in else f"you are not logged in; {_LOGIN}"
    if status == 403:
        return f"your token has no permission for that ({said}); use one that may write there"
    if status == 404:
        seen = "and not logged in, you see public ones alone" if not logged_in else "or your login may not see it"
        return f"there is none of this name, {seen}; check it, and `hf auth whoami`"
    if status >= 500:
        return f"the Hub fails ({status}); run the command again later"
    return _STATUS.get(status) or f"the Hub refuses it ({status}: {said})"
