"""Which questions go into the next batch, and the lines of its file."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from builders.judging.batch_client import ENDPOINT
from builders.judging.batch_parts import Parts, taken
from stores.ledger import Ledger

MOST_QUESTIONS, MOST_BYTES = 50_000, 200 * 1000**2
"""Of one file (https://platform.openai.com/docs/guides/batch)."""
ATTEMPTS = 3
"""Batches that a question is in, at most, before the stage stops because it fails; then it may be tried again."""
AT_ONCE = 2_000
LIMITS = ("max_tokens", "max_completion_tokens")
"""Names of the limit of tokens."""
T = TypeVar("T")
Questions = Iterable[tuple[str, Mapping[str, Any]]]
"""(key, body of a request) of all that is wanted; can be read several times."""


class Left(NamedTuple):
    """How many of the wanted questions have no answer; of them were submitted now; have failed too often."""

    missing: int
    submitted: int
    failed: int


class Wanted:
    """The wanted questions that can be submitted, read once from front to back; and how many are missing in all."""

    def __init__(self, ledger: Ledger, parts: Parts, requests: Questions):
        self.missing = self.failed = self.submitted = 0
        self.dialect = ""
        """The name of the limit of tokens in what was written."""
        self._ledger, self._parts, self._lines = ledger, parts, self._submittable(requests)

    def _submittable(self, requests: Questions) -> Iterator[tuple[str, bytes]]:
        asked, failures, seen = taken(self._parts), self._parts.failures(), set()
        for some in chunks(requests):
            lacking = set(self._ledger.missing([key for key, _ in some])) - seen
            for key, body in some:
                if key not in lacking or key in seen:
                    continue
                seen.add(key)
                self.missing += 1
                if failures[key] >= ATTEMPTS:
                    self.failed += 1
                elif key not in asked:
                    yield key, self._line(key, body)

    def _line(self, key: str, body: Mapping[str, Any]) -> bytes:
        """A line of the file of questions; the limit of tokens has the name that the server knows."""
        refused, named = self._parts.dialects(), dict(body)
        for name, other in (LIMITS, LIMITS[::-1]):
            if name in body:
                self.dialect = other if name in refused and other not in refused else name
                named[self.dialect] = named.pop(name)
        line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": named}
        return json.dumps(line).encode() + b"\n"

    def write(self, path: Path, most: int) -> list[str]:
        """Writes the next questions to a file, as many as one batch takes; returns their keys."""
        keys, size = [], 0
        with path.open("wb") as file:
            for key, line in self._lines:
                if keys and size + len(line) > MOST_BYTES:
                    self._lines = chain([(key, line)], self._lines)
                    break
                keys.append(key)
                size += file.write(line)
                if len(keys) == most:
                    break
        return keys

    def left(self) -> Left:
        """Counts what remains unread too."""
        for _ in self._lines:
            pass
        return Left(self.missing, self.submitted, self.failed)


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """The items, some at once."""
    left = iter(items)
    return iter(lambda: list(islice(left, AT_ONCE)), [])
