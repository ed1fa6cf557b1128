"""Models behind an API, which we know by name only. `hosted.json` of a model directory holds the name
(`builders.models` writes it)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders.engines import Request
from builders.engines.answers import NEUTRAL, Answer, decoding, read_completion, seed_of
from builders.engines.lanes import Facts
from builders.engines.servers import PREFILLS, Prefill, Server
from builders.engines.transport import Question
from schemas.sections import Sampling

HOSTED = "hosted.json"
_HARMLESS = {"system": "Answer.", "user": "1 + 1 =", "assistant": "It is"}


def read_hosted(directory: Path) -> str | None:
    """The name of the hosted model of a directory; None if the directory holds weights."""
    path = directory / HOSTED
    return json.loads(path.read_text(encoding="utf-8"))["model"] if path.exists() else None


class HostedModel:
    """`/chat/completions` for prompts that are rendered as chats, `/completions` for texts."""

    ours = False

    def __init__(self, name: str, prefill: Prefill | None):
        self.name, self.prefill = name, prefill

    def look(self, server: Server, models: list[dict[str, Any]] | None, facts: Facts) -> None:
        facts.is_vllm = any(model.get("owned_by") == "vllm" for model in models or ())

    def question(self, request: Request, sampling: Sampling) -> Question[Answer]:
        """One request in the API's terms."""
        messages = [message.model_dump() for message in request.messages]
        ask = self._chat if request.rendering == "chat" else self._text
        harmless = [{"role": m["role"], "content": _HARMLESS[m["role"]]} for m in messages]
        begun = _HARMLESS["assistant"] if request.prefill else ""
        return Question(
            "/chat/completions" if request.rendering == "chat" else "/completions",
            lambda facts: ask(facts, messages, request.prefill, sampling, request.key),
            lambda body: read_completion(body, sampling),
            lambda facts: ask(facts, harmless, begun, sampling, request.key),
            request.key,
        )

    def _text(
        self, facts: Facts, messages: Sequence[dict[str, str]], prefill: str, sampling: Sampling, key: str
    ) -> dict[str, Any]:
        prompt = "".join(message["content"] for message in messages) + prefill
        body: dict[str, Any] = {"model": self.name, "prompt": prompt, "max_tokens": sampling.max_new_tokens}
        body |= {"logprobs": 1} if sampling.logprobs else {}
        return body | self._decoding(facts, sampling, key)

    def _chat(
        self, facts: Facts, messages: Sequence[dict[str, str]], prefill: str, sampling: Sampling, key: str
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "messages": messages, facts.max_tokens: sampling.max_new_tokens}
        if prefill:
            body |= self._begun(facts, messages, prefill)
        body |= {"logprobs": True} if sampling.logprobs else {}
        return body | self._decoding(facts, sampling, key)

    def _decoding(self, facts: Facts, sampling: Sampling, key: str) -> dict[str, Any]:
        """Seeds of 31 bits: some APIs take no larger ones."""
        seed = {"seed": seed_of(key) >> 32} if sampling.temperature > 0 else {}
        return decoding(sampling) | seed | (NEUTRAL if facts.is_vllm else {})

    def _begun(self, facts: Facts, messages: Sequence[dict[str, str]], prefill: str) -> dict[str, Any]:
        """The conversation with the start of the answer, in the way that the server continues it."""
        way = self.prefill or ("continue_final_message" if facts.is_vllm else None)
        if way is None:
            raise ValueError(
                f"prompts have a prefill, and no server says that it continues one with `rendering: chat`; set"
                f" PAIRWRIGHT_PREFILL to the way of '{self.name}' ({', '.join(PREFILLS)}), or use a template without"
                " prefill or `rendering: text`"
            )
        start = {"role": "assistant", "content": prefill} | ({"prefix": True} if way == "prefix" else {})
        asked = {"messages": [*messages, start]}
        if way == "continue_final_message":
            asked |= {"continue_final_message": True, "add_generation_prompt": False}
        return asked
