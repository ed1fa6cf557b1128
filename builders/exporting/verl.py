"""For verl 0.9: prompts with their answers for PPO and GRPO, and conversations for its SFT trainer.

Rows of reinforcement learning have the documented columns (`data_source`, `prompt`, `ability`, `reward_model`,
`extra_info`). verl renders messages by the chat template, or by the one in `data.apply_chat_template_kwargs`: rows that
are rendered already use one that only joins contents. Its SFT data set tokenises every message on its own
(`verl/utils/dataset/multiturn_sft_dataset.py`), so a tokenizer that puts a space before whatever it encodes writes one
before the completion. `data.custom_cls`, verl's way to other data, reads our own tokens from the same file instead.
"""

from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from builders.exporting.peer_layout import CONCATENATED, IDS, Layout, Order, RowOf, plain, said, written_out
from builders.exporting.peer_rows import MESSAGES, Example
from builders.exporting.peer_tokens import Texts

NAME, VERSION, TABLES = "verl", "0.9.1", ("prompts", "demos")
NEEDS_MODEL = True
_SOURCES = {"gsm8k": "openai/gsm8k", "math": "DigitalLearningGmbH/MATH-lighteval"}
"""Our sources -> names by which verl's own reward functions know them."""
_EXTRA = {
    "prompt_id": pa.string(), "problem_id": pa.string(), "run": pa.string(), "licence": pa.string(),
    "prefill": pa.string(), "answer_kind": pa.string(), "choices": pa.list_(pa.string()),
}  # fmt: skip
_RL = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", MESSAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct([("index", pa.int64()), *_EXTRA.items()])),
    ]
)


def layout(order: Order) -> Layout:
    """How rows are written for verl."""
    words, notes = order.words, _notes(order)
    texts = plain if words is None else written_out(words)
    if order.table == "prompts":
        return Layout(_RL, _prompt_row(order), texts, None, _files(order, "reward"), notes)
    if words is None:
        return Layout(pa.schema([("messages", MESSAGES)]), _chat, texts, None, _files(order), notes)
    schema = pa.schema([("messages", MESSAGES), ("input_ids", IDS), ("loss_mask", IDS)])
    return Layout(schema, _demo, texts, words.apart, _files(order, "tokens"), notes)


def _chat(example: Example, _: Texts) -> dict[str, Any]:
    return {"messages": [*example.messages, *(said(side.text) for side in example.sides)]}


def _demo(_: Example, texts: Texts) -> dict[str, Any]:
    (tokens,) = texts.tokens
    return {
        "messages": [_asked(texts), *map(said, texts.completions)],
        "input_ids": tokens.prompt + tokens.completion,
        "loss_mask": [0] * len(tokens.prompt) + [1] * len(tokens.completion),
    }


def _asked(texts: Texts) -> dict[str, str]:
    return {"role": "user", "content": texts.prompt}


def _prompt_row(order: Order) -> RowOf:
    numbers = count()

    def row(example: Example, texts: Texts) -> dict[str, Any]:
        known = example.row
        return {
            "data_source": _SOURCES.get(known["source"], known["source"]),
            "prompt": example.messages if order.words is None else [_asked(texts)],
            "ability": "reasoning" if known["answer_kind"] == "choice" else "math",
            "reward_model": {"style": "rule", "ground_truth": known["answer"]},
            "extra_info": {"index": next(numbers), **{name: known[name] for name in _EXTRA}},
        }

    return row


def _files(order: Order, *programs: str) -> dict[str, str]:
    """`train.sh`, and programs of ours that verl loads by their paths."""
    folder = Path(__file__).parent / "peer_programs"
    texts = {f"{name}.py": (folder / f"verl_{name}.py.txt").read_text(encoding="utf-8") for name in programs}
    return {"train.sh": _script(order), **texts}


def _script(order: Order) -> str:
    if order.table == "prompts":
        launch, model = "python3 -m verl.trainer.main_ppo", "actor_rollout_ref.model.path"
        settings = {
            "data.val_files": '"${VALIDATION:-$here/train.parquet}"',
            "reward.custom_reward_function.path": '"$here/reward.py"',
        }
    else:
        launch, model = "torchrun --standalone --nproc_per_node=gpu -m verl.trainer.sft_trainer", "model.path"
        settings = {"data.max_length": 1 << 15, "data.ignore_input_ids_mismatch": True}
        if order.words is not None:
            settings |= {"data.custom_cls.path": '"$here/tokens.py"', "data.custom_cls.name": "Tokens"}
    if order.words is not None:
        settings |= {"+data.apply_chat_template_kwargs.chat_template": f"'\"{CONCATENATED}\"'"}
    settings = {"data.train_files": '"$here/train.parquet"'} | settings | _training(order)
    lines = [f"  {name}={value}" for name, value in settings.items()]
    return (
        f"#!/usr/bin/env bash\n# verl {VERSION} on {order.run}: bash train.sh MODEL [further settings]\n"
        'here=$(cd "$(dirname "$0")" && pwd)\n'
        f"{launch} \\\n" + f'  {model}="$1" \\\n' + " \\\n".join(lines) + ' "${@:2}"\n'
    )


def _training(order: Order) -> dict[str, Any]:
    training = order.training
    if training is None:
        return {}
    o = training.optimizer
    found: dict[str, Any] = {
        "optim.lr": o.lr, "optim.lr_warmup_steps_ratio": o.warmup, "optim.weight_decay": o.weight_decay,
        "optim.betas": f"[{o.betas[0]},{o.betas[1]}]", "optim.clip_grad": o.grad_clip,
        "data.train_batch_size": o.batch_size, "trainer.seed": order.seed,
    }  # fmt: skip
    found |= {"trainer.total_training_steps": o.steps} if o.steps else {}
    return found | ({"trainer.total_epochs": max(1, round(o.epochs))} if o.epochs else {})


def _notes(order: Order) -> list[str]:
    shown = "The rows are messages, rendered by the model's chat template."
    if order.words is not None:
        shown = (
            "What is asked is rendered already, with BOS where ours has one and with the prefill; `train.sh` gives verl"
            " a chat template that only joins contents."
        )
    if order.table == "prompts":
        return [
            shown,
            "`reward.py` computes rewards by our checkers; without it, verl's own functions know only `openai/gsm8k`"
            " and `DigitalLearningGmbH/MATH-lighteval` of our sources. Set `data.max_prompt_length` and"
            " `data.max_response_length` to what the prompts need; `$VALIDATION` names another file for validation.",
        ]
    if order.words is None:
        return [shown, "The loss also falls on what the template writes after the model's turn; `--model` avoids that."]
    return [
        shown,
        "`data.custom_cls` in `train.sh` reads our own tokens (`input_ids`, `loss_mask`): so all sequences are ours,"
        " whatever the tokenizer. The count above is of verl's own way with `messages` (without these two lines): it"
        " tokenises every message on its own, which differs where the tokenizer writes a space before what it encodes.",
    ]
