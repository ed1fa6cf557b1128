"""A judge's questions in batches: the OpenAI Batch API answers within a day, at half the price.

One call looks once (or for `$PAIRWRIGHT_BATCH_WAIT_S` seconds): what is finished goes to the ledger, what is missing is
submitted, and while a batch is under way the stage stops early. So any number of calls, killed at any instant, ask
each question once: `batch_parts` is what they know of each other. Keys and answers are those of the mode `online`.

    python -m builders.judging.batches                    # batches that are under way
    python -m builders.judging.batches --cancel CONTEXT   # asks the server to end them; what is answered is kept
    python -m builders.judging.batches --forget CONTEXT   # for batches that the server has lost
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable

from builders.engines.servers import Server, limits, servers
from builders.generation import Spent
from builders.judging.batch_client import SETTLED_AFTER, BatchClient, number
from builders.judging.batch_lines import Read
from builders.judging.batch_parts import Parts, contexts, taken
from builders.judging.batch_questions import Questions
from builders.judging.batch_work import Batches
from stores.ledger import Ledger
from stores.reservations import lose_batches
from stores.stage import StopEarly

LONGEST_LOOK_S = 300.0


def answer_in_batches(
    ledger: Ledger, context: str, model: str, requests: Questions, read: Read, server: Server | None = None
) -> Spent:
    """Sees to it that the ledger answers all requests; returns the tokens and price of what this call collected.

    The caller holds the context (`Ledger.exclusive`), and has noted it (`Ledger.begin`). `read` makes completions with
    the price of a batch. The server is the first one of the environment.

    Raises StopEarly while answers are missing: batches are under way, the budget or the quota is used up, the server
    is away, or questions have failed too often. Raises ValueError for what no attempt can mend.
    """
    assert iter(requests) is not requests, "requests are read several times"
    with contextlib.closing(Batches(ledger, context, model, read, server)) as batches:
        waiting, left = _Waiting(), None
        while True:
            stops = batches.look()
            if stops:
                raise stops[0]
            if stops is not None or left is None:
                left = batches.submit(requests)
            if not left.missing:
                batches.parts.forget()
                return batches.spent
            if not batches.parts.under_way:
                batches.give_up(left)
            state = batches.progress(left)
            if not waiting.pause(state):
                raise StopEarly(f"{state}; the same command, or the next `dvc repro`, continues")
            left = left._replace(submitted=0)


def finish_batches(
    ledger: Ledger, context: str, model: str, wanted: Iterable[str], read: Read, server: Server | None = None
) -> Spent:
    """For the mode `online`: collects what batches have answered; returns its tokens and price.

    Raises StopEarly while a batch with a wanted question is under way, so that none is paid for twice.
    """
    with contextlib.closing(Batches(ledger, context, model, read, server)) as batches:
        if not batches.parts.all:
            return Spent()
        for stop in batches.look() or ():
            print(stop, file=sys.stderr)  # no reason to stop: nothing more is asked in batches
        pending = set(ledger.missing(list(taken(batches.parts).intersection(wanted))))
        if pending:
            raise StopEarly(
                f"judging {model}: {len(pending):,} of the questions are in batches under way"
                f" ({batches.statuses()}); wait, the same command continues when they are done; or end them with"
                f" `python -m builders.judging.batches --cancel {context}`, and what they have not answered is asked"
                " online"
            )
        return batches.spent


class _Waiting:
    """Pauses that grow, for `$PAIRWRIGHT_BATCH_WAIT_S` seconds in all."""

    def __init__(self) -> None:
        self.limit, self.began = number("BATCH_WAIT_S", 0), time.monotonic()
        self.said = ""
        self.next = SETTLED_AFTER * limits().backoff_s

    def pause(self, state: str) -> bool:
        """Says how it stands, if that is new, and waits; false when the time is over."""
        left = self.began + self.limit - time.monotonic()
        if left <= 0:
            return False
        if state != self.said:
            print(state, file=sys.stderr, flush=True)
        self.said = state
        time.sleep(min(self.next, left))
        self.next = min(LONGEST_LOOK_S, self.next * 1.5)
        return True


def main() -> None:
    """Lists, cancels or forgets batches."""
    parser = argparse.ArgumentParser(prog="python -m builders.judging.batches", allow_abbrev=False)
    parser.add_argument("--cancel", metavar="CONTEXT", help="asks the server to end the batches of a context")
    parser.add_argument("--forget", metavar="CONTEXT", help="forgets them: what they answer is lost, and asked again")
    chosen = parser.parse_args()
    ledger = Ledger()
    known = contexts(ledger.root)
    for context in {chosen.cancel, chosen.forget} - {None, *known}:
        parser.error(f"no batches of the context '{context}'")
    try:
        for context in known:
            _tend(ledger, context, cancel=context == chosen.cancel, forget=context == chosen.forget)
    except (ValueError, OSError, StopEarly) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _tend(ledger: Ledger, context: str, cancel: bool, forget: bool) -> None:
    with ledger.exclusive(context) if forget else contextlib.nullcontext():
        parts = Parts(ledger.root, context)
        for part in parts.under_way:
            status = part.status
            if cancel and part.batch_id:
                with contextlib.closing(BatchClient(servers()[0])) as client:
                    status = client.cancel(part).status
            if forget:
                lose_batches(ledger, part.keys)
                parts.drop(part)
                status = "forgotten"
            print(f"{context}  {part.batch_id or 'may be there'}  {part.model}  {len(part.keys):,}  {status}")


if __name__ == "__main__":
    main()
