"""Summed log-probs that a frozen model gave, in the ledger: what was computed once is never computed again.

An entry's key is of all that decides its number: the model's fingerprint (weights, configuration, tokenizer),
precision, kind of device, versions of torch and transformers, the code that scores and the way it lays sequences out;
and the ids of the tokens, which the tokenizer, the prompt's template and the ending decide. So runs whose pairs overlap
share what they have in common, whatever their tables say. Not in it: `max_tokens`, which refuses sequences and cuts
none, and `micro_tokens` and the number of processes, by which the last bits differ alone (in float32 less than 1e-5 of
a number). In bfloat16 rounding is coarser, and a divided model rounds its norms' weights too (`train.sharding`), so
that it is divided is part of the key then.
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from importlib.metadata import version
from typing import NamedTuple, get_args

import torch

from builders.model_files import device, fingerprint
from schemas.ids import digest
from schemas.sections_training import ReferenceRun
from stores.ledger import Completion, Ledger
from stores.progress import progress
from stores.stage import Stage
from train import memory, packing, parallel
from train.code import code_hash
from train.data import hash_tokens
from train.packing import Tokens
from train.policy import Policy, ScoringPath
from train.texts import Span

CODE = (
    "train/policy.py", "train/packing.py", "train/layout.py", "train/attention.py", "train/logprobs.py",
    "train/parallel.py", "train/sharding.py", "train/saving.py", "train/adapters.py", "train/memory.py",
    "builders/model_files.py",
)  # fmt: skip
"""What decides a number besides its model and its tokens; a test holds it against what the policy imports."""
_COMMIT_EVERY_S = 1.0
"""What a kill may cost. A commit waits for the disk, and forwards of small models do not take longer than that."""
_REASON = "scored"

Entry = tuple[str, Completion]
"""A key of the ledger and what it stands for: the log-prob as text, and how many tokens it is of."""


class Scored(NamedTuple):
    """Log-probs of spans in nats, and the fingerprint of what they were computed with."""

    logprobs: dict[Span, float]
    fingerprint: str


class ReferenceLedger:
    """The log-probs of a `reference` run's model. Costs of what is computed are the stage's.

    Several processes compute together; the first one has the ledger.
    """

    def __init__(self, stage: Stage):
        self.stage = stage
        self.config: ReferenceRun = stage.config
        self.directory = stage.dir("models", self.config.model)
        self.model = fingerprint(self.directory)
        self.device = torch.device(device()).type
        self.libraries = [version("torch"), version("transformers")]

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger()

    def find(self, scored: Mapping[Span, Tokens]) -> Scored | None:
        """The log-probs of all spans, without loading the model; None if the ledger lacks one."""
        hashes = _hashes(scored)
        for path in get_args(ScoringPath):
            kept = self._kept(path, hashes.values())
            if all(asked in kept for asked in hashes.values()):
                return self._of(path, hashes, kept)
        return None

    def complete(self, scored: Mapping[Span, Tokens]) -> Scored:
        """The log-probs of all spans; what the ledger lacks is computed and committed, every second or so.

        Raises ValueError for a number that is not finite, naming its sample.
        """
        with memory.loading(self.stage.section, self.config.model):
            policy = Policy.load(self.directory, list(scored.values()), precision=self.config.precision)
        examples = ((f"sample {span.sample_id}", [tokens]) for span, tokens in scored.items())
        setting = f"reference.{self.stage.name}.micro_tokens"
        packing.require_fit(examples, self.config.micro_tokens, setting, policy.path == "padded")
        hashes, context = _hashes(scored), self._context(policy.path)
        with self.ledger.exclusive(context) if parallel.leads() else nullcontext():
            kept = self._kept(policy.path, hashes.values())
            missing = {asked: span for span, asked in hashes.items() if asked not in kept}
            if missing:
                self._compute(policy, scored, missing, len(kept))
        return self._of(policy.path, hashes, self._kept(policy.path, hashes.values()))

    def close(self) -> None:
        if "ledger" in vars(self):
            self.ledger.close()

    def _compute(self, policy: Policy, scored: Mapping[Span, Tokens], missing: Mapping[str, Span], n_kept: int) -> None:
        """Commits the log-probs of what is missing: hash of tokens -> one of the spans that have them."""
        context, total = self._context(policy.path), n_kept + len(missing)
        if n_kept:
            place = f"{self.stage.section} {self.stage.name}"
            print(f"{place}: {n_kept:,} of {total:,} log-probs are in the ledger", file=sys.stderr)
        setting = {"scored": {"precision": self.config.precision, "path": policy.path, "device": self.device}}
        if parallel.leads():
            self.ledger.begin(context, self.config.model, self.model, setting)
        sequences = {asked: scored[missing[asked]] for asked in sorted(missing)}  # in whatever order a source has them
        began, pending = time.perf_counter(), list[Entry]()
        with progress("reference log-probs", total, "completions", n_kept) as bar:
            try:
                for found in self._computed(policy, sequences, missing):
                    pending += [
                        _entry(context, asked, sequences[asked], found[asked], missing[asked]) for asked in found
                    ]
                    bar.advance(len(found))
                    if time.perf_counter() - began >= _COMMIT_EVERY_S:
                        entries, pending = pending, []
                        began = self._append(context, entries, began)
            finally:
                self._append(context, pending, began)

    def _computed(
        self, policy: Policy, sequences: Mapping[str, Tokens], spans: Mapping[str, Span]
    ) -> Iterator[dict[str, float]]:
        setting = f"reference.{self.stage.name}.micro_tokens"
        kept = "; what is computed is kept"
        with memory.lowered(setting, "reference", lambda asked: f"sample {spans[asked].sample_id}", kept):
            yield from compute(policy, sequences, self.config.micro_tokens)

    def _append(self, context: str, entries: Sequence[Entry], began: float) -> float:
        now = time.perf_counter()
        if entries and parallel.leads():
            self.ledger.append(context, self.config.model, entries, now - began, (now - began) * parallel.count())
        self.stage.cost.device_s += (now - began) * parallel.count()
        self.stage.cost.tokens += sum(entry.n_tokens + entry.n_prompt_tokens for _, entry in entries)
        return now

    def _kept(self, path: ScoringPath, hashes: Iterable[str]) -> dict[str, float]:
        """Hash of tokens -> its log-prob, for those that the ledger has."""
        keys = {_key(self._context(path), asked): asked for asked in hashes}
        found = self.ledger.get(list(keys)) if parallel.leads() else {}
        return parallel.agreed({keys[key]: float(entry.text) for key, entry in found.items()})

    def _of(self, path: ScoringPath, hashes: Mapping[Span, str], kept: Mapping[str, float]) -> Scored:
        return Scored({span: kept[asked] for span, asked in hashes.items()}, digest(self._decided(path)))

    def _context(self, path: ScoringPath) -> str:
        return digest([self._decided(path), code_hash(CODE)])

    def _decided(self, path: ScoringPath) -> list:
        divided = ["divided"] if parallel.active() and self.config.precision == "bf16" else []
        return [self.model, self.config.precision, path, self.device, self.libraries, *divided]


@torch.no_grad()
def compute(policy: Policy, sequences: Mapping[str, Tokens], micro_tokens: int) -> Iterator[dict[str, float]]:
    """Name -> summed log-prob of the completion, in nats; a dict per forward of at most so many tokens (of as many as
    there are processes).
    """
    names, tokens = list(sequences), list(sequences.values())
    for numbers in policy.rounds([[s] for s in tokens], micro_tokens):
        given = [tokens[i] for i in numbers]
        with memory.of([names[i] for i in numbers], given):
            logprobs = policy.logprobs(given).tolist() if given else []
        # rounding may leave a sure token a hair above 0
        mine = {names[i]: min(logprob, 0.0) for i, logprob in zip(numbers, logprobs, strict=True)}
        yield {name: logprob for found in parallel.everyones(mine) for name, logprob in found.items()}


def _hashes(scored: Mapping[Span, Tokens]) -> dict[Span, str]:
    """Spans of the same tokens, whoever wrote them, are one entry."""
    return {span: hash_tokens([tokens]) for span, tokens in scored.items()}


def _key(context: str, asked: str) -> str:
    return f"{context}-{asked}-0000"


def _entry(context: str, asked: str, tokens: Tokens, logprob: float, span: Span) -> Entry:
    if not math.isfinite(logprob):
        raise ValueError(
            f"the log-prob of sample {span.sample_id} ({span.start}:{span.end}) under prompt {span.prompt_id} is"
            f" {logprob}; use precision fp32, or another model"
        )
    return _key(context, asked), Completion(repr(logprob), _REASON, len(tokens.completion), len(tokens.prompt))
