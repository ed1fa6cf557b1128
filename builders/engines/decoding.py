"""Between requests and tokens: what the engines that run a model themselves share, so that they answer alike.

A prompt is rendered and encoded by `builders.rendering`, as in training; generated tokens become a completion here.
"""

import bisect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from builders.engines import Request
from builders.rendering import render_ids
from schemas.sections import Sampling
from stores.ledger import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoded(NamedTuple):
    """A request and its prompt: token ids, and the text that they decode to."""

    request: Request
    ids: list[int]
    text: str


class Codec:
    """A model's tokenizer, with the tokens that end its completions.

    Raises ValueError for a model without any ending token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", eos_ids: Iterable[int | None]):
        self.tokenizer = tokenizer
        found = dict.fromkeys([*eos_ids, tokenizer.eos_token_id])
        self.eos_ids = [i for i in found if i is not None]
        if not self.eos_ids:
            raise ValueError("the tokenizer has no end-of-sequence token, so no completion could end")
        self._last: Encoded | None = None

    def encode(self, request: Request) -> Encoded:
        """The request with its prompt's tokens; the samples of a prompt follow each other, and encode it once."""
        if self._last is None or self._last.request[1:] != request[1:]:
            messages = [message.model_dump() for message in request.messages]
            ids = render_ids(self.tokenizer, messages, request.prefill, request.rendering)
            self._last = Encoded(request, ids, self.decode(ids))
        return self._last._replace(request=request)

    def ended(self, tokens: list[int], stops: Sequence[str]) -> bool:
        """Whether generated tokens hold an ending token or a stop string."""
        if any(token in self.eos_ids for token in tokens):
            return True
        return bool(stops) and any(stop in self.decode(tokens) for stop in stops)

    def finish(
        self,
        encoded: Encoded,
        generated: Sequence[int],
        sampling: Sampling,
        logprobs: Sequence[float] | None = None,
    ) -> Completion:
        """The completion that the generated tokens make: up to the first ending token, then up to a stop string.

        `logprobs`: one for each generated token. What follows the ending (padding) is ignored.
        """
        end = next((i for i, token in enumerate(generated) if token in self.eos_ids), None)
        tokens = list(generated if end is None else generated[: end + 1])
        text = self.completion_text(encoded, tokens if end is None else tokens[:-1])
        cuts = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        if cuts:
            text = text[: min(cuts)]
            tokens = tokens[: self._tokens_until(encoded, tokens, sampling.stop)]
        reason = "stop" if end is not None or cuts else "length"
        kept = None if logprobs is None else tuple(logprobs[: len(tokens)])
        return Completion(text, reason, len(tokens), len(encoded.ids), tuple(tokens), kept)

    def completion_text(self, encoded: Encoded, tokens: list[int]) -> str:
        """Decoded after its prompt: tokenizers that mark words by a leading space drop it at the start of a text."""
        whole = self.decode(encoded.ids + tokens)
        return whole[len(encoded.text) :] if whole.startswith(encoded.text) else self.decode(tokens)

    def decode(self, ids: list[int]) -> str:
        """The text of some tokens, without special ones."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one list of ids gives one text"
        return text

    def _tokens_until(self, encoded: Encoded, tokens: list[int], stops: Sequence[str]) -> int:
        """How many tokens it took to write the first stop string."""
        return bisect.bisect_left(
            range(len(tokens)),
            True,
            key=lambda n: any(stop in self.completion_text(encoded, tokens[:n]) for stop in stops),
        )
