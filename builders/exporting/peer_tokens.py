"""Tokens: ours, which training reads, and those that other trainers make of the same texts.

Every trainer joins prompt and completion in its own way. An export says of each row whether the join gives the tokens
that `train` reads, so the ways are written down here; tests compare them with the trainers' own code.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from builders.exporting.peer_rows import Example
from builders.model_files import fingerprint, load_limits, load_tokenizer
from builders.rendering import Rendered, completion_ids, ending_id, render, render_text
from schemas.params import table_runs
from stores.paths import run_dir
from stores.store import Store


class Tokens(NamedTuple):
    """Token ids: what is only read, and what is scored."""

    prompt: list[int]
    completion: list[int]


Join = Callable[[str, Sequence[str]], list[Tokens]]
"""From the texts in a file, a prompt and its completions, to the tokens that a trainer makes of them."""


class Texts(NamedTuple):
    """One row as texts for a trainer, and as the tokens that our training reads."""

    prompt: str
    completions: list[str]
    tokens: list[Tokens]


class Words:
    """A model's tokenizer, and the special tokens that stand around a text, as texts."""

    def __init__(self, name: str, directory: Path):
        self.name, self.fingerprint = name, fingerprint(directory)
        self.tokenizer, self.eos_ids = load_tokenizer(directory), load_limits(directory).eos_ids
        self._endings: dict[str, int] = {}

    @cached_property
    def bos(self) -> str:
        """The text of the BOS token, where the tokenizer writes it before every text by itself; else nothing."""
        starts = self.tokenizer.encode("", add_special_tokens=True)[:1]
        writes = bool(starts) and starts[0] == self.tokenizer.bos_token_id != self.tokenizer.eos_token_id
        return str(self.tokenizer.bos_token) if writes else ""

    @property
    def eos(self) -> str:
        """The text of the tokenizer's EOS token."""
        return str(self.tokenizer.eos_token)

    def prompt(self, example: Example) -> str:
        """The prompt as text, without what the tokenizer adds."""
        return render_text(self.tokenizer, example.messages, example.prefill, example.rendering)

    def opened(self, example: Example) -> str:
        """The prompt as text, for trainers that add no special tokens: with the BOS token that ours has."""
        return (self.bos if example.rendering == "text" else "") + self.prompt(example)

    def ending(self, rendering: str) -> str:
        """The text of the token that ends a completion."""
        return str(self.tokenizer.convert_ids_to_tokens(self._ending(rendering)))

    def _ending(self, rendering: str) -> int:
        if rendering not in self._endings:
            found = ending_id(self.tokenizer, rendering, self.eos_ids)
            if found is None:
                raise ValueError(f"the tokenizer of model '{self.name}' has no end-of-sequence token to train on")
            self._endings[rendering] = found
        return self._endings[rendering]

    def ours(self, example: Example) -> list[Tokens]:
        """The tokens that our training reads: prompt and completion, for each completion."""
        prompt: Rendered = render(self.tokenizer, example.messages, example.prefill, example.rendering)
        return [
            Tokens(
                prompt.ids,
                completion_ids(self.tokenizer, prompt, side.text, self._ending(prompt.rendering) if side.eos else None),
            )
            for side in example.sides
        ]

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The token ids of a text; `special`: with those that the tokenizer adds by itself."""
        return self.tokenizer.encode(text, add_special_tokens=special)

    def apart(self, prompt: str, completions: Sequence[str]) -> list[Tokens]:
        """Prompt and completion tokenised one without the other, and nothing added."""
        return [Tokens(self.encode(prompt), self.encode(text)) for text in completions]


def words_of(store: Store, name: str) -> Words:
    """The tokenizer of a run of `models`, as it is in the store's version; its weights need not be there.

    Raises ValueError for an unknown run, and for one that is not built.
    """
    known = table_runs(store.params, "models")
    if name not in known:
        have = ", ".join(f"'{run}'" for run in sorted(known)) or "none"
        raise ValueError(f"no run '{name}' of models in params.yaml (have {have})")
    directory, snapshot = run_dir("models", name), store.snapshot
    if snapshot is None:
        return Words(name, store.root / directory)
    with tempfile.TemporaryDirectory() as scratch:
        for path in snapshot.contents(directory):
            if not path.endswith(".safetensors"):
                place = Path(scratch) / Path(path).relative_to(directory)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(snapshot.local(path).absolute())
        return Words(name, Path(scratch))


def common_prefix(first: Sequence[int], *others: Sequence[int]) -> int:
    """The number of leading tokens that all have in common."""
    length = 0
    for ids in zip(first, *others, strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return length


class Agreement:
    """How many sequences a trainer makes the same tokens of as ours, and which is the first that differs."""

    def __init__(self, words: Words, join: Join):
        self.words, self.join = words, join
        self.sequences = self.equal = self.more_eos = 0
        self.first = ""

    def add(self, example: Example, texts: Texts) -> None:
        """Counts the sequences of one row."""
        theirs = self.join(texts.prompt, texts.completions)
        for side, ours, joined in zip(example.sides, texts.tokens, theirs, strict=True):
            self.sequences += 1
            self.equal += joined == ours
            ended = Tokens(ours.prompt, [*ours.completion, self.words.tokenizer.eos_token_id])
            self.more_eos += not side.eos and joined == ended
            if joined != ours and not self.first:
                self.first = example.name

    @property
    def sentence(self) -> str:
        """The counts in words."""
        if self.equal == self.sequences:
            return f"All {self.sequences:,} sequences have the tokens that `train` reads, token for token."
        eos = f"; {self.more_eos:,} have one EOS more, after a text that has not ended" if self.more_eos else ""
        return (
            f"{self.equal:,} of {self.sequences:,} sequences have the tokens that `train` reads, token for token{eos}."
            f" The first that differs is of {self.first}."
        )
