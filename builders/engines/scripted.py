"""An engine that reads its completions from a script: for tests of everything around a model."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from builders.engines import Finished, Request
from schemas.ids import digest
from schemas.sections import Sampling
from stores.ledger import Completion


class ScriptedEngine:
    """Answers each request with the line of the script that its key's hash picks.

    `$PAIRWRIGHT_SCRIPTED_DELAY` makes every batch take that many seconds.
    """

    def __init__(self, completions: Sequence[str]):
        self.completions, self.device_s = completions, 0.0

    @classmethod
    def load(cls, directory: Path, precision: str = "fp32") -> "ScriptedEngine":
        """Reads `script.json`.

        Raises ValueError if the model directory holds none.
        """
        path = directory / "script.json"
        if not path.exists():
            raise ValueError(f"{directory}: engine 'scripted' needs a model made from `script`; use engine 'hf'")
        return cls(json.loads(path.read_text(encoding="utf-8"))["completions"])

    def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        """Completes the requests in the order of their keys."""
        ordered = sorted(requests, key=lambda request: request.key)
        delay = float(os.environ.get("PAIRWRIGHT_SCRIPTED_DELAY", "0"))
        for start in range(0, len(ordered), batch_size):
            time.sleep(delay)
            yield [(request, self._complete(request)) for request in ordered[start : start + batch_size]]

    def _complete(self, request: Request) -> Completion:
        text = self.completions[int(digest(request.key), 16) % len(self.completions)]
        words = sum(len(message.content.split()) for message in request.messages)
        return Completion(text, "stop", len(text.split()) + 1, words)
