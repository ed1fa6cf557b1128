"""For TRL 1.16: preference data (`DPOTrainer`, `KTOTrainer`), and prompt and completion (`SFTTrainer`).

TRL tokenises the prompt, and prompt and completion together, with the tokenizer's own special tokens, and takes what
both begin with as the prompt (`trl/trainer/dpo_trainer.py`, `_prepare_dataset`; the same in `sft_trainer.py`). To a
standard completion it appends the tokenizer's EOS unless the text ends with it. With a model, the file holds our tokens
beside the texts: `SFTTrainer` reads them as they are (`input_ids`, `labels`), and a `DPOTrainer` that leaves its own
preparation out reads `prompt_ids`, `chosen_ids` and `rejected_ids`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from builders.exporting.peer_layout import (
    IDS,
    Layout,
    Order,
    RowOf,
    chat_row,
    chat_schema,
    masked,
    plain,
    text_row,
    text_schema,
)
from builders.exporting.peer_rows import Example
from builders.exporting.peer_tokens import Join, Texts, Tokens, Words, common_prefix
from schemas.sections_training import PreferenceRun

NAME, VERSION, TABLES = "TRL", "1.16.0", ("pairs", "demos")
NEEDS_MODEL = False
"""Texts need no tokenizer: TRL adds BOS and EOS."""
_COLUMNS = {"pairs": ("prompt_ids", "chosen_ids", "rejected_ids"), "demos": ("input_ids", "labels")}


def layout(order: Order) -> Layout:
    """How rows are written for TRL."""
    table, words = order.table, order.words
    files, notes = {"train.py": _script(order)}, _notes(order)
    if order.conversational:
        return Layout(chat_schema(table), chat_row(table), plain, None, files, notes)
    if words is None:
        return Layout(text_schema(table), text_row(table), plain, None, files, notes)
    schema = pa.schema([*text_schema(table), *((name, IDS) for name in _COLUMNS[table])])
    return Layout(schema, _row(table), _texts(words), join(words), files, notes)


def _texts(words: Words) -> Callable[[Example], tuple[str, list[str]]]:
    """Texts without BOS and EOS: TRL adds both. A chat template may have written the BOS already."""

    def texts(example: Example) -> tuple[str, list[str]]:
        return words.prompt(example).removeprefix(words.bos), [side.text for side in example.sides]

    return texts


def _row(table: str) -> RowOf:
    text = text_row(table)

    def row(example: Example, texts: Texts) -> dict[str, Any]:
        first = texts.tokens[0]
        if table == "pairs":
            ids = [first.prompt, *(side.completion for side in texts.tokens)]
        else:
            ids = [first.prompt + first.completion, masked(first)]
        return text(example, texts) | dict(zip(_COLUMNS[table], ids, strict=True))

    return row


def join(words: Words) -> Join:
    """What TRL's own preparation makes of standard texts."""

    def joined(prompt: str, completions: Sequence[str]) -> list[Tokens]:
        eos = _eos(words)
        asked = words.encode(prompt, special=True)
        whole = [words.encode(prompt + text.removesuffix(eos) + eos, special=True) for text in completions]
        length = min(common_prefix(asked, ids) for ids in whole)
        return [Tokens(asked[:length], ids[length:]) for ids in whole]

    return joined


def _eos(words: Words) -> str:
    """The text that TRL appends: `train.py` names the chat template's ending to it where that is another token."""
    return words.ending("chat") if words.tokenizer.chat_template else words.eos


def _notes(order: Order) -> list[str]:
    if order.conversational:
        return [
            "`prompt` and the completions are messages: TRL renders them by the model's chat template. What that writes"
            " after the model's turn (a line break, often) is trained on too, where our training stops at the ending;"
            " export with `--model` for exactly our tokens.",
        ]
    trainer = "`DPOTrainer`" if order.table == "pairs" else "`SFTTrainer`"
    if order.words is None:
        return [
            f"The texts are as the store has them; {trainer} tokenises prompt and completion together and appends EOS"
            " to every completion, also to one that has not ended (see the `eos` columns; a step of Step-DPO has none)."
            " Export with `--model` for exactly our tokens.",
        ]
    if order.table == "demos":
        return [
            "`input_ids` and `labels` are our tokens; `SFTTrainer` reads these and leaves the texts alone. So all"
            " sequences are ours, token for token; the count above is of TRL's own way with the texts.",
        ]
    return [
        "`train.py` trains on `prompt_ids`, `chosen_ids` and `rejected_ids`: our tokens, whatever the tokenizer, and no"
        " EOS after a step. The count above is of TRL's own way with the texts, which a plain `DPOTrainer` goes: it"
        " appends EOS to every completion, and begins the completion earlier where a token reaches across.",
        "`KTOTrainer` takes the same file, and makes two rows of each pair.",
        *_nll(order),
    ]


def _nll(order: Order) -> list[str]:
    if not isinstance(order.training, PreferenceRun) or order.training.loss != "dpo_nll":
        return []
    return [
        "TRL's `sft` term is the mean over all chosen tokens of a micro-batch; ours, as in the paper, is the mean per"
        " sequence, then over the batch. They are equal only for one pair at a time, or chosen texts of equal length."
    ]


_PAIRS = '''"""DPO with TRL {version} on {run}: python train.py MODEL OUTPUT"""

import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

{trainer}

model, output = sys.argv[1:]
rows = load_dataset("parquet", data_files=str(Path(__file__).with_name("train.parquet")), split="train")
config = DPOConfig(
    output_dir=output,
{settings}
)
tokenizer = AutoTokenizer.from_pretrained(model)
{ending}trainer = Trainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
trainer.train()
trainer.save_model(output)
'''
_OURS = '''
class Trainer(DPOTrainer):
    """Trains on the token ids of the file: TRL's own preparation, with its EOS, is left out."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset
'''
_DEMOS = '''"""SFT with TRL {version} on {run}: python train.py MODEL OUTPUT"""

import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

model, output = sys.argv[1:]
rows = load_dataset("parquet", data_files=str(Path(__file__).with_name("train.parquet")), split="train")
config = SFTConfig(
    output_dir=output,
{settings}
)
tokenizer = AutoTokenizer.from_pretrained(model)
{ending}trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
trainer.train()
trainer.save_model(output)
'''


def _script(order: Order) -> str:
    ours = order.words is not None and not order.conversational
    trainer = _OURS if ours else "\nTrainer = DPOTrainer\n"
    settings = "\n".join(f"    {name}={value!r}," for name, value in _settings(order).items())
    ending = ""
    if order.words is not None and _eos(order.words) != order.words.eos:
        ending = f"tokenizer.eos_token = {_eos(order.words)!r}  # as the chat template ends a turn\n"
    text = _PAIRS if order.table == "pairs" else _DEMOS
    return text.format(
        version=VERSION, run=order.run, trainer=trainer.strip("\n") + "\n", settings=settings, ending=ending
    )


def _settings(order: Order) -> dict[str, Any]:
    """Arguments of TRL's configuration: those that leave the rows whole, and those of the run that trains on them."""
    found: dict[str, Any] = {"max_length": None, "seed": order.seed}
    training = order.training
    if training is None:
        return found
    o = training.optimizer
    found |= {
        "learning_rate": o.lr, "lr_scheduler_type": _SCHEDULES[o.schedule], "warmup_steps": o.warmup,
        "weight_decay": o.weight_decay, "adam_beta1": o.betas[0], "adam_beta2": o.betas[1],
        "max_grad_norm": o.grad_clip, "per_device_train_batch_size": o.batch_size,
        "bf16": training.precision == "bf16", "gradient_checkpointing": training.gradient_checkpointing,
    }  # fmt: skip
    found |= {"max_steps": o.steps} if o.steps else {"num_train_epochs": o.epochs} if o.epochs else {}
    if isinstance(training, PreferenceRun):
        both = training.loss == "dpo_nll"
        found |= {"beta": training.beta, "loss_type": ["sigmoid", "sft"] if both else ["sigmoid"]}
        found |= {"loss_weights": [1.0, training.alpha]} if both else {}
    return found


_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
