"""What an answer of a hosted model costs, by the price table of genai-prices. The table is the one that is installed:
it is pinned like any package, and never fetched. A model that it does not know costs what the environment states.
"""

import math
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from typing import Any

STATED = "PAIRWRIGHT_PRICE_USD_PER_MTOK"
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


def price_usd(model: str, base_url: str, usage: Mapping[str, Any], batch: bool = False) -> float | None:
    """The price of one answer from its `usage`; None for an unknown model, and for counts that cannot be.

    The provider is that of the base URL; behind an unknown URL (a gateway), the one that the model's name suggests.
    `batch`: as part of a batch, which providers charge less for.
    """
    prompt, completion = usage.get("prompt_tokens", -1), usage.get("completion_tokens", -1)
    details = usage.get("prompt_tokens_details")
    cached = (details.get("cached_tokens") if isinstance(details, Mapping) else None) or 0
    if any(type(count) is not int or count < 0 for count in (prompt, completion, cached)) or cached > prompt:
        return None  # some gateways count cached tokens apart; the answer is paid for, and no reason to stop
    listed = _price(model, base_url, prompt, completion, cached, batch)
    return _stated_price(prompt, completion) if listed is None else listed


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
def _price(model: str, base_url: str, prompt: int, completion: int, cached: int, batch: bool) -> float | None:
    from genai_prices import Usage, calc_price

    spent = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
    context = {"processing": "batch"} if batch else None
    for url in (base_url, None):
        try:
            price = calc_price(spent, model, provider_api_url=url, price_context=context)  # pyrefly: ignore
        except LookupError:
            continue
        return float(price.total_price)
    return None
