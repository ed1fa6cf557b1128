"""Throughput of engine `vllm` against bare `LLM.generate` on the same requests, seeds and tokens.

    python -m tests.benchmarks.vllm_engine --json

One running vLLM serves both, in turns, its prefix cache emptied before each. The peer is given all prompts at once, as
token ids; ours starts from messages, pulls requests as places come free, and gives finished completions back in lists.
`ratio` is the median of the peer's seconds over the median of ours: above 1 we are faster. `cpu_ratio` is the same in
CPU-seconds of all processes, which other load on the machine disturbs less; `steps` are forward passes of the engine.
`seeds_ratio` is what a seed per request costs the peer itself. Without `--model` a random one is made.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from builders import arithmetic
from builders.engines import Request
from builders.engines.decoding import Codec
from builders.engines.vllm import VllmEngine
from builders.engines.vllm_start import Started, engine_arguments, set_environment
from builders.model_files import load_limits, load_tokenizer, write_record
from builders.models import initialise
from schemas import Chat
from schemas.sections import Sampling

_CONFIG = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="one of our model directories")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4, help="of each prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    with tempfile.TemporaryDirectory() as directory:
        model = arguments.model or _random_model(Path(directory))
        sampling = Sampling(temperature=1.0, max_new_tokens=arguments.new_tokens)
        result = _measure(model, _requests(arguments.prompts, arguments.samples), sampling, arguments)
    print(json.dumps(result) if arguments.json else "\n".join(f"{k:22} {v:,.3f}" for k, v in result.items()))


def _measure(model: Path, requests: list[Request], sampling: Sampling, arguments: Any) -> dict[str, float]:
    set_environment()
    from vllm import LLM

    llm = LLM(**engine_arguments(model, arguments.precision))
    limits = load_limits(model)
    codec = Codec(load_tokenizer(model), limits.eos_ids)
    engine = VllmEngine(Started(llm.llm_engine, None, 1, lambda: None), codec, limits.positions)
    prompts = [{"prompt_token_ids": codec.encode(request).ids} for request in requests]
    seeded = [engine.parameters(request.key, sampling).clone() for request in requests]
    for parameters in seeded:
        parameters.detokenize = True  # as whoever calls it would
    unseeded = [parameters.clone() for parameters in seeded]
    for parameters in unseeded:
        parameters.seed = None
    ways: dict[str, Callable[[], int]] = {
        "ours": lambda: sum(c.n_tokens for batch in engine.stream(requests, sampling, 256) for _, c in batch),
        "bare": lambda: _generate(llm, prompts, seeded),
        "unseeded": lambda: _generate(llm, prompts, unseeded),
    }
    runs = _in_turns(llm, ways, arguments.repeat)
    assert runs["ours"][0].tokens == runs["bare"][0].tokens, "the same seeds draw the same tokens"
    llm.llm_engine.engine_core.shutdown()
    medians = {name: Run(*map(statistics.median, zip(*found, strict=True))) for name, found in runs.items()}
    return _report(**medians) | {"requests": len(requests), "runs": arguments.repeat}


def _report(ours: "Run", bare: "Run", unseeded: "Run") -> dict[str, float]:
    return {
        "ratio": bare.wall_s / ours.wall_s,
        "cpu_ratio": bare.cpu_s / ours.cpu_s,
        "seeds_ratio": unseeded.wall_s / bare.wall_s,
        "ours_wall_s": ours.wall_s,
        "bare_wall_s": bare.wall_s,
        "ours_cpu_s": ours.cpu_s,
        "bare_cpu_s": bare.cpu_s,
        "ours_steps": ours.steps,
        "bare_steps": bare.steps,
        "ours_tokens_per_s": ours.tokens / ours.wall_s,
    }


class Run(NamedTuple):
    """One way through all requests."""

    wall_s: float
    cpu_s: float
    steps: float
    tokens: float


def _generate(llm: Any, prompts: list[Any], parameters: list[Any]) -> int:
    return sum(len(o.outputs[0].token_ids) for o in llm.generate(prompts, parameters, use_tqdm=False))


def _in_turns(llm: Any, ways: dict[str, Callable[[], int]], repeat: int) -> dict[str, list[Run]]:
    """Every run of each way, after one that is not measured."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            llm.reset_prefix_cache()
            found = _run(llm, ways[name])
            runs[name] += [found] if turn else []
    return runs


def _run(llm: Any, way: Callable[[], int]) -> Run:
    step, steps = llm.llm_engine.step, 0

    def counting() -> Any:
        nonlocal steps
        steps += 1
        return step()

    llm.llm_engine.step = counting
    wall, cpu = time.perf_counter(), _cpu_s()
    tokens = way()
    found = Run(time.perf_counter() - wall, _cpu_s() - cpu, steps, tokens)
    llm.llm_engine.step = step
    return found


def _cpu_s() -> float:
    """CPU-seconds of this process and of vLLM's so far."""
    mine = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in [mine, *mine.children(recursive=True)])


def _requests(prompts: int, samples: int) -> list[Request]:
    made = arithmetic.generate(3, (2, 4), prompts)
    chats = [(Chat(role="user", content=problem.question),) for problem in made]
    return [Request(f"{i}-{n}", chat, "", "text") for i, chat in enumerate(chats) for n in range(samples)]


def _random_model(directory: Path) -> Path:
    initialise(_CONFIG, arithmetic.vocabulary(), 0, directory, "model")
    write_record(directory, {"source": "config"})
    return directory


if __name__ == "__main__":
    main()
