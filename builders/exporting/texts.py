"""Texts of rows: prompts as a model reads them, and spans of samples."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builders.exporting.columns import CHAT
from builders.exporting.lookups import whole
from builders.rendering import render_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_ROLE = "assistant"


class Renderer:
    """Prompts as strings: contents joined, or by the chat template of a model (a directory, or None).

    `place` is what an error says to change.
    """

    def __init__(self, model: Path | None, place: str):
        self.model, self.place = model, place

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Raises ValueError where no model is named."""
        if self.model is None:
            raise ValueError(
                f"{self.place}: prompts of `rendering: chat` become strings by a chat template; name the model that has"
                " it in `model`, or (without a given start of the answer) say `format: conversational`"
            )
        from builders.model_files import load_tokenizer

        return load_tokenizer(self.model)

    def render(self, prompts: pa.Table) -> pa.Array:
        """One string for each prompt (`messages`, `prefill`, `rendering`), the prefill at its end.

        Raises ValueError for a prompt that needs a chat template where there is none.
        """
        kinds = pc.equal(whole(prompts["rendering"]), "text")
        joined = pc.binary_join_element_wise(_contents(whole(prompts["messages"])), whole(prompts["prefill"]), "")
        if pc.all(kinds).as_py() is not False:
            return joined
        rows = prompts.select(["messages", "prefill", "rendering"]).filter(pc.invert(kinds)).to_pylist()
        chat = [render_text(self.tokenizer, row["messages"], row["prefill"], "chat") for row in rows]
        return pc.replace_with_mask(joined, pc.invert(kinds), pa.array(chat, pa.string()))

    def conversation(self, prompts: pa.Table) -> pa.Array:
        """The messages of each prompt.

        Raises ValueError where a chat template would not make of them what the model read.
        """
        if not pc.all(pc.equal(prompts["rendering"], "chat")).as_py():
            raise ValueError(
                f"{self.place}: prompts of `rendering: text` are no conversations (a trainer would put them into a chat"
                " template); say `format: standard`"
            )
        if pc.any(pc.not_equal(prompts["prefill"], "")).as_py():
            raise ValueError(
                f"{self.place}: prompts that give the start of the answer cannot be conversational (the template would"
                " close the turn after it); say `format: standard`"
            )
        return whole(prompts["messages"])


def _contents(messages: pa.ListArray) -> pa.Array:
    """The contents of each conversation, joined."""
    lengths = pc.list_value_length(messages).to_numpy(zero_copy_only=False)
    contents = pc.struct_field(pc.list_flatten(messages), "content")
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, contents), "")


def spans(texts: pa.Array, n_chars: pa.Array, starts: pa.Array, ends: pa.Array) -> pa.Array:
    """The code points of each text from its start to its end (null: the text's own)."""
    ends = pc.fill_null(ends, n_chars)
    cut = pc.or_(pc.not_equal(starts, 0), pc.not_equal(ends, n_chars))
    if not pc.any(cut).as_py():
        return texts
    columns = (column.filter(cut).to_pylist() for column in (texts, starts, ends))
    return pc.replace_with_mask(texts, cut, pa.array([t[a:b] for t, a, b in zip(*columns, strict=True)], pa.string()))


def turns(texts: pa.Array) -> pa.Array:
    """Each text as a conversation of one message, the model's."""
    names = [CHAT.value_type.field(i).name for i in range(2)]
    messages = pa.StructArray.from_arrays([pa.repeat(pa.scalar(CHAT_ROLE), len(texts)), texts], names)
    return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1, dtype=np.int32)), messages).cast(CHAT)
