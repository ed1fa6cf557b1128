"""What an answer of a hosted model costs, by the price table of genai-prices. The table is the one that is installed:
it is pinned like any package, and never fetched. A model that it does not know costs what the environment states.
"""

import math
import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from typing import Any

STATED = "PAIRWRIGHT_PRICE_USD_PER_MTOK"
_HALF_HOUR_S = 1800
_CHECKED = re.compile(r"\b(?:checked|verified) (?:on )?(20\d\d-\d\d-\d\d)")


def price_table() -> str:
    """Name, version and date of the price table, and the price that the environment states for models not in it."""
    stated = os.environ.get(STATED, "")
    return _table() + (f", others {stated} USD per million tokens" if stated else "")


@lru_cache(1)
def _table() -> str:
    """The package states no date of its own; the date is the latest at which one of its prices was checked."""
    dates = _CHECKED.findall(resources.files("genai_prices").joinpath("data.py").read_text(encoding="utf-8"))
    return f"genai-prices {version('genai-prices')}" + (f" of {max(dates)}" if dates else "")


def price_usd(
    model: str, base_url: str, usage: Mapping[str, Any], batch: bool = False, asked: str = ""
) -> float | None:
    """The price of one answer now from its `usage`; None for an unknown model, and for counts that cannot be.

    The provider is that of the base URL; behind an unknown URL (a gateway), the one that the model's name suggests.
    `batch`: as part of a batch, which providers charge less for. `asked`: the name that was asked for, whose price
    counts if the table does not have the name of the model that answered.
    """
    counts = _counts(usage)
    if counts is None:
        return None
    for name in (model, asked) if asked else (model,):
        if (listed := _price(name, base_url, *counts, batch, _now())) is not None:
            return listed
    return _stated_price(*counts[:2])


def _counts(usage: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(input, output, cached input) in tokens. What only the total counts is thought, and costs what answers cost."""
    prompt, completion = usage.get("prompt_tokens", -1), usage.get("completion_tokens", -1)
    details, total = usage.get("prompt_tokens_details"), usage.get("total_tokens")
    cached = (details.get("cached_tokens") if isinstance(details, Mapping) else None) or 0
    if any(type(count) is not int or count < 0 for count in (prompt, completion, cached)) or cached > prompt:
        return None  # some gateways count cached tokens apart; the answer is paid for, and no reason to stop
    return prompt, max(completion, total - prompt if type(total) is int else 0), cached


def _now() -> int:
    """The present half hour: some providers charge less at night."""
    return int(time.time() // _HALF_HOUR_S)


@lru_cache(1000)
def surge(model: str, base_url: str) -> float:
    """How many times as dear a model is at the dearest time of a day as at the cheapest; 1 for most, and if unknown."""
    day = range(_now(), _now() + 48)
    prices = [[_price(model, base_url, *counts, 0, False, at) or 0.0 for at in day] for counts in ((1, 0), (0, 1))]
    return max(max(of) / min(of) if min(of) else 1.0 for of in prices)


def _stated_price(prompt: int, completion: int) -> float | None:
    stated = stated_prices()
    return (prompt * stated[0] + completion * stated[1]) / 1e6 if stated else None


def stated_prices(environment: Mapping[str, str] = os.environ) -> tuple[float, float] | None:
    """US dollars per million tokens of input and of output, as `$PAIRWRIGHT_PRICE_USD_PER_MTOK` states them.

    Raises ValueError for a value that is no such pair.
    """
    text = environment.get(STATED, "")
    try:
        prices = [float(part) for part in text.split(",")] if text else [0.0, 0.0]
    except ValueError:
        prices = []
    if len(prices) != 2 or not all(0 <= price < math.inf for price in prices):
        raise ValueError(f"{STATED}={text}: give the prices of input and of output, such as 2.5,10")
    return (prices[0], prices[1]) if text else None


@lru_cache(100_000)
def _price(
    model: str, base_url: str, prompt: int, completion: int, cached: int, batch: bool, half_hour: int
) -> float | None:
    from genai_prices import Usage, calc_price

    spent = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
    context = {"processing": "batch"} if batch else None
    at = datetime.fromtimestamp(half_hour * _HALF_HOUR_S, UTC)
    for url in (base_url, None):
        try:
            price = calc_price(  # pyrefly: ignore
                spent, model, provider_api_url=url, genai_request_timestamp=at, price_context=context
            )
        except LookupError:
            continue
        return float(price.total_price)
    return None
