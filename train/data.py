"""From texts to token arrays: the pairs or demos of a source, rendered and tokenised as a run's model reads them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from builders.model_files import Limits, load_limits, load_tokenizer
from builders.rendering import Rendered, completion_ids, ending_id, render
from stores.stage import Stage
from train.packing import Tokens
from train.texts import PairText, Source, Span, Text, demo_name


class Demo(NamedTuple):
    """A completion to imitate."""

    name: str
    tokens: Tokens


class Pair(NamedTuple):
    """A chosen and a rejected completion of one prompt."""

    name: str
    chosen_span: Span
    rejected_span: Span
    chosen: Tokens
    rejected: Tokens
    mismatched: tuple[tuple[Span, Tokens], ...] = ()
    """The completions of another problem's pair under this prompt, where they were asked for."""

    @property
    def sequences(self) -> tuple[Tokens, Tokens]:
        return self.chosen, self.rejected

    @property
    def scored(self) -> tuple[tuple[Span, Tokens], ...]:
        """All that the reference model scores."""
        return (self.chosen_span, self.chosen), (self.rejected_span, self.rejected), *self.mismatched


class Reader(NamedTuple):
    """How a run's model reads texts."""

    tokenizer: PreTrainedTokenizerBase
    limits: Limits
    max_tokens: int
    place: str
    """Of `max_tokens` in params."""

    @classmethod
    def of(cls, stage: Stage) -> "Reader":
        """That of the model that a stage's run names."""
        model, place = stage.dir("models", stage.config.model), f"{stage.section}.{stage.name}.max_tokens"
        return cls(load_tokenizer(model), load_limits(model), stage.config.max_tokens, place)


def load_demos(source: Source, reader: Reader) -> list[Demo]:
    """The demonstrations of a source: whole texts, ended where the sample ended by itself.

    Raises ValueError for none at all, an id that does not resolve, and a demonstration that is too long.
    """
    tokens = Encoder(source, reader)
    named = ((demo_name(text.span), text) for text in source.demos())
    demos = [Demo(name, tokens.of(text, name)) for name, text in named]
    _refuse_long(source, reader, ((demo.name, (demo.tokens,)) for demo in demos))
    return demos


def load_pairs(source: Source, reader: Reader, limit: int | None = None, mismatched: bool = False) -> list[Pair]:
    """The pairs of a source; `limit`: only so many, evenly spaced; `mismatched`: each with another's completions too.

    Raises ValueError for none at all, an id that does not resolve, and a sequence that is too long.
    """
    tokens, texts = Encoder(source, reader), source.pairs(limit)
    pairs = [
        Pair(p.name, p.chosen.span, p.rejected.span, tokens.of(p.chosen, p.name), tokens.of(p.rejected, p.name))
        for p in texts
    ]
    _refuse_long(source, reader, ((pair.name, pair.sequences) for pair in pairs))
    if mismatched:
        others = _of_other_problems(source, texts)
        pairs = [pair._replace(mismatched=tokens.moved(pair, other)) for pair, other in zip(pairs, others, strict=True)]
        named = ((_moved_name(*both), [t for _, t in both[0].mismatched]) for both in zip(pairs, others, strict=True))
        _refuse_long(source, reader, named)
    return pairs


def _moved_name(pair: Pair, other: PairText) -> str:
    return f"{pair.name} with the completions of {other.name}"


def _of_other_problems(source: Source, texts: list[PairText]) -> list[PairText]:
    """For each pair one of another problem: as many places on as a problem has pairs at most, or the next such.

    Fixed by the pairs' order, so that log-probs under the reference can be computed once.
    """
    problems = [pair.chosen.span.prompt_id.partition("-")[0] for pair in texts]
    counts = Counter(problems)
    if len(counts) < 2:
        raise ValueError(
            f"{source.name}: all pairs are of one problem, and kto compares with completions of others; add pairs of"
            " other problems, or train with another loss"
        )
    ahead, n = max(counts.values()), len(texts)
    return [
        texts[next(j % n for j in range(i + ahead, i + ahead + n) if problems[j % n] != problems[i])] for i in range(n)
    ]


def hash_tokens(sequences: Iterable[Tokens]) -> str:
    """A hash over token ids, in order: equal data give equal hashes, whatever files they came from."""
    hasher = hashlib.sha256()
    for sequence in sequences:
        for part in sequence:
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part.astype("<i4").tobytes())
    return hasher.hexdigest()[:16]


class Encoder:
    """The prompts and spans of a source, tokenised once each."""

    def __init__(self, source: Source, reader: Reader):
        self.source, self.reader = source, reader
        self._rendered: dict[str, Rendered] = {}
        self._asked: dict[str, np.ndarray] = {}
        self._scored: dict[Span, np.ndarray] = {}
        self._endings: dict[str, int | None] = {}

    def of(self, text: Text, name: str) -> Tokens:
        """Prompt, and the text as it is tokenised after it. `name` is the row's, for messages."""
        span = text.span
        if span.prompt_id not in self._rendered:
            self._rendered[span.prompt_id] = rendered = self._render(span.prompt_id)
            self._asked[span.prompt_id] = np.array(rendered.ids, dtype=np.int32)
        if span not in self._scored:
            self._scored[span] = np.array(self._encode(text, name), dtype=np.int32)
        return Tokens(self._asked[span.prompt_id], self._scored[span])

    def moved(self, pair: Pair, other: PairText) -> tuple[tuple[Span, Tokens], ...]:
        """Both completions of another pair under the prompt of this one."""
        prompt, name = pair.chosen_span.prompt_id, _moved_name(pair, other)
        texts = [side._replace(span=side.span._replace(prompt_id=prompt)) for side in (other.chosen, other.rejected)]
        return tuple((text.span, self.of(text, name)) for text in texts)

    def _render(self, prompt_id: str) -> Rendered:
        rendered = render(self.reader.tokenizer, *self.source.prompt(prompt_id))
        if not rendered.ids:
            raise ValueError(
                f"{self.source.name}: prompt {prompt_id} renders to no tokens, so nothing predicts the first token of"
                " its completions; give its template a text, or use a tokenizer that starts texts with a BOS token"
            )
        return rendered

    def _ending(self, rendering: str) -> int:
        """The token that ends a completion. Raises ValueError if there is none."""
        if rendering not in self._endings:
            self._endings[rendering] = ending_id(self.reader.tokenizer, rendering, self.reader.limits.eos_ids)
        ending = self._endings[rendering]
        if ending is None:
            raise ValueError(f"{self.source.name}: the model's tokenizer has no end-of-sequence token to train on")
        return ending

    def _encode(self, text: Text, name: str) -> list[int]:
        prompt = self._rendered[text.span.prompt_id]
        ending = self._ending(prompt.rendering) if text.span.eos else None
        ids = completion_ids(self.reader.tokenizer, prompt, text.text, ending)
        if not ids:
            sample = text.span.sample_id
            raise ValueError(f"{self.source.name}: {name}: span of sample {sample} has no tokens to score")
        return ids


def _refuse_long(source: Source, reader: Reader, named: Iterable[tuple[str, Sequence[Tokens]]]) -> None:
    """Raises ValueError for a sequence that is longer than the run allows, or than the model's positions."""
    longest = [(max(s.length for s in sequences), name) for name, sequences in named]
    limits = [(reader.max_tokens, f"{source.shorten}, or raise {reader.place}")]
    if reader.limits.positions is not None:
        remedy = f"{source.shorten} (the model has no more positions: max_position_embeddings)"
        limits.append((reader.limits.positions, remedy))
    for limit, remedy in limits:
        for length, name in longest:
            if length > limit:
                raise ValueError(f"{name}: prompt and completion have {length} tokens, the limit is {limit}; {remedy}")
