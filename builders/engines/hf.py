"""Transformers' own `generate`, on any device: batched by length, seeded per request."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from builders.engines import Finished, Request, no_room
from builders.engines.decoding import Codec, Encoded
from builders.model_files import check_language_model, device, load_model, load_tokenizer, positions
from schemas.sections import Sampling
from stores.ledger import Completion

FIRST_ROUND = 64
"""Tokens of the first round of a batch."""
WINDOW = 65_536
"""Requests that are sorted by length together."""

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class HfEngine:
    """A transformers model and its tokenizer.

    Every request draws from a random stream of its own, seeded by its key, so a completion does not depend on how many
    others are drawn. Batches are cut from a window of requests in order of prompt length, then key: the same requests
    give the same batches, and so, on one machine and thread count, the same bits.

    `sampling.logprobs` keeps the log-prob of every generated token, the ending one included, in nats: the model's own
    log-softmax in float32, before temperature and nucleus change it.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"):
        self.model, self.tokenizer, self.device_s = model, tokenizer, 0.0
        configured = getattr(model.generation_config, "eos_token_id", None)
        self.codec = Codec(tokenizer, configured if isinstance(configured, list) else [configured])
        self.eos_ids = self.codec.eos_ids
        pad = tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else self.eos_ids[0]

    @classmethod
    def load(cls, directory: Path, precision: str = "fp32") -> "HfEngine":
        """Loads a model directory onto the device.

        Raises ValueError if it stands for a script or a hosted model.
        """
        check_language_model(directory)
        model = load_model(directory, "bfloat16" if precision == "bf16" else "float32")
        return cls(model.to(device()), load_tokenizer(directory))  # pyrefly: ignore

    def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        """Completes the requests, of each window the longest prompts first; one list per batch of `batch_size`."""
        unread = iter(requests)
        while window := list(islice(unread, WINDOW)):
            ordered = sorted(map(self.codec.encode, window), key=lambda e: (-len(e.ids), e.request.key))
            for start in range(0, len(ordered), batch_size):
                yield self._batch(ordered[start : start + batch_size], sampling)

    def _batch(self, batch: Sequence[Encoded], sampling: Sampling) -> Finished:
        limit = positions(self.model.config)
        over_long = {e.request.key: no_room(len(e.ids), sampling, limit) for e in batch}
        began = time.perf_counter()
        fitting = [e for e in batch if not over_long[e.request.key]]
        completed = self._complete(fitting, sampling) if fitting else []
        self.device_s += time.perf_counter() - began
        answers = {e.request.key: c for e, c in zip(fitting, completed, strict=True)}
        return [(e.request, over_long[e.request.key] or answers[e.request.key]) for e in batch]

    def _complete(self, batch: Sequence[Encoded], sampling: Sampling) -> list[Completion]:
        """Generates in rounds that double in length; a finished row leaves the batch at the end of its round.

        Otherwise one endless row would keep the whole batch busy up to the token limit. Starting a round costs one
        prefill of what is there, at most twice the tokens over all rounds.
        """
        rows, running, end = [_Row(e, [], []) for e in batch], list(range(len(batch))), 0
        while running:
            start, end = end, min(max(FIRST_ROUND, 2 * end), sampling.max_new_tokens)
            self._round([rows[i] for i in running], sampling, start, end)
            running = [i for i in running if not self.codec.ended(rows[i].tokens, sampling.stop)]
            running = running if end < sampling.max_new_tokens else []
        kept = [row.logprobs if sampling.logprobs else None for row in rows]
        return [self.codec.finish(r.prompt, r.tokens, sampling, k) for r, k in zip(rows, kept, strict=True)]

    def _round(self, rows: list["_Row"], sampling: Sampling, start: int, end: int) -> None:
        """Adds the tokens `start` to `end` to every row (fewer where all end sooner; padding follows an ending)."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        inputs = [row.prompt.ids + row.tokens for row in rows]
        width = max(len(ids) for ids in inputs)
        ids = torch.tensor([[self.pad_id] * (width - len(i)) + i for i in inputs], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in inputs], device=self.model.device)
        # A configuration of our own: a model's may bring top_k or penalties, which would change what params say.
        self.model.generation_config = GenerationConfig(
            max_new_tokens=end - start,
            do_sample=False,
            eos_token_id=self.eos_ids,
            pad_token_id=self.pad_id,
        )
        watch = _Watch() if sampling.logprobs else None  # before the draw, which changes the scores
        draw = _draw([row.prompt for row in rows], sampling, width - start) if sampling.temperature > 0 else None
        stops = StoppingCriteriaList([self._stop_at(sampling.stop, width)] if sampling.stop else [])
        with torch.inference_mode():
            out = self.model.generate(  # pyrefly: ignore
                ids,
                attention_mask=mask,
                logits_processor=LogitsProcessorList([p for p in (watch, draw) if p]),
                stopping_criteria=stops,
            )
        for row, tokens in zip(rows, out[:, width:].tolist(), strict=True):
            row.tokens.extend(tokens)
        if watch:
            for row, logprobs in zip(rows, watch.logprobs(out), strict=True):
                row.logprobs.extend(logprobs)

    def _stop_at(self, stops: Sequence[str], origin: int):
        """A stopping criterion per row: one of the strings is among the last tokens of this round."""
        import torch

        tail = max(len(stop) for stop in stops) + 4

        def stop(input_ids: "torch.Tensor", scores: "torch.Tensor", **_: object) -> "torch.Tensor":
            recent = input_ids[:, max(origin, input_ids.shape[1] - tail) :].tolist()
            found = [any(stop in self.codec.decode(row) for stop in stops) for row in recent]
            return torch.tensor(found, device=input_ids.device)

        return stop


class _Row(NamedTuple):
    """A prompt and what was generated after it, with one log-prob per token where they are watched."""

    prompt: Encoded
    tokens: list[int]
    logprobs: list[float]


class _Watch:
    """A logits processor that changes nothing and keeps the log-prob of each token that was taken."""

    def __init__(self) -> None:
        self._taken: list[torch.Tensor] = []
        self._offered: torch.Tensor | None = None

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        self._take(input_ids)
        self._offered = scores.float().log_softmax(-1)
        return scores

    def logprobs(self, sequences: "torch.Tensor") -> list[list[float]]:
        """Of every row of the finished sequences: one log-prob per token of this round."""
        import torch

        self._take(sequences)
        return torch.stack(self._taken, 1).tolist()

    def _take(self, sequences: "torch.Tensor") -> None:
        if self._offered is not None:
            self._taken.append(self._offered.gather(-1, sequences[:, -1:]).squeeze(-1))
            self._offered = None


def _uniforms(key: str, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) that belong to a request."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def _draw(batch: Sequence[Encoded], sampling: Sampling, origin: int):
    """A logits processor that leaves only the drawn token of each row, by inverting the distribution's CDF.

    Column `origin` of the input is where the completions start: every row's n-th token takes its n-th number.
    """
    import torch

    uniforms = torch.from_numpy(np.stack([_uniforms(e.request.key, sampling.max_new_tokens) for e in batch]))

    def draw(input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        probabilities = torch.softmax(scores.to(wide) / sampling.temperature, -1)
        if sampling.top_p < 1:
            probabilities = _nucleus(probabilities, sampling.top_p)
        cdf = probabilities.cumsum(-1)
        token = _invert(cdf, uniforms[:, input_ids.shape[1] - origin])
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)

    return draw


def _invert(cdf: "torch.Tensor", uniforms: "torch.Tensor") -> "torch.Tensor":
    """The token at each row's quantile: (n, V) rising, (n,) in [0, 1) -> (n, 1). Never one of probability 0."""
    import torch

    below_one = 1 - torch.finfo(cdf.dtype).eps / 2  # float32 would round the largest numbers up to 1
    step = uniforms.to(cdf).clamp(max=below_one)[:, None] * cdf[:, -1:]
    return torch.searchsorted(cdf, step, right=True).clamp(max=cdf.shape[1] - 1)


def _nucleus(probabilities: "torch.Tensor", top_p: float) -> "torch.Tensor":
    """Zeroes all but the smallest set of most likely tokens whose mass reaches `top_p`."""
    ordered, places = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return probabilities * (before < top_p).to(probabilities).gather(-1, places.argsort(-1))
