"""The ways to train that `train_gpu` compares: ours with and without shared prefixes, and TRL with both references.

All compute in bfloat16 under autocast with float32 weights, gradients and AdamW state (float32 throughout on the CPU),
and an update is on the same pairs, in micro-batches of their own.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from schemas.sections_training import Lora, PreferenceRun
from tests import trl_world as world
from train import losses
from train.data import Pair
from train.optimizer import adamw
from train.packing import Load
from train.policy import Policy
from train.preference import pair_losses

ARMS = ("trl_default", "trl_cached", "unshared", "shared")
LR = 1e-6
ALONE = 1 << 30
"""Tokens in common that no sequences have."""
_RUN = {"model": "m", "pairs": "p", "reference": "r", "loss": "dpo", "beta": world.BETA, "steps_from": "none"}
_NO_VALIDATION = dict.fromkeys(("prompts", "problems", "questions", "labels"), "none") | {"sampling": "greedy"}


class Model(NamedTuple):
    """A shape of Qwen2.5 (its published configuration), whose weights are drawn."""

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = True
    lora: int | None = None
    """Rank of the adapters, where they alone are trained."""

    def make(self, device: torch.device) -> PreTrainedModel:
        config = Qwen2Config(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=self.inner,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.kv_heads,
            max_position_embeddings=32768, tie_word_embeddings=self.tied,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        torch.manual_seed(0)
        with device:
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()


MODELS = {
    "0.5b": Model(896, 4864, 24, 14, 2, 151936),
    "1.5b": Model(1536, 8960, 28, 12, 2, 151936),
    "7b_lora": Model(3584, 18944, 28, 28, 4, 152064, tied=False, lora=16),
    "tiny": Model(64, 128, 2, 2, 1, 256),
}


class Setting(NamedTuple):
    """`size`: pairs of a micro-batch (TRL), or its tokens after sharing (ours)."""

    size: int
    checkpointing: bool


class Ours:
    """`train.preference`, with references of the same weights."""

    def __init__(self, kind: Model, pairs: Sequence[Pair], setting: Setting, device: torch.device, shared: bool):
        self.alone = contextlib.nullcontext if shared else _alone
        optimizer = {"lr": LR, "batch_size": len(pairs), "steps": 1, "micro_tokens": setting.size}
        run = _RUN | {"optimizer": optimizer, "validation": _NO_VALIDATION}
        self.config, self.pairs = PreferenceRun.model_validate(run), list(pairs)
        tokenizer: Any = None  # nothing is rendered here
        with self.alone():
            self.policy = Policy(
                kind.make(device), tokenizer, [s for pair in pairs for s in pair.sequences],
                "bf16" if device.type == "cuda" else "fp32", Lora(rank=kind.lora) if kind.lora else None,
                setting.checkpointing,
            )  # fmt: skip
            assert self.policy.path == "packed"
            self.references = {}
            with torch.no_grad():
                for micro in self._micro():
                    spans = [span for pair in micro for span in (pair.chosen_span, pair.rejected_span)]
                    logprobs = self.policy.logprobs([s for pair in micro for s in pair.sequences]).tolist()
                    self.references |= dict(zip(spans, logprobs, strict=True))
        self.optimizer = adamw(self.policy.model, self.config.optimizer)

    def _micro(self) -> Iterator[list[Pair]]:
        groups = self.policy.micro_batches([pair.sequences for pair in self.pairs], self.config.optimizer.micro_tokens)
        return ([self.pairs[i] for i in numbers] for numbers in groups)

    def backward(self) -> float:
        found: list[Tensor] = []
        with self.alone():
            for micro in self._micro():
                columns = pair_losses(self.policy, micro, self.references, self.config)
                losses.share_of_mean(columns["loss"], len(self.pairs)).backward()
                found.append(columns["loss"].detach())
        return float(torch.cat(found).mean())

    @property
    def model(self) -> PreTrainedModel:
        return self.policy.model

    @property
    def load(self) -> Load:
        return self.policy.trained


def _alone() -> Any:
    """While it is held, nothing is shared."""
    return mock.patch("train.layout.SHORTEST_PREFIX", ALONE)


class Theirs(world.Theirs):
    """TRL's loss on TRL's batches; the update is the same code for all arms."""

    load = None

    def __init__(self, kind: Model, pairs: Sequence[Pair], setting: Setting, device: torch.device, cached: bool):
        on_cuda, adapters = device.type == "cuda", None
        if kind.lora:
            from peft import LoraConfig

            adapters = LoraConfig(
                task_type="CAUSAL_LM", r=kind.lora, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear"
            )
        super().__init__(kind.make(device), pairs, cached, setting.size, adapters=adapters, on_cuda=on_cuda)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0, fused=True)
        if setting.checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads() if kind.lora else None

    def backward(self) -> float:
        total = 0.0
        for numbers in self.micro:
            inputs = self.trainer._prepare_inputs(self.inputs(numbers))
            with self.trainer.accelerator.autocast():
                loss: Tensor = self.trainer.compute_loss(self.model, inputs) / len(self.micro)
            loss.backward()
            total += float(loss.detach())
        return total


def make(arm: str, kind: Model, pairs: Sequence[Pair], setting: Setting, device: torch.device) -> Ours | Theirs:
    """An arm of `ARMS`, ready for its first step."""
    if arm.startswith("trl_"):
        return Theirs(kind, pairs, setting, device, cached=arm == "trl_cached")
    return Ours(kind, pairs, setting, device, shared=arm == "shared")


def step(arm: Ours | Theirs) -> tuple[float, float]:
    """One update; returns its seconds and the loss before it."""
    _settle(arm)
    began = time.perf_counter()
    loss = arm.backward()
    torch.nn.utils.clip_grad_norm_([p for p in arm.model.parameters() if p.requires_grad], 1.0)
    arm.optimizer.step()
    arm.optimizer.zero_grad(set_to_none=True)
    _settle(arm)
    return time.perf_counter() - began, loss


def _settle(arm: Ours | Theirs) -> None:
    if next(arm.model.parameters()).device.type == "cuda":
        torch.cuda.synchronize()
