"""From a prompt's messages to the tokens a model reads; engines and training share it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]


def render_text(tokenizer: "PreTrainedTokenizerBase", messages: Messages, prefill: str, rendering: str) -> str:
    """The prompt as text: by the tokenizer's chat template with the model's turn opened, or the contents joined.

    The prefill follows as the start of the model's answer.

    Raises ValueError for `chat` with a tokenizer that has no chat template.
    """
    if rendering == "text":
        return "".join(message["content"] for message in messages) + prefill
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; use `rendering: text` for this prompts run")
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text + prefill


def render_ids(tokenizer: "PreTrainedTokenizerBase", messages: Messages, prefill: str, rendering: str) -> list[int]:
    """The prompt's token ids. A chat template writes its own special tokens; for `text` the tokenizer adds its own."""
    text = render_text(tokenizer, messages, prefill, rendering)
    if rendering == "chat":
        return tokenizer.encode(text, add_special_tokens=False)
    return _without_ending(tokenizer, tokenizer.encode(text, add_special_tokens=True))


def completion_ids(tokenizer: "PreTrainedTokenizerBase", text: str, eos: bool) -> list[int]:
    """The token ids of a completion (or a span of one), tokenised apart from the prompt; `eos` appends the ending."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [*ids, tokenizer.eos_token_id] if eos else ids


def _without_ending(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> list[int]:
    """Some tokenizers append EOS to whatever they encode; a prompt has not ended."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
