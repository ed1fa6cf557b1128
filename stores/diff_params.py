"""Differences of params and of the funnel, and what differs in the settings of single runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from schemas.params import Params, references, stage_runs
from schemas.slots import Entry, Section
from stores.views import settings

SEEDED = ("models", "samples", "step_labels", "sft", "preference", "ppo", "reward_model", "evaluate")
"""Stages whose every run depends on the `seed` of params."""
SHOWN = 3
"""Differences that a reason names."""

Node = tuple[str, str]
"""(section, run)"""


class ParamChange(NamedTuple):
    """One setting that differs; `key` is empty and one side None where a whole run is there on one side only."""

    section: str
    run: str
    key: str
    old: str | None
    new: str | None


class FunnelChange(NamedTuple):
    """One count of the funnel that differs: rows that a stage kept, or dropped for a reason; None: no such run."""

    stage: str
    run: str
    table: str | None
    reason: str
    old: int | None
    new: int | None


def param_changes(old: Params, new: Params) -> list[ParamChange]:
    """Every setting that differs, in the order of the sections of params."""
    before, after = _blocks(old), _blocks(new)
    sections = list(Params.model_fields)
    return [
        change
        for node in sorted({*before, *after}, key=lambda node: (sections.index(node[0]), node[1]))
        for change in _of_block(node, before.get(node), after.get(node))
    ]


def _blocks(params: Params) -> dict[Node, dict[str, str | None]]:
    """(section, run) -> dotted key -> value; the top-level `seed` is a block of its own."""
    found: dict[Node, dict[str, str | None]] = {("seed", ""): {"seed": str(params.seed)}}
    found |= {("sampling", name): _text(block) for name, block in params.sampling.items()}
    found |= {(section, name): _text(run) for section, name, run in stage_runs(params)}
    return found | {("report", ""): _text(params.report)}


def _text(block: Section) -> dict[str, str | None]:
    return {key: None if value is None else str(value) for key, value in settings("", block)}


def _of_block(
    node: Node, old: dict[str, str | None] | None, new: dict[str, str | None] | None
) -> Iterable[ParamChange]:
    if old is None or new is None:
        yield ParamChange(*node, "", None if old is None else "a run", None if new is None else "a run")
        return
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield ParamChange(*node, key, old.get(key), new.get(key))


def funnel_changes(old: Mapping[tuple, int], new: Mapping[tuple, int]) -> list[FunnelChange]:
    """Every count that differs between two funnels: (stage, run, table, reason) -> count, 0 of what a run has not."""
    ran = [{key[:2] for key in side} for side in (old, new)]
    keys = sorted({*old, *new}, key=lambda key: (key[0], key[1], key[2] is None, key[2] or "", key[3]))
    counts = [
        [side.get(key, 0 if key[:2] in runs else None) for side, runs in zip((old, new), ran, strict=True)]
        for key in keys
    ]
    return [FunnelChange(*key, *both) for key, both in zip(keys, counts, strict=True) if both[0] != both[1] and key[3]]


def told(changes: Sequence[ParamChange], own: Node | None = None) -> str | None:
    """Differences for a reason, as in `k 2 -> 1`; keys of other runs than `own` name theirs. None: there are none."""
    if not changes:
        return None
    said = [f"{_place(c, own)} {_value(c.old)} -> {_value(c.new)}" for c in changes]
    more = [f"{len(said) - SHOWN} more"] if len(said) > SHOWN else []
    return "; ".join([*said[:SHOWN], *more])


def _value(value: str | None) -> str:
    return "none" if value is None else value


def _place(change: ParamChange, own: Node | None) -> str:
    if change.section == "seed" or (change.section, change.run) == own:
        return change.key
    return ".".join(part for part in (change.section, change.run, change.key) if part)


def used_by(params: Params, nodes: Iterable[Node]) -> set[Node]:
    """The blocks of params that decide some runs: their own, their sampling, and `seed` where all depends on it."""
    found: set[Node] = set()
    for section, name in nodes:
        run = getattr(params, section).get(name)
        found.add((section, name))
        found |= {("seed", "")} if section in SEEDED or getattr(run, "max_pairs", None) is not None else set()
        found |= {
            (ref.marker.section, ref.value)
            for ref in (references(section, name, run) if run is not None else ())
            if isinstance(ref.marker, Entry)
        }
    return found
