"""Prompts and completions as tokens, for tokenizers that write more than they are given."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from builders.rendering import Rendered, completion_ids, ending_id, render

LETTERS = "Qax:7\n"
PIECES = ["<unk>", "<s>", "</s>", "<end_of_turn>", "▁", *LETTERS, "▁Q", "▁7", "▁x", "::"]
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}ENDING{% endfor %}"


def llama_2(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """Llama 2's normaliser and decoder: a `▁` before every text, and in place of every space."""
    merges = [("▁", "Q"), ("▁", "7"), ("▁", "x"), (":", ":")]
    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(PIECES)}, merges, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", additional_special_tokens=["<end_of_turn>"]
    )
    tokenizer.chat_template = template
    return tokenizer


def gpt_2() -> PreTrainedTokenizerFast:
    """One token per byte: nothing depends on what is before it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def pieces(text: str, completion: str, rendering: str = "text") -> list[str]:
    tokenizer = llama_2("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    prompt = render(tokenizer, [{"role": "user", "content": text}], "", rendering)
    return tokenizer.convert_ids_to_tokens(completion_ids(tokenizer, prompt, completion))  # pyrefly: ignore


@pytest.mark.parametrize("rendering", ["text", "chat"])
@pytest.mark.parametrize(
    ("text", "completion", "expected"),
    [
        ("Qa:", "\na", ["\n", "a"]),  # alone: ▁ \n a
        ("Qa:\n", "7", ["7"]),
        ("Qa:", " 7", ["▁7"]),
        ("Qa:", "", []),
        ("Qa:", ":a", [":", "a"]),  # `::` is one token: the prompt's last is not what the model has read
        ("Qa: ", "7", ["7"]),  # `▁7` is one token, and `7` alone is too
        ("Qa: ", " 7", ["▁7"]),
    ],
)
def test_a_completion_starts_where_its_prompt_ends(text, completion, expected, rendering):
    assert pieces(text, completion, rendering) == expected


def test_an_ending_is_appended_and_other_tokenizers_are_left_alone():
    tokenizer = gpt_2()
    prompt = Rendered("Q:", "text", tokenizer.encode("Q:"))
    assert completion_ids(tokenizer, prompt, " 7") == tokenizer.encode(" 7")
    assert completion_ids(tokenizer, prompt, " 7", 5) == [*tokenizer.encode(" 7"), 5]


@pytest.mark.parametrize(
    ("written", "rendering", "eos_ids", "expected"),
    [
        ("<end_of_turn>\n", "chat", (2, 3), "<end_of_turn>"),
        ("<end_of_turn>\n", "chat", (2,), "</s>"),  # generation would not stop there
        ("<end_of_turn>\n", "text", (2, 3), "</s>"),
        (" </s>", "chat", (2, 3), "</s>"),
        ("\n", "chat", (2, 3), "</s>"),
    ],
)
def test_a_turn_ends_as_the_template_ends_it(written, rendering, eos_ids, expected):
    tokenizer = llama_2(TEMPLATE.replace("ENDING", written))
    assert ending_id(tokenizer, rendering, eos_ids) == tokenizer.convert_tokens_to_ids(expected)
