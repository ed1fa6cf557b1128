"""`diff`: what came, went and changed between two versions of the tables, and why.

**The same row.** A row of one version is the row of the other that has the same identity (`diff_tables.COMPARED`): its
key, mostly. A pair is its prompt and its two samples, so that a pair with another rank, span or ending is *changed*,
and so is one whose spans read otherwise though all ids are the same. Rows whose identity the other version has not are
*added* or *removed*. Runs that are in one version only, or not built in one, are one reason for all of their rows.

**The reason** is the first of these that holds for a row, along the runs behind it (`run_sources`) on each side:

| reason | what differs |
|---|---|
| `run` | the whole run is in one version only, or built in one only |
| `problem` | its problem is in the problem set of one version only |
| `prompt` | the problem is asked otherwise: template, rendering, prefill, demonstrations |
| `sample` | a sample of it is new or gone: seed, n, temperature, top_p, model |
| `text` | a sample has another text under the same id |
| `label` | somebody labels the steps otherwise: labeler, judge, template, version |
| `verdict` | a sample's verdict: checker, extractor, their versions, the gold answer |
| `params` | a setting of its own stage: `k`, a cap, a threshold; proved by the reject where there is one |
| `rejected` | its stage dropped it in the other version, though no setting of it differs |
| `regrouped` | its own samples are as they were, but others of its prompt (demos: problem) are not |
| `model` | reference log-probs: another model, precision or code |
| `input` | training and log-probs: other rows that their stage read |
| `other` | none of these: the code of a stage, or a file outside the tables |

Whatever both versions hold in the same file is equal and not read. Of what remains, rows are compared by hash, and only
those that differ are traced.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from schemas import TABLES
from stores.diff_params import FunnelChange, ParamChange, funnel_changes, param_changes
from stores.diff_tables import COMPARED
from stores.diff_trace import TEXTS, Tracer, Version, same_content, same_texts
from stores.duck import Duck, literal, select_parts
from stores.query import Result
from stores.views import RunFiles

if TYPE_CHECKING:
    from stores.store import Store

ROW_COLUMNS = (
    "table", "run", "change", "reason", "detail", "what", "problem_id", "prompt_id", "sample_id", "rejected_sample_id",
    "place",
)  # fmt: skip
"""Columns of `Diff.rows`: `sample_id` of a pair is its chosen one, `what` says how a changed row differs."""


class Count(NamedTuple):
    """How many rows of a run were added, removed or changed for one reason."""

    table: str
    run: str
    change: str
    reason: str
    detail: str
    rows: int


class RunChange(NamedTuple):
    """How one run of a table stands: `added`, `removed`, `not built` (in `old`, `new`, both), `equal` or `differs`."""

    table: str
    run: str
    state: str
    old_rows: int | None
    new_rows: int | None


@dataclass(frozen=True)
class _Side:
    """One run of a table in both versions; None: that version has no such run."""

    table: str
    label: str
    old: RunFiles | None
    new: RunFiles | None

    def state(self, versions: tuple[Version, Version], names: tuple[str, str]) -> str:
        if self.old is None or self.new is None:
            return "added" if self.old is None else "removed"
        missing = [name for name, run in zip(names, (self.old, self.new), strict=True) if not run.built]
        if missing:
            return f"not built in {' and '.join(missing)}"
        equal, here = same_content(versions, [self.old], [self.new]), versions[0].is_local(self.old)
        if equal and here and self.table in TEXTS:  # the hash of the texts that the ids stand for is in the file
            equal = same_texts(self.old.parts, self.old.parts)
        return "equal" if equal else "differs"


class Diff:
    """The difference between two versions, made when it is asked for; close it, or use it as a context."""

    def __init__(
        self,
        old: "Store",
        new: "Store",
        tables: Sequence[str] = ("pairs",),
        runs: Sequence[str] = (),
        names: tuple[str, str] = ("old", "new"),
    ):
        """`tables` and `runs` (empty: all) are compared row by row; params and the funnel as a whole.

        Raises ValueError for a table or run that neither version has.
        """
        self.old, self.new, self.names = old, new, names
        self._sides = [side for table in dict.fromkeys(tables) for side in _sides(old, new, table)]
        known = {side.label for side in self._sides}
        for run in runs:
            if run not in known:
                raise ValueError(f"no run '{run}' of {', '.join(tables)} in either version (have {', '.join(known)})")
        self._sides = [side for side in self._sides if not runs or side.label in runs]
        self._versions = (Version.of("a", old), Version.of("b", new))
        self._duck = Duck()

    def __enter__(self) -> "Diff":
        return self

    def __exit__(self, *_: object) -> None:
        self._duck.con.close()

    @cached_property
    def runs(self) -> list[RunChange]:
        """Every run that was compared."""
        return [
            RunChange(side.table, side.label, state, _rows(side.old), _rows(side.new))
            for side, state in zip(self._sides, self._states, strict=True)
        ]

    @cached_property
    def _states(self) -> list[str]:
        return [side.state(self._versions, self.names) for side in self._sides]

    @cached_property
    def counts(self) -> list[Count]:
        """Rows by reason, the largest first within each run."""
        return [Count(*row) for row in self.counted().fetchall()]

    def counted(self) -> Result:
        """`counts` as the answer to a query."""
        return self._answer(
            f"""select "table", run, change, reason, detail, count(*) as "rows" from ({self._found}) group by all
            order by "table", run, "rows" desc, change, reason, detail"""
        )

    def rows(self) -> Result:
        """Every row that differs, with `ROW_COLUMNS`, as a stream; those of one problem are together."""
        return self._answer(self._found)

    def _answer(self, query: str) -> Result:
        return Result(self._duck.con.sql(query), lambda: self._duck.con.execute(query))

    @cached_property
    def params(self) -> list[ParamChange]:
        """Every setting that differs."""
        return param_changes(self.old.params, self.new.params)

    @cached_property
    def funnel(self) -> list[FunnelChange]:
        """Every count of the funnel that differs, over all runs but those that a version has elsewhere than here."""
        runs = [(v, (run.section, run.run), run) for v in self._versions for run in v.files.values()]
        elsewhere = {node for version, node, run in runs if run.built and not version.is_local(run)}
        changes = funnel_changes(*(dict(_kept_and_dropped(self._duck, version)) for version in self._versions))
        return [change for change in changes if change[:2] not in elsewhere]

    @cached_property
    def _found(self) -> str:
        """A SELECT of all rows that differ; those of runs in both versions have been traced into tables."""
        tracer = Tracer(self._duck, self._versions, self.params)
        queries = []
        for number, (side, state) in enumerate(zip(self._sides, self._states, strict=True)):
            if state == "differs":
                assert side.old is not None
                assert side.new is not None
                tracer.trace(f"found_{number}", side.table, side.old, side.new)
                queries.append(f"from found_{number}")
            elif state != "equal":
                queries += _whole_run(side, state)
        named = ", ".join(f'"{name}"' for name in ROW_COLUMNS)
        nothing = "select " + ", ".join(f'null::varchar as "{name}"' for name in ROW_COLUMNS) + " where false"
        return " union all ".join([nothing, *(f"select {named} from (from ({query}))" for query in queries)])


def _whole_run(side: _Side, state: str) -> Iterable[str]:
    """The rows of a run that one version has alone."""
    spec = COMPARED[side.table]
    detail = {"added": "new run", "removed": "run is gone"}.get(state, state)
    for change, run in (("removed", side.old), ("added", side.new)):
        if run is not None and run.built:
            yield f"""select {literal(side.table)} as "table", {literal(side.label)} as run, '{change}' as change,
                'run' as reason, {literal(detail)} as detail, null::varchar as what, {spec.problem} as problem_id,
                {spec.prompt} as prompt_id, {spec.sample} as sample_id, {spec.rejected} as rejected_sample_id,
                {spec.place} as place from ({select_parts(run.parts, side.table)})"""


def _rows(run: RunFiles | None) -> int | None:
    return run.rows() if run is not None and run.built else None


def _kept_and_dropped(duck: Duck, version: Version) -> Iterator[tuple[tuple, int]]:
    """((stage, run, table or none, reason), count) of every run that is here, as the view `funnel` has them."""
    for run in version.files.values():
        if not version.is_local(run):
            continue
        if run.table != "rejects":
            yield (run.section, run.run, run.table, "kept"), run.rows()
            continue
        yield (run.section, run.run, None, ""), 0
        reasons = duck.table(
            f"select reason, count(*) as n from ({select_parts(run.parts, 'rejects')}) group by reason"
        )
        for row in reasons.to_pylist():
            yield (run.section, run.run, None, row["reason"]), row["n"]


def _sides(old: "Store", new: "Store", table: str) -> list[_Side]:
    if table not in TABLES:
        raise ValueError(f"no table '{table}' (have {', '.join(TABLES)})")
    before, after = ({f.label: f for f in store.files if f.table == table} for store in (old, new))
    return [_Side(table, name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]
