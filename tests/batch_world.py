"""A judge's questions that are answered in batches, for tests. Pauses are a hundredth of the usual ones."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builders.engines.answers import read_completion
from builders.engines.faults import Unanswerable
from builders.engines.prices import price_usd
from builders.generation import Spent
from builders.judging.batches import answer_in_batches, finish_batches
from schemas.sections import Sampling
from stores.ledger import Completion, Ledger
from stores.stage import EXIT_STOPPED_EARLY, StopEarly
from tests.batch_server import BatchServer
from tests.fault_server import MODEL
from tests.hosted_world import connect

CONTEXT, NAME = "c0ffee0123456789", "judge"
SAMPLING = Sampling(temperature=0.0, max_new_tokens=16)


def asks(count: int, first: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """(key, body) of some questions; that of number n is `question n`."""
    return [(f"{CONTEXT}-{n:016d}-0000", body(f"question {n}")) for n in range(first, first + count)]


def body(text: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0}


def read(key: str, answer: Mapping[str, Any]) -> Completion:
    found = read_completion(answer, SAMPLING)
    if isinstance(found, Unanswerable):
        return Completion(found.detail, found.reason, 0, 0)
    completion, usage = found
    return completion._replace(price_usd=price_usd(MODEL, "", usage, batch=True))


class World:
    """One ledger and one server."""

    def __init__(self, root: Path, server: BatchServer):
        self.root, self.server = root, server

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        opened = Ledger(self.root)
        with contextlib.closing(opened), opened.exclusive(CONTEXT):
            yield opened

    def call(self, questions: list[tuple[str, dict[str, Any]]]) -> Spent:
        """One run of a stage in the mode `batch`."""
        with self.ledger() as ledger:
            return answer_in_batches(ledger, CONTEXT, NAME, questions, read)

    def online(self, questions: list[tuple[str, dict[str, Any]]]) -> Spent:
        """What a run in the mode `online` does first."""
        with self.ledger() as ledger:
            return finish_batches(ledger, CONTEXT, NAME, [key for key, _ in questions], read)

    def until_done(self, questions: list[tuple[str, dict[str, Any]]], calls: int = 20) -> list[str]:
        """Runs it until everything is answered; why it stopped before."""
        said = []
        for _ in range(calls):
            try:
                self.call(questions)
            except StopEarly as stop:
                said.append(str(stop))
            else:
                return said
        raise AssertionError(f"not done after {calls} calls: {said}")

    def found(self, questions: list[tuple[str, dict[str, Any]]]) -> dict[str, Completion]:
        with self.ledger() as ledger:
            return ledger.get([key for key, _ in questions])

    def paid_once(self, questions: list[tuple[str, dict[str, Any]]]) -> bool:
        return self.server.paid == {key: 1 for key, _ in questions}


@contextlib.contextmanager
def a_world(
    root: Path, monkeypatch: pytest.MonkeyPatch, server: BatchServer, **settings: float | str
) -> Iterator[World]:
    with server.running():
        connect(monkeypatch, server, **settings)
        yield World(root, server)


def main() -> None:
    """`python -m tests.batch_world COUNT`: one run over so many questions, in the ledger and with the server of the
    environment; exits as a stage does."""
    ledger, questions = Ledger(), asks(int(sys.argv[1]))
    with ledger.exclusive(CONTEXT):
        try:
            answer_in_batches(ledger, CONTEXT, NAME, questions, read)
        except StopEarly as stop:
            print(stop, file=sys.stderr)
            sys.exit(EXIT_STOPPED_EARLY)


if __name__ == "__main__":
    main()
