"""A reward model: a causal language model's trunk with a two-class head on the last token of prompt and completion.

It is transformers' own sequence-classification model of the architecture, and is saved as one: a plain directory that
`AutoModelForSequenceClassification` loads. The head reads the last token of the text, as in ReFT's published code
(`train_reward_model.py`): no end-of-sequence token is appended, so that padding with it, which is what many tokenizers
have, hides nothing.

Legend: n sequences, d hidden size.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from builders.model_files import check_weights, device, is_reward_model, load_model, load_tokenizer, trusts_code
from schemas.sections_training import Lora
from train import packing
from train.adapters import add_adapters
from train.packing import Batch, Tokens
from train.policy import TOLERANCE, Policy

LABELS = ("wrong", "correct")
HEAD = "score"
"""What transformers calls the head, in all architectures that have one on the last token."""


class Classifier(Policy):
    """Says how sure it is that completions are correct, with gradients; else as a `Policy` is."""

    @classmethod
    def load(cls, directory: Path, probe: Sequence[Tokens], **settings: Any) -> Self:
        """A reward model on the device, or a language model with a new head in place of its own."""
        tokenizer = load_tokenizer(directory)
        model = load_classifier(directory) if is_reward_model(directory) else new_classifier(directory)
        set_padding(model, tokenizer)
        return cls(model.to(torch.device(device())), tokenizer, probe, **settings)  # pyrefly: ignore

    def class_logprobs(self, sequences: Sequence[Tokens]) -> Tensor:
        """Log-probs of the classes of `LABELS`, in nats: (n, 2), in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._scores(self.batch(sequences))

    def _scores(self, batch: Batch) -> Tensor:
        states = self.model.base_model(**batch.inputs, use_cache=False).last_hidden_state
        hidden = states.flatten(0, 1).index_select(0, batch.last)
        with torch.autocast(hidden.device.type, enabled=False):
            return getattr(self.model, HEAD)(hidden.float()).log_softmax(-1)

    @torch.no_grad()
    def _check_head(self, probe: Tokens) -> None:
        batch = packing.pad([probe], self.device)
        expected = self.model(**batch.inputs, use_cache=False).logits.float().log_softmax(-1)
        gap = float((self._scores(batch) - expected).abs().max())
        if not gap <= TOLERANCE:
            raise ValueError(
                f"model type '{self.model.config.model_type}': classes computed from its hidden states differ from its"
                f" own by {gap:.1g} nats (non-finite weights, or a head that train/classifier.py does not know); use"
                " another model"
            )

    def _add_adapters(self, lora: Lora) -> Any:
        return add_adapters(self.model, lora, "SEQ_CLS", [HEAD])


def load_classifier(directory: Path) -> PreTrainedModel:
    """The reward model of a directory, on the CPU, in evaluation mode. Never unpickles.

    Raises ValueError for a language model, and for a model of other classes than two.
    """
    require_classifier(directory)
    model = AutoModelForSequenceClassification.from_pretrained(
        directory,
        dtype="float32",
        use_safetensors=True,
        trust_remote_code=trusts_code(directory),
        local_files_only=True,
    )
    if model.config.num_labels != len(LABELS):
        n = model.config.num_labels
        raise ValueError(f"{directory}: its head has {n} classes, not wrong and correct; name a run of `reward_model`")
    return model.eval()


def require_classifier(directory: Path) -> None:
    """Raises ValueError for a directory without weights, and for a language model."""
    check_weights(directory)
    if not is_reward_model(directory):
        raise ValueError(f"{directory}: a language model, and no reward model; name a run of `reward_model`")


def new_classifier(directory: Path) -> PreTrainedModel:
    """A language model's trunk with a new head, drawn from the present seed; raises ValueError for an architecture that
    transformers has no classifier of.
    """
    language_model = load_model(directory)
    config = copy.deepcopy(language_model.config)
    config.num_labels = len(LABELS)
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: i for i, name in enumerate(LABELS)}
    config.problem_type = "single_label_classification"
    with torch.device("meta"):
        model = _shell(config, directory)
    trunk, shell = language_model.base_model, model.base_model
    head = getattr(model, HEAD, None)
    if type(trunk) is not type(shell) or not isinstance(head, nn.Linear):
        raise ValueError(_unsupported(directory, config.model_type))
    setattr(model, model.base_model_prefix, trunk)
    setattr(model, HEAD, _drawn(head, getattr(config.get_text_config(), "initializer_range", 0.02)))
    return model.eval()


def _shell(config: Any, directory: Path) -> PreTrainedModel:
    """The classifier of a configuration, without weights."""
    try:
        return AutoModelForSequenceClassification.from_config(config, trust_remote_code=trusts_code(directory))
    except ValueError:
        raise ValueError(_unsupported(directory, config.model_type)) from None


def _unsupported(directory: Path, kind: str) -> str:
    return (
        f"{directory}: transformers has no classifier on the last token for model type '{kind}'; start the reward model"
        " from a model of another architecture"
    )


def _drawn(head: nn.Linear, scale: float) -> nn.Linear:
    """A head of the same shape with weights from a normal distribution, as transformers initialises them."""
    new = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
    nn.init.normal_(new.weight, std=scale)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new


def set_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Agrees on a padding token: whoever classifies a batch of padded rows finds each row's last token by it.

    One that the tokenizer has, else a token that no text ends with. The embeddings are left as they are. Rows are
    padded on the right, where it moves no position.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        special = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token)
        tokenizer.pad_token = next((token for token in special if token is not None), None)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
