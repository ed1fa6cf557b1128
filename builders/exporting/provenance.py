"""`provenance.json` of a release: what every row was made of, and of which revision the release is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from builders.exporting.shards import Shards
from builders.exporting.tally import Tally
from schemas.params import Params, references, stage_runs, table_runs
from schemas.sections_export import TABLE_OF, ExportRun, messages_in
from schemas.slots import NONE, Section, Slot
from stores.duck import Duck, select_parts
from stores.release_files import FORMAT, PROVENANCE
from stores.sources import run_sources
from stores.store import Store
from stores.views import RunFiles

_LABELERS = "select distinct labeler, kind, model, labeler_version, template from rows order by all"
_CHECKERS = {
    "rewards": "select distinct checker, checker_version as version from rows order by all",
    "predictions": "select distinct extractor as checker, extractor_version as version from rows order by all",
}
_PATHS = ("path", "base")
"""Settings, and keys of a model's record, that may name a place on one's own disk."""
_REASONS = "select reason, count(*) as n from rows group by all order by all"


def params_text(params: Params) -> str:
    """Params as a `params.yaml` that reads as they do; comments and what was left to defaults are not in it."""
    return yaml.safe_dump(published(params), sort_keys=False, allow_unicode=True)


def published(settings: BaseModel) -> dict[str, Any]:
    """Settings as they are published."""
    return without_places(settings.model_dump(mode="json", exclude_unset=True))


def without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the last name alone of a path outside the project, since the rest is one's own."""
    return {name: _published(name, value) for name, value in settings.items()}


def _published(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return without_places(value)
    is_path = name in _PATHS and isinstance(value, str)
    return Path(value).name if is_path and (value[:1] in ("/", "~") or ".." in Path(value).parts) else value


def provenance(
    store: Store, name: str, release: ExportRun, tallies: dict[str, Tally], shards: dict[str, Shards], licence: str
) -> dict[str, Any]:
    """What `provenance.json` holds, without a revision."""
    exported = [(TABLE_OF[config], run) for config in tallies for run in release.runs(config)]
    return {
        "format": FORMAT,
        "revision": None,
        "release": name,
        "licence": licence,
        "test_answers": release.test_answers,
        "params": params_text(store.params),
        "configs": {config: _config(release, config, tallies[config], shards[config]) for config in tallies},
        "models": _models(store.params, tallies),
        "templates": sorted(set().union(*(tally.templates for tally in tallies.values()))),
        "judges": _rows(store, _LABELERS, "step_labels", exported),
        "checkers": _checkers(store, exported),
        "licences": {config: _licences(tally) for config, tally in tallies.items()},
        "funnel": _funnel(store, closure(store.params, exported)),
    }


def write_provenance(directory: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (directory / PROVENANCE).write_text(text, encoding="utf-8")


def closure(params: Params, exported: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """(section, run) of everything that some runs of tables were made from, themselves included."""
    writers = {(t, name): (s, name, run) for s, name, run in stage_runs(params) for t in run.writes}
    todo, seen = [writers[at] for at in exported], set[tuple[str, str]]()
    while todo:
        section, name, run = todo.pop()
        if (section, name) not in seen:
            seen.add((section, name))
            todo += [writers[at] for at in _inputs(section, name, run)]
    return seen


def _inputs(section: str, name: str, run: Section) -> Iterator[tuple[str, str]]:
    for reference in references(section, name, run):
        if isinstance(reference.marker, Slot) and reference.value != NONE:
            yield reference.marker.table, reference.value


def _config(release: ExportRun, config: str, tally: Tally, shards: Shards) -> dict[str, Any]:
    return {
        "rows": tally.rows,
        "runs": release.runs(config),
        "rows_by_run": {run: tally.by_run[run] for run in release.runs(config)},
        "left_out": {reason: count for reason, count in sorted(tally.left_out.items()) if count},
        "format": "conversational" if messages_in(release, config) else "standard",
        "texts": tally.texts,
        "files": shards.files,
    }


def _models(params: Params, tallies: dict[str, Tally]) -> dict[str, Any]:
    """Model -> fingerprints that its samples were drawn with, and the run of params that made it, if one did."""
    found: dict[str, set[str]] = {}
    for name, mark in set().union(*(tally.models for tally in tallies.values())):
        found.setdefault(name, set()).add(mark)
    writers = table_runs(params, "models")
    return {name: {"fingerprints": sorted(found[name])} | _made(params, writers, name) for name in sorted(found)}


def _made(params: Params, writers: dict[str, str], name: str) -> dict[str, Any]:
    if name not in writers:
        return {}
    run = getattr(params, writers[name])[name]
    return {"section": writers[name], "run": published(run)}


def _licences(tally: Tally) -> list[dict[str, Any]]:
    counts = sorted(tally.licences.items())
    return [{"source": source, "licence": licence, "rows": rows} for (source, licence), rows in counts]


def _rows(store: Store, query: str, table: str, exported: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The answer to a query over the runs of a table that are exported, or lie behind what is."""
    behind = {s.input_run for s in run_sources(store.params) if s[:2] in exported and s.input_table == table}
    runs = behind | {run for other, run in exported if other == table}
    return _answer(query, table, [f for f in store.files if f.table == table and f.run in runs and f.built])


def _answer(query: str, table: str, files: list[RunFiles]) -> list[dict[str, Any]]:
    """The answer to a query over `rows`, those of some runs of a table; no other run need be there."""
    if not files:
        return []
    with Duck() as duck:
        duck.execute(f"create view rows as {select_parts([part for f in files for part in f.parts], table)}")
        return duck.table(query).to_pylist()


def _checkers(store: Store, exported: list[tuple[str, str]]) -> list[dict[str, Any]]:
    rows = [row for table, query in _CHECKERS.items() for row in _rows(store, query, table, exported)]
    return [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows)]


def _funnel(store: Store, behind: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """The store's view `funnel` for some (section, run)."""
    found = []
    for files in (f for f in store.files if (f.section, f.run) in behind and f.built):
        made = {"stage": files.section, "run": files.run, "table": files.table}
        if files.table == "rejects":
            found += [made | {"table": None} | row for row in _answer(_REASONS, "rejects", [files])]
        else:
            found.append(made | {"reason": "kept", "n": files.rows()})
    return sorted(found, key=lambda row: (row["stage"], row["run"], row["table"] is None, row["table"], row["reason"]))
