"""Engines turn requests into completions. One contract: `stream` yields lists of finished requests as they finish;
the caller commits each list to the ledger atomically before it asks for the next.
"""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

from schemas import Chat
from schemas.sections import Sampling
from stores.ledger import Completion

COMPLETED = ("stop", "length")
"""Finish reasons of completions; the others say why there is none."""


class Request(NamedTuple):
    """One completion to produce. `key` determines the answer, and seeds it."""

    key: str
    messages: tuple[Chat, ...]
    prefill: str
    rendering: str


Finished = list[tuple[Request, Completion]]


class Engine(Protocol):
    """A model that is ready to complete prompts."""

    device_s: float
    """Seconds that the device has computed so far."""

    def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        """Completes the requests, which are read no further ahead than the engine needs; a list is at most about
        `batch_size` long. A request that cannot be answered has an answer too (see `Completion.finish_reason`).
        """
        ...


_ENGINES = {
    "hf": "builders.engines.hf:HfEngine",
    "vllm": "builders.engines.vllm:VllmEngine",
    "openai": "builders.engines.openai:OpenaiEngine",
    "ray": "builders.engines.ray:RayEngine",
    "scripted": "builders.engines.scripted:ScriptedEngine",
}


def no_room(n_prompt_tokens: int, sampling: Sampling, limit: int | None) -> Completion | None:
    """The answer to a prompt that leaves a model of `limit` tokens no room for `max_new_tokens`; None if it fits."""
    if limit is None or n_prompt_tokens + sampling.max_new_tokens <= limit:
        return None
    detail = f"prompt of {n_prompt_tokens} tokens, max_new_tokens {sampling.max_new_tokens}, the model's limit {limit}"
    return Completion(detail, "over_long", 0, n_prompt_tokens)


def load_engine(name: str, directory: Path, precision: str = "fp32") -> Engine:
    """Loads the model of a directory into an engine.

    Raises ValueError if the directory holds no model that the engine can run.
    """
    module, attribute = _ENGINES[name].split(":")
    return getattr(import_module(module), attribute).load(directory, precision)
