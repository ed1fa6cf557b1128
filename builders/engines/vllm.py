"""vLLM in process: continuous batching over the whole stream of requests, the samples of a prompt prefilled once.

Requests are added as others finish, so that the engine is never drained between batches. Prompts go in as the tokens
that the other engines and training use (`builders.rendering`), and tokens come out: text is decoded here, as for `hf`.
Every request has a seed of its own. vLLM computes a request in batches with whatever else runs, and a batch's shape can
change the last bits of its logits: a completion is drawn from the same distribution whatever runs beside it, but its
tokens are only the same where no draw (or greedy choice) lies within those bits. The ledger keeps what was drawn first.
"""

import hashlib
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from builders.engines import COMPLETED, Finished, Request, no_room
from builders.engines.decoding import Codec, Encoded
from builders.engines.vllm_start import Started, start
from builders.engines.vllm_weights import Named, Sender
from builders.model_files import load_limits, load_tokenizer
from schemas.sections import Sampling
from stores.ledger import Completion

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams


class VllmEngine:
    """A running vLLM with the model of a directory. It ends with this object, or with the process, however it ends.

    `sampling.logprobs` keeps the same quantity as the `hf` engine: the model's own log-softmax (`raw_logprobs`).
    A request that a device has too little memory for is an error and no answer: another machine may have more.
    """

    def __init__(self, started: Started, codec: Codec, positions: int | None):
        self.vllm, self.codec, self.positions, self.device_s = started.engine, codec, positions, 0.0
        self._adapter, self._devices = started.adapter, started.devices
        self._running: dict[str, Encoded] = {}
        self._added = 0
        self._sender = Sender(self.vllm)
        self.close = weakref.finalize(self, started.stop)
        """Ends vLLM now; nothing can be asked of it any more."""

    @classmethod
    def load(cls, directory: Path, precision: str = "fp32", synchronised: bool = False) -> "VllmEngine":
        """Starts vLLM with a model directory, laid out as the environment says (`builders.engines.vllm_layout`).

        `synchronised`: it will be given other weights (`synchronise`); an adapter of the directory is left out.
        Raises ValueError if vLLM is not installed, if the directory stands for a script or a hosted model, or for a
        layout that cannot be meant.
        """
        started = start(directory, precision, synchronised)
        limits = load_limits(directory)
        return cls(started, Codec(load_tokenizer(directory), limits.eos_ids), limits.positions)

    def synchronise(self, weights: Iterable[Named]) -> None:
        """Replaces all weights, under the names of the model's checkpoint; adapters come merged. Wakes a sleeper.

        Raises ValueError if some are missing, OSError if vLLM fails.
        """
        assert not self._running, "a stream is drawn from one set of weights"
        with self._living():
            if self.vllm.is_sleeping():
                self.vllm.wake_up(["weights"])
            self._sender.send(weights)
            is_empty = self.vllm.reset_prefix_cache()  # apart from the assertion, which `python -O` leaves out
            assert is_empty, "nothing is running"
            if self.vllm.is_sleeping():
                self.vllm.wake_up(["kv_cache"])  # not earlier: its memory is free while weights are sent

    def sleep(self) -> None:
        """Gives the device's memory back until the next `synchronise`; on the CPU vLLM keeps what it has."""
        if self.vllm.vllm_config.model_config.enable_sleep_mode:
            with self._living():
                self.vllm.sleep(level=2)

    @property
    def window(self) -> int:
        """The most requests that are in flight: those that run together, and as many that wait for their places."""
        return 2 * self.vllm.vllm_config.scheduler_config.max_num_seqs

    def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        """Completes the requests in any order, at most `window` of them read ahead; lists of `batch_size`, a rest last.

        Raises ValueError for a request that fits the model and not the device, OSError if vLLM fails.
        """
        unread, done = iter(requests), Finished()
        try:
            while True:
                began = time.perf_counter()
                with self._living():
                    done += self._fill(unread, sampling, batch_size - len(done))
                    busy = bool(self._running)
                    done += self._step(sampling)
                self.device_s += (time.perf_counter() - began) * self._devices if busy else 0.0
                if not busy and not done:
                    return
                while len(done) >= batch_size or (done and not busy):
                    yield done[:batch_size]
                    del done[:batch_size]
        finally:
            self.vllm.abort_request(list(self._running))
            self._running.clear()

    @contextmanager
    def _living(self) -> Iterator[None]:
        """Raises OSError if vLLM dies meanwhile."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except EngineDeadError:
            self._running.clear()  # nobody is left who could be told to stop
            raise OSError(
                "vLLM died (what it said is above; nothing, if it was killed, as for want of memory); what was"
                " committed is kept, run it again to continue"
            ) from None

    def _fill(self, unread: Iterator[Request], sampling: Sampling, room: int) -> Finished:
        """Adds requests until the window is full; returns those that have an answer at once, at most `room`."""
        answered = Finished()
        while len(self._running) < self.window and len(answered) < room:
            if not (read := list(islice(unread, 1))):
                break
            encoded = self.codec.encode(read[0])
            if refusal := no_room(len(encoded.ids), sampling, self.positions):
                answered.append((read[0], refusal))
            else:
                self._add(encoded, sampling)
        return answered

    def _add(self, encoded: Encoded, sampling: Sampling) -> None:
        from vllm.inputs import tokens_input

        holds = self.vllm.model_config.max_model_len
        if len(encoded.ids) + sampling.max_new_tokens > holds:
            raise ValueError(
                f"a prompt of {len(encoded.ids)} tokens with max_new_tokens {sampling.max_new_tokens} exceeds the"
                f" {holds} that vLLM holds here; give it memory (PAIRWRIGHT_VLLM_MEMORY, VLLM_CPU_KVCACHE_SPACE) or"
                " devices (PAIRWRIGHT_TENSOR_PARALLEL), or set a max_model_len that the model can do in"
                " PAIRWRIGHT_VLLM_ARGS"
            )
        self._added += 1
        name = str(self._added)
        self.vllm.add_request(
            name,
            tokens_input(encoded.ids),
            self.parameters(encoded.request.key, sampling),
            lora_request=self._adapter,
        )
        self._running[name] = encoded

    def parameters(self, key: str, sampling: Sampling) -> "SamplingParams":
        """What vLLM is told of one request."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed(key) if sampling.temperature > 0 else None,
            max_tokens=sampling.max_new_tokens,
            stop=sampling.stop,
            stop_token_ids=self.codec.eos_ids,
            logprobs=0 if sampling.logprobs else None,  # 0: of the drawn token alone
            flat_logprobs=True,
            detokenize=bool(sampling.stop),  # vLLM looks for stop strings in text of its own
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _step(self, sampling: Sampling) -> Finished:
        """What finished during one step of the engine."""
        outputs = self.vllm.step() if self._running else []
        return [self._finish(output, sampling) for output in outputs if output.finished]  # pyrefly: ignore

    def _finish(self, output: "RequestOutput", sampling: Sampling) -> tuple[Request, Completion]:
        encoded, (generated,) = self._running.pop(output.request_id), output.outputs
        if generated.finish_reason not in COMPLETED:
            raise OSError(f"vLLM gave a request up ({generated.finish_reason}); run it again to continue")
        logprobs = generated.logprobs.logprobs if sampling.logprobs else None  # pyrefly: ignore
        completion = self.codec.finish(encoded, generated.token_ids, sampling, logprobs)
        if generated.finish_reason == "stop":  # a stop string that vLLM's text has and ours lacks is one too
            completion = completion._replace(finish_reason="stop")
        return encoded.request, completion


def seed(key: str) -> int:
    """A request's own seed: 63 bits of its key's hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
