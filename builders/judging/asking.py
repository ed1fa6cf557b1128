"""Which answers of a run the ledger lacks, and the ways to get them: one by one, or in batches; within the budget."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from builders.engines.budget import Budget, BudgetSpent, worst_usd
from builders.engines.lanes import Facts
from builders.engines.pump import answered
from builders.engines.servers import Server, limits, servers
from builders.engines.transport import GaveUp, Question, Transport
from builders.generation import Keys, Spent
from builders.judging import questions
from builders.judging.batch_parts import Parts, taken
from builders.judging.questions import Asked, Setting
from builders.step_label_rows import Candidate
from schemas.sections_steps import MAX_REPEATS
from stores.estimates import announce
from stores.ledger import Completion, Ledger
from stores.progress import progress
from stores.reservations import account, reserve_in_batch
from stores.stage import StopEarly

Candidates = Callable[[], Iterable[list[Candidate]]]
AT_ONCE = 64
"""Answers that are committed together, at most."""


class Chunk(NamedTuple):
    """What a chunk of candidates asks: the hash of each one's question, and its number of steps."""

    asked: np.ndarray
    n_steps: np.ndarray


class Questions:
    """The questions of a run. Their texts are made when they are sent, and again whenever they are read; what stays in
    memory is one hash for each candidate.
    """

    def __init__(self, setting: Setting, candidates: Candidates):
        self.setting, self.candidates = setting, candidates
        self.repeats = setting.judge.repeats
        self.chunks: list[Chunk] = []
        """As far as the candidates have been read."""

    def read(self) -> Iterator[tuple[list[Candidate], Chunk]]:
        """The candidates and what they ask, in chunks."""
        for candidates in self.candidates():
            chunk = self._chunk(candidates)
            self.chunks.append(chunk)
            yield candidates, chunk

    def read_all(self) -> None:
        """Reads all candidates, for what they ask."""
        for _ in self.read():
            pass

    def _chunk(self, chunk: list[Candidate]) -> Chunk:
        hashes = [questions.hash_of(questions.messages_of(self.setting, c)) for c in chunk]
        return Chunk(np.array(hashes, dtype="S16"), np.array([len(c.steps) for c in chunk], dtype=np.int32))

    def keys(self, chunk: Chunk, attempt: int = 0) -> list[str]:
        """The keys of a chunk: all repeats of the first candidate, then of the second."""
        ends = [f"{attempt * MAX_REPEATS + repeat:04d}" for repeat in range(self.repeats)]
        context = self.setting.context
        return [f"{context}-{asked}-{end}" for asked in chunk.asked.astype(str).tolist() for end in ends]

    def all_keys(self) -> Iterator[list[str]]:
        """Every key that the run may ever ask, in chunks."""
        for chunk in self.chunks:
            for attempt in range(self.setting.judge.retries + 1):
                yield self.keys(chunk, attempt)

    @cached_property
    def distinct(self) -> int:
        """How many answers a first attempt needs: equal questions are asked once."""
        asked = [chunk.asked for chunk in self.chunks]
        return len(np.unique(np.concatenate(asked))) * self.repeats if asked else 0


class Missing:
    """The questions of one attempt that are to be asked, each once; can be read several times."""

    def __init__(self, run: Questions, attempt: int, masks: list[np.ndarray]):
        self.run, self.attempt, self.masks = run, attempt, masks

    def __len__(self) -> int:
        return sum(int(mask.sum()) for mask in self.masks)

    def __iter__(self) -> Iterator[Asked]:
        for candidates, chunk, mask in zip(self.run.candidates(), self.run.chunks, self.masks, strict=True):
            if not mask.any():
                continue
            keys = self.run.keys(chunk, self.attempt)
            for at in np.flatnonzero(mask.reshape(-1, self.run.repeats).any(axis=1)).tolist():
                messages = questions.messages_of(self.run.setting, candidates[at])
                for repeat in np.flatnonzero(mask[at * self.run.repeats : (at + 1) * self.run.repeats]).tolist():
                    yield Asked(keys[at * self.run.repeats + repeat], messages)

    def only(self, wanted: np.ndarray) -> "Missing":
        """Those at some places, counted over all of them."""
        flat = np.concatenate(self.masks) if self.masks else np.zeros(0, bool)
        chosen = np.zeros(len(flat), bool)
        chosen[np.flatnonzero(flat)[wanted]] = True
        return Missing(self.run, self.attempt, np.split(chosen, np.cumsum([len(m) for m in self.masks])[:-1]))


def missing(
    ledger: Ledger | None, run: Questions, attempt: int = 0, wanted: Sequence[np.ndarray] | None = None
) -> Missing:
    """The questions of an attempt that the ledger does not answer (None: all of them); of equal ones the first.

    `wanted`: only these.
    """
    masks, seen = [], set[str]()
    for number, chunk in enumerate(run.chunks):
        keys = run.keys(chunk, attempt)
        lacking = set(ledger.missing(keys) if ledger else keys) - seen
        mask = np.zeros(len(keys), dtype=bool)
        for at, key in enumerate(keys) if lacking else ():
            if key in lacking and (wanted is None or wanted[number][at]):
                mask[at] = True
                lacking.remove(key)
                seen.add(key)
        masks.append(mask)
    return Missing(run, attempt, masks)


class Asker:
    """Gets answers into the ledger. The caller holds the context. `shares` gives the keys that share the budget: those
    of the whole run, where these questions are a bucket's. A `pilot` asks no more than so many, one by one.
    """

    def __init__(self, ledger: Ledger, run: Questions, command: str, shares: Keys, pilot: int | None = None):
        self.ledger, self.run, self.setting, self.command, self._shares = ledger, run, run.setting, command, shares
        self.mode = run.setting.judge.mode if pilot is None else "online"
        self.total = run.distinct if pilot is None else pilot
        self.spent, self._announced = Spent(), False

    def ask(self, wanted: Missing) -> None:
        """Asks what is missing; afterwards the ledger has it all.

        Raises StopEarly if it does not: the budget is spent, servers are away, a batch is under way.
        """
        if len(wanted) and self.mode == "online":
            self._collect_batches(wanted)
            wanted = still(self.ledger, wanted)
        if not len(wanted):
            return
        self._announce(len(wanted))
        budget = self.budget()
        try:
            (self._in_batches if self.mode == "batch" else self._online)(wanted, budget)
        except BudgetSpent as stop:
            raise StopEarly(self._continue(stop, wanted)) from None

    def budget(self) -> Budget | None:
        """What is left for the run. Online, what batches have not answered counts only while they are under way."""
        in_batches = None if self.mode == "batch" else taken(Parts(self.ledger.root, self.setting.context))
        return Budget.of(self.ledger, self.setting.hosted, servers()[0].url, self._shares(), in_batches)

    def _announce(self, left: int) -> None:
        setting = self.setting
        if not self._announced:
            known = (setting.context, setting.model, setting.fingerprint, setting.noted)
            announce(self.ledger, *known, max(self.total, left), left, doing="judging with")
        self._announced = True

    def _continue(self, stop: BudgetSpent, wanted: Missing) -> str:
        left = len(still(self.ledger, wanted))
        again = f"`{self.command}` or `dvc repro` continues with a larger PAIRWRIGHT_BUDGET_USD"
        return f"{stop}; {left:,} of {self.total:,} answers are missing, the others are in the ledger; {again}"

    def _online(self, wanted: Missing, budget: Budget | None) -> None:
        transport = Transport(servers(), limits(), _look, budget)

        async def ask(question: Asked) -> Completion | GaveUp:
            reply = await transport.ask(transported(self.setting, question))
            if isinstance(reply, GaveUp):
                return reply
            return questions.completion_of(self.setting, reply.value, reply.server.url, reply.n_attempts)

        title, total = f"judging with {self.setting.model}", max(self.total, len(wanted))
        with contextlib.ExitStack() as stack:
            if budget:
                stack.callback(budget.close)
            bar = stack.enter_context(progress(title, total, "answers", total - len(wanted)))
            batches = stack.enter_context(contextlib.closing(answered(transport, iter(wanted), ask, AT_ONCE)))
            began = time.perf_counter()
            for batch in batches:
                entries = [(question.key, completion) for question, completion in batch]
                now = time.perf_counter()
                reserved = budget.with_answers([key for key, _ in entries]) if budget else None
                self.ledger.append(self.setting.context, self.setting.model, entries, now - began, 0.0, reserved)
                began = now
                self._count([completion for _, completion in entries])
                bar.advance(len(batch))

    def _count(self, completions: Sequence[Completion]) -> None:
        self._add(Spent(0.0, sum(c.n_tokens for c in completions), sum(c.price_usd or 0.0 for c in completions)))

    def _add(self, spent: Spent) -> None:
        self.spent = Spent(0.0, self.spent.tokens + spent.tokens, self.spent.price_usd + spent.price_usd)

    def _in_batches(self, wanted: Missing, budget: Budget | None) -> None:
        from builders.judging.batches import answer_in_batches

        server = servers()[0]
        affordable, stop = self._afford(wanted, budget, server) if budget else (wanted, None)
        if len(affordable):
            requests = Bodies(self.setting, affordable, server)
            model = self.setting.model
            self._add(answer_in_batches(self.ledger, self.setting.context, model, requests, self._reader(server)))
        if stop:
            raise stop

    def _afford(self, wanted: Missing, budget: Budget, server: Server) -> tuple[Missing, BudgetSpent | None]:
        """The questions whose worst cases fit together, which are reserved now, and why not the others."""
        under_way = account(self.ledger, self.run.all_keys()).in_batches
        chosen, rows, stop, total = [], {}, None, 0.0
        for at, (key, body) in enumerate(Bodies(self.setting, wanted, server)):
            worst = worst_usd(body, server.url, batch=True)
            if key in under_way:
                chosen.append(at)
            elif budget.fits(total + worst):
                rows[key], total = worst, total + worst
                chosen.append(at)
            else:
                stop = budget.exceeded(worst)
                break
        reserve_in_batch(self.ledger, rows)
        return wanted.only(np.array(chosen, dtype=np.int64)), stop

    def _collect_batches(self, wanted: Missing) -> None:
        """What batches of an earlier `mode: batch` have answered. Raises StopEarly while some are under way."""
        from builders.judging.batches import finish_batches

        setting, keys = self.setting, keys_of(wanted)
        self._add(finish_batches(self.ledger, setting.context, setting.model, keys, self._reader(None)))

    def _reader(self, server: Server | None) -> Callable[[str, Any], Completion]:
        def read(key: str, body: Any) -> Completion:
            url = (server or servers()[0]).url
            return questions.completion_of(self.setting, questions.read(self.setting, body), url, batch=True)

        return read


class Bodies:
    """(key, body) of questions for a batch; can be read several times."""

    def __init__(self, setting: Setting, wanted: Missing, server: Server):
        self.setting, self.wanted, self.facts = setting, wanted, Facts(server.is_openai)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for question in self.wanted:
            yield question.key, questions.body(self.setting, question, self.facts)


def transported(setting: Setting, question: Asked) -> Question[Any]:
    """A question as the transport takes it."""
    return Question(
        questions.PATH,
        lambda facts: questions.body(setting, question, facts),
        lambda body: questions.read(setting, body),
        lambda facts: questions.harmless(setting, facts),
        question.key,
        questions.SETTINGS,
    )


def _look(server: Server, models: list[dict[str, Any]] | None, facts: Facts) -> None:
    facts.is_vllm = any(model.get("owned_by") == "vllm" for model in models or ())


def keys_of(wanted: Missing) -> list[str]:
    """The keys of some questions, in their order."""
    return [
        key
        for chunk, mask in zip(wanted.run.chunks, wanted.masks, strict=True)
        if mask.any()
        for key in np.array(wanted.run.keys(chunk, wanted.attempt), dtype=object)[mask].tolist()
    ]


def still(ledger: Ledger, wanted: Missing) -> Missing:
    """What is not answered yet."""
    masks = []
    for chunk, mask in zip(wanted.run.chunks, wanted.masks, strict=True):
        left = mask.copy()
        if mask.any():
            keys = np.array(wanted.run.keys(chunk, wanted.attempt), dtype=object)[mask].tolist()
            lacking = set(ledger.missing(keys))
            left[mask] = [key in lacking for key in keys]
        masks.append(left)
    return Missing(wanted.run, wanted.attempt, masks)
