"""What is exported for other trainers: the rows of one run with their texts, as the store's views join them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.params import table_runs
from stores.duck import sql_file
from stores.store import Store

TABLES = ("pairs", "demos", "prompts")
SIDES = {"pairs": ("chosen", "rejected"), "demos": ("completion",), "prompts": ()}
"""Table -> its columns of completions, which are also the names of the columns that trainers read."""
_EOS = {"chosen": "chosen_eos", "rejected": "rejected_eos", "completion": "eos"}
MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
PROVENANCE = {
    "pairs": {
        "pair_id": pa.string(), "run": pa.string(), "prompt_id": pa.string(), "rank": pa.int32(),
        "problem_id": pa.string(), "source": pa.string(), "licence": pa.string(),
        "prefill": pa.string(), "rendering": pa.string(),
        "chosen_eos": pa.bool_(), "rejected_eos": pa.bool_(),
        "chosen_sample_id": pa.string(), "chosen_start": pa.int32(), "chosen_end": pa.int32(),
        "rejected_sample_id": pa.string(), "rejected_start": pa.int32(), "rejected_end": pa.int32(),
    },
    "demos": {
        "run": pa.string(), "prompt_id": pa.string(), "sample_id": pa.string(), "problem_id": pa.string(),
        "source": pa.string(), "licence": pa.string(), "prefill": pa.string(), "rendering": pa.string(),
        "eos": pa.bool_(),
    },
    "prompts": {},
}  # fmt: skip
"""Table -> columns that follow what trainers read. None of them is a name to which one of the trainers gives a meaning
(TRL takes rows with a column `messages` for conversations)."""


class Side(NamedTuple):
    """A completion, and whether it ended by itself."""

    text: str
    eos: bool


class Example(NamedTuple):
    """One row of a table: what is asked, and its completions (chosen and rejected, or one, or none)."""

    name: str
    messages: list[dict[str, str]]
    prefill: str
    rendering: str
    sides: tuple[Side, ...]
    row: dict[str, Any]

    def provenance(self, table: str) -> dict[str, Any]:
        """The columns that say where the row comes from."""
        return {column: self.row[column] for column in PROVENANCE[table]}


class Shape(NamedTuple):
    """Counts of rows: all, those of unknown problems; of those that are exported all, chats, prefilled, cut off."""

    found: int
    unknown: int
    rows: int
    chats: int
    prefilled: int
    unended: int


def shape(store: Store, table: str, run: str, test_answers: bool) -> Shape:
    """What the rows that are to be exported have in common.

    Raises ValueError for a run that is unknown or not built, that has no rows, or whose problems are not there.
    """
    _require_built(store, table, run)
    query = sql_file(__file__, "peer_shape").replace("{source}", sql_file(__file__, f"peer_{table}"))
    (counts,) = store.sql(query, {"run": run, "test": test_answers}).fetchall()
    found = Shape(*counts)
    if found.unknown:
        raise ValueError(
            f"{table} run '{run}': the problems of {found.unknown:,} rows are not in its problems runs, so nobody knows"
            " whether they are of a test split; build them with `dvc repro`"
        )
    if not found.found:
        hint = " (a prompt needs a problem with a known answer)" if table == "prompts" else ""
        raise ValueError(f"{table} run '{run}' has no rows to export{hint}")
    if not found.rows:
        raise ValueError(f"all problems of {table} run '{run}' are of a test split; --test-answers exports them")
    return found


def examples(store: Store, table: str, run: str, test_answers: bool) -> Iterator[Example]:
    """The rows of a run in the order of the table; those of test problems only with `test_answers`.

    Raises ValueError for a row whose prompt or sample is not there.
    """
    query = sql_file(__file__, f"peer_{table}")
    kept = query if test_answers else f"select * from ({query}) where not coalesce(is_test, false)"
    for batch in store.sql(kept, {"run": run}).batches():
        for row in batch.to_pylist():
            yield _example(table, row)


def _example(table: str, row: dict[str, Any]) -> Example:
    key = row.get("rank", row.get("sample_id"))
    name = f"{table.removesuffix('s')} ({row['prompt_id']}{'' if key is None else f', {key}'})"
    texts = [row[side] for side in SIDES[table]]
    if row["messages"] is None or None in texts:
        raise ValueError(f"{name}: its prompt or a sample is not in what the run was made from; rebuild it (dvc repro)")
    sides = tuple(Side(row[side], row[_EOS[side]]) for side in SIDES[table])
    return Example(name, row["messages"], row["prefill"], row["rendering"], sides, row)


def _require_built(store: Store, table: str, run: str) -> None:
    known = table_runs(store.params, table)
    if run not in known:
        have = ", ".join(f"'{name}'" for name in sorted(known)) or "none"
        raise ValueError(f"no run '{run}' of {table} in params.yaml (have {have})")
    if not any(files.built for files in store.files if files.table == table and files.run == run):
        raise ValueError(f"{table} run '{run}' is not built; run `dvc repro`, or restore it with `dvc checkout`")
