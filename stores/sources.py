"""Where the ids of a run come from: the runs of each other table that lie behind it, found along its inputs."""

from collections.abc import Iterator
from typing import NamedTuple

from schemas.params import Params, references, stage_runs, table_runs
from schemas.slots import NONE, Section, Slot

_Node = tuple[str, str]
_ENDS = ("models", "training")
_VERDICTS = ("predictions", "rewards")


class RunSource(NamedTuple):
    """One row per run behind a run: ids of `input_table` in `run` of `table` are found in `input_run`."""

    table: str
    run: str
    input_table: str
    input_run: str


def run_sources(params: Params) -> list[RunSource]:
    """The nearest runs of every other table behind each run, in a fixed order.

    Inputs are followed breadth first until the table appears: the prompts of a pairs run are those of its samples. A
    run that a slot names goes before one that merely was written by the same stage. A run made of others of its own
    table (a union of pairs) is as near to their inputs as they are. Models and training end the walk: what another
    model was trained on is no source of ids. What a run writes beside the rows of its own table that it kept may speak
    of those that it did not keep, so ids are found in its inputs, too. A run of several samples runs (a step pair's two
    sides) has the nearest verdicts of each of them, for the farther ones are not those of the nearer samples.
    """
    sections = {table: table_runs(params, table) for run_class in _classes(params) for table in run_class.writes}
    inputs = {(section, name): list(_slots(section, name, run)) for section, name, run in stage_runs(params)}
    writes = {(section, name): run.writes for section, name, run in stage_runs(params)}
    return [
        RunSource(table, node[1], input_table, input_run)
        for node, tables in writes.items()
        for input_table, input_runs in _sources(node, inputs, writes, sections).items()
        for input_run in dict.fromkeys([*input_runs, *_own_inputs(node, inputs, writes, input_table)])
        for table in tables
        if table != input_table
    ]


def _own_inputs(
    node: _Node, inputs: dict[_Node, list[tuple[str, str]]], writes: dict[_Node, tuple[str, ...]], table: str
) -> list[str]:
    """The runs of a table that a run which writes this table too is made of: it may not have kept all of their rows."""
    kept = table in writes[node] and table not in _ENDS
    return [run for other, run in inputs[node] if kept and other == table]


def _classes(params: Params) -> set[type[Section]]:
    return {type(run) for _, _, run in stage_runs(params)}


def _slots(section: str, name: str, run: Section) -> Iterator[tuple[str, str]]:
    for ref in references(section, name, run):
        if isinstance(ref.marker, Slot) and ref.value != NONE:
            yield ref.marker.table, ref.value


def _sources(
    start: _Node,
    inputs: dict[_Node, list[tuple[str, str]]],
    writes: dict[_Node, tuple[str, ...]],
    sections: dict[str, dict[str, str]],
) -> dict[str, list[str]]:
    """Table -> its nearest runs behind one run, and of verdicts the nearest ones of each of its samples runs."""
    found = _nearest(start, inputs, writes, sections)
    if len(found.get("samples", ())) < 2:
        return found
    behind = _behind(start, inputs, sections)
    for table in (verdicts for verdicts in _VERDICTS if verdicts not in writes[start]):
        nearest = found.get(table, [])
        of = {run: _nearest((sections[table][run], run), inputs, writes, sections)["samples"] for run in behind[table]}
        covered = {samples for run in nearest for samples in of.get(run, [run])}
        for run, samples in of.items():
            if not covered.issuperset(samples) and set(samples) <= set(found["samples"]):
                nearest, covered = [*nearest, run], covered | set(samples)
        found[table] = nearest
    return {table: runs for table, runs in found.items() if runs}


def _behind(
    start: _Node, inputs: dict[_Node, list[tuple[str, str]]], sections: dict[str, dict[str, str]]
) -> dict[str, list[str]]:
    """Verdict table -> all of its runs that slots behind a run name, nearest first."""
    found: dict[str, list[str]] = {table: [] for table in _VERDICTS}
    level, seen = [start], {start}
    while level:
        named = list(dict.fromkeys(slot for node in level for slot in inputs[node] if slot[0] not in _ENDS))
        for table, run in named:
            if run not in found.get(table, [run]):
                found[table].append(run)
        level = [node for table, run in named if (node := (sections[table][run], run)) not in seen]
        seen.update(level)
    return found


def _nearest(
    start: _Node,
    inputs: dict[_Node, list[tuple[str, str]]],
    writes: dict[_Node, tuple[str, ...]],
    sections: dict[str, dict[str, str]],
) -> dict[str, list[str]]:
    """Table -> its nearest runs behind one run; the tables that the run's own stage writes are at distance 0."""
    found: dict[str, list[str]] = {table: [start[1]] for table in writes[start]}
    level = _alike(start, inputs, writes, sections)
    seen = set(level)
    while level:
        named = list(dict.fromkeys(slot for node in level for slot in inputs[node]))
        level = list(dict.fromkeys((sections[table][run], run) for table, run in named if table not in _ENDS))
        level = [node for node in level if node not in seen]
        seen.update(level)
        beside = [(table, run) for section, run in level for table in writes[section, run]]
        here: dict[str, list[str]] = {}
        for table, run in named:
            here.setdefault(table, []).append(run)
        for table in sorted({table for table, _ in beside} - set(here)):
            here[table] = [run for other, run in beside if other == table]
        found = here | found
    return found


def _alike(
    start: _Node,
    inputs: dict[_Node, list[tuple[str, str]]],
    writes: dict[_Node, tuple[str, ...]],
    sections: dict[str, dict[str, str]],
) -> list[_Node]:
    """A run, and the runs of its own tables that it is made of, and those that they are made of."""
    found = [start]
    for node in found:
        own = [(table, run) for table, run in inputs[node] if table in writes[start] and table not in _ENDS]
        found += [at for table, run in own if (at := (sections[table][run], run)) not in found]
    return found
