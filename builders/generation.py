"""Requests, their keys, and the loop that lets an engine answer what the ledger lacks. Shared by the stages that
generate.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from builders.engines import Engine, Request
from schemas import Chat, Sample, arrow_schema
from schemas.ids import digest, sample_id, text_hash
from schemas.sections import Sampling
from stores.ledger import Ledger
from stores.progress import progress

PROMPTS_AT_ONCE = 1_000


class Setting(NamedTuple):
    """What all requests of one run share. `seed` decides which samples are drawn."""

    model: str
    model_fingerprint: str
    sampling: Sampling
    seed: int
    precision: str

    @property
    def context(self) -> str:
        """Hash of everything here that determines an answer. Greedy answers depend on no seed and no nucleus."""
        sampling = self.sampling.model_dump()
        greedy = self.sampling.temperature == 0
        if greedy:
            sampling.pop("top_p")
        seed = None if greedy else self.seed
        return digest([self.model_fingerprint, sampling, seed, self.precision])


def requests(prompts: pa.Table, setting: Setting, n: int) -> Iterator[Request]:
    """`n` requests per prompt, in order of prompt and index. The key is context, prompt and index."""
    for row in prompts.select(["messages", "prefill", "rendering"]).to_pylist():
        asked = digest([row["messages"], row["prefill"], row["rendering"]])
        messages = tuple(Chat(**message) for message in row["messages"])
        for index in range(n):
            yield Request(f"{setting.context}-{asked}-{index:04d}", messages, row["prefill"], row["rendering"])


class Spent(NamedTuple):
    """What one call of `answer` generated; nothing where the ledger had it all."""

    device_s: float
    tokens: int


def answer(
    ledger: Ledger, setting: Setting, wanted: Sequence[Request], engine: Callable[[], Engine], batch_size: int
) -> Spent:
    """Generates the wanted requests that the ledger lacks, committing every batch as it finishes.

    The engine is loaded only if something is missing. Another process that wants the same context waits here. Returns
    the device seconds and tokens of the batches that this call committed.
    """
    with ledger.exclusive(setting.context):
        by_key = {request.key: request for request in wanted}
        missing = ledger.missing(list(by_key))
        if not missing:
            return Spent(0.0, 0)
        running = engine()
        began, tokens = running.device_s, 0
        with progress(f"sampling {setting.model}", len(by_key), "completions", len(by_key) - len(missing)) as bar:
            wall, busy = time.perf_counter(), running.device_s
            for batch in running.stream([by_key[key] for key in missing], setting.sampling, batch_size):
                entries = [(request.key, completion) for request, completion in batch]
                now = time.perf_counter()
                ledger.append(setting.context, setting.model, entries, now - wall, running.device_s - busy)
                wall, busy = now, running.device_s
                tokens += sum(completion.n_tokens for _, completion in batch)
                bar.advance(len(batch))
        return Spent(running.device_s - began, tokens)


def sample_rows(
    ledger: Ledger, setting: Setting, prompts: pa.Table, n: int, token_ids: bool = False
) -> Iterator[pa.Table]:
    """The samples of a run, read from the ledger in the order of `sample_id`."""
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        yield _sample_rows(ledger, setting, prompts.slice(start, PROMPTS_AT_ONCE), n, token_ids)


def _sample_rows(ledger: Ledger, setting: Setting, prompts: pa.Table, n: int, token_ids: bool) -> pa.Table:
    keys = [request.key for request in requests(prompts, setting, n)]
    answers = ledger.get(keys)
    completions = [answers[key] for key in keys]
    prompt_ids = [p for p in prompts["prompt_id"].to_pylist() for _ in range(n)]
    indices = [index for _ in range(len(prompts)) for index in range(n)]
    greedy, count = setting.sampling.temperature == 0, len(keys)
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
    }
    return pa.table(columns, schema=arrow_schema(Sample))
