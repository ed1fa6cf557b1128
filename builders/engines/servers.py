"""The OpenAI-compatible servers that the environment names, and how they are asked. Nothing of this is part of params.

Base URLs and keys are secrets: no text that is printed, logged or stored has them, so a server is called by its number.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

OPENAI = "https://api.openai.com/v1"
HIDDEN = "***"
PREFILLS = ("continue_final_message", "prefix", "assistant")
Prefill = Literal["continue_final_message", "prefix", "assistant"]


@dataclass(frozen=True)
class Server:
    """One base URL with its key. Its text shows neither."""

    number: int
    of: int
    url: str = field(repr=False)
    key: str = field(repr=False)

    @property
    def place(self) -> str:
        return f"server {self.number} of {self.of}" if self.of > 1 else "the server"

    @property
    def is_openai(self) -> bool:
        """OpenAI's own API, also behind Azure: it wants `max_completion_tokens`, and is no vLLM."""
        host = urlsplit(self.url).hostname or ""
        return host in ("api.openai.com", "eu.api.openai.com") or host.endswith(".openai.azure.com")


class Limits(NamedTuple):
    """How patiently, and with how many requests at once, servers are asked. Seconds."""

    attempts: int
    """Requests that reach a server, at most, for one answer."""
    outage_s: float
    """How long no server may be there before the stage stops."""
    timeout_s: float
    """How long one answer may take."""
    backoff_s: float
    """Mean of twice the first pause; it doubles with every failed attempt."""
    most: int
    """Requests in flight at one server."""
    least: int


def servers(environment: Mapping[str, str] = os.environ) -> tuple[Server, ...]:
    """The servers: `$PAIRWRIGHT_BASE_URLS` (several, by comma), else `$OPENAI_BASE_URL`, else OpenAI's own.

    Keys are `$PAIRWRIGHT_API_KEYS` (one per URL), else `$OPENAI_API_KEY`. Raises ValueError, which shows neither URLs
    nor keys, for a URL that is none, a key that no header can hold, numbers that do not match, or no key for OpenAI.
    """
    urls = base_urls(environment)
    keys = _listed(environment.get("PAIRWRIGHT_API_KEYS", ""))
    if keys and len(keys) != len(urls):
        raise ValueError(f"PAIRWRIGHT_API_KEYS has {len(keys)} keys for {len(urls)} base URLs; give one for each")
    keys = keys or [environment.get("OPENAI_API_KEY", "").strip()] * len(urls)
    found = tuple(
        Server(n, len(urls), url.rstrip("/"), key) for n, (url, key) in enumerate(zip(urls, keys, strict=True), 1)
    )
    for server in found:
        _check(server)
    return found


def base_urls(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The URLs of the servers, as the environment has them; at least one."""
    urls = _listed(environment.get("PAIRWRIGHT_BASE_URLS", ""))
    return urls or _listed(environment.get("OPENAI_BASE_URL", "")) or [OPENAI]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _check(server: Server) -> None:
    parts = urlsplit(server.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base URL of {server.place}: not like http://host:8000/v1 (PAIRWRIGHT_BASE_URLS)")
    if not server.key and server.is_openai:
        raise ValueError("no key for the OpenAI API; set OPENAI_API_KEY, or PAIRWRIGHT_BASE_URLS to another server")
    if not (server.key.isascii() and server.key.isprintable()) or " " in server.key:
        raise ValueError(
            f"key of {server.place}: holds characters that no key has (OPENAI_API_KEY, PAIRWRIGHT_API_KEYS)"
        )


def limits(environment: Mapping[str, str] = os.environ) -> Limits:
    """The limits that the environment sets.

    Raises ValueError for a value that is no positive number.
    """

    def number(name: str, default: float) -> float:
        text = environment.get(f"PAIRWRIGHT_{name}", "")
        try:
            value = float(text or default)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise ValueError(f"PAIRWRIGHT_{name}={text}: not a positive number")
        return value

    most = math.ceil(number("MAX_CONCURRENCY", 256))
    return Limits(
        attempts=math.ceil(number("MAX_ATTEMPTS", 8)),
        outage_s=number("OUTAGE_S", 900),
        timeout_s=number("TIMEOUT_S", 600),
        backoff_s=number("BACKOFF_S", 0.5),
        most=most,
        least=min(most, math.ceil(number("MIN_CONCURRENCY", 1))),
    )


def prefill_way(environment: Mapping[str, str] = os.environ) -> Prefill | None:
    """`$PAIRWRIGHT_PREFILL`: how the servers continue an answer that is begun; None: as they say themselves.

    Raises ValueError for a way that there is not.
    """
    way = environment.get("PAIRWRIGHT_PREFILL", "") or None
    if way is not None and way not in PREFILLS:
        raise ValueError(f"PAIRWRIGHT_PREFILL={way}: not one of {', '.join(PREFILLS)}")
    return way  # pyrefly: ignore


def redact(text: str, hidden: tuple[Server, ...]) -> str:
    """A text that a server wrote, on one line, without our keys and URLs (and short stand-ins for keys, `EMPTY`)."""
    for server in hidden:
        host = urlsplit(server.url).netloc
        for secret in (server.key, server.url, host):
            if len(secret) > len("EMPTY"):
                text = text.replace(secret, HIDDEN)
    return " ".join(text.split())[:300]
