"""Throughput of engine `vllm` against bare `LLM.generate` on the same requests, seeds and tokens.

    python -m tests.benchmarks.vllm_engine --json

One running vLLM serves both, in turns, its prefix cache emptied before each. The peer is given all prompts at once, as
token ids; ours starts from messages, pulls requests as places come free, and gives finished completions back in lists.
`ratio` is the peer's seconds over ours, median of the turns: above 1 we are faster. `own_cpu_ratio` is the same in
CPU-seconds of this process alone (vLLM's own processes spin while they wait); `steps` are the engine's forward passes.
`seeds_ratio` is what the peer gains without a seed per request. Without `--model` a random one is made.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from builders import arithmetic, arithmetic_words
from builders.engines import Request
from builders.engines.decoding import Codec
from builders.engines.vllm import VllmEngine
from builders.engines.vllm_start import Started, engine_arguments, set_environment
from builders.model_files import load_limits, load_tokenizer, write_record
from builders.models import initialise
from schemas import Chat
from schemas.sections import Sampling

CONFIG = {
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
    return _report(**runs) | {"requests": len(requests), "runs": arguments.repeat}


def _report(ours: list["Run"], bare: list["Run"], unseeded: list["Run"]) -> dict[str, float]:
    def ratio(above: list[Run], below: list[Run], field: str) -> float:
        return median(getattr(a, field) / getattr(b, field) for a, b in zip(above, below, strict=True))

    return {
        "ratio": ratio(bare, ours, "wall_s"),
        "own_cpu_ratio": ratio(bare, ours, "own_cpu_s"),
        "seeds_ratio": ratio(unseeded, bare, "wall_s"),
        "ours_wall_s": median(run.wall_s for run in ours),
        "bare_wall_s": median(run.wall_s for run in bare),
        "ours_own_cpu_s": median(run.own_cpu_s for run in ours),
        "bare_own_cpu_s": median(run.own_cpu_s for run in bare),
        "ours_steps": median(run.steps for run in ours),
        "bare_steps": median(run.steps for run in bare),
        "ours_tokens_per_s": median(run.tokens / run.wall_s for run in ours),
    }


class Run(NamedTuple):
    """One way through all requests."""

    wall_s: float
    own_cpu_s: float
    steps: float
    tokens: float


def _generate(llm: Any, prompts: list[Any], parameters: list[Any]) -> int:
    return sum(len(o.outputs[0].token_ids) for o in llm.generate(prompts, parameters, use_tqdm=False))


def _in_turns(llm: Any, ways: dict[str, Callable[[], int]], repeat: int) -> dict[str, list[Run]]:
    """Every run of each way, after one that is not measured."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        first, second, *others = ways
        for name in (first, second, *others) if turn % 2 else (second, first, *others):
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
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = way()
    found = Run(time.perf_counter() - wall, time.process_time() - cpu, steps, tokens)
    llm.llm_engine.step = step
    return found


def _requests(prompts: int, samples: int) -> list[Request]:
    made = arithmetic.generate(3, (2, 4), prompts)
    chats = [(Chat(role="user", content=problem.question),) for problem in made]
    return [Request(f"{i}-{n}", chat, "", "text") for i, chat in enumerate(chats) for n in range(samples)]


def _random_model(directory: Path) -> Path:
    initialise(CONFIG, arithmetic_words.vocabulary(), 0, directory, "model")
    write_record(directory, {"source": "config"})
    return directory


if __name__ == "__main__":
    main()
