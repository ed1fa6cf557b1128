"""What completions will cost, judged by those that the ledger has of the same or a similar setting."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stores.ledger import Ledger, disk_errors

BOUND = "max_new_tokens"
"""Basis of an estimate without any history: an upper bound."""
_CHARS_PER_TOKEN = 4


class History(NamedTuple):
    """Means per completion of what was generated; `device_s` is the batches' wall time where no device is ours."""

    tokens: float
    device_s: float
    prompt_tokens: float
    bytes: float
    price_usd: float | None


class Estimate(NamedTuple):
    """What some completions will cost: generated tokens, device seconds, bytes in the ledger, and US dollars.

    `basis` says whose history it is; with `max_new_tokens` there is none, and tokens and bytes are upper bounds.
    """

    completions: int
    tokens: int
    basis: str
    device_s: float | None
    bytes: int
    price_usd: float | None
    prompt_tokens: float | None
    """Mean of the prompts that the history answered."""


Basis = tuple[str, Sequence[str]]
"""A description, and the contexts that it is about."""


def history(ledger: Ledger, contexts: Sequence[str]) -> History | None:
    """What the completions of some contexts were like; None where there are none."""
    query = (Path(__file__).parent / "sql" / "ledger_history.sql").read_text(encoding="utf-8")
    with disk_errors(ledger.path):
        row = ledger.db.execute(query, {"contexts": json.dumps(list(contexts))}).fetchone()
    n, tokens, device_s, prompt_tokens, size, price = row
    return History(tokens / n, device_s / n, prompt_tokens, size, price) if n and size else None


def similar(ledger: Ledger, context: str | None, fingerprint: str | None, sampling: Mapping[str, Any]) -> list[Basis]:
    """Contexts to judge by, the nearest first: this setting, this model in others, another model in this one."""
    found: list[Basis] = [("this setting", [context])] if context else []
    drawn = "json_extract(setting, '$.sampling') is not null"  # log-probs of given texts cost something else
    queries = (
        ("this model", f"model_fingerprint = ? and {drawn}", fingerprint),
        ("another model", "json_extract(setting, '$.sampling') = json(?)", json.dumps(sampling, sort_keys=True)),
    )
    for label, where, value in queries:
        with disk_errors(ledger.path):
            query = f"select context from contexts where {where} order by used_at desc"
            rows = ledger.db.execute(query, (value,)).fetchall()
        found += [(label, [other]) for (other,) in rows if other != context]
    return found


def estimate(ledger: Ledger, completions: int, max_new_tokens: int, bases: Iterable[Basis]) -> Estimate:
    """What `completions` of at most `max_new_tokens` will cost, by the first of the bases that has a history."""
    for label, contexts in bases:
        past = history(ledger, contexts)
        if past is not None:
            each = min(past.tokens, max_new_tokens)
            shorter = each / past.tokens if past.tokens else 1.0
            price = None if past.price_usd is None else past.price_usd * completions
            sizes = round(each * completions), label, past.device_s * completions * shorter
            return Estimate(completions, *sizes, round(past.bytes * completions), price, past.prompt_tokens)
    size = (2 * _CHARS_PER_TOKEN * max_new_tokens + 120) * completions
    return Estimate(completions, max_new_tokens * completions, BOUND, None, size, None, None)


def announce(
    ledger: Ledger,
    context: str,
    model: str,
    fingerprint: str,
    setting: Mapping[str, Any],
    wanted: int,
    left: int,
    show: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    doing: str = "sampling",
) -> None:
    """Before the first request is sent: notes the context in the ledger, and says in one line what is coming.

    `setting` has the `sampling` settings and whatever else decides the answers. Raises OSError, before anything is
    paid for, if the ledger cannot be written.
    """
    ledger.begin(context, model, fingerprint, setting)
    sampling = setting["sampling"]
    found = estimate(ledger, left, sampling["max_new_tokens"], similar(ledger, context, fingerprint, sampling))
    have = f", {wanted - left:,} are in the ledger, {left:,} to generate" if wanted > left else " to generate"
    show(f"{doing} {model}: {wanted:,} completions{have}; {describe(found)}")


def describe(found: Estimate) -> str:
    """An estimate in words."""
    bound = found.basis == BOUND
    parts = [f"{'at most' if bound else 'about'} {found.tokens:,} tokens"]
    parts += [f"{duration(found.device_s)} of computing"] if found.device_s is not None else []
    parts += [f"{megabytes(found.bytes)} in the ledger"]
    parts += [f"{found.price_usd:,.2f} USD"] if found.price_usd is not None else []
    return f"{', '.join(parts)} ({'no history: the limit of each' if bound else f'as {found.basis} was'})"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that is at least one: `12 s`, `3.4 min`, `2.1 h`, `1.5 days`."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def megabytes(size: float) -> str:
    """Bytes in MB or GB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
