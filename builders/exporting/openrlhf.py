"""For OpenRLHF 0.11: rows of prompt, chosen and rejected (`train_dpo`), or of input and output (`train_sft`).

OpenRLHF tokenises prompt and completion together and adds no BOS. It strips line breaks from the end and appends a
space and EOS, unless the text ends with EOS (`openrlhf/datasets/reward_dataset.py`, `sft_dataset.py`): so BOS and EOS
are written into the texts. It always ends with EOS, also after a step. Rows are Parquet, which it reads as it reads
JSON lines, since the JSON reader of `datasets` makes dates of a column of texts that look like dates.
"""

from collections.abc import Sequence

import pyarrow as pa

from builders.exporting.peer_layout import (
    Layout,
    Order,
    RowOf,
    chat_row,
    chat_schema,
    plain,
    text_row,
    text_schema,
    written_out,
)
from builders.exporting.peer_tokens import Join, Tokens, Words
from schemas.sections_training import PreferenceRun

NAME, VERSION, TABLES = "OpenRLHF", "0.11.2", ("pairs", "demos")
NEEDS_MODEL = True
_NAMES: dict[str, dict[str, str]] = {"pairs": {}, "demos": {"prompt": "input", "completion": "output"}}


def layout(order: Order) -> Layout:
    """How rows are written for OpenRLHF."""
    table, words, files = order.table, order.words, {"train.sh": _script(order)}
    if words is None:
        schema, row = _renamed(chat_schema(table), table), _row(chat_row(table), table)
        return Layout(schema, row, plain, None, files, _notes(order))
    schema, row = _renamed(text_schema(table), table), _row(text_row(table), table)
    return Layout(schema, row, written_out(words, always_end=True), join(words), files, _notes(order))


def _renamed(schema: pa.Schema, table: str) -> pa.Schema:
    return pa.schema([(_NAMES[table].get(field.name, field.name), field.type) for field in schema])


def _row(row: RowOf, table: str) -> RowOf:
    names = _NAMES[table]
    return lambda example, texts: {str(names.get(name, name)): v for name, v in row(example, texts).items()}


def join(words: Words) -> Join:
    """What OpenRLHF makes of a prompt and completions; its last token is always EOS."""

    def joined(prompt: str, completions: Sequence[str]) -> list[Tokens]:
        length, whole = len(words.encode(prompt)), [_ended(prompt + text, words.eos) for text in completions]
        ids = [[*words.encode(text)[:-1], words.tokenizer.eos_token_id] for text in whole]
        return [Tokens(each[:length], each[length:]) for each in ids]

    return joined


def _ended(text: str, eos: str) -> str:
    """A text as OpenRLHF ends it."""
    stripped = text.rstrip("\n")
    return stripped if stripped.endswith(eos) else f"{stripped} {eos}"


def _script(order: Order) -> str:
    rows = {"data.dataset": '"$here/train.parquet"'}
    if order.table == "pairs":
        rows |= {"data.prompt_key": "prompt", "data.chosen_key": "chosen", "data.rejected_key": "rejected"}
    else:
        rows |= {"data.input_key": "input", "data.output_key": "output", "data.input_template": "none"}
    rows |= {"data.max_len": "32768", "train.seed": str(order.seed)}
    lines = [f"  --{name} {value}" for name, value in (rows | _training(order)).items()]
    lines += ["  --data.apply_chat_template"] if order.words is None else []
    program = "train_dpo" if order.table == "pairs" else "train_sft"
    return (
        f"#!/usr/bin/env bash\n# OpenRLHF {VERSION} on {order.run}: bash train.sh MODEL OUTPUT [further settings]\n"
        'here=$(cd "$(dirname "$0")" && pwd)\n'
        f"deepspeed --module openrlhf.cli.{program} \\\n"
        '  --model.model_name_or_path "$1" \\\n  --ckpt.output_dir "$2" \\\n' + " \\\n".join(lines) + ' "${@:3}"\n'
    )


def _training(order: Order) -> dict[str, str]:
    training = order.training
    if training is None:
        return {}
    o = training.optimizer
    schedule = "constant_with_warmup" if o.schedule == "constant" else o.schedule
    found = {
        "adam.lr": o.lr, "adam.betas": f"{o.betas[0]} {o.betas[1]}", "adam.weight_decay": o.weight_decay,
        "lr_scheduler": schedule, "lr_warmup_ratio": o.warmup, "max_norm": o.grad_clip,
        "train.batch_size": o.batch_size,
    }  # fmt: skip
    found |= {"train.max_epochs": max(1, round(o.epochs))} if o.epochs else {}
    if isinstance(training, PreferenceRun):
        found |= {"model.beta": training.beta}
        found |= {"model.nll_loss_coef": training.alpha} if training.loss == "dpo_nll" else {}
    return {name: str(value) for name, value in found.items()}


def _notes(order: Order) -> list[str]:
    if order.words is None:
        return [
            "The rows are messages; `--data.apply_chat_template` renders them by the model's chat template. Line breaks"
            " at the end are stripped, and where the template does not end a turn with the tokenizer's EOS, a space and"
            " EOS are appended."
        ]
    template = "" if order.table == "pairs" else " `--data.input_template none` keeps its default words away."
    return [
        "The texts hold BOS and EOS already, as ours do: with EOS at the end OpenRLHF strips no line break and adds no"
        f" space.{template} It tokenises prompt and completion together; where a token reaches across, it takes another"
        " place for the boundary than ours.",
        "OpenRLHF ends every sequence with EOS: a step of Step-DPO, or a completion that was cut off, has one EOS more"
        " than in our training, and no setting avoids that.",
    ]
