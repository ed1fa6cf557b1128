"""Training on preference pairs on one GPU: `train.preference` and TRL's `DPOTrainer`, each at the best of some sizes.

    python -m tests.benchmarks.train_gpu --json

Models have Qwen2.5's shapes and drawn weights; pairs are those of `train_vs_trl`, with as many prompts as `--pairs`
needs. Arms: TRL with a reference model in each step and with its log-probs computed once, and ours without and with
shared prefixes. Each arm first tries settings (pairs or tokens of a micro-batch, with and without checkpointing of
activations), two steps each, for half of the time that is its share of `--minutes`. The fastest is measured: after 3
steps the median of 10, or of at least 3 where the time is up. A setting that does not fit into memory is out.
Everything is bfloat16 autocast with float32 weights; TRL attends by SDPA (with an attention mask, as its collator pads)
and computes its metrics, ours neither logs nor writes.

Useful tokens are those of all sequences, each with its prompt, without padding; MFU is 6 FLOPs per weight outside of
embeddings and head (4 where frozen) and useful token over the device's peak, which `PAIRWRIGHT_PEAK_TFLOPS` gives where
it is none of those that `train.meter` knows. `loss` is that of the third measured step, and `kernel_gap` how far the
kernel for sequences of any length is from blocks, in nats per token. `--tiny` runs all of it on the CPU in float32, in
a minute.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from builders.model_files import device as default_device
from tests import trl_world as world
from tests.benchmarks.measuring import show
from tests.benchmarks.train_gpu_arms import ARMS, MODELS, Model, Ours, Setting, Theirs, make, step
from train.data import Pair
from train.meter import flops_per_token, peak_flops
from train.packing import pack

SIZES = {"trl_default": (16, 32, 8, 4), "trl_cached": (16, 32, 8, 4), "unshared": (16384, 32768, 8192)}
SIZES["shared"] = SIZES["unshared"]
SHAPES = ("irpo", "step_400", "step_1200")


def pairs_of(shape: str, count: int, vocabulary: int, shorter: int) -> list[Pair]:
    """So many pairs of a shape, one of each prompt; all lengths divided by `shorter`."""
    known = world.SHAPES[shape]

    def shorten(lengths: tuple[int, int]) -> tuple[int, int]:
        return lengths[0] // shorter, lengths[1] // shorter

    shape_of = world.Shape(shorten(known.prompt), shorten(known.completion), correct=(1,) * count)
    return world.make_pairs(shape_of, vocabulary)


def settings_of(arm: str, pairs: int, tiny: bool) -> list[Setting]:
    """What an arm tries, the likeliest first; TRL what divides the pairs."""
    sizes = SIZES[arm]
    if tiny:
        sizes = (4, 2) if arm.startswith("trl_") else (4096, 256)
    if arm.startswith("trl_"):
        sizes = tuple(size for size in sizes if pairs % size == 0) or (pairs,)
    return [Setting(size, again) for size in sizes for again in (False, True)]


def measure(
    arm: str, kind: Model, pairs: list[Pair], device: torch.device, seconds: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One arm at the best of the settings that it could try in so many seconds."""
    began, on_cuda = time.perf_counter(), device.type == "cuda"
    tried = search(arm, kind, pairs, device, seconds / 2, arguments.tiny)
    if not tried:
        return {"arm": arm, "failed": "no setting ran (see above)"}
    best = min(tried, key=lambda setting: tried[setting])
    way = make(arm, kind, pairs, best, device)
    warm, most = (1, 3) if arguments.tiny else (3, 10)
    for _ in range(warm):
        step(way)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before, found = way.load, list[tuple[float, float]]()
    while len(found) < 3 or (len(found) < most and time.perf_counter() - began < seconds):
        found.append(step(way))
    median = statistics.median(taken for taken, _ in found)
    return {
        "arm": arm,
        "micro": best.size,
        "checkpointing": best.checkpointing,
        "settings_tried": len(tried),
        "steps": len(found),
        "step_s": median,
        "pairs_per_s": len(pairs) / median,
        **_rates(way, before, pairs, median, len(found), device),
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if on_cuda else None,
        "loss": found[2][1],
    }


def _rates(
    way: Ours | Theirs, before: Any, pairs: list[Pair], seconds: float, steps: int, device: torch.device
) -> dict[str, float | None]:
    useful = sum(s.length for pair in pairs for s in pair.sequences) / seconds
    peak = peak_flops(device, "bf16" if device.type == "cuda" else "fp32")
    computed = None if way.load is None else way.load.minus(before).computed / steps / seconds
    mfu = None if peak is None else flops_per_token(way.model) * useful / peak
    return {"useful_tokens_per_s": useful, "computed_tokens_per_s": computed, "mfu": mfu}


def search(
    arm: str, kind: Model, pairs: list[Pair], device: torch.device, seconds: float, tiny: bool
) -> dict[Setting, float]:
    """Seconds of a step in every setting that was tried in time and fits into memory; the second step counts."""
    began, tried = time.perf_counter(), dict[Setting, float]()
    for setting in settings_of(arm, len(pairs), tiny):
        if tried and time.perf_counter() - began > seconds:
            break
        try:
            way = make(arm, kind, pairs, setting, device)
            step(way)
            tried[setting] = step(way)[0]
        except torch.OutOfMemoryError:
            print(f"{arm}: {setting} does not fit into memory", file=sys.stderr)
        except Exception as error:  # what was measured before must not be lost with it
            print(f"{arm}: {setting}: {type(error).__name__}: {error}", file=sys.stderr)
        way = None  # before the next is made
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return tried


@torch.no_grad()
def kernel_gap(kind: Model, pairs: list[Pair], device: torch.device) -> float | None:
    """Mean difference of a token's log-prob between both kernels, in bfloat16; None where there is only one."""
    if device.type != "cuda":
        return None
    policy = Ours(kind, pairs[:2], Setting(1 << 20, False), device, shared=True).policy
    sequences = [s for pair in pairs[:2] for s in pair.sequences]
    with torch.autocast("cuda", torch.bfloat16):
        found, expected = (policy._scores(pack(sequences, device, varlen)) for varlen in (True, False))
    return float((found - expected).abs().mean())


def compare(
    name: str, shape: str, arms: Sequence[str], seconds: float, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The arms on one model and one shape, with how many times TRL's best each is."""
    kind, device = MODELS[name], torch.device("cpu" if arguments.tiny else default_device())
    pairs = pairs_of(shape, arguments.pairs, kind.vocabulary, 8 if arguments.tiny else 1)
    where: dict[str, Any] = {"model": name, "shape": shape, "pairs": len(pairs)}
    rows = [where | measure(arm, kind, pairs, device, seconds / len(arms), arguments) for arm in arms]
    theirs = [row["pairs_per_s"] for row in rows if row["arm"].startswith("trl_") and "failed" not in row]
    gap = kernel_gap(kind, pairs, device)
    for row in rows:
        if "failed" not in row:
            row |= {"over_trl": row["pairs_per_s"] / max(theirs) if theirs else None, "kernel_gap": gap}
    return rows


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was measured, and where."""
    have_trl = importlib.util.find_spec("trl") is not None
    arms = [arm for arm in arguments.arms if have_trl or not arm.startswith("trl_")]
    cases = [(name, shape) for name in arguments.models for shape in arguments.shapes]
    began, rows = time.perf_counter(), list[dict[str, Any]]()
    for done, (name, shape) in enumerate(cases):
        left = 60 * arguments.minutes - (time.perf_counter() - began)
        rows += compare(name, shape, arms, left / (len(cases) - done), arguments)
    on_cuda = torch.cuda.is_available() and not arguments.tiny
    return {
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        "torch": torch.__version__,
        "trl": version("trl") if have_trl else None,
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }


COLUMNS = {
    "model": "{}", "shape": "{}", "arm": "{}", "micro": "{:,}", "checkpointing": "{}", "pairs_per_s": "{:,.1f}",
    "useful_tokens_per_s": "{:,.0f}", "computed_tokens_per_s": "{:,.0f}", "mfu": "{:.1%}", "peak_gib": "{:.1f}",
    "loss": "{:.4f}", "over_trl": "{:.2f}x", "failed": "{}",
}  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, columns aligned."""
    cells = [[form.format(row[c]) if row.get(c) is not None else "-" for c, form in COLUMNS.items()] for row in rows]
    lines = [list(COLUMNS), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines)


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["1.5b"])
    parser.add_argument("--shapes", nargs="+", choices=world.SHAPES, default=list(SHAPES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--pairs", type=int, default=32, help="of an update; TRL tries micro-batches that divide it")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU, short pairs, few steps")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args(given)
    if arguments.tiny:
        arguments.models, arguments.pairs = ["tiny"], 4
    elif not torch.cuda.is_available():
        parser.error("no CUDA device is here; --tiny tries the script on the CPU")
    return arguments


def main() -> None:
    arguments = parse()
    found = run(arguments)
    if arguments.json:
        show(found, True)
        return
    print(f"{found['device']}, torch {found['torch']}, trl {found['trl'] or 'not installed'}, {found['seconds']:.0f} s")
    print(table(found["rows"]))


if __name__ == "__main__":
    main()
