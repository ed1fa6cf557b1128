"""Spans that start inside a sample: whatever the tokenizer, prompt and span together are the text that was written."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from builders.rendering import Rendered, completion_ids, render
from builders.steps import split_steps
from builders.word_tokenizer import build_tokenizer

QUESTION = "Legs of 2 cats, and 3 + 4?"
STEPS = [
    "Let's think step by step.\nStep 1: A cat has 4 legs.\nStep 2: 2 * 4 = 8 legs.\nStep 3: The answer is \\boxed{8}.",
    "Step 1:\n2 cats\n\nStep 2:  two  spaces: 8.\nStep 3:\n\n$$2 * 4 = 8$$\nStep 4:8",
    "Step 1: 🐈\u200d⬛ has é and ü, 4 legs;Step 2: no.\n**Step 2:** 1,024 / 2.5 = 409.6.",
]
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?=\S)|\s+"
"""Roughly how Qwen and Llama 3 cut texts before they merge: line breaks go with the mark before them."""


def trained(inner: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    """A tokenizer that has merged what is frequent in the texts here, the boundaries of steps among it."""
    inner.train_from_iterator([QUESTION, *STEPS] * 3, trainer)
    return inner


def fast(inner: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **special)


def byte_level(split: str | None = None, normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    cut = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Sequence([*cut, levels]), decoders.ByteLevel()
    if normalizer is not None:
        inner.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return fast(trained(inner, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)))


def llama_2() -> PreTrainedTokenizerFast:
    """A `▁` before every text and for every space; bytes for what is unknown; BOS."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    known = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained(inner, trainers.BpeTrainer(vocab_size=450, special_tokens=known, show_progress=False))
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return fast(inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """SentencePiece's unigrams, with spaces as `▁`."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)  # pyrefly: ignore
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)  # pyrefly: ignore
    special = ["<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.,;\n*+=$ "),
    )  # fmt: skip
    return fast(trained(inner, trainer), unk_token="<unk>", eos_token="</s>")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt-2": byte_level,
    "llama-3": lambda: byte_level(SPLIT),
    "qwen": lambda: byte_level(SPLIT, normalizers.NFC()),
    "llama-2": llama_2,
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "words": lambda: build_tokenizer([QUESTION, *STEPS]),
}


@cache
def made(name: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[name]()


def rendered(tokenizer: PreTrainedTokenizerFast, prefill: str) -> Rendered:
    return render(tokenizer, [{"role": "user", "content": QUESTION + "\n"}], prefill, "text")


def text_of(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def assert_joins(tokenizer: PreTrainedTokenizerFast, prefill: str, span: str) -> list[int]:
    """The span's ids, which after the prompt's decode to the prompt and the span, no character more or less."""
    prompt = rendered(tokenizer, prefill)
    ids = completion_ids(tokenizer, prompt, span)
    assert text_of(tokenizer, [*prompt.ids, *ids]) == text_of(tokenizer, prompt.ids) + span
    assert text_of(tokenizer, prompt.ids).endswith(prefill)
    return ids


@pytest.mark.parametrize("text", STEPS[:2])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_step_joins_its_prompt(name: str, text: str) -> None:
    for step in split_steps("", text):
        assert_joins(made(name), text[: step.start], text[step.start : step.end])


ACROSS = [
    ("Step 1: ", "A cat has 4 legs."),  # ` A` is one token
    ("Step 1:", "\n2 cats"),  # `:` and the line break are one token for Qwen and Llama 3
    ("Step 1:", "\n\n2 cats"),
    ("Step 1:\n", "\n2 cats"),
    ("Step 2: ", " two"),
    ("Step 2:", "  two  spaces"),
    ("Step 3: Th", "e answer"),  # inside a word
    ("Step 1: 1", "024"),
    ("Step 1", ": A"),
    ("", "Step 1: A"),
]


@pytest.mark.parametrize(("prefill", "span"), ACROSS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_that_would_reach_across_do_not(name: str, prefill: str, span: str) -> None:
    if (name, prefill) == ("words", "Step 3: Th"):
        pytest.skip("half a word is unknown to it")
    assert_joins(made(name), prefill, span)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_these_tokenizers_do_reach_across(name: str) -> None:
    """Else the test above would show nothing."""
    pairs = [(rendered(made(name), a).ids, rendered(made(name), a + b).ids) for a, b in ACROSS]
    assert sum(whole[: len(prompt)] != prompt for prompt, whole in pairs) >= 2


def test_a_space_that_nobody_wrote_is_not_scored() -> None:
    tokenizer = made("llama-2")
    alone = tokenizer.encode("A cat has 4 legs.", add_special_tokens=False)
    ids = assert_joins(tokenizer, "Step 1: ", "A cat has 4 legs.")
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")  # pyrefly: ignore
    assert not tokenizer.convert_ids_to_tokens(ids)[0].startswith("▁")  # pyrefly: ignore


@settings(max_examples=60)
@given(st.sampled_from(STEPS[:2]), st.data())
@pytest.mark.parametrize("name", ["gpt-2", "llama-3", "llama-2", "metaspace first", "metaspace always"])
def test_any_cut_joins(name: str, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert_joins(made(name), text[:start], text[start:end])


def test_an_ending_is_appended_only_where_it_is_given() -> None:
    tokenizer = made("llama-2")
    prompt = rendered(tokenizer, "Step 1:")
    ids = completion_ids(tokenizer, prompt, " A cat")
    assert tokenizer.eos_token_id not in ids
    assert completion_ids(tokenizer, prompt, " A cat", 2) == [*ids, 2]


def test_what_a_tokenizer_does_not_know_joins_all_the_same() -> None:
    tokenizer = build_tokenizer([QUESTION])
    prompt = rendered(tokenizer, "Zebra: ")
    ids = completion_ids(tokenizer, prompt, "Gnus graze: 4")
    assert text_of(tokenizer, ids) == "<unk><unk>: 4"


def test_an_unknown_word_at_the_prompts_end_takes_nothing_of_the_span() -> None:
    """`Ze` and `Zebra` are both unknown, so the prompt's ids start the whole's though a token reaches across."""
    tokenizer = build_tokenizer([QUESTION])
    ids = completion_ids(tokenizer, rendered(tokenizer, "Ze"), "bra: 4")
    assert text_of(tokenizer, ids) == "<unk>: 4"


def test_letters_with_accents_apart_are_read_as_the_tokenizer_reads_them() -> None:
    tokenizer = made("qwen")
    prompt = rendered(tokenizer, "Step 1: ")
    ids = completion_ids(tokenizer, prompt, "e\u0301lan")
    assert text_of(tokenizer, [*prompt.ids, *ids]).endswith("Step 1: \u00e9lan")


class Mute(PreTrainedTokenizerFast):
    """A tokenizer whose texts cannot be put together, since what it decodes says nothing of them."""

    def decode(self, token_ids, **_) -> str:  # pyrefly: ignore
        return f"{len(token_ids)} tokens"


def test_a_join_that_cannot_be_proved_is_an_error() -> None:
    tokenizer = Mute(tokenizer_object=made("llama-3").backend_tokenizer)
    message = r"cannot continue '.*Step 1: ' with 'A cat': a token reaches across, and apart they decode to another"
    with pytest.raises(ValueError, match=message):
        completion_ids(tokenizer, rendered(tokenizer, "Step 1: "), "A cat")
    assert completion_ids(tokenizer, rendered(tokenizer, "Step 1:"), " A") == tokenizer.encode(" A")


@pytest.mark.parametrize("name", ["llama-3", "llama-2", "words"])
def test_steps_one_after_the_other_are_the_sample(name: str) -> None:
    """The ids of a step begin where those of the prompt end, so a sample is its steps and what stands between them."""
    tokenizer, text = made(name), STEPS[0]
    bounds = [0, *(edge for s in split_steps("", text) for edge in (s.start, s.end))]
    parts = [assert_joins(tokenizer, text[:a], text[a:b]) for a, b in pairwise(bounds)]
    written = rendered(tokenizer, "").ids
    assert text_of(tokenizer, [*written, *(i for part in parts for i in part)]).endswith(QUESTION + "\n" + text)
