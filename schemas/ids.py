"""Deterministic ids, the same on every machine.

`problem_id` hashes the problem's content; below it ids are provenance composites, which sort by problem and compress
well: `prompt_id` = problem + hash of what is asked, `sample_id` = prompt (or problem) + request fingerprint + index.
"""

import hashlib
import json
from collections.abc import Sequence

MAX_INDEX = 10_000


def digest(value: object, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of a JSON-able value (keys sorted, no spaces, UTF-8)."""
    encoded = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(encoded).hexdigest()[:length]


def text_hash(text: str) -> str:
    """The 16-digit hash of a text, for exact de-duplication."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def problem_id(source: str, question: str, choices: Sequence[str] | None) -> str:
    """16 hex digits: the same question of the same source is one problem."""
    return digest([source, question, list(choices) if choices is not None else None])


def prompt_id(problem: str, messages: Sequence[dict[str, str]], prefill: str, rendering: str) -> str:
    """`<problem_id>-<8 hex digits>`."""
    return f"{problem}-{digest([list(messages), prefill, rendering], 8)}"


def sample_id(asked: str, request_fingerprint: str, index: int) -> str:
    """`<prompt_id or problem_id>-<8 hex digits>-<4-digit index>`; `index` is below 10,000.

    Raises ValueError for an index that the fixed width cannot sort.
    """
    if not 0 <= index < MAX_INDEX:
        raise ValueError(f"sample index {index}: a prompt takes at most {MAX_INDEX} samples of one setting")
    return f"{asked}-{request_fingerprint[:8]}-{index:04d}"
