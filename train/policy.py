"""The model in training: loading, precision, adapters, scoring, and saving a plain model directory.

Precision: weights, gradients and optimizer state are float32. `bf16` means autocast: the layers' matrix products run in
bfloat16, the head in float32 (TF32 products on CUDA). Saved weights stay float32, since rounding them to bfloat16 would
undo updates as small as those of a learning rate of 1e-7.
Dropout is off (the model stays in evaluation mode), except the adapters' own where `lora.dropout` asks for it.

Where several processes train (`train.parallel`), the model is divided among them (`train.sharding`).
"""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from builders.model_files import TRAINED_ADAPTER, load_model, load_tokenizer, plain_attention
from schemas.sections_training import Lora
from train import attention, memory, packing, parallel, sharding
from train.adapters import add_adapters, save_adapters
from train.logprobs import hidden_states, sequence_logprobs, token_logprobs
from train.packing import Batch, Load, Tokens
from train.saving import RUN_AGAIN, disk_errors, storable

ScoringPath = Literal["packed", "padded"]
TOLERANCE = 1e-3
"""Nats per token, in float32, by which two ways to score may differ."""
_HALF_TOLERANCE = 0.1
"""Nats, a mean over tokens, by which two kernels may differ in bfloat16. (A wrong mask is off by more.)"""
_ROUGH_TOLERANCE = 0.25
"""Nats per token, by which two ways to score may differ where layers are at hand in bfloat16 only."""

T = TypeVar("T")


class Policy:
    """A causal language model that scores completions, with gradients.

    `probe`: the sequences of the data (or some, the longest and the shortest among them). Two pairs of them, which
    share their prefixes, are scored by the packed code path and by the model's plain forward. Where they differ, or the
    architecture carries state along a row, sequences are scored as padded rows instead; one line says so.

    Raises ValueError for a model whose logits this code does not reproduce.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        probe: Sequence[Tokens],
        precision: Literal["fp32", "bf16"] = "fp32",
        lora: Lora | None = None,
        gradient_checkpointing: bool = False,
    ):
        self.model, self.tokenizer, self.precision, self.lora = model, tokenizer, precision, lora
        self.device = parallel.device() if parallel.active() else next(model.parameters()).device
        self._plain = plain_attention(model)
        model.set_attn_implementation(self._plain)
        self._checkpointing = gradient_checkpointing
        if model.can_generate():
            model.generation_config = storable(model.generation_config)
        self._peft = self._add_adapters(lora) if lora else None
        model.eval()
        self._directory = Path()
        self._root = sharding.shard(model, precision == "bf16") if parallel.active() else None
        self._tolerance = _ROUGH_TOLERANCE if self._root and precision == "bf16" else TOLERANCE
        torch.set_float32_matmul_precision("highest")
        with torch.no_grad(), self._autocast(self._root is not None):
            self.path: ScoringPath = parallel.agreed(self.within(lambda: self._choose_path(probe)))
            self._varlen = parallel.agreed(self.within(lambda: self._kernel_agrees(probe)))
        self.beside: nn.Module = nn.ModuleDict()
        """What is trained with the model and not saved with it, such as a value head."""
        self.trained = Load()
        """Of all batches with gradients so far, as this process computed them."""
        self.planned, self.counted_by = Load(), 0
        """Of the same, of all processes, as one process computes them in forwards of at most so many tokens (of as many
        as they are asked for in, if 0): what params say, whatever has room.
        """
        torch.set_float32_matmul_precision("high" if precision == "bf16" else "highest")
        self._ready()

    @classmethod
    def load(cls, directory: Path, probe: Sequence[Tokens], **settings: Any) -> Self:
        """A model directory on the device; settings as in the class."""
        model = load_model(directory)
        if not parallel.active():
            model.to(parallel.device())  # pyrefly: ignore
        policy = cls(model, load_tokenizer(directory), probe, **settings)
        policy._directory = directory
        return policy

    def logprobs(self, sequences: Sequence[Tokens]) -> Tensor:
        """Summed log-prob of each completion, in nats: (n,)."""
        batch = self.batch(sequences)
        with self._autocast():
            return self.within(lambda: sequence_logprobs(self.model, batch))

    def within(self, work: Callable[[], T]) -> T:
        """What some work with the model's parts returns. They are whole, and gradients are divided again afterwards."""
        return work() if self._root is None else sharding.within(self._root, work)

    def _autocast(self, wanted: bool = True) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted and self.precision == "bf16")

    def batch(self, sequences: Sequence[Tokens]) -> Batch:
        """Sequences as the inputs of one forward, which counts as `trained` on where gradients are taken."""
        if self.path == "padded":
            batch = packing.pad(sequences, self.device)
        else:
            batch = packing.pack(sequences, self.device, self._varlen)
        if torch.is_grad_enabled():
            self.trained = self.trained.plus(batch.load)
        return batch

    def micro_batches(self, examples: Sequence[Sequence[Tokens]], budget: int) -> Iterable[list[int]]:
        """Numbers of the examples of each forward of at most `budget` tokens; an example's sequences stay together.

        Of several processes each gets a part, in as many forwards as the others, since they compute in step: what is
        done with one, its backward included, is done before the next one is asked for.
        """
        return (numbers for numbers in self.rounds(examples, budget) if numbers)

    def rounds(self, examples: Sequence[Sequence[Tokens]], budget: int) -> Iterator[list[int]]:
        """`micro_batches`, as many for every process: empty where a process computes along and learns nothing."""
        padded = self.path == "padded"
        groups = packing.micro_batches(examples, budget, padded)
        if torch.is_grad_enabled():
            same = self.counted_by in (0, budget)
            counted = groups if same else packing.micro_batches(examples, self.counted_by, padded)
            load = packing.load_of(([examples[i] for i in numbers] for numbers in counted), padded)
            self.planned = self.planned.plus(load)
        for numbers in parallel.share(groups, [sum(s.length for s in example) for example in examples]):
            if not numbers:
                self._compute_along(min((s for example in examples for s in example), key=lambda s: s.length))
            yield numbers

    def _compute_along(self, sequence: Tokens) -> None:
        """Takes part in a forward, and in its backward where gradients are taken, without a share in the result."""
        trained = self.trained
        with memory.needed(f"memory is full, at {sequence.length:,} tokens alone", memory.MORE_DEVICES):
            nothing = self.logprobs([sequence]).sum() * 0
            if nothing.requires_grad:
                nothing.backward()
        self.trained = trained

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter that is trained: all weights, or the adapters'; and those `beside` the model."""
        named = (self.model.named_parameters(), self.beside.named_parameters("beside"))
        return {name: p for parameters in named for name, p in parameters if p.requires_grad}

    @property
    def modules(self) -> nn.ModuleList:
        """All that has trainable parameters."""
        return nn.ModuleList([self.model, self.beside])

    def frozen(self) -> "Policy":
        """The present weights for good, without gradients."""
        still = copy.copy(self)
        still.model, still.beside = copy.deepcopy(self.model).requires_grad_(False), nn.ModuleDict()
        return still

    @property
    def has_adapters(self) -> bool:
        return self._peft is not None

    def without_adapters(self) -> contextlib.AbstractContextManager[None]:
        """While it is held, the model is the one that training started from."""
        assert self._peft is not None, "a model that is trained itself is not what it was"
        return self._peft.disable_adapter()

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrites the trainable parameters."""
        for name, parameter in self.trainable().items():
            parameter.copy_(weights[name])

    @contextlib.contextmanager
    def generating(self) -> Iterator[PreTrainedModel]:
        """The whole model, as an engine expects it. What generation changes (settings, random state) is put back."""
        configuration = self.model.generation_config
        devices = [self.device] if self.device.type == "cuda" else []
        self.model.eval().set_attn_implementation(self._plain)
        with (
            torch.random.fork_rng(devices),
            self._autocast(),
            sharding.gathered(self._root) if self._root else contextlib.nullcontext(),
        ):
            yield self.model
        self.model.generation_config = configuration
        self._ready()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """No gradients, and the adapters' dropout off: what is measured inside changes nothing in training."""
        for dropout in self._dropouts():
            dropout.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                yield
        finally:
            for dropout in self._dropouts():
                dropout.train()

    def save(self, directory: Path) -> None:
        """Writes a plain model directory, adapters merged: safetensors, configuration, tokenizer. Ends training.

        The adapters are also kept by themselves, in `lora/`.
        """
        self.model.eval().set_attn_implementation(self._plain)
        if self._peft:
            save_adapters(self._peft, directory / TRAINED_ADAPTER)
        model = self._peft.merge_and_unload() if self._peft else self.model
        with disk_errors(directory, RUN_AGAIN):
            model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def undivided(self) -> Self | None:
        """This policy, to be saved: where it is divided, with all weights in the first process's CPU memory, and None
        in the other processes.
        """
        if self._root is None:
            return self
        weights = sharding.collect(self.trainable())
        if not parallel.leads():
            return None
        plain = copy.copy(self)
        plain._root, plain.model = None, load_model(self._directory)
        plain.model.generation_config = self.model.generation_config
        plain._peft = plain._add_adapters(self.lora) if self.lora else None
        plain.load_weights(weights)
        return plain

    def _scores(self, batch: Batch) -> Tensor:
        """What a batch is scored for, which must not depend on how its sequences are laid out: per token here."""
        return batch.spread(token_logprobs(self.model, hidden_states(self.model, batch), batch.targets))

    def _check_head(self, probe: Tokens) -> None:
        """Raises ValueError unless scores are the model's own."""
        _check_head(self.model, probe, self.device, self._tolerance)

    def _choose_path(self, probe: Sequence[Tokens]) -> ScoringPath:
        longest, shortest = max(probe, key=lambda s: s.length), min(probe, key=lambda s: s.length)
        self._check_head(shortest)
        pairs = [s for one in (longest, shortest) for s in (one, packing.partner(one, probe))]
        reason = parallel.agreed(self._why_not_packed(pairs))  # whatever follows, all processes compute it or none
        if reason is None:
            return "packed"
        print(f"{self.model.config.model_type}: scoring padded rows instead of packed ones: {reason}", file=sys.stderr)
        gaps = parallel.everyones(self._difference(packing.pad(pairs, self.device), pairs))
        if wrong := [gap for gap in gaps if not gap <= self._tolerance]:
            raise ValueError(
                f"model type '{self.model.config.model_type}': a sequence's log-probs move by {wrong[0]:.1g} nats per"
                " token with the length of those beside it (rotary embeddings that change beyond some length do that);"
                " leave out what is longer than original_max_position_embeddings in its config.json, or use another"
                " model"
            )
        return "padded"

    def _why_not_packed(self, probe: list[Tokens]) -> str | None:
        if not attention.packable(self.model):
            return "its layers carry state along a row, or take no attention function"
        try:
            gap = self._difference(packing.pack(probe, self.device), probe, attention.NAME)
        except attention.LayoutLost as error:
            return str(error)
        finally:
            self.model.set_attn_implementation(self._plain)
        return (
            None if gap <= self._tolerance else f"packed log-probs differ from plain ones by {gap:.1g} nats per token"
        )

    @torch.no_grad()
    def _difference(self, batch: Batch, sequences: Sequence[Tokens], implementation: str | None = None) -> float:
        """Largest difference, in nats, between a batch's scores, by an implementation of attention, and those of each
        of its sequences by itself.
        """
        expected = torch.cat([self._scores(packing.pad([s], self.device)) for s in sequences])
        if implementation:
            self.model.set_attn_implementation(implementation)
        return float((self._scores(batch) - expected).abs().max())

    @torch.no_grad()
    def _kernel_agrees(self, probe: Sequence[Tokens]) -> bool:
        """Whether CUDA's variable-length kernel is asked for, and scores as the other one does but for rounding."""
        if self.path == "padded" or self.device.type != "cuda" or self.precision != "bf16":
            return False
        longest = max(probe, key=lambda s: s.length)
        pair = longest, packing.partner(longest, probe)
        self.model.set_attn_implementation(attention.NAME)
        with torch.autocast(self.device.type, torch.bfloat16):
            found, expected = (self._scores(packing.pack(pair, self.device, varlen)) for varlen in (True, False))
        self.model.set_attn_implementation(self._plain)
        gap = float((found - expected).abs().mean())
        if not gap <= _HALF_TOLERANCE:
            reason = f"the kernel for sequences of any length is off by {gap:.1g} nats per token"
            print(f"{self.model.config.model_type}: attends block by block: {reason}", file=sys.stderr)
        return gap <= _HALF_TOLERANCE

    def _add_adapters(self, lora: Lora) -> Any:
        return add_adapters(self.model, lora, "CAUSAL_LM")

    def _ready(self) -> None:
        if self.path == "packed":
            self.model.set_attn_implementation(attention.NAME)
        for dropout in self._dropouts():
            dropout.train()
        if self._checkpointing:
            _checkpoint_layers(self.model)

    def _dropouts(self) -> list[nn.Module]:
        return [module for name, module in self.model.named_modules() if name.endswith("lora_dropout")]


@torch.no_grad()
def _check_head(model: PreTrainedModel, probe: Tokens, device: torch.device, tolerance: float) -> None:
    batch = packing.pad([probe], device)
    expected = torch.log_softmax(model(**batch.inputs, use_cache=False).logits[0].float(), -1)
    found = token_logprobs(model, hidden_states(model, batch), batch.targets)
    gap = float((found - expected[batch.scored, batch.targets]).abs().max())
    if not gap <= tolerance:
        kind = model.config.model_type
        raise ValueError(
            f"model type '{kind}': log-probs computed from its hidden states differ from its own by {gap:.1g} nats per"
            " token (non-finite weights, or a transformation of its logits that train/logprobs.py does not know);"
            " use another model"
        )


def _checkpoint_layers(model: PreTrainedModel) -> None:
    """Gradient checkpointing needs the layers, and only them, to believe that they are training."""
    if not model.supports_gradient_checkpointing:
        raise ValueError(f"model type '{model.config.model_type}': no gradient checkpointing; set it to false")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
            for name in [n for n, value in vars(module).items() if "dropout" in n and isinstance(value, float)]:
                setattr(module, name, 0.0)
