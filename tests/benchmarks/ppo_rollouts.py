"""Throughput of the rollout phase of stage `ppo` with engine `vllm` against bare `LLM.generate` of the same requests.

    python -m tests.benchmarks.ppo_rollouts --json

One running vLLM serves both, in turns, its prefix cache emptied before each. Ours is all that a step does until it
knows its rollouts: it sends the policy's weights, renders and encodes prompts, generates, commits every completion to
the ledger and reads them back. The peer is given all prompts at once, as token ids, and the same seeds and parameters.
`ratio` is our tokens per second over the peer's, median of the turns: above 1 we are faster. `sync_s` is what sending
the weights takes of `ours_wall_s`. The model is a random one.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from builders.engines.decoding import Codec
from builders.engines.vllm import VllmEngine
from builders.engines.vllm_start import Started, engine_arguments, receiving, set_environment
from builders.model_files import load_limits, load_tokenizer
from schemas.sections import Sampling
from stores.stage import Stage
from tests import ppo_world
from tests.benchmarks.vllm_engine import CONFIG
from train.policy import Policy
from train.rollouts import Rollouts
from train.rollouts_vllm import VllmSampler, checkpoint_weights
from train.session import start
from train.tasks import load_tasks, probes, rollout_sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=256, help="of a step, each of a prompt of its own")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["PAIRWRIGHT_LEDGER"] = str(Path(directory) / "ledger")
        result = _measure(_store(Path(directory), arguments), arguments)
    print(json.dumps(result) if arguments.json else "\n".join(f"{k:22} {v:,.3f}" for k, v in result.items()))


def _store(root: Path, arguments: Any) -> Stage:
    changes = {
        "engine": "vllm",
        "precision": arguments.precision,
        "models.tiny.config": CONFIG,
        "sampling.explore.max_new_tokens": arguments.new_tokens,
    }
    ppo_world.build(root, changes, count=arguments.rollouts)
    return Stage("ppo", "reft", root)


class _Sampler(VllmSampler):
    """The stage's, on a vLLM that is here already."""

    def __init__(self, engine: VllmEngine, policy: Policy, sampling: Sampling, batch: int):
        self.engine, self.policy, self.sampling, self.batch = engine, policy, sampling, batch


class Run(NamedTuple):
    """One way through a step's rollouts."""

    wall_s: float
    cpu_s: float
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / self.wall_s


class World:
    """A policy, a vLLM that follows it, and the stage's rollouts of them."""

    def __init__(self, stage: Stage):
        set_environment()
        from vllm import LLM

        directory, self.sampling = stage.dir("models", "tiny"), rollout_sampling(stage)
        self.llm = LLM(**receiving(engine_arguments(directory, stage.config.precision)))
        codec = Codec(load_tokenizer(directory), load_limits(directory).eos_ids)
        self.engine = VllmEngine(Started(self.llm.llm_engine, None, 1, lambda: None), codec, None)
        self.tasks = load_tasks(stage, self.sampling, load_tokenizer(directory))
        self.policy = start(stage, probes(self.tasks, self.sampling.max_new_tokens))
        sampler = _Sampler(self.engine, self.policy, self.sampling, stage.config.rollout_batch)
        self.rollouts = Rollouts(stage, self.tasks, "0" * 16, self.sampling, sampler)

    def ours(self, turn: int) -> int:
        """Draws a completion of every task; returns their tokens."""
        return sum(one.completion.n_tokens for one in self.rollouts.draw(self.visits(turn)))

    def bare(self, turn: int) -> Callable[[], int]:
        """The same by vLLM alone, with everything that it is given made before."""
        keys = [self.rollouts._request(visit).key for visit in self.visits(turn)]
        prompts: list[Any] = [{"prompt_token_ids": task.ids.tolist()} for task in self.tasks]
        parameters = [self.engine.parameters(key, self.sampling).clone() for key in keys]
        for one in parameters:
            one.detokenize = True  # as whoever calls it would, to reward texts
        return lambda: sum(
            len(found.outputs[0].token_ids) for found in self.llm.generate(prompts, parameters, use_tqdm=False)
        )

    def visits(self, turn: int) -> list[tuple[int, int]]:
        return [(number, turn) for number in range(len(self.tasks))]

    def synchronise(self) -> int:
        self.engine.synchronise(checkpoint_weights(self.policy.model))
        return 0


def _measure(stage: Stage, arguments: Any) -> dict[str, float]:
    world = World(stage)
    runs: dict[str, list[Run]] = {"ours": [], "bare": [], "sync": []}
    for turn in range(arguments.repeat + 1):
        ways = {"ours": partial(world.ours, turn), "bare": world.bare(turn), "sync": world.synchronise}
        for name in ("ours", "bare", "sync") if turn % 2 else ("bare", "ours", "sync"):
            world.llm.reset_prefix_cache()
            runs[name].append(_run(ways[name]))
    world.llm.llm_engine.engine_core.shutdown()
    measured = {name: found[1:] for name, found in runs.items()}
    return _report(**measured) | {"rollouts": len(world.tasks), "runs": arguments.repeat}


def _run(way: Callable[[], int]) -> Run:
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = way()
    return Run(time.perf_counter() - wall, time.process_time() - cpu, tokens)


def _report(ours: list[Run], bare: list[Run], sync: list[Run]) -> dict[str, float]:
    return {
        "ratio": median(a.rate / b.rate for a, b in zip(ours, bare, strict=True)),
        "ours_tokens_per_s": median(run.rate for run in ours),
        "bare_tokens_per_s": median(run.rate for run in bare),
        "ours_wall_s": median(run.wall_s for run in ours),
        "bare_wall_s": median(run.wall_s for run in bare),
        "ours_own_cpu_s": median(run.cpu_s for run in ours),
        "bare_own_cpu_s": median(run.cpu_s for run in bare),
        "sync_s": median(run.wall_s for run in sync),
        "ours_tokens": median(run.tokens for run in ours),
        "bare_tokens": median(run.tokens for run in bare),
    }


if __name__ == "__main__":
    main()
