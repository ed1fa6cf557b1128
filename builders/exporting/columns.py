"""The columns of a release's configs: those that trainers read first, then where every row comes from."""

from typing import NamedTuple

import pyarrow as pa

from schemas import TABLES, Pair, Problem, Prompt, Row, Sample, arrow_schema
from schemas.sections_export import TABLE_OF

CHAT = arrow_schema(Prompt).field("messages").type
"""A conversation: a list of (role, content)."""
RAW = ("question", "initial_reason_steps", "full_chosen", "full_rejected", "answer")
"""Columns of step pairs as the authors' code names them, beside what trainers read."""
RENAMED = {"labels": "label_names", "messages": "prompt_messages"}
"""Column of a table -> its name in a release, where trainers take a column of that name for something else: TRL's
`is_conversational` may find `messages` first, and leave out the ending of rows whose texts are strings."""
_FEW = {
    "run", "source", "licence", "rendering", "template", "eos", "model", "model_fingerprint", "chosen_eos",
    "rejected_eos", "chosen_model", "chosen_model_fingerprint", "rejected_model", "rejected_model_fingerprint",
}  # fmt: skip


class Column(NamedTuple):
    """One column of a config."""

    name: str
    type: pa.DataType
    meaning: str
    dictionary: bool = False


def columns(config: str, conversational: bool = False) -> list[Column]:
    """The columns of a config, in order."""
    match config:
        case "pairs" | "step_pairs":
            return _pairs(config, conversational)
        case "demos":
            return _demos(conversational)
        case "step_labels":
            return [*_stepwise(), *_own("step_labels")]
    return _own(config)


def schema(config: str, conversational: bool = False) -> pa.Schema:
    """The Arrow schema of a config's shards."""
    return pa.schema([pa.field(column.name, column.type) for column in columns(config, conversational)])


def _text(name: str, meaning: str, conversational: bool = False) -> Column:
    return Column(name, CHAT if conversational else pa.string(), meaning, name in _FEW)


def _pairs(config: str, conversational: bool) -> list[Column]:
    what = "the conversation" if conversational else "the prompt as the model reads it, the given start of its answer"
    side = "answer, as a message" if conversational else "step" if config == "step_pairs" else "answer"
    found = [
        _text("prompt", what + ("" if conversational else " included"), conversational),
        _text("chosen", f"the preferred {side}", conversational),
        _text("rejected", f"the other {side}", conversational),
        _text("pair_id", "hash of prompt, samples and spans"),
        _text("run", "run of pairs"),
        *(_of(Pair, name) for name in ("prompt_id", "rank", "problem_id")),
        *_asked(),
        *(_of(Pair, f"{s}_eos") for s in ("chosen", "rejected")),
        *(_of(Pair, f"{s}_{name}") for s in ("chosen", "rejected") for name in ("sample_id", "start", "end")),
        *(
            Column(f"{s}_{name}", pa.string(), f"{s}: {_meaning(Sample, name)}", dictionary=True)
            for s in ("chosen", "rejected")
            for name in ("model", "model_fingerprint")
        ),
    ]
    return [*found, *_raw()] if config == "step_pairs" else found


def _raw() -> list[Column]:
    meanings = (
        "the problem's question, without a template",
        "the given start of the answer: the steps before, and the marker of this one",
        "the preferred sample from the step to its end",
        "the other sample from the step to its end",
        "the problem's answer",
    )
    return [_text(name, meaning) for name, meaning in zip(RAW, meanings, strict=True)]


def _asked() -> list[Column]:
    named = [(Problem, "source"), (Problem, "licence"), (Prompt, "messages"), (Prompt, "prefill")]
    return [_released(row, name) for row, name in [*named, (Prompt, "rendering"), (Prompt, "template")]]


def _demos(conversational: bool) -> list[Column]:
    what = "the conversation" if conversational else "the prompt as the model reads it"
    return [
        _text("prompt", what, conversational),
        _text("completion", "the answer to imitate" + (", as a message" if conversational else ""), conversational),
        _text("run", "run of demos"),
        _of(Sample, "prompt_id"),
        *(_of(Sample, name) for name in ("sample_id", "problem_id")),
        *_asked(),
        Column("eos", pa.bool_(), "whether the sample ended by itself, so that an ending follows", True),
        *(_of(Sample, name) for name in ("model", "model_fingerprint")),
    ]


def _stepwise() -> list[Column]:
    return [
        _text("prompt", "the sample's prompt as the model reads it; the question where it answers none"),
        Column("completions", pa.list_(pa.field("element", pa.string())), "the steps, up to the first wrong one"),
        Column("labels", pa.list_(pa.field("element", pa.bool_())), "whether each step is right"),
    ]


def _own(config: str) -> list[Column]:
    """The columns of our own table, and the run."""
    row = TABLES[TABLE_OF[config]]
    return [*(_released(row, name) for name in row.model_fields), _text("run", f"run of {config}")]


def _released(row: type[Row], name: str) -> Column:
    return _of(row, name)._replace(name=RENAMED.get(name, name))


def _of(row: type[Row], name: str) -> Column:
    few = name in row.dictionary and name != "prefill"
    return Column(name, arrow_schema(row).field(name).type, _meaning(row, name), few or name in _FEW)


def _meaning(row: type[Row], name: str) -> str:
    return row.model_fields[name].description or ""
