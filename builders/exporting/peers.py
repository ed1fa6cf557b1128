"""A run of pairs, demos or prompts in the form that another trainer reads, with settings that train on it as ours do.

A directory holds `train.parquet`, the trainer's configuration, `README.md` and `export.json`: what it was made from,
and how many of its sequences the trainer makes the same tokens of as our training. It is written aside and renamed.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from builders.exporting.peer_layout import Layout, Order
from builders.exporting.peer_rows import PROVENANCE, TABLES, Example, Shape, examples, shape
from builders.exporting.peer_tokens import Agreement, Texts, words_of
from schemas.params import Params
from schemas.sections_training import PreferenceRun, SftRun
from stores.staging import staged
from stores.store import Store

PEERS = {
    "trl": "builders.exporting.trl",
    "llama-factory": "builders.exporting.llama_factory",
    "openrlhf": "builders.exporting.openrlhf",
    "verl": "builders.exporting.verl",
}
"""Trainer -> the module that knows its form; imported when it is used."""
FILE = "train.parquet"
BATCH = 4096
Form = Literal["standard", "conversational"]


class Wanted(NamedTuple):
    """What to export, and how.

    `model` is a run of `models` whose tokenizer will train. `form`: texts (`standard`) or messages; None: texts with a
    model, else whatever the rows allow. Rows of test problems are left out unless `test_answers`.
    """

    peer: str
    run: str
    table: str | None = None
    model: str | None = None
    form: Form | None = None
    test_answers: bool = False


class Exported(NamedTuple):
    """What was written; `sequences` and `equal` are None where the trainer's tokens are not known."""

    table: str
    rows: int
    left_out: int
    sequences: int | None
    equal: int | None
    sentence: str


def export_for(store: Store, wanted: Wanted, directory: Path) -> Exported:
    """Writes a run for another trainer into a new directory.

    Raises ValueError for an unknown trainer, table or run, one that is not built, rows that cannot be written in the
    form, and a directory that is not empty.
    """
    if wanted.peer not in PEERS:
        raise ValueError(f"no exporter for '{wanted.peer}' (have {', '.join(PEERS)})")
    _refuse_used(directory)
    peer = import_module(PEERS[wanted.peer])
    table = _table(peer, wanted)
    found = shape(store, table, wanted.run, wanted.test_answers)
    conversational = _conversational(peer, wanted, table, found)
    words = None if wanted.model is None or conversational else words_of(store, wanted.model)
    training = _training(store.params, table, wanted.run)
    order = Order(wanted.run, table, conversational, words, training, store.params.seed)
    rows = examples(store, table, wanted.run, wanted.test_answers)
    with staged(directory, _refuse_used) as staging:
        layout = peer.layout(order)
        written = _write(staging, order, layout, rows, found)
        _describe(staging, peer, store, order, written, [*layout.notes, *_losses(order)])
    return written


def _refuse_used(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory}: not an empty directory; name one that does not exist yet")


def _table(peer: Any, wanted: Wanted) -> str:
    table = wanted.table or peer.TABLES[0]
    if table not in TABLES:
        raise ValueError(f"no table '{table}' is exported for trainers (have {', '.join(TABLES)})")
    if table not in peer.TABLES:
        raise ValueError(f"{peer.NAME} trains on no {table}; export {' or '.join(peer.TABLES)} with --table")
    return table


def _conversational(peer: Any, wanted: Wanted, table: str, found: Shape) -> bool:
    """Whether rows are written as messages.

    Raises ValueError where they cannot be, or where texts need a tokenizer that is not named.
    """
    place, remedy = f"{table} run '{wanted.run}'", "export texts: --format standard --model MODEL"
    hindrance = _hindrance(found)
    if wanted.form == "conversational" and hindrance:
        raise ValueError(f"{place}: rows cannot be conversations, since {hindrance}; {remedy}")
    chosen = wanted.form == "conversational" or (wanted.form is None and not wanted.model and not hindrance)
    if not chosen and not wanted.model and (peer.NEEDS_MODEL or found.chats):
        why = "their chats must be rendered" if found.chats else f"{peer.NAME} adds no BOS and EOS by itself"
        raise ValueError(
            f"{place}: texts need a tokenizer, since {why}; name the run of models that will train, with --model MODEL"
        )
    return chosen


def _hindrance(found: Shape) -> str:
    """Why rows cannot be conversations; empty if they can."""
    if found.chats < found.rows:
        return f"{found.rows - found.chats:,} prompts have `rendering: text`"
    if found.prefilled:
        return f"{found.prefilled:,} prompts have a prefill, which no list of messages can hold"
    if found.unended:
        return f"{found.unended:,} rows have a completion that has not ended, and a message closes the turn"
    return ""


def _training(params: Params, table: str, run: str) -> PreferenceRun | SftRun | None:
    """The first run of params that trains on a run of pairs or demos."""
    pairs = [found for found in params.preference.values() if table == "pairs" and found.pairs == run]
    demos = [found for found in params.sft.values() if table == "demos" and found.demos == run]
    return next(iter([*pairs, *demos]), None)


def _write(staging: Path, order: Order, layout: Layout, rows: Iterator[Example], found: Shape) -> Exported:
    provenance = pa.schema(list(PROVENANCE[order.table].items()))
    words = order.words
    agreement = Agreement(words, layout.join) if words is not None and layout.join is not None else None
    count = 0
    with ExitStack() as stack:
        file = stack.enter_context(_Rows(staging / FILE, pa.schema([*layout.schema, *provenance])))
        ids = stack.enter_context(_Rows(staging / "tokens.parquet", layout.tokens)) if layout.tokens else None
        for example in rows:
            count += 1
            ours = [] if words is None else words.ours(example)
            texts = Texts(*layout.texts(example), ours)
            file.add(layout.row(example, texts) | example.provenance(order.table))
            if agreement is not None:
                agreement.add(example, texts)
            if ids is not None and layout.token_row is not None:
                ids.add(layout.token_row(ours))
    if layout.finish is not None:
        layout.finish(staging / "tokens.parquet", staging)
    for name, text in layout.files.items():
        (staging / name).write_text(text, encoding="utf-8", newline="\n")
    sequences, equal = (agreement.sequences, agreement.equal) if agreement else (None, None)
    return Exported(
        order.table, count, found.found - found.rows, sequences, equal, agreement.sentence if agreement else ""
    )


class _Rows:
    """A Parquet file that is written row by row."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.schema, self.pending = schema, list[dict[str, Any]]()
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self.writer.close()

    def add(self, row: dict[str, Any]) -> None:
        self.pending.append(row)
        if len(self.pending) == BATCH:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.pending, schema=self.schema))
        self.pending = []


def _losses(order: Order) -> list[str]:
    """Where the trainer's loss is another one than that of the run whose settings it is given."""
    if isinstance(order.training, SftRun) and order.training.reduction == "sequence":
        return [
            "The trainer's loss is the mean over a batch's tokens; ours (`reduction: sequence`) is first per sequence."
        ]
    return []


def _describe(staging: Path, peer: Any, store: Store, order: Order, written: Exported, notes: list[str]) -> None:
    words = order.words
    record = {
        "format": 1, "peer": peer.NAME, "version": peer.VERSION, "table": order.table, "run": order.run,
        "revision": store.revision, "rows": written.rows, "test_rows_left_out": written.left_out,
        "form": "conversational" if order.conversational else "standard",
        "model": words and words.name, "model_fingerprint": words and words.fingerprint,
        "sequences": written.sequences, "equal": written.equal,
    }  # fmt: skip
    (staging / "export.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (staging / "README.md").write_text(_readme(peer, record, written, notes), encoding="utf-8")


def _readme(peer: Any, record: dict[str, Any], written: Exported, notes: list[str]) -> str:
    of = f" at revision {record['revision']}" if record["revision"] else ""
    left = f" Left out: {written.left_out:,} of test problems." if written.left_out else ""
    made = (
        f"{written.rows:,} rows of {record['table']} run `{record['run']}`{of}, for {peer.NAME} {peer.VERSION}.{left}"
    )
    model = f"Texts are rendered for model `{record['model']}` (fingerprint {record['model_fingerprint']})."
    parts = [f"# `{record['run']}` for {peer.NAME}", made]
    parts += [model] if record["model"] else []
    parts += [f"**Tokens.** {written.sentence}"] if written.sentence else []
    return "\n\n".join([*parts, *notes]) + "\n"
