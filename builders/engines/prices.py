"""What an answer of a hosted model cost, by the price table of genai-prices. The table is the one that is installed: it
is pinned like any package, and never fetched.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any


def price_table() -> str:
    """Name and version of the price table."""
    return f"genai-prices {version('genai-prices')}"


def price_usd(model: str, base_url: str, usage: Mapping[str, Any], batch: bool = False) -> float | None:
    """The price of one answer from its `usage`; None for an unknown model, and for counts that cannot be.

    The provider is that of the base URL; behind an unknown URL (a gateway), the one that the model's name suggests.
    `batch`: the table's price for a batch (half, at OpenAI); where it lists none, the full one: never too low.
    """
    prompt, completion = usage.get("prompt_tokens", -1), usage.get("completion_tokens", -1)
    details = usage.get("prompt_tokens_details")
    cached = (details.get("cached_tokens") if isinstance(details, Mapping) else None) or 0
    if any(type(count) is not int or count < 0 for count in (prompt, completion, cached)) or cached > prompt:
        return None  # some gateways count cached tokens apart; the answer is paid for, and no reason to stop
    return _price(model, base_url, prompt, completion, cached, batch)


@lru_cache(100_000)
def _price(model: str, base_url: str, prompt: int, completion: int, cached: int, batch: bool) -> float | None:
    from genai_prices import Usage, calc_price

    spent = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
    context = {"processing": "batch"} if batch else None
    for url in (base_url, None):
        try:
            price = calc_price(spent, model, provider_api_url=url, price_context=context)  # pyrefly: ignore
            return float(price.total_price)
        except LookupError:
            continue
    return None
