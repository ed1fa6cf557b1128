"""Traces the rows of one run that differ between two versions to their reasons (`stores.diff` lists them).

Both versions are views of one DuckDB, in the schemas `a` (old) and `b` (new): first of the run itself, then of each
table that lies behind it, of the problems in question alone.
"""

import filecmp
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from schemas.params import Params, run_inputs, stage_runs, table_runs
from schemas.slots import Section
from stores.diff_params import Node, ParamChange, told, used_by
from stores.diff_tables import COMPARED, TRACED, compared_columns, identified, matching, sql_list
from stores.duck import Duck, literal, select_parts, sql_file
from stores.parquet import TEXTS_KEY
from stores.sources import run_sources
from stores.views import RunFiles

if TYPE_CHECKING:
    from stores.store import Store

Both = tuple[Sequence[RunFiles], Sequence[RunFiles]]
"""Runs of one table in the old and in the new version."""

Behind = dict[tuple[str, str], dict[str, list[str]]]
"""(table, label of a run) -> table -> the runs of it that lie behind."""

TEXTS = {
    "pairs": """select n, 'chosen' as side, sample_id, chosen_start as "start", chosen_end as "end" from unchanged
  union all
  select n, 'rejected', rejected_sample_id, rejected_start, rejected_end from unchanged""",
    "demos": """select n, 'demo' as side, sample_id, 0 as "start", 2147483646 as "end" from unchanged""",
}
"""Table of ids -> SQL of the spans of text that its rows stand for."""
_STARTS = {"pairs": "chosen_start, chosen_end, rejected_start, rejected_end", "demos": "0"}
GUARDED = frozenset(("demos_correct", "pairs_outcome"))
"""Sections that read step labels only to drop right samples with a wrong step."""
UNTRACED = ("training", "reference_logprobs")
"""Tables whose rows also depend on inputs that no id names."""
LIMITS = {
    "capped": ("max_pairs", "max_per_prompt", "max_per_problem", "limit", "seed"),
    "over_long": ("max_tokens", "max_new_tokens"),
    "duplicate": ("deduplicate", "all_solutions"),
    "low_accuracy": ("min_accuracy",),
    "held_out": ("problems",),
    "disagreeing": ("agreements",),
    "low_confidence": ("threshold", "reject_threshold"),
    "wrong_step": ("step_labels",),
}
"""Reason of a reject -> the settings that decide it."""


_UNIONS = frozenset(("demos_union", "pairs_union"))


class Version(NamedTuple):
    """One side: its schema, params and files, and the runs behind every run (`run_sources` by table and run)."""

    schema: str
    store: "Store"
    files: dict[tuple[str, str], RunFiles]
    behind: Behind

    @property
    def params(self) -> Params:
        return self.store.params

    @classmethod
    def of(cls, schema: str, store: "Store") -> "Version":
        behind: Behind = {}
        for source in run_sources(store.params):
            runs = behind.setdefault((source.table, source.run), {})
            runs.setdefault(source.input_table, []).append(source.input_run)
        behind |= {("rejects", f"{s}.{n}"): _behind_rejects(behind, n, r) for s, n, r in stage_runs(store.params)}
        return cls(schema, store, {(f.table, f.label): f for f in store.files}, behind)

    def is_local(self, run: RunFiles) -> bool:
        """Whether a run is built, and its files are here."""
        snapshot = self.store.snapshot
        return run.built and (snapshot is None or snapshot.is_local(run.directory))

    def tracked(self, runs: Sequence[RunFiles]) -> list[str] | None:
        """The hashes that `dvc.lock` has of runs at a commit; None for a checkout, whose files may be others."""
        snapshot = self.store.snapshot
        outs = [snapshot.outs.get(run.directory.as_posix()) if snapshot else None for run in runs]
        return None if None in outs else [out.md5 for out in outs if out]

    def runs_behind(self, table: str, run: str, source: str) -> list[str]:
        """The runs of `source` that ids of a run (its label) are found in; of its own table it is that itself."""
        return [run] if source == table else self.behind.get((table, run), {}).get(source, [])

    def nodes(self, table: str, runs: Iterable[str]) -> list[Node]:
        """(section, run) of runs of one table."""
        sections = table_runs(self.params, table)
        return [(sections[run], run) for run in runs if run in sections]

    def made_of(self, table: str, run: RunFiles) -> list[Node]:
        """The run itself, and the runs of its own table that it is made of."""
        found = [run.run]
        edges = [e for e in run_inputs(self.params) if (e.table, e.input_table) == (table, table)]
        for name in found:
            found += [e.input_run for e in edges if e.run == name and e.input_run not in found]
        return [(run.section, run.run)] if table == "rejects" else self.nodes(table, found)

    def files_behind(self, table: str, run: RunFiles, source: str) -> list[RunFiles]:
        """The runs of a source that explain a run: those behind it, and the rejects of its own stages."""
        if source == "rejects":
            labels = [f"{section}.{name}" for section, name in self.made_of(table, run)]
        else:
            labels = self.runs_behind(table, run.label, source)
        return [f for label in labels if (f := self.files.get((source, label))) and f.built]


class Tracer:
    """Traces runs of two versions, one after the other, within one DuckDB."""

    def __init__(self, duck: Duck, versions: tuple[Version, Version], changes: Sequence[ParamChange]):
        self.duck, self.versions, self.changes = duck, versions, changes
        for side in self.versions:
            duck.execute(f"create schema if not exists {side.schema}")

    def trace(self, name: str, table: str, old: RunFiles, new: RunFiles) -> None:
        """Makes the table `name`: one row per row of a run that differs, with its reason."""
        self._compare(table, ([old], [new]))
        sources = {source: self._files(table, old, new, source) for source in TRACED}
        retold = sources["samples"] if table in TEXTS and not same_texts(old.parts, new.parts) else None
        if retold is not None:
            self._add_only("samples", table, retold, "")
            self._add_texts(table, retold)
        self._make("table scope", "select distinct problem_id from changes")
        for source, files in sources.items():
            if source != "samples" or retold is None:
                self._add_only(source, table, files, "scope")
        self._explain(name, table, old, new)

    def _make(self, what: str, query: str, given: Mapping[str, Any] | None = None) -> None:
        temporary = "temp " if what.startswith("table") else ""
        self.duck.execute(f"create or replace {temporary}{what} as {query}", dict(given or {}))

    def _compare(self, table: str, files: Both) -> None:
        """Makes `rows_a`, `rows_b` and, of them, `changes`."""
        columns = compared_columns(table)
        self._views(table, files, columns)
        self._differing("rows", table, columns, columns)
        self._make("table changes", _filled("diff_matched", matching(table)))

    def _views(self, table: str, files: Both, columns: Sequence[str], scope: str = "") -> None:
        """Makes `a.<table>` and `b.<table>`, of all problems or those of `scope`, with the name of each row's run."""
        problem = COMPARED[table].problem
        within = f" where {problem} in (select problem_id from {scope})" if scope else ""
        if scope and table == "rejects":  # some are of no problem; elsewhere the condition would be tried on every row
            within += f" or {problem} is null"
        for side, runs in zip(self.versions, files, strict=True):
            rows = " union all ".join(
                f"select {sql_list(columns)}, {literal(run.run)} as run from ({select_parts(run.parts, table)}){within}"
                for run in runs
            )
            if table == "rejects":  # equal ones count
                rows = f"select *, row_number() over (partition by {sql_list(columns)}) as copy from ({rows})"
            rows = rows or _empty(table, columns)
            if scope:  # few rows of large files, which are read once
                self._make(f"table scoped_{side.schema}", rows)
                rows = f"from scoped_{side.schema}"
            self._make(f'view {side.schema}."{table}"', rows)

    def _differing(self, name: str, table: str, columns: Sequence[str], compared: Sequence[str]) -> None:
        """Makes `<name>_a` and `<name>_b`: the rows of each version's view that the other has not."""
        hashed = sql_list([*compared, *(["copy"] if table == "rejects" else [])])
        carried = sql_list([*columns, "run"])
        given = {"table": table, "columns": carried, "compared": hashed}
        self._make("table differing", _filled("diff_only", given))
        self._make(f"table {name}_a", "select * exclude (other) from differing where other is null")
        others = f"hash({hashed}) in (select other from differing where other is not null)"
        self._make(f"table {name}_b", f'select {carried} from b."{table}" where {others}')

    def _files(self, table: str, old_run: RunFiles, new_run: RunFiles, source: str) -> Both | None:
        """The files of a source behind a run in both versions; None where they are the same, or both have none."""
        runs = zip(self.versions, (old_run, new_run), strict=True)
        old, new = (side.files_behind(table, run, source) for side, run in runs)
        return None if same_content(self.versions, old, new) else (old, new)

    def _add_only(self, source: str, table: str, files: Both | None, scope: str) -> None:
        """Makes `<source>_only`: rows of the runs behind that one `side` alone has, in what matters to `table`."""
        compared, why = TRACED[source]
        columns = [*compared, *why]
        if source == table:
            columns = compared = list(dict.fromkeys([*columns, *compared_columns(table)]))
        if files is None:
            self._make(f"table {source}_only", f"select 'a' as side, * from ({_empty(source, columns)})")
            return
        self._views(source, files, columns, scope)
        self._differing("only", source, columns, compared)
        both = "select 'a' as side, * from only_a union all select 'b', * from only_b"
        self._make(f"table {source}_only", f"select distinct * from ({both})")

    def _add_texts(self, table: str, files: Both) -> None:
        """Adds rows to `changes` whose ids and spans are the same, but read otherwise."""
        twice = "group by sample_id having count(distinct side) = 2 and count(distinct text_hash) > 1"
        self._make("table retold", f"select sample_id from samples_only {twice}")
        if self._is_empty("retold"):
            return
        names = [name for name in ("sample", "rejected") if getattr(COMPARED[table], name) != "null"]
        said = identified(table) | {"table": table, "starts": _STARTS[table]}
        said["of_retold"] = " or ".join(f"{said[name]} in (select sample_id from retold)" for name in names)
        said["compared"] = sql_list(compared_columns(table))
        self._make("table same", _filled("diff_same", said))
        self._make("table unchanged", _filled("diff_unchanged", said))
        if self._is_empty("unchanged"):
            return
        wanted = "where sample_id in (select sample_id from retold)"
        for side, runs in zip(self.versions, files, strict=True):
            texts = f"select distinct sample_id, text from ({select_parts(_parts(runs), 'samples')}) {wanted}"
            self._make(f"view {side.schema}.texts", texts)
        self.duck.execute("insert into changes " + _filled("diff_texts", {"spans": TEXTS[table]}))

    def _is_empty(self, table: str) -> bool:
        return not len(self.duck.table(f"select 1 from {table} limit 1"))

    def _explain(self, name: str, table: str, old: RunFiles, new: RunFiles) -> None:
        """Makes the table `name` of `changes` and their reasons."""
        runs = zip(self.versions, (old, new), strict=True)
        own = list(dict.fromkeys(node for side, run in runs for node in side.made_of(table, run)))
        settings = self._reject_settings(own)
        columns = "select unnest($reasons::varchar[]) as reason, unnest($details::varchar[]) as detail"
        self._make("table reject_settings", columns, {"reasons": list(settings), "details": list(settings.values())})
        drawn = self._sample_settings(table, new.label)
        columns = "select unnest($runs::varchar[]) as run, unnest($details::varchar[]) as detail"
        self._make("table sample_settings", columns, {"runs": list(drawn), "details": list(drawn.values())})
        self._make("table reasons", sql_file(__file__, "diff_reasons"), self._said(table, new.label, own))
        self._make(f"table {name}", sql_file(__file__, "diff_found"), {"table": table, "run": new.label})

    def _said(self, table: str, run: str, own: Sequence[Node]) -> dict[str, Any]:
        """What `sql/diff_reasons.sql` is given."""
        changed = self._changed(own)
        limit = [
            c for c in changed if c.section in ("pairs_outcome", "pairs_contrast") and c.key == "k" and len(own) == 1
        ]
        return {source: self._role(table, run, source) for source in ("problems", "prompts")} | {
            "table": table,
            "own": told(changed, own[0]),
            "least": min((int(value) for c in limit for value in (c.old, c.new) if value), default=None),
            "limit": told(limit, own[0]),
            "inputs": self._inputs(table, run) if table in UNTRACED else None,
            "guarded": table != "rejects" and not {section for section, _ in own} - GUARDED - _UNIONS,
        }

    def _changed(self, nodes: Sequence[Node]) -> list[ParamChange]:
        """What differs in the settings of some runs."""
        used = {block for side in self.versions for block in used_by(side.params, nodes)}
        return [change for change in self.changes if change[:2] in used]

    def _role(self, table: str, run: str, source: str) -> str | None:
        """What differs in the runs of a source behind a run: which they are, or their settings."""
        old, new = (side.runs_behind(table, run, source) for side in self.versions)
        if old != new:
            return f"runs {', '.join(old) or 'none'} -> {', '.join(new) or 'none'}"
        return told(self._changed(sorted({node for side in self.versions for node in side.nodes(source, old)})))

    def _sample_settings(self, table: str, run: str) -> dict[str, str]:
        """Run of samples behind a run -> what differs in its settings, or that one version has other runs there."""
        old, new = (side.runs_behind(table, run, "samples") for side in self.versions)
        found = {}
        for name in dict.fromkeys([*old, *new]):
            nodes = sorted({node for side in self.versions for node in side.nodes("samples", [name])})
            replaced = f"runs {', '.join(old) or 'none'} -> {', '.join(new) or 'none'}"
            found[name] = told(self._changed(nodes)) if name in old and name in new else replaced
        return {name: said for name, said in found.items() if said}

    def _inputs(self, table: str, run: str) -> str | None:
        """Which inputs of a run differ, for rows that no id traces to them."""
        edges = [e for side in self.versions for e in run_inputs(side.params) if (e.table, e.run) == (table, run)]
        inputs = dict.fromkeys((e.input_table, e.input_run) for e in edges if e.input_table != "models")
        found = {at: [[f] for side in self.versions if (f := side.files.get(at))] for at in inputs}
        differ = [at for at, both in found.items() if len(both) < 2 or not same_content(self.versions, *both)]
        return ", ".join(" ".join(at) for at in differ) or None

    def _reject_settings(self, own: Sequence[Node]) -> dict[str, str]:
        """Reason of a reject -> the settings that decide it and differ."""
        changed = self._changed(own)
        found = {reason: told([c for c in changed if c.key in keys], own[0]) for reason, keys in LIMITS.items()}
        return {reason: said for reason, said in found.items() if said}


def _behind_rejects(behind: Behind, name: str, run: Section) -> dict[str, list[str]]:
    """What lies behind the rejects of a run: what lies behind the rows that it kept, but not those themselves."""
    found: dict[str, list[str]] = {}
    for table in run.writes:
        for source, runs in behind.get((table, name), {}).items():
            inputs = [r for r in runs if source not in run.writes or r != name]
            found[source] = list(dict.fromkeys([*found.get(source, []), *inputs]))
    return found


def same_content(versions: tuple[Version, Version], old: Sequence[RunFiles], new: Sequence[RunFiles]) -> bool:
    """Whether runs of two versions have the same content: by `dvc.lock`, as the same files, or byte for byte."""
    hashes = [version.tracked(runs) for version, runs in zip(versions, (old, new), strict=True)]
    if None not in hashes:
        return hashes[0] == hashes[1]
    a, b = _parts(old), _parts(new)
    return len(a) == len(b) and all(map(_same_file, a, b))


def _same_file(a: Path, b: Path) -> bool:
    return a.samefile(b) or (a.stat().st_size == b.stat().st_size and filecmp.cmp(a, b, shallow=False))


def same_texts(old: Sequence[Path], new: Sequence[Path]) -> bool:
    """Whether two versions of a table of ids are known to stand for the same texts in the same order."""
    hashes = [[(pq.read_metadata(part).metadata or {}).get(TEXTS_KEY) for part in parts] for parts in (old, new)]
    return hashes[0] == hashes[1] and None not in hashes[0]


def _parts(runs: Iterable[RunFiles]) -> list[Path]:
    return [part for run in runs for part in run.parts]


def _empty(table: str, columns: Sequence[str]) -> str:
    """A SELECT of no rows of a table, with the name of their run."""
    copy = ", null::bigint as copy" if table == "rejects" else ""
    return f"select {sql_list(columns)}, null::varchar as run{copy} from ({select_parts([], table)})"


def _filled(name: str, given: Mapping[str, str]) -> str:
    return sql_file(__file__, name).format(**given)
