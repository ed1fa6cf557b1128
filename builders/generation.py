"""Requests, their keys, and the loop that lets an engine answer what the ledger lacks. Shared by the stages that
generate.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import compress, islice
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from builders.engines import COMPLETED, Engine, Finished, Request
from builders.engines.budget import VARIABLE, Budget, BudgetSpent
from builders.engines.prices import price_table
from schemas import Chat, Reject, Sample, arrow_schema
from schemas.ids import digest, sample_id, text_hash
from schemas.rejects import Reason
from schemas.sections import Sampling
from stores.estimates import announce
from stores.ledger import Completion, Ledger
from stores.progress import progress
from stores.run_log import RunCost
from stores.stage import Stage, StopEarly

PROMPTS_AT_ONCE = 1_000
_PROMPT_COLUMNS = ("prompt_id", "problem_id", "messages", "prefill", "rendering")

Prompts = Callable[[], Iterable[pa.Table]]
"""Gives the prompts of a run anew, in batches: they are read several times and never held whole."""
Keys = Callable[[], Iterable[list[str]]]
"""Gives the ledger's keys of some completions, in chunks."""


class Setting(NamedTuple):
    """What all requests of one run share. `seed` decides which samples are drawn."""

    model: str
    model_fingerprint: str
    sampling: Sampling
    seed: int
    precision: str

    @property
    def context(self) -> str:
        """Hash of everything here that determines an answer. Greedy answers depend on no seed and no nucleus.

        The engine is left out: all draw from the same distribution, so what one has generated another need not.
        """
        sampling = self.sampling.model_dump()
        if not self.sampling.logprobs:
            sampling.pop("logprobs")  # younger than the ledgers: without it, keys are what they were
        greedy = self.sampling.temperature == 0
        if greedy:
            sampling.pop("top_p")
        seed = None if greedy else self.seed
        return digest([self.model_fingerprint, sampling, seed, self.precision])

    @property
    def noted(self) -> dict[str, Any]:
        """What the ledger notes of a context, beside the model."""
        return {"sampling": self.sampling.model_dump(), "seed": self.seed, "precision": self.precision}


def prompts_of(stage: Stage, run: str, whole: bool = False) -> Prompts:
    """The prompts of a run that are in the scope, or the `whole` of it.

    Raises ValueError if it has none.
    """
    if not stage.rows("prompts", run, whole=True):
        raise ValueError(f"prompts run '{run}' is empty; there is nothing to ask")
    return partial(_chunks, stage, run, whole)


def _chunks(stage: Stage, run: str, whole: bool) -> Iterator[pa.Table]:
    for batch in stage.scan("prompts", run, _PROMPT_COLUMNS, whole):
        yield from (batch.slice(start, PROMPTS_AT_ONCE) for start in range(0, len(batch), PROMPTS_AT_ONCE))


def requests(prompts: pa.Table, setting: Setting, n: int) -> Iterator[Request]:
    """`n` requests per prompt, in order of prompt and index. The key is context, prompt and index."""
    for row in prompts.select(["messages", "prefill", "rendering"]).to_pylist():
        asked = digest([row["messages"], row["prefill"], row["rendering"]])
        messages = tuple(Chat(**message) for message in row["messages"])
        for index in range(n):
            yield Request(f"{setting.context}-{asked}-{index:04d}", messages, row["prefill"], row["rendering"])


def keys_of(prompts: Prompts, asked: Sequence[tuple[Setting, int]]) -> Iterator[list[str]]:
    """The keys of so many completions per prompt of each setting, in chunks."""
    for setting, n in asked:
        for chunk in prompts():
            yield [request.key for request in requests(chunk, setting, n)]


class Spent(NamedTuple):
    """What one call of `answer` generated; nothing where the ledger had it all."""

    device_s: float = 0.0
    tokens: int = 0
    price_usd: float = 0.0

    def charge(self, cost: RunCost) -> None:
        """Adds it to what an execution costs."""
        cost.device_s, cost.tokens = cost.device_s + self.device_s, cost.tokens + self.tokens
        if self.price_usd:
            cost.price_usd, cost.price_table = cost.price_usd + self.price_usd, price_table()


def answer(
    ledger: Ledger,
    setting: Setting,
    prompts: Prompts,
    n: int,
    engine: Callable[[], Engine],
    batch_size: int,
    shares: Keys | None = None,
) -> Spent:
    """Generates what the ledger lacks of `n` completions per prompt, committing every batch as it finishes.

    The engine is loaded only if something is missing. Another process that wants the same context waits here. Returns
    the device seconds, tokens and price of the batches that this call committed. If a batch cannot be committed, the
    engine is told to stop before it computes or asks for anything else. `shares` gives the keys of all that shares the
    budget of paid completions (the default: these). Raises StopEarly if it is spent.
    """
    with ledger.exclusive(setting.context):
        missing = [_missing(ledger, setting, chunk, n) for chunk in prompts()]
        left, total = sum(int(mask.sum()) for mask in missing), sum(map(len, missing))
        if not left:
            return Spent()
        announce(ledger, setting.context, setting.model, setting.model_fingerprint, setting.noted, total, left)
        running = engine()
        began, tokens, price = running.device_s, 0, 0.0
        guard = getattr(running, "guard", None)
        budget = guard(ledger, (shares or partial(keys_of, prompts, [(setting, n)]))()) if guard else None
        wanted = _wanted(prompts, setting, n, missing)
        batches = cast(Generator[Finished], running.stream(wanted, setting.sampling, batch_size))
        title, guarded = f"sampling {setting.model}", _within(budget, ledger, prompts, setting, n)
        with guarded, progress(title, total, "completions", total - left) as bar, closing(batches):
            wall, busy = time.perf_counter(), running.device_s
            for batch in batches:
                entries = [(request.key, completion) for request, completion in batch]
                now = time.perf_counter()
                reserved = budget.with_answers([key for key, _ in entries]) if budget else None
                ledger.append(setting.context, setting.model, entries, now - wall, running.device_s - busy, reserved)
                wall, busy = now, running.device_s
                tokens += sum(completion.n_tokens for _, completion in batch)
                price += sum(completion.price_usd or 0.0 for _, completion in batch)
                bar.advance(len(batch))
        return Spent(running.device_s - began, tokens, price)


@contextmanager
def _within(budget: Budget | None, ledger: Ledger, prompts: Prompts, setting: Setting, n: int) -> Iterator[None]:
    """Frees what was reserved and not spent; if the budget stopped the block, says how to continue."""
    try:
        yield
    except BudgetSpent as stop:
        left = sum(int(_missing(ledger, setting, chunk, n).sum()) for chunk in prompts())
        raise StopEarly(
            f"{stop}; {left:,} completions are missing, the others are in the ledger; the same command, or `dvc repro`,"
            f" continues with a larger {VARIABLE}"
        ) from None
    finally:
        if budget:
            budget.close()


def _missing(ledger: Ledger, setting: Setting, prompts: pa.Table, n: int) -> np.ndarray:
    """Which requests of some prompts the ledger lacks: one bool for each, in their order."""
    keys = [request.key for request in requests(prompts, setting, n)]
    lacking = set(ledger.missing(keys))
    return np.array([key in lacking for key in keys], dtype=bool)


def _wanted(prompts: Prompts, setting: Setting, n: int, missing: list[np.ndarray]) -> Iterator[Request]:
    """The missing requests, made when they are asked for; of prompts that ask the same thing only the first asks."""
    asked: set[str] = set()
    for chunk, mask in zip(prompts(), missing, strict=True):
        for prompt, lacking in zip(_by_prompt(chunk, setting, n), mask.reshape(-1, n).tolist(), strict=True):
            first, *_ = prompt
            if any(lacking) and first.key not in asked:
                asked.add(first.key)
                yield from compress(prompt, lacking)


def _by_prompt(prompts: pa.Table, setting: Setting, n: int) -> Iterator[tuple[Request, ...]]:
    every = requests(prompts, setting, n)
    return iter(lambda: tuple(islice(every, n)), ())


def sample_rows(
    ledger: Ledger,
    setting: Setting,
    prompts: Iterable[pa.Table],
    n: int,
    reject: Callable[[list[Reject]], None],
    token_ids: bool = False,
    keep_unanswered: bool = False,
) -> Iterator[pa.Table]:
    """The samples of a run, read from the ledger in the order of `sample_id`, a table for each table of prompts.

    A request without a completion (an over-long prompt, a refusal) is a reject, one for all that a prompt has of a
    kind. `keep_unanswered` makes it an empty, cut-off sample too: an evaluation counts what a model could not answer.
    """
    for chunk in prompts:
        keys = [request.key for request in requests(chunk, setting, n)]
        found = ledger.get(keys)
        completions = [found[key] for key in keys]
        reject(_rejects(chunk, completions, n))
        if keep_unanswered:
            completions = [c if c.finish_reason in COMPLETED else _unanswered(c) for c in completions]
        rows = _sample_rows(setting, chunk, completions, n, token_ids)
        yield rows.filter(pa.array([c.finish_reason in COMPLETED for c in completions], pa.bool_()))


def _rejects(prompts: pa.Table, completions: list[Completion], n: int) -> list[Reject]:
    ids = zip(prompts["problem_id"].to_pylist(), prompts["prompt_id"].to_pylist(), strict=True)
    dropped = {
        Reject(problem_id=problem, prompt_id=prompt, reason=cast(Reason, c.finish_reason), detail=c.text): None
        for row, (problem, prompt) in enumerate(ids)
        for c in completions[row * n : (row + 1) * n]
        if c.finish_reason not in COMPLETED
    }
    return list(dropped)


def _unanswered(completion: Completion) -> Completion:
    return completion._replace(text="", finish_reason="length", n_tokens=0, token_ids=None, logprobs=None)


def _sample_rows(
    setting: Setting, prompts: pa.Table, completions: list[Completion], n: int, token_ids: bool
) -> pa.Table:
    prompt_ids = [p for p in prompts["prompt_id"].to_pylist() for _ in range(n)]
    indices = [index for _ in range(len(prompts)) for index in range(n)]
    greedy, count = setting.sampling.temperature == 0, len(completions)
    columns = {
        "sample_id": [sample_id(p, setting.context, i) for p, i in zip(prompt_ids, indices, strict=True)],
        "prompt_id": prompt_ids,
        "problem_id": [p for p in prompts["problem_id"].to_pylist() for _ in range(n)],
        "model": [setting.model] * count,
        "model_fingerprint": [setting.model_fingerprint] * count,
        "index": indices,
        "seed": [None if greedy else setting.seed] * count,
        "temperature": [setting.sampling.temperature] * count,
        "top_p": [None if greedy else setting.sampling.top_p] * count,
        "text": [c.text for c in completions],
        "text_hash": [text_hash(c.text) for c in completions],
        "n_chars": [len(c.text) for c in completions],
        "n_tokens": [c.n_tokens for c in completions],
        "n_prompt_tokens": [c.n_prompt_tokens for c in completions],
        "token_ids": [c.token_ids if token_ids else None for c in completions],
        "finish_reason": [c.finish_reason for c in completions],
        "logprobs": [c.logprobs for c in completions],
    }
    return pa.table(columns, schema=arrow_schema(Sample))
