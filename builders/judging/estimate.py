"""What the rest of a judged run will cost, by the answers to some of its own questions: `--estimate`."""

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from builders.engines.prices import STATED, price_table, price_usd
from builders.engines.servers import base_urls
from builders.judging.asking import Asker, Candidates, Missing, Questions, keys_of, missing, still
from builders.judging.judge import command, keys_of_whole, read
from builders.judging.parsing import Invalid
from builders.judging.questions import Setting, setting_of
from stores.ledger import Completion, Ledger
from stores.stage import Stage

_NORMAL = 1.959964
"""97.5 % quantile."""


class Range(NamedTuple):
    """A forecast sum and its 95 % interval."""

    mean: float
    low: float
    high: float


class Rest(NamedTuple):
    """What is still to be asked of a run, and what it will take. `price_usd` is None where no price is known."""

    answers: int
    asked_again: float
    """Of them, because the first answer says nothing (where `retries` allow it)."""
    prompt_tokens: Range
    tokens: Range
    price_usd: Range | None


def pilot(stage: Stage, candidates: Candidates, count: int) -> str:
    """Sees to it that `count` of a run's questions, evenly spaced, are answered, and says what the others will cost.

    The answers are those of the run: they are kept, and count for its budget. Raises as a run does.
    """
    setting, ledger, neutral = setting_of(stage), Ledger(), stage.config.neutral_is_error
    run = Questions(setting, candidates)
    run.read_all()
    with ledger.exclusive(setting.context):
        chosen = spaced(missing(None, run), count)
        if not len(chosen):
            return f"{stage.section}.{stage.name}: there is nothing to judge"
        new = len(still(ledger, chosen))
        asker = Asker(ledger, run, command(stage), partial(keys_of_whole, stage, run), len(chosen))
        asker.ask(chosen)
        found = ledger.get(keys_of(chosen))
        answers = [found[key] for key in keys_of(chosen)]
        invalid = sum(
            _is_invalid(found[key], n, neutral) for key, n in zip(keys_of(chosen), steps_of(chosen), strict=True)
        )
        left = len(missing(ledger, run))
    rest = forecast(setting, base_urls()[0], answers, left, invalid / len(answers))
    price = f"for {asker.spent.price_usd:.4f} USD" if rest.price_usd else "at a price that is not known"
    spent = f"{new} asked now {price}" if new else "all of them in the ledger"
    head = f"pilot of {len(answers):,} answers, {spent}; {invalid} of them say nothing"
    return f"{stage.section}.{stage.name}: {head}\n{describe(rest, run.distinct)}"


def spaced(wanted: Missing, count: int) -> Missing:
    """So many of the questions, evenly spaced."""
    total = len(wanted)
    return wanted.only(np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64)))


def steps_of(wanted: Missing) -> list[int]:
    """The numbers of steps of the chosen questions' solutions."""
    repeats = wanted.run.repeats
    pairs = zip(wanted.run.chunks, wanted.masks, strict=True)
    return [n for chunk, mask in pairs for n in np.repeat(chunk.n_steps, repeats)[mask].tolist()]


def _is_invalid(answer: Completion, n_steps: int, neutral: bool) -> bool:
    return isinstance(read(answer, n_steps, neutral), Invalid)


def forecast(setting: Setting, url: str, answers: Sequence[Completion], left: int, invalid: float) -> Rest:
    """What `left` more answers take if they are like those, of which a share is `invalid`."""
    again = left * sum(invalid**attempt for attempt in range(1, setting.judge.retries + 1))
    prompts, tokens = [a.n_prompt_tokens for a in answers], [a.n_tokens for a in answers]
    prices = [_price(setting, url, answer) for answer in answers]
    known = [price for price in prices if price is not None]
    price = total(known, left + again) if len(known) == len(prices) else None
    return Rest(left, again, total(prompts, left + again), total(tokens, left + again), price)


def _price(setting: Setting, url: str, answer: Completion) -> float | None:
    """The price of such an answer in the run's mode."""
    model = (answer.served_by or setting.hosted).split()[0]
    usage = {"prompt_tokens": answer.n_prompt_tokens, "completion_tokens": answer.n_tokens}
    listed = price_usd(model, url, usage, setting.judge.mode == "batch", asked=setting.hosted)
    return answer.price_usd if listed is None else listed


def total(values: Sequence[float], count: float) -> Range:
    """The sum of `count` more values like these, with its 95 % interval: the mean is not known, and values differ."""
    mean, free = statistics.fmean(values), len(values) - 1
    if not count or free < 1:
        return Range(mean * count, mean * count, mean * count)
    spread = _quantile(free) * statistics.stdev(values) * count * math.sqrt(1 / len(values) + 1 / count)
    return Range(mean * count, max(0.0, mean * count - spread), mean * count + spread)


def _quantile(free: int) -> float:
    """97.5 % quantile of Student's t, by its expansion in the degrees of freedom (Abramowitz and Stegun, 26.7.5)."""
    z = _NORMAL
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)


def describe(rest: Rest, wanted: int) -> str:
    """The forecast in lines."""
    again = f", about {rest.asked_again:,.0f} of them again" if rest.asked_again >= 0.5 else ""
    lines = [f"to ask    {rest.answers:,} of {wanted:,} answers{again}"]
    for name, sums in (("prompts", rest.prompt_tokens), ("answers", rest.tokens)):
        lines.append(f"{name:9} {sums.mean:,.0f} tokens (95 %: {sums.low:,.0f} to {sums.high:,.0f})")
    if rest.price_usd is None:
        return "\n".join([*lines, f"price     not known; set {STATED}=<input>,<output>"])
    mean, low, high = rest.price_usd
    return "\n".join([*lines, f"price     {mean:,.4f} USD (95 %: {low:,.4f} to {high:,.4f}), by {price_table()}"])
