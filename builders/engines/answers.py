"""From decoding settings to the fields of a request, and from an answer of `/chat/completions` or `/completions` to a
completion.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from builders.engines.faults import Failed
from schemas.sections import Sampling
from stores.ledger import Completion

_STOPPED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "tool_calls", "function_call")
_CUT = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety")
Answer = tuple[Completion, dict[str, Any]]
"""A completion, and the `usage` that the server reports for it."""
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What vLLM would otherwise take from the model's own generation settings."""


def seed_of(key: str) -> int:
    """A request's own seed: 63 bits of its key's hash, the same as in the engine `vllm`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def decoding(sampling: Sampling) -> dict[str, Any]:
    """The decoding settings that all servers know, but for the seed and the limit of tokens."""
    top_p = {"top_p": sampling.top_p} if sampling.temperature > 0 else {}
    return {"temperature": sampling.temperature} | top_p | ({"stop": sampling.stop} if sampling.stop else {})


def read_completion(body: Mapping[str, Any], sampling: Sampling) -> Answer:
    """(completion, usage) of an answer with one choice; one that was filtered is `refused`, and paid for like others.

    Raises Failed for an answer without one, ValueError if log-probs were asked for and are not there.
    """
    choice, usage = _choice(body.get("choices")), body.get("usage")
    usage = dict(usage) if isinstance(usage, Mapping) else {}
    message = choice.get("message")
    said = message if isinstance(message, Mapping) else {"content": choice.get("text")}
    reason, text = _reason(choice), said.get("content") or ""
    if not isinstance(text, str):
        raise Failed("server", "a completion that is no text")
    text = readable(text)
    if reason == "refused" or (said.get("refusal") and not text):
        reason, text = "refused", readable(str(said.get("refusal") or "filtered by the server"))
    ids = choice.get("token_ids")
    ids = tuple(ids) if isinstance(ids, list) else None
    n_tokens = _count(usage, "completion_tokens", len(ids or ()))
    logprobs = _logprobs(choice) if sampling.logprobs and reason != "refused" else None
    by = " ".join(str(body[name]) for name in ("model", "system_fingerprint") if body.get(name)) or None
    n_prompt = _count(usage, "prompt_tokens", 0)
    return Completion(text, reason, n_tokens, n_prompt, ids, logprobs, served_by=by), usage


def readable(text: str) -> str:
    """A text that UTF-8 can hold: halves of surrogate pairs, which JSON can escape, are joined or replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _choice(choices: object) -> Mapping[str, Any]:
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, Mapping):
        raise Failed("server", "an answer without a completion")
    return first


def _reason(choice: Mapping[str, Any]) -> str:
    reason = str(choice.get("finish_reason") or "").lower()
    for ours, theirs in (("stop", _STOPPED), ("length", _CUT), ("refused", _FILTERED)):
        if reason in theirs:
            return ours
    raise Failed("server", f"finish_reason '{reason[:40]}'")


def _count(usage: Mapping[str, Any], name: str, default: int) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else default


def _logprobs(choice: Mapping[str, Any]) -> tuple[float, ...]:
    found = choice.get("logprobs") or {}
    if found.get("content") is not None:
        return tuple(token["logprob"] for token in found["content"])
    if found.get("token_logprobs") is not None:
        return tuple(found["token_logprobs"])
    raise ValueError("the server returns no log-probs; set `logprobs: false` in `sampling`")
