"""The batches of one setting of a judge: what is submitted, looked at and collected, and in which order, so that each
question is asked once whatever happens in between.
"""

import sys
import time
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from builders.engines import COMPLETED
from builders.engines.faults import Doubtful, Failed, Unanswerable, mistake
from builders.engines.servers import Server, redact, servers
from builders.generation import Spent
from builders.judging.batch_client import CONTINUE, BatchClient, number
from builders.judging.batch_lines import Line, Read, read_lines
from builders.judging.batch_parts import Part, Parts, new_name
from builders.judging.batch_questions import ATTEMPTS, MOST_QUESTIONS, Left, Questions, Wanted, chunks
from builders.judging.questions import SETTINGS
from stores.ledger import Completion, Ledger
from stores.reservations import lose_batches
from stores.stage import StopEarly

if TYPE_CHECKING:
    from openai.types import Batch

HALVINGS = 4
"""How often batches are made smaller, if the server's queue has no room for them, before the stage stops."""
_ENDED = ("completed", "failed", "expired", "cancelled")
_QUEUE = "token_limit_exceeded"
_MONEY = ("billing", "quota", "balance")


class Batches:
    """The batches of one context."""

    def __init__(self, ledger: Ledger, context: str, model: str, read: Read, server: Server | None = None):
        self.ledger, self.context, self.model, self.read = ledger, context, model, read
        self.parts = Parts(ledger.root, context)
        self.spent = Spent()
        self._server = server

    @cached_property
    def server(self) -> Server:
        return self._server or servers()[0]

    @cached_property
    def client(self) -> BatchClient:
        return BatchClient(self.server)

    def close(self) -> None:
        """Ends the connections to the server."""
        if "client" in vars(self):
            self.client.close()

    def look(self) -> list[Exception] | None:
        """Asks the server about each batch under way, and collects those that have ended.

        Returns reasons to stop, mistakes first; None if nothing has ended.
        """
        stops: list[Exception] = []
        before = len(self.parts.under_way)
        for part in self.parts.under_way:
            batch = self._batch(part)
            if batch is None:
                continue
            self._note(part, batch)
            if batch.status in _ENDED:
                stop = self._collect(part, batch)
                stops += [stop] if stop else []
        stops.sort(key=lambda stop: not isinstance(stop, ValueError))
        return stops if stops or len(self.parts.under_way) < before else None

    def _note(self, part: Part, batch: "Batch") -> None:
        """How a batch stands; on the disk for those that list it."""
        status = str(batch.status)
        part.done, changed, part.status = _counted(batch), status != part.status, status
        if changed:
            self.parts.save(part)

    def _batch(self, part: Part) -> "Batch | None":
        """The batch of a part; None if it was never created, then the part is forgotten."""
        if part.batch_id is not None:
            return self.client.retrieve(part)
        batch = self.client.find(part)
        if batch is None:
            self.client.remove(part.file_id)
            self.parts.drop(part)
            return None
        part.batch_id = batch.id
        self.parts.save(part)
        return batch

    def _collect(self, part: Part, batch: "Batch") -> Exception | None:
        """Commits what a batch has answered, then notes that it has ended; returns a reason to stop, if there is one.

        Killed in between, it does the same again: what is in the ledger stays as it is.
        """
        collected = _Collected()
        for kind, file_id in (("answers", batch.output_file_id), ("errors", batch.error_file_id)):
            if file_id:
                self._commit(part, collected, self._lines(part, kind, file_id, collected))
        least = batch.request_counts.completed if batch.request_counts and not collected.lost else 0
        if collected.unreadable or len(collected.seen) < least:
            return StopEarly(
                f"batch {batch.id}: its files are not whole ({len(collected.seen):,} lines of at least {least:,});"
                " the same command reads them again, or asks for the rest again after"
                f" `python -m builders.judging.batches --forget {self.context}`"
            )
        unread = part.keys if collected.lost else collected.paid
        if lose_batches(self.ledger, unread):
            again = StopEarly(f"batch {batch.id}: some answers are none; the same command asks for them again")
            collected.stop = collected.stop or again
        if batch.status == "failed":
            return self._failed(part, batch) or collected.stop
        if batch.status == "completed" and not collected.lost:
            collected.failed |= {key: "no answer" for key in part.keys if key not in collected.seen}
        part.failed, part.misnamed, part.ended = collected.failed, collected.misnamed, True
        self.parts.save(part)
        for kind in ("answers", "errors"):
            self.parts.answers(part, kind).unlink(missing_ok=True)
        return collected.stop

    def _lines(self, part: Part, kind: str, file_id: str, collected: "_Collected") -> Iterator[Line | None]:
        path = self.parts.answers(part, kind)
        if not self.client.download(file_id, path):
            _say(f"batch {part.batch_id}: the server keeps its {kind} no more; they are asked for again")
            collected.lost = True
            return
        others = self.parts.dialects() - {part.dialect}  # if both names are refused, it is a mistake
        dialect = "" if others else part.dialect
        yield from read_lines(path, set(part.keys) - collected.seen, self.read, self.server, dialect)

    def _commit(self, part: Part, collected: "_Collected", lines: Iterator[Line | None]) -> None:
        failures = self.parts.failures()
        for some in chunks(lines):
            collected.unreadable += sum(line is None for line in some)
            answers: dict[str, Completion] = {}
            for line in some:
                completion = self._keep(line, collected) if line else None
                if line and completion:
                    answers[line.key] = completion._replace(n_attempts=failures[line.key] + 1)
            new = self.ledger.missing(list(answers))
            if new:
                self.ledger.append(self.context, self.model, [(key, answers[key]) for key in new], 0.0)
            for key in new:
                self._count(answers[key])

    def _keep(self, line: Line, collected: "_Collected") -> Completion | None:
        """What the ledger keeps of a line; else what follows from it is noted."""
        collected.seen.add(line.key)
        outcome = line.outcome
        if isinstance(outcome, Doubtful):
            if self._accepted:
                outcome = Unanswerable("refused", outcome.detail)
            else:
                outcome = mistake(400, self.server, outcome.detail, SETTINGS)
        if isinstance(outcome, Unanswerable):
            return Completion(outcome.detail, outcome.reason, 0, 0)
        if isinstance(outcome, Failed) and outcome.kind == "dialect":
            collected.misnamed = True
        elif isinstance(outcome, Failed):
            collected.failed[line.key] = outcome.label
            collected.paid += [line.key] if line.paid else []
        elif isinstance(outcome, ValueError | StopEarly):
            collected.stop = collected.stop or outcome
        elif isinstance(outcome, Completion):
            return outcome
        return None

    @property
    def _accepted(self) -> bool:
        """Whether the server has answered a question of these settings (answers are read before errors)."""
        query = "select 1 from completions where key > ? and key < ? and finish_reason in (?, ?) limit 1"
        found = self.ledger.db.execute(query, (f"{self.context}-", f"{self.context}.", *COMPLETED)).fetchone()
        return found is not None

    def _count(self, completion: Completion) -> None:
        tokens, price = self.spent.tokens + completion.n_tokens, self.spent.price_usd + (completion.price_usd or 0.0)
        self.spent = Spent(0.0, tokens, price)

    def _failed(self, part: Part, batch: "Batch") -> Exception | None:
        """What follows from a batch that failed as a whole: hardly ever after it has begun."""
        errors = list((batch.errors.data if batch.errors else None) or ())
        code = str(errors[0].code or "") if errors else ""
        said = redact("; ".join(f"{error.code}: {error.message}" for error in errors[:3]), (self.server,))
        part.ended, part.too_large = True, code == _QUEUE
        if not errors:
            part.failed = dict.fromkeys(self.ledger.missing(part.keys), "failed without a reason")
        self.parts.save(part)
        if part.too_large:
            _say(f"batch {batch.id}: {said or code}; smaller ones follow")
        elif any(word in code for word in _MONEY):
            return StopEarly(f"batch {batch.id}: {said}; the same command continues when there is more")
        elif errors:
            return ValueError(
                f"batch {batch.id} was refused ({said}); change {SETTINGS} or the model, or set `mode: online`"
            )
        return None

    def submit(self, requests: Questions) -> Left:
        """Submits what is neither answered, nor under way, nor has failed too often, in parts of the allowed size.

        Raises StopEarly if the server's queue is too short even for small parts.
        """
        wanted, most = Wanted(self.ledger, self.parts, requests), number("BATCH_SIZE", MOST_QUESTIONS, least=1)
        refused = [len(part.keys) for part in self.parts.all if part.too_large]
        if len(refused) > HALVINGS:
            self.parts.forget()
            raise StopEarly(
                f"judging {self.model}: other batches fill the server's queue; {CONTINUE} when they are done"
            )
        if not refused:
            while self._submit(wanted, int(most)):
                pass
        elif not self.parts.under_way:  # the queue is short: one at a time
            self._submit(wanted, max(1, min(refused) // 2))
        return wanted.left()

    def _submit(self, wanted: Wanted, most: int) -> Part | None:
        """Makes a batch of the next questions, `most` at most; None if there are no more."""
        keys = wanted.write(self.parts.questions(), most)
        if not keys:
            return None
        name = new_name()
        file_id = self.client.upload(self.parts.questions(), f"pairwright-{self.context}-{name}.jsonl")
        part = Part(name, self.context, self.model, keys, file_id, time.time(), dialect=wanted.dialect)
        self.parts.save(part)
        batch = self.client.create(part)
        part.batch_id, part.status = batch.id, str(batch.status)
        self.parts.save(part)
        wanted.submitted += len(keys)
        return part

    def give_up(self, left: Left) -> None:
        """Nothing is under way, and yet answers are missing: raises StopEarly. The next call begins anew."""
        labels = sorted({label for part in self.parts.all for label in part.failed.values()})
        self.parts.forget()
        raise StopEarly(
            f"judging {self.model}: {_many(left.failed, 'question')} failed in {ATTEMPTS} batches each"
            f" ({', '.join(labels[:3])}); the same command asks them again, in `mode: online` too"
        )

    def progress(self, left: Left) -> str:
        """What is under way, in one line."""
        under_way = self.parts.under_way
        done, total = sum(part.done for part in under_way), sum(len(part.keys) for part in under_way)
        new = f"{_many(left.submitted, 'question')} submitted; " if left.submitted else ""
        batches = _many(len(under_way), "batch", "es")
        return f"judging {self.model}: {new}{done:,} of {total:,} done in {batches} under way ({self.statuses()})"

    def statuses(self) -> str:
        return ", ".join(sorted({part.status for part in self.parts.under_way}))


class _Collected:
    """What is found in the files of one batch."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.failed: dict[str, str] = {}
        self.paid: list[str] = []
        self.unreadable, self.lost, self.misnamed = 0, False, False
        self.stop: Exception | None = None


def _many(count: int, noun: str, plural: str = "s") -> str:
    return f"{count:,} {noun}{plural * (count != 1)}"


def _counted(batch: "Batch") -> int:
    counts = batch.request_counts
    return counts.completed + counts.failed if counts else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
