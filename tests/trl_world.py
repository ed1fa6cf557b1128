"""Preference pairs of given lengths, and two ways to train on them in this process: `train.preference` and TRL.

TRL gets the same token ids: its preparation of datasets (which renders and appends) is left out, its collator is not.
"""

import copy
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config

from schemas.sections_training import PreferenceRun
from train import losses
from train.data import Pair
from train.optimizer import adamw, update
from train.packing import Tokens
from train.policy import Policy
from train.preference import pair_losses
from train.texts import Span

BETA = 0.1


class Shape(NamedTuple):
    """Lengths of some pairs in tokens: prompts and completions, each as mean and standard deviation."""

    prompt: tuple[int, int]
    completion: tuple[int, int]
    correct: tuple[int, ...] = (1,) * 8
    """Per prompt, how many of its samples are right; as many pairs as `ranks`, which walk both lists at once."""
    samples: int = 2
    ranks: int = 1


SHAPES = {
    "irpo": Shape((100, 0), (200, 60)),
    "irpo_grouped": Shape((100, 0), (200, 60), correct=(27, 24, 21, 18, 15, 12, 6, 3), samples=30, ranks=10),
    "step_400": Shape((400, 60), (45, 15)),
    "step_1200": Shape((1200, 180), (60, 20)),
}
"""Prompts of Step-DPO end with some steps, so they vary."""


def make_pairs(shape: Shape, vocabulary: int, seed: int = 0) -> list[Pair]:
    """The pairs of a shape: pair k of a prompt is winner k with loser k, each list started over when it ends, as
    `pairs_outcome` makes them.
    """
    random = np.random.default_rng(seed)

    def ids(n: int) -> np.ndarray:
        return random.integers(3, vocabulary, n).astype(np.int32)

    def lengths(mean: int, deviation: int, count: int) -> list[int]:
        return np.clip(random.normal(mean, deviation, count), 2, None).astype(int).tolist()

    pairs = []
    for number, winners in enumerate(shape.correct):
        prompt = ids(*lengths(*shape.prompt, 1))
        drawn = [ids(n) for n in lengths(*shape.completion, shape.samples)]
        for rank in range(shape.ranks):
            both = rank % winners, winners + rank % (shape.samples - winners)
            spans = [Span(f"p{number}", f"p{number}-{i}", 0, len(drawn[i]), True) for i in both]
            tokens = [Tokens(prompt, drawn[i]) for i in both]
            pairs.append(Pair(f"pair {number}-{rank}", spans[0], spans[1], tokens[0], tokens[1]))
    return pairs


def make_model(width: int, layers: int, vocabulary: int) -> PreTrainedModel:
    """A random model of Qwen3's shape in float32."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, head_dim=64,
        num_attention_heads=max(width // 64, 2), num_key_value_heads=max(width // 128, 1), tie_word_embeddings=True,
        max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


class Ours:
    """`train.preference` on a copy of a model, with the log-probs of that model as its reference."""

    def __init__(self, model: PreTrainedModel, pairs: Sequence[Pair], micro_tokens: int, loss: str = "dpo"):
        optimizer = {"lr": 1e-3, "batch_size": len(pairs), "steps": 5, "micro_tokens": micro_tokens}
        run = {"model": "m", "pairs": "p", "reference": "r", "loss": loss, "beta": BETA, "optimizer": optimizer}
        self.config = PreferenceRun.model_validate(run | {"steps_from": "none", "validation": _NO_VALIDATION})
        self.pairs = list(pairs)
        none: Any = None  # nothing is rendered here
        self.policy = Policy(copy.deepcopy(model), none, [s for pair in pairs for s in pair.sequences])
        assert self.policy.path == "packed"
        self.references = self._references()
        self.optimizer = adamw(self.policy.model, self.config.optimizer)

    @torch.no_grad()
    def _references(self) -> dict[Span, float]:
        found = {}
        for pair in self.pairs:
            logprobs = self.policy.logprobs(pair.sequences).tolist()
            found |= dict(zip((pair.chosen_span, pair.rejected_span), logprobs, strict=True))
        return found

    def backward(self) -> float:
        """Accumulates the gradients of one batch, which is all pairs; returns its loss."""
        total = 0.0
        micro_tokens = self.config.optimizer.micro_tokens
        for numbers in self.policy.micro_batches([pair.sequences for pair in self.pairs], micro_tokens):
            columns = pair_losses(self.policy, [self.pairs[i] for i in numbers], self.references, self.config)
            loss = losses.share_of_mean(columns["loss"], len(self.pairs))
            loss.backward()
            total += float(loss.detach())
        return total

    def step(self) -> float:
        """One update; returns the loss before it."""
        loss = self.backward()
        update(self.optimizer, self.policy.trainable(), self.config.optimizer.lr, self.config.optimizer.grad_clip)
        return loss

    @property
    def model(self) -> PreTrainedModel:
        return self.policy.model


_NO_VALIDATION = dict.fromkeys(("prompts", "problems", "questions", "labels"), "none") | {"sampling": "greedy"}


class Theirs:
    """TRL's `DPOTrainer` on a copy of a model. `cached`: reference log-probs are computed once, before training."""

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[Pair],
        cached: bool,
        micro_pairs: int = 8,
        loss: Sequence[str] = ("sigmoid",),
        adapters: Any = None,
        on_cuda: bool = False,
    ):
        """`adapters`: a peft configuration; `on_cuda`: under autocast in bfloat16 there."""
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        if len(pairs) % micro_pairs:
            raise ValueError(f"{len(pairs)} pairs: micro-batches of {micro_pairs} do not divide them")

        class Given(DPOTrainer):
            """Takes rows of token ids as they are."""

            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        place = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, place, True)  # without a warning, in whichever test it is collected
        arguments = DPOConfig(
            output_dir=place, per_device_train_batch_size=micro_pairs, beta=BETA, loss_type=list(loss),
            gradient_accumulation_steps=len(pairs) // micro_pairs, learning_rate=1e-3, lr_scheduler_type="constant",
            weight_decay=0.0, max_grad_norm=1.0, max_steps=5, num_train_epochs=5, logging_steps=1, report_to=[],
            save_strategy="no", bf16=on_cuda, use_cpu=not on_cuda, gradient_checkpointing=False, max_length=None,
            precompute_ref_log_probs=cached, disable_tqdm=True, train_sampling_strategy="sequential", seed=0,
        )  # fmt: skip
        rows = Dataset.from_list([_row(pair) for pair in pairs])
        tuned = copy.deepcopy(model)
        reference = None if cached or adapters else copy.deepcopy(model)
        more = {"train_dataset": rows, "processing_class": tokenizer(), "peft_config": adapters}
        self.trainer = Given(tuned, reference, arguments, **more)
        self.micro = [list(range(i, i + micro_pairs)) for i in range(0, len(pairs), micro_pairs)]
        tuned.train()

    def backward(self) -> float:
        """Accumulates the gradients of one batch, which is all pairs, in micro-batches; returns its loss."""
        total = 0.0
        for numbers in self.micro:
            inputs = self.inputs(numbers)
            loss: Tensor = self.trainer.compute_loss(self.model, inputs) / len(self.micro)
            loss.backward()
            total += float(loss.detach())
        return total

    def inputs(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Some pairs as the trainer's collator gives them to the model."""
        rows: Any = self.trainer.train_dataset
        return self.trainer.data_collator([rows[i] for i in numbers])

    def curve(self) -> list[float]:
        """The loss of five steps of its own loop."""
        self.trainer.train()
        return [row["loss"] for row in self.trainer.state.log_history if "loss" in row]

    @property
    def model(self) -> PreTrainedModel:
        model: Any = self.trainer.model
        return model


def _row(pair: Pair) -> dict[str, list[int]]:
    return {
        "prompt_ids": pair.chosen.prompt.tolist(),
        "chosen_ids": pair.chosen.completion.tolist(),
        "rejected_ids": pair.rejected.completion.tolist(),
    }


def tokenizer(words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One of some words, with what the trainer asks for."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    known = Tokenizer(
        WordLevel({word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *words])}, unk_token="<pad>")
    )
    known.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=known, pad_token="<pad>", eos_token="</s>")


def gradients(way: Ours | Theirs) -> dict[str, Tensor]:
    """Of one batch, by parameter."""
    way.model.zero_grad()
    way.backward()
    return taken(way)


def taken(way: Ours | Theirs) -> dict[str, Tensor]:
    """The gradients that a way has, by parameter; it has none afterwards."""
    found = {name: p.grad for name, p in way.model.named_parameters() if p.grad is not None}
    way.model.zero_grad(set_to_none=True)
    return found


def gap(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of any weight's gradient, relative to the largest gradient of its tensor."""
    assert set(ours) == set(theirs)
    return max(float((ours[name] - grad).abs().max() / grad.abs().max()) for name, grad in theirs.items())
