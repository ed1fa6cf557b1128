"""Engines turn requests into completions. One contract: `stream` yields lists of finished requests as they finish;
the caller commits each list to the ledger atomically before it asks for the next.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

from schemas import Chat
from schemas.sections import Sampling
from stores.ledger import Completion


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

    def stream(self, requests: Sequence[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        """Completes the requests. How they are batched depends only on the requests given."""
        ...


_ENGINES = {"hf": "builders.engines.hf:HfEngine", "scripted": "builders.engines.scripted:ScriptedEngine"}


def load_engine(name: str, directory: Path, precision: str = "fp32") -> Engine:
    """Loads the model of a directory into an engine.

    Raises ValueError if the directory holds no model that the engine can run.
    """
    module, attribute = _ENGINES[name].split(":")
    return getattr(import_module(module), attribute).load(directory, precision)
