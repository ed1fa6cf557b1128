"""The whole of `params.yaml`, typed: unknown keys forbidden, every reference resolved.

An error names the place and the remedy, as in
`samples.irpo_0.sampling: no entry 'gredy' under 'sampling' (have 'explore', 'greedy')`.
"""

import difflib
from collections.abc import Iterator
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas import sections as s
from schemas import sections_agreement as ag
from schemas import sections_export as x
from schemas import sections_pairs as pairs
from schemas import sections_prompts as p
from schemas import sections_quality as q
from schemas import sections_reinforcement as rl
from schemas import sections_report as r
from schemas import sections_steps as st
from schemas import sections_training as t
from schemas.slots import NONE, Entry, Name, Section, Slot, quoted


class Params(Section):
    """All sections; every params file declares each of them, `{}` where it is not used."""

    seed: int
    sampling: dict[Name, s.Sampling]
    problems: dict[Name, s.ProblemsRun]
    quality: dict[Name, q.QualityRun]
    models: dict[Name, s.ModelRun]
    prompts: dict[Name, p.PromptsRun]
    samples: dict[Name, s.SamplesRun]
    samples_gold: dict[Name, s.GoldSamplesRun]
    samples_import: dict[Name, s.ImportedSamplesRun]
    predictions: dict[Name, s.PredictionsRun]
    predictions_import: dict[Name, ag.ImportedPredictionsRun]
    consistency: dict[Name, ag.ConsistencyRun]
    votes: dict[Name, ag.VotesRun]
    rewards: dict[Name, s.RewardsRun]
    rewards_votes: dict[Name, ag.VoteRewardsRun]
    step_labels: dict[Name, st.StepLabelsRun]
    prompts_step: dict[Name, st.StepPromptsRun]
    samples_corrections: dict[Name, st.CorrectionsRun]
    demos_gold: dict[Name, s.GoldDemosRun]
    demos_correct: dict[Name, s.CorrectDemosRun]
    demos_consistent: dict[Name, ag.ConsistentDemosRun]
    demos_union: dict[Name, s.UnionDemosRun]
    pairs_outcome: dict[Name, pairs.OutcomePairsRun]
    pairs_contrast: dict[Name, ag.ContrastPairsRun]
    pairs_union: dict[Name, pairs.UnionPairsRun]
    pairs_step: dict[Name, st.StepPairsRun]
    pairs_import: dict[Name, st.ImportedPairsRun]
    reference: dict[Name, t.ReferenceRun]
    sft: dict[Name, t.SftRun]
    preference: dict[Name, t.PreferenceRun]
    ppo: dict[Name, rl.PpoRun]
    reward_model: dict[Name, rl.RewardModelRun]
    evaluate: dict[Name, s.EvaluateRun]
    scores: dict[Name, rl.ScoresRun]
    export: dict[Name, x.ExportRun]
    report: r.Report


class Reference(NamedTuple):
    """A field of a run which names another run (`table`) or an entry of a section that is no stage (`section`)."""

    place: tuple[str, ...]
    marker: Slot | Entry
    value: str

    @property
    def where(self) -> str:
        return ".".join(self.place)

    @property
    def slot(self) -> str:
        return ".".join(self.place[2:])


STAGES: dict[str, type[Section]] = {
    name: info.annotation.__args__[1]  # type: ignore[union-attr]
    for name, info in Params.model_fields.items()
    if name not in ("seed", "sampling", "report")
}
"""Section that is a stage -> class of its runs."""


def stage_runs(params: Params) -> Iterator[tuple[str, str, Section]]:
    """Every (section, run name, run) of the stages."""
    for section in STAGES:
        for name, run in getattr(params, section).items():
            yield section, name, run


def table_runs(params: Params, table: str) -> dict[str, str]:
    """Run name -> section that writes it, for one table (or `models`)."""
    return {name: section for section, name, run in stage_runs(params) if table in run.writes}


def references(section: str, name: str, run: BaseModel) -> Iterator[Reference]:
    """All references of a run, nested blocks included."""
    yield from _references((section, name), run)


def _references(place: tuple[str, ...], run: BaseModel) -> Iterator[Reference]:
    for field, info in type(run).model_fields.items():
        value = getattr(run, field)
        marker = next((m for m in info.metadata if isinstance(m, Slot | Entry)), None)
        if marker is not None and isinstance(value, list):
            yield from (Reference((*place, field, str(i)), marker, name) for i, name in enumerate(value))
        elif marker is not None:
            yield Reference((*place, field), marker, value)
        elif isinstance(value, Section):
            yield from _references((*place, field), value)


def load_params(path: Path | str = "params.yaml") -> Params:
    """Reads and checks a params file.

    Raises ValueError with one line per mistake, each naming the place and the remedy.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file; run in the project's directory")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return parse_params(text, str(path))


def parse_params(text: str, name: str = "params.yaml", older: bool = False) -> Params:
    """`load_params` for a text that was read elsewhere.

    `older`: another revision's, which may have been written before there were some of the sections and references.
    """
    try:
        raw = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        remedy = "empty; it declares every section, `{}` for an unused one"
        raise ValueError(f"{name}: {remedy if raw is None else 'sections are expected, as in `seed: 0`'}")
    if older:
        raw = _completed(raw)
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ValueError("\n".join(f"{name}: {_explain(e)}" for e in error.errors())) from None
    mistakes = [*_dangling(params), *_ambiguous(params), *t.mistakes(params)]
    mistakes += [*rl.mistakes(table_runs(params, "models"), _named(params, "models"))]
    mistakes += rl.samplings(params)
    mistakes += r.mistakes(params, partial(table_runs, params))
    mistakes = mistakes or [*_circular(params), *x.mistakes(params)]
    if mistakes:
        raise ValueError("\n".join(f"{name}: {mistake}" for mistake in mistakes))
    return params


def _completed(raw: dict[str, Any]) -> dict[str, Any]:
    """With what was not there yet: sections are empty then, and references that can do without are `none`."""
    given = {section: {} for section in Params.model_fields if section != "seed"} | raw
    return given | {section: {n: _with_none(run, STAGES[section]) for n, run in given[section].items()}
                    for section in STAGES if isinstance(given[section], dict)}  # fmt: skip


def _with_none(run: Any, section: type[BaseModel]) -> Any:
    if not isinstance(run, dict):
        return run
    fields = [(n, info) for n, info in section.model_fields.items() if info.is_required()]
    optional = {n for n, info in fields if any(isinstance(m, Slot) and not m.required for m in info.metadata)}
    blocks = {n: c for n, info in fields if isinstance(c := info.annotation, type) and issubclass(c, Section)}
    return dict.fromkeys(optional, NONE) | {n: _with_none(v, blocks[n]) if n in blocks else v for n, v in run.items()}


def _explain(error: ErrorDetails) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "[key]")
    match error["type"]:
        case "extra_forbidden":
            known = _fields_at(error["loc"][:-1])
            near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"have {quoted(known)}"
            return f"{place}: unknown key ({hint})"
        case "missing":
            return f"{place}: missing (add it{_missing_hint(error['loc'])})"
        case "dict_type" | "model_type" if error["input"] is None:
            unused = f"write `{place}: {{}}` for an unused section"
            return f"{place}: empty; {unused if len(error['loc']) == 1 else 'give its settings below it, or remove it'}"
        case "string_pattern_mismatch":
            return f"{place}: names are lower-case letters, digits and '_', starting with a letter"
    message = error["msg"].removeprefix("Value error, ")
    given = f" (have {error['input']!r})" if isinstance(error["input"], str | int | float) else ""
    return f"{place}: {message}{given}"


def _missing_hint(loc: tuple[str | int, ...]) -> str:
    if len(loc) == 1:
        return f"; `{loc[0]}: {{}}` for an unused section"
    owner = _owner(loc[:-1])
    info = owner.model_fields.get(str(loc[-1])) if owner else None
    optional = info and any(isinstance(m, Slot) and not m.required for m in info.metadata)
    return f"; `{loc[-1]}: {NONE}` where it is not used" if optional else ""


def _owner(loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    if not loc:
        return Params
    owner: Any = STAGES.get(str(loc[0])) or {"sampling": s.Sampling, "report": r.Report}.get(str(loc[0]))
    for part in loc[2:] if loc[0] != "report" else loc[1:]:
        if not isinstance(part, int):  # a place in a list of blocks
            info = owner.model_fields.get(part) if owner else None
            kinds = (info.annotation, *get_args(info.annotation)) if info else ()
            owner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return owner


def _fields_at(loc: tuple[str | int, ...]) -> list[str]:
    owner = _owner(loc)
    return list(owner.model_fields) if owner else []


def _dangling(params: Params) -> Iterator[str]:
    slots = [marker for _, _, run in stage_runs(params) for marker in _slots(type(run))]
    tables = {table for marker in slots for table in (marker.table, *marker.beside)}
    have = {table: set(table_runs(params, table)) for table in tables}
    for section, name, run in stage_runs(params):
        for ref in references(section, name, run):
            if isinstance(ref.marker, Entry):
                known, under = set(getattr(params, ref.marker.section)), ref.marker.section
            else:
                known, under = have[ref.marker.table], ref.marker.table
                if ref.value == NONE and not ref.marker.required:
                    continue
            if ref.value not in known:
                yield f"{ref.where}: no entry '{ref.value}' under '{under}' (have {quoted(known)})"
            elif isinstance(ref.marker, Slot):
                yield from (_lacking(params, ref, t, have[t]) for t in ref.marker.beside if ref.value not in have[t])


def _named(params: Params, table: str) -> Iterator[Reference]:
    """All references to runs of a table."""
    for section, name, run in stage_runs(params):
        for ref in references(section, name, run):
            if isinstance(ref.marker, Slot) and ref.marker.table == table and ref.value != NONE:
                yield ref


def _lacking(params: Params, ref: Reference, table: str, known: set[str]) -> str:
    """Problems without the answers or solutions that are needed; what a run of quality kept has the original's."""
    origin, section = ref.value, table_runs(params, "problems")[ref.value]
    while origin in params.quality:
        origin = params.quality[origin].problems
    remedy = f"name '{origin}', which it was made of" if origin in known else f"have {quoted(known)}"
    return f"{ref.where}: '{ref.value}' is of {section}, which has no {table} ({remedy})"


def _slots(section: type[BaseModel]) -> Iterator[Slot]:
    for info in section.model_fields.values():
        yield from (m for m in info.metadata if isinstance(m, Slot))
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from _slots(info.annotation)


def _ambiguous(params: Params) -> Iterator[str]:
    seen: dict[tuple[str, str], str] = {}
    for section, name, run in stage_runs(params):
        if name == NONE:
            yield f"{section}.{name}: 'none' is reserved for the empty run; choose another name"
        for table in run.writes:
            other = seen.setdefault((table, name), section)
            if other != section:
                yield f"{section}.{name}: table '{table}' already has a run '{name}' from '{other}'; rename one"


def _circular(params: Params) -> Iterator[str]:
    """Needs params whose references all resolve."""
    writers = {(table, n): f"{section}.{n}" for section, n, run in stage_runs(params) for table in run.writes}
    reads = {f"{section}.{n}": list[str]() for section, n, _ in stage_runs(params)}
    for edge in run_inputs(params):
        reads[writers[edge.table, edge.run]].append(writers[edge.input_table, edge.input_run])
    try:
        TopologicalSorter(reads).prepare()
    except CycleError as error:
        ring = error.args[1][::-1]
        yield f"{ring[0]}: made from itself ({' reads '.join(ring)}); name another run in one of them"


class RunInput(NamedTuple):
    """One edge of the graph of runs: `run` of `table` was made from `input_run` of `input_table`."""

    table: str
    run: str
    slot: str
    input_table: str
    input_run: str


def run_inputs(params: Params) -> list[RunInput]:
    """All edges between runs, `none` left out: what joins across runs follow."""
    return [
        RunInput(table, name, ref.slot, ref.marker.table, ref.value)
        for section, name, run in stage_runs(params)
        for table in run.writes
        for ref in references(section, name, run)
        if isinstance(ref.marker, Slot) and ref.value != NONE
    ]
