"""What the generating runs of a params file will cost, before any of them spends anything.

Counts are exact where a run's model and prompts are built: every request is looked up in the ledger. Before that they
are estimated from the number of problems, or said to be unknown; and each estimate of tokens, time, space and price
names the history that it follows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from builders.engines.prices import price_usd
from builders.engines.servers import base_urls
from builders.generation import PROMPTS_AT_ONCE, Setting, requests
from builders.judging.forecast import forecast as forecast_judge
from builders.judging.forecast import judge_runs, not_built
from builders.model_files import fingerprint
from schemas import Problem, Prompt
from schemas.params import Params, table_runs
from schemas.sections_steps import Judge
from stores.estimates import Basis, Estimate, estimate, similar
from stores.ledger import Ledger
from stores.model_record import RECORD
from stores.parquet import count_rows, scan_table
from stores.paths import run_dir

_CHARS_PER_TOKEN = 4


class Draw(NamedTuple):
    """Completions of one setting that a run asks for: `n` of each prompt."""

    run: str
    model: str
    prompts: str
    sampling: str
    n: int
    precision: str


class Forecast(NamedTuple):
    """One row per run and sampling setting. None is unknown; `note` says why, or what is only estimated.

    `in_ledger` counts what needs no generating: it is there, or an earlier row or prompt asks for it too.
    Seconds, bytes in the ledger, and US dollars are of what is to be generated; `basis` is whose history they follow.
    """

    run: str
    model: str
    sampling: str
    wanted: int | None
    in_ledger: int | None
    to_generate: int | None
    tokens: int | None
    device_s: float | None
    bytes: int | None
    price_usd: float | None
    basis: str
    note: str


def draws(params: Params) -> list[Draw]:
    """What all runs of `samples` and `evaluate` ask for."""
    found = [
        Draw(f"samples.{name}", run.model, run.prompts, run.sampling, run.n, run.precision)
        for name, run in params.samples.items()
    ]
    for name, run in params.evaluate.items():
        for sampling, n in ((run.greedy, 1), (run.explore, run.k)):
            found += [Draw(f"evaluate.{name}", run.model, run.prompts, sampling, n, run.precision)] if n else []
    return found


def forecast(ledger: Ledger, params: Params, root: Path = Path(), runs: Sequence[str] = ()) -> list[Forecast]:
    """A row for each setting of the runs (all of them if none is named), in the order of params; then the judges'.

    What an earlier row generates is in the ledger for a later one. Raises ValueError for a run that there is not.
    """
    known, rows = draws(params), []
    judges = {f"step_labels.{name}": name for name in judge_runs(params)}
    places = sorted({draw.run for draw in known} | set(judges))
    unknown = [run for run in runs if not any(_named(place, run) for place in places)]
    if unknown:
        names = ", ".join(places) or "none"
        raise ValueError(f"no run '{unknown[0]}' that generates (have {names})")
    claimed: dict[tuple[str, ...], int] = {}
    for draw in known:
        if not runs or any(_named(draw.run, run) for run in runs):
            key = (draw.model, draw.prompts, draw.sampling, draw.precision)
            rows.append(_forecast(ledger, params, root, draw, claimed.get(key, 0)))
            claimed[key] = max(draw.n, claimed.get(key, 0))
    asked: set[str] = set()
    chosen = {place: name for place, name in judges.items() if not runs or any(_named(place, run) for run in runs)}
    return rows + [_judged(ledger, params, root, place, name, asked) for place, name in chosen.items()]


def _named(place: str, run: str) -> bool:
    return run in (place, place.partition(".")[2])


def _judged(ledger: Ledger, params: Params, root: Path, place: str, name: str, asked: set[str]) -> Forecast:
    """The answers of one judge; `asked` are the keys that earlier rows ask for."""
    run = params.step_labels[name]
    first = (place, run.model, (run.judge or Judge()).template)
    note = not_built(params, name, root)
    if note:
        return Forecast(*first, None, None, None, None, None, None, None, "", f"{note}, their number is not known")
    judged = forecast_judge(ledger, params, root, name, asked)
    found, left = judged.found, judged.left
    spent = (found.tokens, found.device_s, found.bytes, judged.price_usd)
    return Forecast(*first, judged.wanted, judged.wanted - left, left, *spent, found.basis if left else "", "")


def _forecast(ledger: Ledger, params: Params, root: Path, draw: Draw, claimed: int) -> Forecast:
    prompts, note = _count(params, draw.prompts, root)
    setting = _setting(params, draw, root)
    notes = [note] if note else []
    if setting is None:
        notes.append("model not built")
    first = (draw.run, draw.model, draw.sampling)
    if prompts is None:
        return Forecast(*first, None, None, None, None, None, None, None, "", "; ".join(notes))
    wanted, left = prompts * draw.n, prompts * max(0, draw.n - claimed)
    built = run_dir("prompts", draw.prompts, root).is_dir()
    if setting is not None and built:
        left = _count_missing(ledger, setting, root, draw, claimed)
    found = estimate(ledger, left, params.sampling[draw.sampling].max_new_tokens, _bases(ledger, params, root, draw))
    price = found.price_usd
    if price is None:
        price = _listed_price(params, draw, found, root)
    have = wanted - left if setting is not None and built else None
    spent = (found.tokens, found.device_s, found.bytes, price)
    return Forecast(*first, wanted, have, left, *spent, found.basis if left else "", "; ".join(notes))


def _count(params: Params, run: str, root: Path) -> tuple[int | None, str]:
    """The number of prompts of a run, and what is to be said of it."""
    directory = run_dir("prompts", run, root)
    if directory.is_dir():
        return count_rows(directory, Prompt), ""
    if table_runs(params, "prompts")[run] != "prompts":
        return None, "prompts not built, their number is not known"
    problems = params.prompts[run].problems
    directory = run_dir("problems", problems, root)
    if directory.is_dir():
        return count_rows(directory, Problem), "prompts not built: one per problem"
    while problems in params.quality:  # it keeps at most all of them
        problems = params.quality[problems].problems
    limit = params.problems[problems].limit if problems in params.problems else None
    return limit, "problems not built: " + ("their limit" if limit else "their number is not known")


def _setting(params: Params, draw: Draw, root: Path) -> Setting | None:
    """The setting of a draw; None where its model is not built, so that its fingerprint is not known."""
    directory = run_dir("models", draw.model, root)
    if not (directory / RECORD).exists():
        return None
    return Setting(draw.model, fingerprint(directory), params.sampling[draw.sampling], params.seed, draw.precision)


def _count_missing(ledger: Ledger, setting: Setting, root: Path, draw: Draw, claimed: int) -> int:
    """How many requests the ledger lacks; prompts that ask the same thing are asked once."""
    lacking: set[str] = set()
    columns = ("messages", "prefill", "rendering")
    for batch in scan_table(run_dir("prompts", draw.prompts, root), Prompt, columns):
        for start in range(0, len(batch), PROMPTS_AT_ONCE):
            asked = requests(batch.slice(start, PROMPTS_AT_ONCE), setting, draw.n)
            keys = [request.key for request in asked if int(request.key[-4:]) >= claimed]
            lacking.update(ledger.missing(keys))
    return len(lacking)


def _bases(ledger: Ledger, params: Params, root: Path, draw: Draw) -> Iterator[Basis]:
    """Histories to judge by, the nearest first: this model, another run with this template, another model."""
    setting = _setting(params, draw, root)
    sampling = params.sampling[draw.sampling].model_dump()
    context, model = (setting.context, setting.model_fingerprint) if setting else (None, None)
    near = similar(ledger, context, model, sampling)
    yield from (basis for basis in near if basis[0] != "another model")
    for other in draws(params):
        same = other.sampling == draw.sampling and _template(params, other) == _template(params, draw)
        theirs = _setting(params, other, root) if same and other.run != draw.run else None
        if theirs is not None:
            yield f"{other.run}, of the same template,", [theirs.context]
    yield from (basis for basis in near if basis[0] == "another model")


def _template(params: Params, draw: Draw) -> tuple[str, str] | str:
    run = params.prompts.get(draw.prompts)
    return (run.template, run.rendering) if run else draw.prompts


def _listed_price(params: Params, draw: Draw, found: Estimate, root: Path) -> float | None:
    """By the price table, for a hosted model that the ledger has no prices of."""
    hosted = params.models[draw.model].hosted if draw.model in params.models else None
    if hosted is None or not found.completions:
        return None
    asked = found.prompt_tokens or _prompt_tokens(run_dir("prompts", draw.prompts, root))
    if asked is None:
        return None
    usage = {"prompt_tokens": round(asked), "completion_tokens": round(found.tokens / found.completions)}
    each = price_usd(hosted, base_urls()[0], usage)
    return None if each is None else each * found.completions


def _prompt_tokens(directory: Path) -> float | None:
    """About how many tokens the first prompts of a run have; None where it is not built."""
    if not directory.is_dir():
        return None
    first = next(iter(scan_table(directory, Prompt, ("messages", "prefill"))), None)
    rows = first.slice(0, PROMPTS_AT_ONCE).to_pylist() if first is not None else []
    chars = sum(len(row["prefill"]) + sum(len(message["content"]) for message in row["messages"]) for row in rows)
    return chars / len(rows) / _CHARS_PER_TOKEN if rows else None
