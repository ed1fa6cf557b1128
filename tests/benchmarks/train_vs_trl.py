"""Training on preference pairs: `train.preference` against TRL's `DPOTrainer`, on the same token ids.

    python -m tests.benchmarks.train_vs_trl --json

Both start from the same random model of Qwen3's shape (`--layers`, `--width`, `--vocabulary`) and take turns in this
process, `--repeat` times; the least CPU-seconds of one forward and backward over a batch count (collating included, the
optimizer left out; the first time FLOPs are counted meanwhile, which costs us most). TRL has two arms: `default` holds
the reference model and runs it in each step, `cached` computes its log-probs once before training, as we do. A batch is
8 pairs in one micro-batch; `irpo_grouped` is 80 pairs of 8 prompts, 8 pairs at a time for TRL, and for us in
micro-batches of `--micro-tokens`.

FLOPs are those of matrix products and attention as `FlopCounterMode` counts them, causal attention as if it were full,
in both. On the CPU TRL scores prompts too, which it does not where it has Triton; `flops_cached_compact` leaves these
out of its count. `memory` is how far the peak of resident memory lies above where it was before the model was made, in
a process of its own per arm: model, gradients, optimizer and one step. `gradient_gap` is the largest difference of any
weight's gradient, relative to the largest of its tensor, and `curve_gap` (with `--curve`) that of the loss over five
steps (TRL's own loop and optimizer).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tests import trl_world as world
from tests.benchmarks.measuring import show
from train.data import Pair

ARMS = ("ours", "default", "cached")
_WHOLE = 1 << 30
"""Tokens of a micro-batch that holds all pairs."""


def make(arm: str, arguments: argparse.Namespace, pairs: list[Pair]) -> world.Ours | world.Theirs:
    model = world.make_model(arguments.width, arguments.layers, arguments.vocabulary)
    if arm != "ours":
        return world.Theirs(model, pairs, cached=arm == "cached", micro_pairs=min(8, len(pairs)))
    return world.Ours(model, pairs, arguments.micro_tokens if len(pairs) > 8 else _WHOLE)


def timed(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def counting() -> FlopCounterMode:
    """Counts FLOPs while it is held, the CPU's attention by the formulas of other devices and sums in place as well."""
    aten = torch.ops.aten

    def forward(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(grad, q, k, v)

    def product(_: Any, a: Any, b: Any, **__: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    more: Any = {
        aten.addmm_: product,
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=more)


def prompts_scored(way: world.Theirs, arguments: argparse.Namespace) -> int:
    """FLOPs of the head on what is no completion's token: forward, recomputed, and two products backward."""
    places = scored = 0
    for numbers in way.micro:
        mask = way.inputs(numbers)["completion_mask"][:, 1:]
        places, scored = places + mask.numel(), scored + int(mask.sum())
    return 4 * 2 * arguments.width * arguments.vocabulary * (places - scored)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    pairs = world.make_pairs(world.SHAPES[name], arguments.vocabulary)
    ways = {arm: make(arm, arguments, pairs) for arm in ARMS}
    first, seconds = _exact(ways, arguments)
    for _ in range(arguments.repeat - 1):
        for arm, way in ways.items():
            seconds[arm].append(timed(way.backward))
            way.model.zero_grad()
    least = {arm: min(values) for arm, values in seconds.items()}
    found: dict[str, Any] = {"pairs": name, "n_pairs": len(pairs)} | first
    found |= {f"cpu_{arm}": least[arm] / least["ours"] for arm in ("default", "cached")}
    found |= {f"seconds_{arm}": least[arm] for arm in ARMS}
    if arguments.curve:
        found |= {"curve_gap": curve_gap(arguments, pairs)}
    return found | (memory(name, arguments) if arguments.memory_pairs else {})


def _exact(
    ways: dict[str, world.Ours | world.Theirs], arguments: argparse.Namespace
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """FLOPs and gradients of one forward and backward, which do not depend on the machine; and its CPU-seconds."""
    gradients: dict[str, dict[str, torch.Tensor]] = {}
    count: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    for arm, way in ways.items():
        with counting() as counter:
            seconds[arm] = [timed(way.backward)]
        gradients[arm], count[arm] = world.taken(way), counter.get_total_flops()
    theirs = ways["cached"]
    assert isinstance(theirs, world.Theirs)
    found = {f"flops_{arm}": count[arm] / count["ours"] for arm in ("default", "cached")}
    found |= {"flops_cached_compact": (count["cached"] - prompts_scored(theirs, arguments)) / count["ours"]}
    found |= {"gflop_ours": count["ours"] / 1e9}
    gaps = [world.gap(gradients["ours"], gradients[arm]) for arm in ("default", "cached")]
    return found | {"gradient_gap": max(gaps)}, seconds


def curve_gap(arguments: argparse.Namespace, pairs: list[Pair]) -> float:
    """The largest difference of the losses of five steps."""
    ours, theirs = make("ours", arguments, pairs), make("cached", arguments, pairs)
    assert isinstance(ours, world.Ours)
    assert isinstance(theirs, world.Theirs)
    own = [ours.step() for _ in range(5)]
    return max(abs(a - b) for a, b in zip(own, theirs.curve(), strict=True))


def memory(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak MiB of each arm, and ours as a share of each of TRL's."""
    peaks = {arm: _peak_of(name, arm, arguments) for arm in ARMS}
    shares = {f"memory_{arm}": peaks["ours"] / peaks[arm] for arm in ("default", "cached")}
    return shares | {f"mib_{arm}": peak for arm, peak in peaks.items()}


def _peak_of(name: str, arm: str, arguments: argparse.Namespace) -> float:
    sizes = [f"--{size}={getattr(arguments, size)}" for size in ("layers", "width", "vocabulary")]
    sizes += [f"--micro-tokens={arguments.micro_tokens}", f"--memory-pairs={arguments.memory_pairs}"]
    more = [f"--arm={arm}", f"--shapes={name}"]
    command = [sys.executable, "-m", "tests.benchmarks.train_vs_trl", *sizes, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(done.stdout.splitlines()[-1])


def peak(name: str, arm: str, arguments: argparse.Namespace) -> float:
    """MiB that a step of an arm needs in this process."""
    pairs = world.make_pairs(world.SHAPES[name], arguments.vocabulary)[: arguments.memory_pairs]
    import trl.trainer.dpo_trainer  # noqa: F401  (what it takes to import is no arm's)

    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, which imports made, is forgotten
    way = make(arm, arguments, pairs)
    optimizer = torch.optim.AdamW(way.model.parameters(), lr=1e-6, fused=True)
    way.backward()
    optimizer.step()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024 - before / 2**20


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=world.SHAPES, default=list(world.SHAPES))
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--micro-tokens", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--curve", action="store_true", help="compare the losses of five steps, too")
    parser.add_argument(
        "--memory-pairs", type=int, default=16, help="at most, for `memory`, and divided by 8 if more; 0: without"
    )
    parser.add_argument("--arm", choices=ARMS, help="the peak memory of one arm alone, in MiB")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser.parse_args(given)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    if arguments.arm:
        print(peak(arguments.shapes[0], arguments.arm, arguments))
        return
    results = [measure(name, arguments) for name in arguments.shapes]
    if arguments.json:
        print(json.dumps({result.pop("pairs"): result for result in results}))
    else:
        show(results, False)


if __name__ == "__main__":
    main()
