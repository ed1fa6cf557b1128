"""For LLaMA-Factory 0.9.5: a data set of its own format (`dataset_info.json`), and a configuration to train with.

Standard rows are `alpaca` rows (`ranking: true` for pairs) under the template `empty`, which adds nothing at all
(`llamafactory/data/template.py`): so BOS and ending are written into the texts, and a completion that has not ended
stays without. It tokenises prompt and response apart (`Template._encode`), so a tokenizer that puts a space before
whatever it encodes writes one before the response. `tokenized_path` avoids that: `tokens/` holds our own tokens in the
form that LLaMA-Factory saves its own in.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from builders.exporting.peer_layout import (
    IDS,
    Layout,
    Order,
    masked,
    plain,
    said,
    text_row,
    text_schema,
    written_out,
)
from builders.exporting.peer_rows import MESSAGES, SIDES, Example
from builders.exporting.peer_tokens import Join, Texts, Tokens, Words
from schemas.sections_training import PreferenceRun

NAME, VERSION, TABLES = "LLaMA-Factory", "0.9.5", ("pairs", "demos")
NEEDS_MODEL = True
_TURN = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
_TAGS = {
    "role_tag": "role", "content_tag": "content",
    "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system",
}  # fmt: skip
_PARTS = ("input_ids", "attention_mask", "labels")
_MEDIA = ("images", "videos", "audios")


def layout(order: Order) -> Layout:
    """How rows are written for LLaMA-Factory."""
    table, files = order.table, {"dataset_info.json": _info(order), "train.yaml": _config(order)}
    if order.words is None:
        return Layout(_chat_schema(table), _chat_row(table), plain, None, files, _notes(order))
    return Layout(
        text_schema(table),
        text_row(table),
        written_out(order.words),
        join(order.words),
        files,
        _notes(order),
        pa.schema([*((name, IDS) for name in _token_columns(table)), *((name, pa.null()) for name in _MEDIA)]),
        _token_row(table),
        _save_tokens,
    )


def join(words: Words) -> Join:
    """What the template `empty` makes of a prompt and its responses: it fills `{{idx}}` in, and encodes them apart."""

    def joined(prompt: str, completions: Sequence[str]) -> list[Tokens]:
        return words.apart(prompt.replace("{{idx}}", "0", 1), completions)

    return joined


def _chat_schema(table: str) -> pa.Schema:
    sides = [(name, _TURN) for name in SIDES[table]] if table == "pairs" else []
    return pa.schema([("conversation", MESSAGES), *sides])


def _chat_row(table: str) -> Callable[[Example, Texts], dict[str, Any]]:
    def row(example: Example, _: Texts) -> dict[str, Any]:
        turns = [said(side.text) for side in example.sides]
        if table == "demos":
            return {"conversation": [*example.messages, *turns]}
        return {"conversation": example.messages, **dict(zip(SIDES[table], turns, strict=True))}

    return row


def _token_columns(table: str) -> list[str]:
    return [f"{side}_{part}" for side in SIDES[table] for part in _PARTS] if table == "pairs" else list(_PARTS)


def _token_row(table: str) -> Callable[[list[Tokens]], dict[str, Any]]:
    def row(tokens: list[Tokens]) -> dict[str, Any]:
        whole = [(t.prompt + t.completion, t) for t in tokens]
        values = [part for ids, t in whole for part in (ids, [1] * len(ids), masked(t))]
        return dict(zip(_token_columns(table), values, strict=True)) | dict.fromkeys(_MEDIA)

    return row


def _save_tokens(parquet: Path, directory: Path) -> None:
    """Makes `tokens/`, as `tokenized_path` reads it, of a file of token ids; columns of media are empty."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    cache = parquet.with_suffix(".cache")
    rows = Dataset.from_parquet(str(parquet), cache_dir=str(cache))
    DatasetDict(train=rows).save_to_disk(str(directory / "tokens"))  # pyrefly: ignore
    parquet.unlink()
    shutil.rmtree(cache)


def _info(order: Order) -> str:
    names = {name: name for name in SIDES[order.table]}
    if order.table == "demos":
        names = {"response": "completion"}
    info: dict[str, Any] = {"file_name": "train.parquet", "ranking": order.table == "pairs"}
    if order.words is None:
        sides = names if order.table == "pairs" else {}
        info |= {"formatting": "sharegpt", "columns": {"messages": "conversation", **sides}, "tags": _TAGS}
    else:
        info |= {"formatting": "alpaca", "columns": {"prompt": "prompt", **names}}
    return json.dumps({order.run: info}, indent=2) + "\n"


def _config(order: Order) -> str:
    import yaml

    template = {"template": "empty", "tokenized_path": "tokens"} if order.words is not None else {}
    settings = {
        "stage": "dpo" if order.table == "pairs" else "sft", "do_train": True,
        "dataset_dir": ".", "dataset": order.run, **template, "cutoff_len": 1 << 20, "seed": order.seed,
    }  # fmt: skip
    text = yaml.safe_dump(settings | _training(order), sort_keys=False)
    return f"# cd here; llamafactory-cli train train.yaml model_name_or_path=MODEL output_dir=OUTPUT\n{text}"


def _training(order: Order) -> dict[str, Any]:
    training = order.training
    if training is None:
        return {}
    o = training.optimizer
    found: dict[str, Any] = {
        "learning_rate": o.lr, "lr_scheduler_type": "constant_with_warmup" if o.schedule == "constant" else o.schedule,
        "warmup_steps": o.warmup, "weight_decay": o.weight_decay, "adam_beta1": o.betas[0], "adam_beta2": o.betas[1],
        "max_grad_norm": o.grad_clip, "per_device_train_batch_size": o.batch_size,
        "bf16": training.precision == "bf16",
        "finetuning_type": "full" if training.lora is None else "lora",
    }  # fmt: skip
    found |= {"lora_rank": training.lora.rank} if training.lora is not None else {}
    found |= {"max_steps": o.steps} if o.steps else {"num_train_epochs": o.epochs} if o.epochs else {}
    if isinstance(training, PreferenceRun):
        found |= {"pref_loss": "sigmoid", "pref_beta": training.beta}
        found |= {"pref_ftx": training.alpha} if training.loss == "dpo_nll" else {}
    return found


def _notes(order: Order) -> list[str]:
    if order.words is None:
        return [
            "The rows are messages, rendered by the template of LLaMA-Factory's that `train.yaml` or the command line"
            " names (`template: qwen`, …; without one it is read off the tokenizer's chat template). It encodes every"
            " turn on its own, and its templates are its own: export with `--model` for exactly our tokens.",
        ]
    return [
        "`tokenized_path: tokens` in `train.yaml` gives LLaMA-Factory our own tokens: so all sequences are ours,"
        " whatever the tokenizer, and no EOS follows a step. The count above is of its own way with the texts (remove"
        " the line for it). They hold BOS and EOS already, where ours do, and `template: empty` adds nothing; but it"
        " encodes prompt and response apart, which differs where the tokenizer writes a space before what it encodes.",
    ]
