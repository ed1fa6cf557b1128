"""What training reads: prompts, and spans of completions under them, as text. A source gives them, whatever its form.

Sources are the tables of the workspace (`train.tables`) and a release directory (`train.release`). Both give a run's
rows in the order of its table's key, so that equal data give equal batches.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Span(NamedTuple):
    """What is scored: a span of a sample under a prompt, and whether an ending follows. Reference log-probs' key."""

    prompt_id: str
    sample_id: str
    start: int
    end: int
    eos: bool


class Text(NamedTuple):
    """A span and the text in it."""

    span: Span
    text: str


class PairText(NamedTuple):
    """A chosen and a rejected span of one prompt; `rank` numbers the prompt's pairs."""

    rank: int
    chosen: Text
    rejected: Text

    @property
    def name(self) -> str:
        return pair_name(self.chosen.span.prompt_id, self.rank)


class Asked(NamedTuple):
    """A prompt: the conversation up to the model's turn, the start of its answer, and how they become text."""

    messages: list[dict[str, str]]
    prefill: str
    rendering: str


class Source(Protocol):
    """A run of pairs or demos."""

    name: str
    """For messages, as in `pairs run 'sums'`."""
    shorten: str
    """What a user can do about one of its texts that is too long."""

    @property
    def record(self) -> dict[str, Any]:
        """What the record of a model that was trained on it says."""
        ...

    def pairs(self, limit: int | None = None) -> list[PairText]:
        """The run's pairs; `limit`: only so many, evenly spaced. Raises ValueError for none at all."""
        ...

    def demos(self) -> list[Text]:
        """The run's demonstrations, whole texts. Raises ValueError for none at all."""
        ...

    def prompt(self, prompt_id: str) -> Asked:
        """A prompt that a pair or a demonstration names."""
        ...


def pair_name(prompt_id: str, rank: int) -> str:
    return f"pair ({prompt_id}, rank {rank})"


def demo_name(span: Span) -> str:
    return f"demo ({span.prompt_id}, {span.sample_id})"


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of `count` places, in order and evenly spaced, the first and the last among them."""
    taken = count if limit is None else min(count, limit)
    return np.linspace(0, count - 1, taken).round().astype(int).tolist()
