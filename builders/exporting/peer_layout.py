"""What one exporter needs to know and what it decides: the columns of its file, and the files beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from builders.exporting.peer_rows import MESSAGES, SIDES, Example
from builders.exporting.peer_tokens import Join, Texts, Tokens, Words
from schemas.sections_training import PreferenceRun, SftRun

IDS = pa.list_(pa.int32())
CONCATENATED = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""A chat template that only joins what stands in messages: for texts that are rendered already."""


class Order(NamedTuple):
    """What is wanted. `words`: texts rendered for a model's tokenizer; None: as they are, or as messages.

    `training` is the first run of params that trains on the rows; its settings are written for the trainer.
    """

    run: str
    table: str
    conversational: bool
    words: Words | None
    training: PreferenceRun | SftRun | None
    seed: int


RowOf = Callable[[Example, Texts], dict[str, Any]]
"""A row of a file, of an example and its texts."""


class Layout(NamedTuple):
    """How rows are written for one trainer.

    `texts` is (prompt, completions) of a row in standard form, and `join` what the trainer makes of them (None: it
    tokenises prompts only). `tokens` are columns of a second file of token ids, which `finish` turns into what is read
    and removes.
    """

    schema: pa.Schema
    row: RowOf
    texts: Callable[[Example], tuple[str, list[str]]]
    join: Join | None
    files: dict[str, str]
    notes: list[str]
    tokens: pa.Schema | None = None
    token_row: Callable[[list[Tokens]], dict[str, Any]] | None = None
    finish: Callable[[Path, Path], None] | None = None


def plain(example: Example) -> tuple[str, list[str]]:
    """Texts without any special token; the prompt of a chat is not rendered."""
    prompt = "".join(message["content"] for message in example.messages) + example.prefill
    return prompt, [side.text for side in example.sides]


def written_out(words: Words, always_end: bool = False) -> Callable[[Example], tuple[str, list[str]]]:
    """Texts with BOS and ending written into them, for trainers that add neither.

    `always_end`: also after a completion that has not ended.
    """

    def texts(example: Example) -> tuple[str, list[str]]:
        ending = words.ending(example.rendering)
        completions = [side.text + (ending if side.eos or always_end else "") for side in example.sides]
        return words.opened(example), completions

    return texts


def text_schema(table: str) -> pa.Schema:
    """Columns `prompt` and those of the completions, as texts."""
    return pa.schema([(name, pa.string()) for name in ("prompt", *SIDES[table])])


def text_row(table: str) -> RowOf:
    """A row of `text_schema`."""
    return lambda _, texts: {"prompt": texts.prompt, **dict(zip(SIDES[table], texts.completions, strict=True))}


def chat_schema(table: str) -> pa.Schema:
    """The same columns as messages."""
    return pa.schema([(name, MESSAGES) for name in ("prompt", *SIDES[table])])


def chat_row(table: str) -> RowOf:
    """A row of `chat_schema`."""
    return lambda example, _: {
        "prompt": example.messages,
        **{name: [said(side.text)] for name, side in zip(SIDES[table], example.sides, strict=True)},
    }


def said(text: str) -> dict[str, str]:
    """A message of the model."""
    return {"role": "assistant", "content": text}


def masked(tokens: Tokens) -> list[int]:
    """Labels: what is only read does not count."""
    return [-100] * len(tokens.prompt) + tokens.completion
