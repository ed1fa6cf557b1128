"""A hosted model and what is asked of it, for tests of engine `openai`. Pauses are a hundredth of the usual ones."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from builders.engines import Request, load_engine
from builders.engines.openai import OpenaiEngine
from builders.model_files import write_record
from builders.models import write_hosted
from schemas import Chat
from schemas.sections import Sampling
from stores.ledger import Completion
from tests.fault_server import MODEL, FaultServer

KEY = "sk-proj-never-to-be-seen-0123456789"
EXPLORE, GREEDY = (Sampling(temperature=t, max_new_tokens=16) for t in (1.0, 0.0))


def connect(monkeypatch: pytest.MonkeyPatch, *servers: FaultServer, **settings: float | str) -> None:
    """Points the environment at servers, with a key; `settings` are `PAIRWRIGHT_<name>`."""
    monkeypatch.setenv("PAIRWRIGHT_BASE_URLS", ",".join(server.url for server in servers))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name, value in ({"backoff_s": 0.01, "outage_s": 20, "timeout_s": 30} | settings).items():
        monkeypatch.setenv(f"PAIRWRIGHT_{name.upper()}", str(value))


def hosted_dir(directory: Path, model: str = MODEL) -> Path:
    """A model directory that stands for a hosted model."""
    directory.mkdir(parents=True, exist_ok=True)
    write_record(directory, write_hosted(directory, model))
    return directory


def engine(tmp_path: Path, model: str = MODEL) -> OpenaiEngine:
    loaded = load_engine("openai", hosted_dir(tmp_path / "hosted", model))
    assert isinstance(loaded, OpenaiEngine)
    return loaded


def ask(key: str, text: str = "", prefill: str = "", rendering: str = "chat") -> Request:
    return Request(key, (Chat(role="user", content=text or f"question {key}"),), prefill, rendering)


def asks(count: int) -> list[Request]:
    return [ask(f"k{i:03d}") for i in range(count)]


def complete(
    loaded: OpenaiEngine,
    requests: Iterable[Request],
    sampling: Sampling = EXPLORE,
    batch_size: int = 64,
    into: dict[str, Completion] | None = None,
) -> dict[str, Completion]:
    """Key -> completion of all that the engine answers; each of them once. `into` keeps them if it raises."""
    found = {} if into is None else into
    for batch in loaded.stream(iter(requests), sampling, batch_size):
        assert 0 < len(batch) <= batch_size
        for request, completion in batch:
            assert request.key not in found
            found[request.key] = completion
    return found
