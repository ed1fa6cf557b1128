"""Completions of the policy in training, drawn a step at a time and kept in the ledger.

Every completion is committed under the run's own fingerprint before anything is made of it, and is always read back
from there: a killed run draws none a second time, and goes on from the very numbers that it had. The key says prompt
and visit, which the schedule ties to a step.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import NamedTuple, Protocol

import numpy as np
import torch

from builders.engines import COMPLETED, Finished, Request
from builders.engines.hf import HfEngine
from schemas.ids import digest, sample_id
from schemas.sections import Sampling
from schemas.sections_reinforcement import PpoRun
from stores.ledger import Completion, Ledger
from stores.stage import Stage
from train import memory
from train.packing import Tokens
from train.policy import Policy
from train.tasks import Task


class Sampler(Protocol):
    """Draws completions from a policy as it is now."""

    def stream(self, requests: Iterable[Request]) -> Iterator[Finished]:
        """Completes the requests with the policy's present weights, with token ids and their log-probs; a list per
        batch, each of which is committed before the next is asked for.
        """
        ...


class HfSampler:
    """The policy's own model, by transformers' `generate`: the weights are the present ones without copying.

    If memory is full, fewer completions are drawn together from then on.
    """

    def __init__(self, stage: Stage, policy: Policy, sampling: Sampling):
        self.place, self.batch = f"{stage.section} {stage.name}", stage.config.rollout_batch
        self.policy, self.sampling = policy, sampling

    def stream(self, requests: Iterable[Request]) -> Iterator[Finished]:
        left = {request.key: request for request in requests}
        with self.policy.generating() as model:
            engine = HfEngine(model, self.policy.tokenizer)
            while True:
                try:
                    for batch in engine.stream(list(left.values()), self.sampling, self.batch):
                        for request, _ in batch:
                            del left[request.key]
                        yield batch
                    return
                except torch.OutOfMemoryError:
                    if min(self.batch, len(left)) == 1:
                        raise
                self.batch = min(self.batch, len(left)) // 2
                said = f"memory is full, in rollouts; {self.batch:,} at a time from now on"
                print(f"{self.place}: {said}", file=sys.stderr)
                memory.free()


_SAMPLERS = {"hf": "train.rollouts:HfSampler", "vllm": "train.rollouts_vllm:VllmSampler"}
"""Engine -> where its sampler is; imported when it is used."""


def load_sampler(stage: Stage, policy: Policy, sampling: Sampling) -> Sampler:
    """The sampler of the run's engine. Raises ValueError for an engine that does not roll out."""
    engine = stage.config.engine
    if engine not in _SAMPLERS:
        have = ", ".join(f"'{name}'" for name in _SAMPLERS)
        raise ValueError(f"{stage.section}.{stage.name}.engine: '{engine}' does not roll out here (have {have})")
    module, attribute = _SAMPLERS[engine].split(":")
    return getattr(import_module(module), attribute)(stage, policy, sampling)


class Drawn(NamedTuple):
    """A completion of a task; `index` counts the visits of its prompt."""

    task: Task
    index: int
    sample_id: str
    completion: Completion

    @property
    def tokens(self) -> Tokens:
        """The prompt, and the tokens as they were drawn, an ending included."""
        assert self.completion.token_ids, "what is learnt from comes with its tokens"
        return Tokens(self.task.ids, np.array(self.completion.token_ids, dtype=np.int32))

    @property
    def truncated(self) -> bool:
        return self.completion.finish_reason == "length"


Visit = tuple[int, int]
"""(number of a task, how often it was visited before)."""


class Rollouts:
    """The completions of one run, whose fingerprint is `context`."""

    def __init__(self, stage: Stage, tasks: Sequence[Task], context: str, sampling: Sampling, sampler: Sampler):
        self.tasks, self.context, self.model, self.sampler = tasks, context, stage.name, sampler
        self.stage, self.ledger = stage, Ledger()
        config: PpoRun = stage.config
        self.noted = {"sampling": sampling.model_dump(), "seed": stage.params.seed, "precision": config.precision}

    def draw(self, visits: Sequence[Visit]) -> list[Drawn]:
        """A completion of each visit, in order; what the ledger lacks is drawn and committed."""
        missing = set(self.ledger.missing([self._key(visit) for visit in visits]))
        if missing:
            self._commit([visit for visit in visits if self._key(visit) in missing])
        return self.read(visits)

    def read(self, visits: Sequence[Visit]) -> list[Drawn]:
        """Completions that are in the ledger. Raises ValueError if somebody has removed one from it."""
        keys = [self._key(visit) for visit in visits]
        found = self.ledger.get(keys)
        if lost := next((key for key in keys if key not in found), None):
            raise ValueError(
                f"{self.ledger.path}: completion {lost} of this run is gone; restore it, or change the seed"
            )
        return [self._drawn(i, index, found[key]) for key, (i, index) in zip(keys, visits, strict=True)]

    def _drawn(self, number: int, index: int, completion: Completion) -> Drawn:
        task = self.tasks[number]
        if completion.finish_reason not in COMPLETED:
            raise ValueError(f"prompt {task.prompt_id}: {completion.finish_reason} ({completion.text}); leave it out")
        return Drawn(task, index, self.sample_id(number, index), completion)

    def sample_id(self, number: int, index: int) -> str:
        """The id of a task's completion."""
        return sample_id(self.tasks[number].prompt_id, self.context, index)

    def _commit(self, visits: Sequence[Visit]) -> None:
        """Draws and keeps them, each batch as it is finished."""
        keys = {self._request(visit).key: self._key(visit) for visit in visits}
        self.ledger.begin(self.context, self.model, self.context, self.noted)
        began = time.perf_counter()
        for batch in self.sampler.stream([self._request(visit) for visit in visits]):
            now = time.perf_counter()
            entries = [(keys[request.key], completion) for request, completion in batch]
            self.ledger.append(self.context, self.model, entries, now - began, now - began)
            self.stage.cost.tokens += sum(completion.n_tokens for _, completion in batch)
            began = time.perf_counter()

    def _key(self, visit: Visit) -> str:
        """The ledger's: the same draw of another run is another completion."""
        number, index = visit
        return f"{self.context}-{digest(self.tasks[number].prompt_id)}-{index:04d}"

    def _request(self, visit: Visit) -> Request:
        """Its key, which seeds the draw, says nothing of the run: runs that differ in a setting alone draw with the
        same random numbers, and begin with the same rollouts.
        """
        number, index = visit
        task = self.tasks[number]
        key = f"{digest([self.stage.params.seed, task.prompt_id])}-{index:04d}"
        return Request(key, task.messages, task.prefill, task.rendering)
