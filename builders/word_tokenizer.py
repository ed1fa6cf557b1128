"""A lossless word-level tokenizer made from the words of a problems run, for models that are initialised here.

A token is a word, a single digit or a mark, each with or without the space before it, or a white-space character. Both
forms of every word are there, so a known word is known wherever it stands. Unknown words become `<unk>`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from builders.template_files import read_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
PATTERN = r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]|\s"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}:\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
DIRECTORY = Path(__file__).parent / "templates"
TEMPLATES = ("boxed", "final_answer", "question_answer")
"""Those that generated problems are asked with. They are named, so that a new template makes no other vocabulary."""

_PROSE = "system user assistant Question Answer The the final Final answer is Therefore step by boxed"
_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_WORD = re.compile("[A-Za-z]+")
_MARK = re.compile(r"[^\sA-Za-z\d]")


def vocabulary(texts: Iterable[str]) -> list[str]:
    """All tokens in a fixed order: specials, white space, digits, marks, then words by alphabet, each in both forms.

    ASCII digits, marks and white space are always there, as are the words of `TEMPLATES` and of chats.
    """
    words, marks = set(_WORD.findall(_PROSE)), set(_MARKS)
    for text in (*template_texts(TEMPLATES), *texts):
        words.update(_WORD.findall(text))
        marks.update(_MARK.findall(text))
    tokens = [PAD, EOS, UNK, " ", "\n", "\t", "\r"]
    for unit in (*"0123456789", *sorted(marks), *sorted(words)):
        tokens += [unit, " " + unit]
    return tokens


def build_tokenizer(texts: Iterable[str], max_length: int | None = None) -> "PreTrainedTokenizerFast":
    """A tokenizer for which `decode(encode(text)) == text` wherever all words of a text are known.

    The same set of words gives the same ids. `max_length` is the context length that its users are told of.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(vocabulary(texts))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        **({"model_max_length": max_length} if max_length else {}),
    )


def template_texts(names: Iterable[str]) -> list[str]:
    """All texts of some shipped templates.

    Raises ValueError for a name without a file.
    """
    return [text for template in _templates(names) for text in _strings(template)]


def asks_for_programs(names: Iterable[str]) -> bool:
    """Whether one of some shipped templates is of style `program`. Raises ValueError as `template_texts` does."""
    return any(template.get("style") == "program" for template in _templates(names))


def _templates(names: Iterable[str]) -> list[dict[str, Any]]:
    return [yaml.safe_load(read_file(name, DIRECTORY)[1]) for name in names]


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _strings(part)]
    return [value] if isinstance(value, str) else []
