"""From a prompt's messages to the tokens a model reads; engines and training share it."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]
_MARK = "answer"  # stands for the content of a turn
_ANCHORS = ("\n", ".", "a")  # what a text is tokenised after, where its first token alone would have a space before it


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
    the boundary (`:` and a line break, a space and a word), the prompt's ids do not start the whole's. Then the text is
    tokenised apart, and the join is proved: both parts together decode to what the whole decodes to, or to the prompt's
    text and the text.

    Raises ValueError where no way of tokenising the text joins it to the prompt.
    """
    whole = _encode(tokenizer, prompt.text + text, prompt.rendering)
    unclear = bool(prompt.ids) and prompt.ids[-1] == tokenizer.unk_token_id  # it may stand for some of the text too
    if whole[: len(prompt.ids)] == prompt.ids and not unclear:
        ids = whole[len(prompt.ids) :]
    else:
        ids = _apart(tokenizer, prompt, text, whole)
    return ids if ending is None else [*ids, ending]


def _apart(tokenizer: "PreTrainedTokenizerBase", prompt: Rendered, text: str, whole: list[int]) -> list[int]:
    """The token ids of a text after a prompt whose last token would be another one before it."""
    for before in ("", *_ANCHORS):
        known = tokenizer.encode(before, add_special_tokens=False) if before else []
        both = tokenizer.encode(before + text, add_special_tokens=False)
        ids = both[len(known) :]
        if both[: len(known)] == known and _joins(tokenizer, prompt, text, ids, whole):
            return ids
    raise ValueError(
        f"the tokenizer cannot continue {prompt.text[-20:]!r} with {text[:20]!r}: a token reaches across, and apart"
        " they decode to another text; end the prompt (its template's prefill) or the completion before it elsewhere"
    )


def _joins(tokenizer: "PreTrainedTokenizerBase", prompt: Rendered, text: str, ids: list[int], whole: list[int]) -> bool:
    """Whether the prompt's ids and these stand for the prompt and the text, as far as the tokenizer can tell texts."""
    asked, joined, direct = (_decode(tokenizer, part) for part in (prompt.ids, [*prompt.ids, *ids], whole))
    if joined == direct:
        return True
    unknown = tokenizer.unk_token
    parts = joined[len(asked) :].split(unknown) if isinstance(unknown, str) else [joined[len(asked) :]]
    pattern = ".+".join(map(re.escape, parts))
    return joined.startswith(asked) and re.fullmatch(pattern, unicodedata.normalize("NFC", text), re.DOTALL) is not None


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return unicodedata.normalize("NFC", text)  # as many tokenizers read every text


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
