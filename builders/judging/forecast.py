"""What the judges of a params file will cost: how many of their answers the ledger lacks, and the price of those."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from builders.engines.prices import price_usd
from builders.engines.servers import base_urls
from builders.judging.asking import Questions, keys_of, missing
from builders.judging.questions import Setting, questions, setting_of
from builders.step_labels import judged, select
from schemas.params import Params
from schemas.sections_steps import StepLabelsRun
from schemas.slots import NONE
from stores.duck import Duck
from stores.estimates import Estimate, estimate, similar
from stores.ledger import Ledger
from stores.model_record import RECORD
from stores.paths import run_dir
from stores.stage import Stage

_CHARS_PER_TOKEN = 4


class Judged(NamedTuple):
    """What one run asks for; `price_usd` is None where no price is known."""

    wanted: int
    left: int
    found: Estimate
    price_usd: float | None


def judge_runs(params: Params) -> dict[str, StepLabelsRun]:
    """The runs whose labels a model gives."""
    return {name: run for name, run in params.step_labels.items() if run.labeler == "judge"}


def not_built(params: Params, name: str, root: Path) -> str:
    """The inputs of a run that are not there; nothing if all are."""
    run = params.step_labels[name]
    runs = [("samples", run.samples), ("prompts", run.prompts), ("problems", run.problems), ("rewards", run.rewards)]
    lacking = [table for table, of in runs if of != NONE and not run_dir(table, of, root).is_dir()]
    lacking += [] if (run_dir("models", run.model, root) / RECORD).exists() else ["model"]
    return f"{', '.join(lacking)} not built" if lacking else ""


def forecast(ledger: Ledger, params: Params, root: Path, name: str, claimed: set[str]) -> Judged:
    """What a run whose inputs are built asks for. `claimed` are keys that earlier runs ask for; its own are added."""
    stage = Stage("step_labels", name, root, params)
    setting = setting_of(stage)
    with Duck() as duck:
        select(stage, duck)
        run = Questions(setting, partial(judged, stage, duck))
        run.read_all()
        keys = set(keys_of(missing(ledger, run))) - claimed
        claimed |= keys
        bases = similar(ledger, setting.context, setting.fingerprint, setting.sampling.model_dump())
        found = estimate(ledger, len(keys), setting.judge.max_new_tokens, bases)
        price = found.price_usd if setting.judge.mode == "online" else None
        if price is None and keys:
            price = _listed_price(setting, found, run)
    return Judged(run.distinct, len(keys), found, price)


def _listed_price(setting: Setting, found: Estimate, run: Questions) -> float | None:
    """By the price table: in batches, and for a model that the ledger has no prices of."""
    prompt_tokens = found.prompt_tokens or next(_prompt_tokens(setting, run), 0.0)
    usage = {"prompt_tokens": round(prompt_tokens), "completion_tokens": round(found.tokens / found.completions)}
    each = price_usd(setting.hosted, base_urls()[0], usage, setting.judge.mode == "batch")
    return None if each is None else each * found.completions


def _prompt_tokens(setting: Setting, run: Questions) -> Iterator[float]:
    """About how many tokens the questions of a chunk have, for each chunk that is not empty."""
    for chunk in run.candidates():
        sizes = [sum(len(m["content"]) for m in question.messages) for question in questions(setting, chunk)]
        if sizes:
            yield sum(sizes) / len(sizes) / _CHARS_PER_TOKEN
