"""Our own model directories behind `vllm serve` (or any server that takes token ids)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from builders.engines import Request, no_room
from builders.engines.answers import NEUTRAL, Answer, decoding, read_completion, seed_of
from builders.engines.decoding import Codec, Encoded
from builders.engines.lanes import Facts
from builders.engines.servers import Server
from builders.engines.transport import Question
from builders.model_files import adapter_of, check_language_model, load_limits, load_tokenizer, trusts_code
from schemas.sections import Sampling
from stores.ledger import Completion
from stores.model_record import read_record


class ServedModel:
    """A model directory that servers have under the name of its fingerprint."""

    ours = True

    def __init__(self, directory: Path, precision: str):
        check_language_model(directory)
        self.directory, self.precision = directory, precision
        self.name: str = read_record(directory)["fingerprint"]
        limits = load_limits(directory)
        self.codec, self.positions = Codec(load_tokenizer(directory), limits.eos_ids), limits.positions

    def look(self, server: Server, models: list[dict[str, Any]] | None, facts: Facts) -> None:
        """Raises ValueError if the server has another model, or one that is not under our fingerprint."""
        found = next((model for model in models or () if model.get("id") == self.name), None)
        if found is None:
            have = ", ".join(f"'{model.get('id')}'" for model in models or ()) or "no model that it names"
            raise ValueError(
                f"{server.place} has {have}, not '{self.name}', the fingerprint of {self.directory};"
                f" start it with: {self._command(server)}"
            )
        facts.is_vllm = found.get("owned_by") == "vllm"
        length = found.get("max_model_len")
        facts.max_model_len = length if isinstance(length, int) else None

    def _command(self, server: Server) -> str:
        """How vLLM serves the directory under its fingerprint: an adapter beside its base, by vLLM's own names."""
        adapter, port = adapter_of(self.directory), urlsplit(server.url).port
        options = [f"--dtype {'bfloat16' if self.precision == 'bf16' else 'float32'}"]
        if adapter:
            rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
            limit = max(8, 1 << (rank - 1).bit_length())  # vLLM takes powers of two
            options += [f"--enable-lora --max-lora-rank {limit} --lora-modules {self.name}={adapter}"]
        else:
            options += [f"--served-model-name {self.name}"]
        options += [f"--port {port}"] if port else []
        options += ["--trust-remote-code"] if trusts_code(self.directory) else []
        return f"vllm serve {self.directory} {' '.join(options)}"

    def question(self, request: Request, sampling: Sampling) -> Question[Answer] | Completion:
        """One request as token ids; the answer itself where the prompt leaves no room for one."""
        encoded = self.codec.encode(request)
        if answer := no_room(len(encoded.ids), sampling, self.positions):
            return answer
        return Question(
            "/completions",
            lambda facts: self._body(facts, encoded.ids, sampling, request.key),
            lambda body: self._read(body, encoded, sampling),
            lambda facts: self._body(facts, encoded.ids[:1], sampling, request.key),
        )

    def _body(self, facts: Facts, ids: list[int], sampling: Sampling, key: str) -> dict[str, Any]:
        needed = len(ids) + sampling.max_new_tokens
        if facts.max_model_len is not None and needed > facts.max_model_len:
            raise ValueError(
                f"a prompt of {len(ids)} tokens with max_new_tokens {sampling.max_new_tokens} exceeds the server's"
                f" limit {facts.max_model_len}, which is not the model's; start it with a larger --max-model-len"
            )
        body = {"model": self.name, "prompt": ids, "max_tokens": sampling.max_new_tokens}
        logprobs = {"logprobs": 0} if sampling.logprobs else {}  # 0: of the drawn token alone
        ours = NEUTRAL | {"stop_token_ids": self.codec.eos_ids, "return_token_ids": True} if facts.is_vllm else {}
        seed = {"seed": seed_of(key)} if sampling.temperature > 0 else {}
        return body | decoding(sampling) | seed | logprobs | ours

    def _read(self, body: Mapping[str, Any], encoded: Encoded, sampling: Sampling) -> Answer:
        """The answer; its text is decoded here, where the server returns tokens: every engine decodes alike."""
        answer = read_completion(body, sampling)
        read, usage = answer
        if read.token_ids is None or read.finish_reason == "refused":
            return answer
        completion = self.codec.finish(encoded, read.token_ids or (), sampling, read.logprobs)
        # A stop string that the server's text has and ours lacks is one too.
        reason = "stop" if read.finish_reason == "stop" else completion.finish_reason
        return completion._replace(finish_reason=reason, served_by=read.served_by), usage
