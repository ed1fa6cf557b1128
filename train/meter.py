"""What a step computes and how fast: tokens for the table, speed for the screen, for trackers and beside the ledger.

The table gets what params and data decide: what one process would compute, however many do. Timings, and what really
ran, go where other timings go (`stores.speeds`; the view `training_speed`), since a table must be the same whenever it
is built. Seconds are those between a step's start and the end of its update: validation, what is watched, and
checkpoints are left out, and for `ppo` rollouts are in it.

MFU counts what the model needs for the useful tokens and nothing twice: 6 FLOPs per weight of its layers (Kaplan et al.
2020, arXiv 2001.08361; Chowdhery et al. 2022, arXiv 2204.02311, App. B), 4 where the weight is frozen. Embeddings, the
head and attention's products with itself are left out, as is what is computed again to save memory. So sharing prompts
raises it, above 1 even, and padding lowers it.
"""

import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from stores.speeds import SpeedLog, StepSpeed
from stores.stage import Stage
from train import parallel
from train.packing import Load
from train.policy import Policy
from train.trackers import Trackers

PEAK = "PAIRWRIGHT_PEAK_TFLOPS"
_PEAKS = {
    r"B200": (2250, 75),
    r"H[12]00 NVL": (835, 60),
    r"H100 PCIe": (756, 51),
    r"H[12]00": (989, 67),
    r"A100": (312, 19.5),
    r"L40S": (362, 91.6),
    r"L4": (121, 30.3),
}
"""Dense bfloat16 and float32 TFLOP/s of NVIDIA's data sheets, by the device's name."""
_EXAMPLES = {"preference": ("pairs", 2), "sft": ("demos", 1), "ppo": ("rollouts", 1), "reward_model": ("samples", 1)}
"""What a stage's examples are called, and how many sequences each has."""


class Meter:
    """Measures the updates of one run. Raises ValueError for an environment that it cannot read."""

    def __init__(self, stage: Stage, policy: Policy, fingerprint: str):
        self.stage, self.policy, self.fingerprint = stage, policy, fingerprint
        self.log, self.trackers = SpeedLog(stage.root, stage.name), Trackers()
        self.note = ""
        """The speed of the last logged step, in words."""
        self.flops, self.peak = flops_per_token(policy.model), peak_flops(policy.device, policy.precision)
        self._at, self._trained, self._planned = 0.0, Load(), Load()
        self._seconds, self._examples, self._load = 0.0, 0, Load()

    @contextmanager
    def running(self, step: int) -> Iterator[None]:
        """A run that goes on at a step; its trackers are open meanwhile."""
        if parallel.leads():
            self.log.begin(step)
            self.trackers = Trackers.start(self.stage, self.fingerprint, step)
        try:
            yield
        finally:
            self.trackers.finish()

    def start(self) -> None:
        """A step begins."""
        self._at, self._trained, self._planned = time.perf_counter(), self.policy.trained, self.policy.planned

    def stop(self, sequences: int) -> Load:
        """Its update, on so many sequences, is done. Returns what one process computes for it."""
        self._seconds += time.perf_counter() - self._at
        self._examples += sequences // _EXAMPLES[self.stage.section][1]
        self._load = self._load.plus(self.policy.trained.minus(self._trained))
        return self.policy.planned.minus(self._planned)

    def report(self, step: int, row: dict[str, Any]) -> None:
        """Says how fast the steps since the last report were, of which `row` is the table's last."""
        load, memory = _summed(self._load), max(parallel.everyones(self._peak_memory()))
        seconds, useful = max(self._seconds, 1e-9), load.useful / max(self._seconds, 1e-9)
        n_devices = parallel.count()
        utilisation = None if self.peak is None else self.flops * useful / (self.peak * n_devices)
        rates = self._examples / seconds, useful, load.computed / seconds, utilisation
        speed = StepSpeed(self.stage.name, step, seconds, *rates, memory, str(self.policy.device), n_devices)
        self._seconds, self._examples, self._load = 0.0, 0, Load()
        self.note = self._words(speed)
        if parallel.leads():
            self.log.append(speed)
            self.trackers.log(step, row | {name: getattr(speed, name) for name in StepSpeed._fields[2:-2]})

    def _words(self, speed: StepSpeed) -> str:
        words = [f"{speed.examples_per_s:,.1f} {_EXAMPLES[self.stage.section][0]}/s"]
        words += [f"{speed.useful_tokens_per_s:,.0f} tokens/s ({speed.computed_tokens_per_s:,.0f} computed)"]
        words += [] if speed.mfu is None else [f"MFU {speed.mfu:.0%}"]
        return ", ".join([*words, f"{speed.peak_memory / 2**30:.1f} GiB"])

    def _peak_memory(self) -> int:
        """Bytes, since the last report; of a process that has no CUDA device since it began."""
        device = self.policy.device
        if device.type == "cuda":
            found = torch.cuda.max_memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            return found
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def flops_per_token(model: PreTrainedModel) -> float:
    """FLOPs of a forward and a backward for one token, by the weights that it passes: of a mixture of experts, so many
    of them as are chosen for a token.
    """
    ends = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    outside = {id(p) for module in ends for p in module.parameters()}
    share = _share_of_experts(model.config.get_text_config())
    total = 0.0
    for name, p in model.named_parameters():
        if id(p) not in outside:
            total += (6 if p.requires_grad else 4) * p.numel() * (share if ".experts." in name else 1.0)
    return total


def _share_of_experts(config: Any) -> float:
    counts = (getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    n, chosen = next((n for n in counts if n), None), getattr(config, "num_experts_per_tok", None)
    return chosen / n if n and chosen else 1.0


def given_peak() -> float | None:
    """TFLOP/s of `$PAIRWRIGHT_PEAK_TFLOPS`. Raises ValueError for what is none."""
    given = os.environ.get(PEAK)
    if not given:
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", given) or not float(given):
        raise ValueError(f"{PEAK}: '{given}' is no number of TFLOP/s; give a device's peak, as in 989")
    return float(given)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """What a device can do in a second, by `$PAIRWRIGHT_PEAK_TFLOPS` or its data sheet; None where it is not known."""
    if given := given_peak():
        return given * 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = next((peaks for pattern, peaks in _PEAKS.items() if re.search(rf"\b{pattern}\b", name)), None)
    if known is None or "MIG" in name:  # a part of a device
        return None
    return known[precision != "bf16"] * 1e12


def load_columns(load: Load) -> dict[str, Any]:
    """A logged step's columns of the table."""
    if not load.useful:
        return {}
    tokens = {"n_useful_tokens": load.useful, "n_computed_tokens": load.computed}
    return tokens | {"sharing": load.sharing, "padding": load.padding}


def _summed(load: Load) -> Load:
    total = Load()
    for part in parallel.everyones(load):
        total = total.plus(part)
    return total
