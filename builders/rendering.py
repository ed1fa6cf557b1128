"""From a prompt's messages to the tokens a model reads; engines and training share it."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]
_MARK = "answer"  # stands for the content of a turn


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
    return render(tokenizer, messages, prefill, rendering).ids


class Rendered(NamedTuple):
    """A prompt as text and as token ids; completions of it are tokenised after it."""

    text: str
    rendering: str
    ids: list[int]


def render(tokenizer: "PreTrainedTokenizerBase", messages: Messages, prefill: str, rendering: str) -> Rendered:
    """The prompt in both forms. Raises ValueError as `render_text` does."""
    text = render_text(tokenizer, messages, prefill, rendering)
    return Rendered(text, rendering, _encode(tokenizer, text, rendering))


def completion_ids(
    tokenizer: "PreTrainedTokenizerBase", prompt: Rendered, text: str, ending: int | None = None
) -> list[int]:
    """The token ids of a completion (or a span of one) after its prompt; `ending` is appended.

    Prompt and text are tokenised together, and what follows the prompt's ids is taken: some tokenizers (Llama 2,
    Mistral 0.1) put a space before whatever they encode, which the model never wrote. Where a token would reach across
    the boundary, the prompt's ids do not start the whole's; then the text's own ids are taken.
    """
    whole = _encode(tokenizer, prompt.text + text, prompt.rendering)
    together = whole[: len(prompt.ids)] == prompt.ids
    ids = whole[len(prompt.ids) :] if together else tokenizer.encode(text, add_special_tokens=False)
    return ids if ending is None else [*ids, ending]


def ending_id(tokenizer: "PreTrainedTokenizerBase", rendering: str, eos_ids: Collection[int]) -> int | None:
    """The token that ends a completion: the first of the model's `eos_ids` that the chat template writes after an
    assistant's turn (`<end_of_turn>` of Gemma 2, `<|end|>` of Phi 3); for `text`, or without one, the tokenizer's EOS.
    """
    if rendering == "chat":
        turns = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _MARK}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        assert isinstance(text, str)
        after = tokenizer.encode(text.rpartition(_MARK)[2], add_special_tokens=False)
        return next((i for i in after if i in eos_ids), tokenizer.eos_token_id)
    return tokenizer.eos_token_id


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str, rendering: str) -> list[int]:
    if rendering == "chat":
        return tokenizer.encode(text, add_special_tokens=False)
    return _without_ending(tokenizer, tokenizer.encode(text, add_special_tokens=True))


def _without_ending(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> list[int]:
    """Some tokenizers append EOS to whatever they encode; a prompt has not ended."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
