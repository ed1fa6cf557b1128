"""Money that is promised before it is spent: what each key of a run may have cost beside the price of its answer.

A row is written, and synced, before a request is sent, and goes in the transaction that commits the answer with its
price. What stays is what nobody can know: a reply that was lost on the way, and what was in flight when a process was
killed; both count at their worst case. So the sum over a run's keys is never less than what was spent.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stores.ledger import Ledger, disk_errors, put_reservations, transaction


class Account(NamedTuple):
    """What the keys of a run have cost. US dollars."""

    paid: float
    """Prices of answers."""
    reserved: dict[str, float]
    """Key -> what it may have cost beside."""
    in_batches: dict[str, float]
    """Key without an answer -> what it may cost in a batch under way."""
    unpriced: tuple[int, int]
    """Tokens of prompts and of answers whose price was not known."""


def account(ledger: Ledger, keys: Iterable[Sequence[str]]) -> Account:
    """What keys have cost so far; they come in chunks."""
    paid, reserved, in_batches, prompt, generated = 0.0, {}, {}, 0, 0
    for chunk in keys:
        answered = set()
        for key, price, n_prompt, n_tokens in ledger.select("c.key, c.price_usd, c.n_prompt_tokens, c.n_tokens", chunk):
            answered.add(key)
            paid += price or 0.0
            prompt, generated = (
                prompt + (n_prompt or 0) * (price is None),
                generated + (n_tokens or 0) * (price is None),
            )
        for key, usd, batch_usd in ledger.select("c.key, c.usd, c.batch_usd", chunk, "reservations"):
            reserved |= {key: usd} if usd else {}
            in_batches |= {key: batch_usd} if batch_usd and key not in answered else {}
    return Account(paid, reserved, in_batches, (prompt, generated))


def reserve(ledger: Ledger, usd: Mapping[str, float]) -> None:
    """Sets, durably, what keys may have cost."""
    with disk_errors(ledger.path), transaction(ledger.db):
        put_reservations(ledger.db, usd)


def reserve_in_batch(ledger: Ledger, usd: Mapping[str, float]) -> None:
    """Sets, durably, what keys may cost in a batch; it counts until they are answered."""
    upsert = (
        "insert into reservations (key, usd, batch_usd) values (?,0,?)"
        " on conflict (key) do update set batch_usd = excluded.batch_usd"
    )
    with disk_errors(ledger.path), transaction(ledger.db):
        ledger.db.executemany(upsert, list(usd.items()))


def lose_batches(ledger: Ledger, keys: Sequence[str]) -> int:
    """What batches may have answered, and nobody can read, counts as spent, beside what is asked anew.

    Returns for how many keys something was reserved; they must be reserved again before they are asked again.
    """
    lost = ledger.missing(keys)
    update = "update reservations set usd = usd + batch_usd, batch_usd = 0 where key = ? and batch_usd > 0"
    with disk_errors(ledger.path), transaction(ledger.db):
        return max(0, ledger.db.executemany(update, [(key,) for key in lost]).rowcount)
