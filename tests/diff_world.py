"""Two copies of the small store, of which a test changes the second and asks what the difference is called."""

import shutil
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import yaml

from schemas import TABLES, Chat, Pair, Prompt, Reject, Row, Sample
from schemas.ids import prompt_id
from schemas.params import parse_params, stage_runs
from stores.diff import Diff
from stores.parquet import read_table, rows_to_table, write_table
from stores.paths import rejects_dir, run_dir
from stores.store import Store
from tests import small_store
from tests.small_store import PARAMS, build, labels, pair, prompts, sample

Reasons = dict[tuple[str, str, str], int]
"""(change, reason, detail) -> rows"""


class World:
    """Versions `a` and `b` of one store below `root`."""

    def __init__(self, root: Path):
        self.a = self.b = root / "a"
        self.a.mkdir()
        self.tables = build(self.a)

    def branch(self, b: Path, a: Path | None = None) -> "World":
        """A world whose version `b` is a copy of `a` (default: this one's), to be changed."""
        copied = copy(self)
        copied.a, copied.b = a or self.a, b
        shutil.copytree(copied.a, b)
        return copied

    def rows(self, table: str, run: str) -> list[Any]:
        """The rows of a run of `b`."""
        return [
            TABLES[table].model_validate(row)
            for row in read_table(run_dir(table, run, self.b), TABLES[table]).to_pylist()
        ]

    def write(self, table: str, run: str, rows: Sequence[Row]) -> None:
        small_store.write(self.b, table, run, rows)

    def edit(self, table: str, run: str, edited: Callable[[Any], Row | None]) -> None:
        """Replaces every row of a run of `b`; those that become None are dropped."""
        self.write(table, run, [row for old in self.rows(table, run) if (row := edited(old)) is not None])

    def update(self, table: str, run: str, where: Callable[[Any], bool], **values: object) -> None:
        """Changes values of the rows that fulfil a condition."""
        self.edit(table, run, lambda row: row.model_copy(update=values) if where(row) else row)

    def drop(self, table: str, run: str, where: Callable[[Any], bool]) -> None:
        self.edit(table, run, lambda row: None if where(row) else row)

    def params(self, change: Callable[[dict[str, Any]], object], root: Path | None = None) -> None:
        """Changes the params of `b` (or of `root`)."""
        path = (root or self.b) / "params.yaml"
        raw = yaml.safe_load(path.read_text())
        change(raw)
        path.write_text(yaml.safe_dump(raw, sort_keys=False))

    def reject(self, stage: str, run: str, rows: Sequence[Reject]) -> None:
        write_table(rejects_dir(stage, run, self.b), Reject, [rows_to_table(Reject, rows)])

    def diff(self, *tables: str, runs: Sequence[str] = ()) -> Diff:
        return Diff(Store.open(self.a), Store.open(self.b), tables or ("pairs",), runs)

    def reasons(self, *tables: str, runs: Sequence[str] = ()) -> Reasons:
        """How many rows came, went and changed, by reason."""
        with self.diff(*tables, runs=runs) as found:
            return {(c.change, c.reason, c.detail): c.rows for c in found.counts}

    def whats(self, *tables: str) -> list[str]:
        """How the changed rows differ."""
        with self.diff(*tables) as found:
            rows = found.rows()
            return [row["what"] for row in rows.to_arrow().to_pylist() if row["what"]]


def index(row: Any) -> int:
    """The index of a row's sample."""
    return int(row.sample_id[-4:])


def asked_again(asked: Prompt, **values: Any) -> Prompt:
    """A prompt that is asked otherwise, under the id that it then has."""
    new = asked.model_copy(update=values)
    messages = [message.model_dump() for message in new.messages]
    return new.model_copy(update={"prompt_id": prompt_id(new.problem_id, messages, new.prefill, new.rendering)})


def drawn_again(row: Sample, **values: Any) -> Sample:
    """A sample of another request, under the id that it then has."""
    return row.model_copy(update={"sample_id": row.sample_id.replace("-abcdef01-", "-fedcba10-"), **values})


def rename(world: World, old: str, new: str) -> None:
    """Replaces a part of all ids of samples, wherever they stand, but in the table of samples."""
    for (table, run), rows in world.tables.items():
        names = [name for name in TABLES[table].model_fields if name.endswith("sample_id")]
        if table != "samples" and names:
            world.write(
                table, run, [r.model_copy(update={n: getattr(r, n).replace(old, new) for n in names}) for r in rows]
            )


STEP_PARAMS: dict[str, Any] = PARAMS | {
    "prompts_step": {"prefixes": {"samples": "irpo_0", "prompts": "train", "step_labels": "checked"}},
    "samples": PARAMS["samples"]
    | {"continued": {"prompts": "prefixes", "model": "base", "engine": "scripted", "sampling": "explore", "n": 1}},
    "pairs_step": {
        "steps": {
            "rejected": "irpo_0", "rejected_prompts": "train", "step_labels": "checked", "prompts": "prefixes",
            "chosen": "continued", "rewards": "none", "judged": "none",
        }
    },
}  # fmt: skip


def add_steps(world: World) -> None:
    """Adds step pairs to `a`: each wrong sample against a continuation of the prompt that stops before its step."""
    (world.a / "params.yaml").write_text(yaml.safe_dump(STEP_PARAMS, sort_keys=False))
    for section, run, _ in stage_runs(parse_params(yaml.safe_dump(STEP_PARAMS))):
        if (section, run) in (("prompts_step", "prefixes"), ("samples", "continued"), ("pairs_step", "steps")):
            write_table(rejects_dir(section, run, world.a), Reject, [])
    wrong = {s.prompt_id: s for s in world.tables["samples", "irpo_0"] if isinstance(s, Sample) and s.index == 1}
    prefixes = [asked_again(p, prefill=p.prefill + " Step 2:") for p in prompts()]
    continued = [sample(p, 0, " 4 and 4 make 8.") for p in prefixes]
    pairs: list[Pair] = [
        pair(step, 0, right, wrong[own.prompt_id])
        for own, step, right in zip(prompts(), prefixes, continued, strict=True)
    ]
    for table, run, rows in (
        ("prompts", "prefixes", prefixes), ("samples", "continued", continued), ("pairs", "steps", pairs),
        ("step_labels", "checked", [labels(s) for s in wrong.values()]),
    ):  # fmt: skip
        small_store.write(world.a, table, run, rows)


def question(text: str) -> list[Chat]:
    return [Chat(role="user", content=text)]
