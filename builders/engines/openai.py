"""Any OpenAI-compatible server: a hosted API, or `vllm serve` with one of our own models; several share the load.

A hosted model (`models.<run>.hosted`) is asked by name, in the API's own terms. Of our own models the prompt is
rendered here and sent as token ids, so that completions are those of the engines `hf` and `vllm`; a server shows that
it has the right weights by their fingerprint, which is the name that it serves them under.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from builders.engines import Finished, Request
from builders.engines.answers import Answer
from builders.engines.budget import Budget
from builders.engines.faults import Unanswerable
from builders.engines.lanes import Facts
from builders.engines.prices import price_usd
from builders.engines.pump import answered
from builders.engines.servers import Server, limits, prefill_way, servers
from builders.engines.transport import GaveUp, Question, Reply, Transport
from schemas.sections import Sampling
from stores.ledger import Completion, Ledger


class Model(Protocol):
    """How one model is asked for completions."""

    name: str
    ours: bool
    """Whether its device seconds and not its price are what it costs."""

    def look(self, server: Server, models: list[dict[str, Any]] | None, facts: Facts) -> None: ...

    def question(self, request: Request, sampling: Sampling) -> Question[Answer] | Completion: ...


class OpenaiEngine:
    """A model behind the servers of the environment (see `servers.servers` and `servers.limits`).

    `device_s` is the time for which servers computed for us, where the model is ours.
    """

    def __init__(self, model: Model):
        self.model, self.device_s = model, 0.0
        self.servers, self.limits = servers(), limits()
        self.budget: Budget | None = None

    @classmethod
    def load(cls, directory: Path, precision: str = "fp32") -> "OpenaiEngine":
        """Reads how the model of a directory is asked; servers are looked at when there is something to ask.

        Raises ValueError for a script, and for servers or limits of the environment that cannot be.
        """
        from builders.engines.hosted import HostedModel, read_hosted
        from builders.engines.served import ServedModel

        if (directory / "script.json").exists():
            raise ValueError(f"{directory}: made from `script`; use engine 'scripted'")
        hosted = read_hosted(directory)
        return cls(HostedModel(hosted, prefill_way()) if hosted else ServedModel(directory, precision))

    def guard(self, ledger: Ledger, keys: Iterable[Sequence[str]]) -> Budget | None:
        """Keeps to what is left of the environment's budget for a run with these keys, if there is one.

        Models of our own have no price.
        """
        if not self.model.ours:
            self.budget = Budget.of(ledger, self.model.name, self.servers[0].url, keys)
        return self.budget

    def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        """Completes the requests, and yields answers as soon as the last ones are committed.

        Raises ValueError for a wrong key, model, setting or server, StopEarly if servers were away for too long or
        requests used up their attempts; whatever was answered has been yielded before.
        """
        transport = Transport(self.servers, self.limits, self.model.look, self.budget)

        async def ask(request: Request) -> Completion | GaveUp:
            question = self.model.question(request, sampling)
            if isinstance(question, Completion):
                return question
            reply = await transport.ask(question)
            return reply if isinstance(reply, GaveUp) else self._completion(reply)

        began = time.perf_counter()
        with contextlib.closing(answered(transport, requests, ask, batch_size)) as batches:
            for batch in batches:
                self.device_s += (time.perf_counter() - began) * self.model.ours
                yield batch
                began = time.perf_counter()

    def _completion(self, reply: Reply[Answer]) -> Completion:
        if isinstance(reply.value, Unanswerable):
            return Completion(reply.value.detail, reply.value.reason, 0, 0, n_attempts=reply.n_attempts)
        completion, usage = reply.value
        model = (completion.served_by or self.model.name).split()[0]
        price = None if self.model.ours else price_usd(model, reply.server.url, usage, asked=self.model.name)
        return completion._replace(price_usd=price, n_attempts=reply.n_attempts)
