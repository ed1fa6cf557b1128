"""A hard limit on what one run may cost: `$PAIRWRIGHT_BUDGET_USD`, over all of its executions.

Before an attempt is sent, its worst case is taken from the budget and written to the ledger: prompt tokens are no more
than the bytes of the request, and the answer is no longer than it may be. An answer settles it at its real price, an
error status at nothing, and a reply that is lost on the way at the worst case, since it may have been paid for. So what
was spent, is in flight or was in flight when a process was killed never exceeds the budget.
"""

import asyncio
import json
import math
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from builders.engines.prices import STATED, price_usd, surge
from stores.ledger import Ledger
from stores.reservations import Account, account, reserve
from stores.stage import StopEarly

if TYPE_CHECKING:
    from builders.engines.pool import Pool

VARIABLE = "PAIRWRIGHT_BUDGET_USD"
OVERHEAD_TOKENS = 64
"""What a server may add to a request: marks of turns, and the like."""
_NANO = 1_000_000_000


def budget_usd(environment: Mapping[str, str] = os.environ) -> float | None:
    """`$PAIRWRIGHT_BUDGET_USD`; None where there is no limit.

    Raises ValueError for what is no amount of money.
    """
    text = environment.get(VARIABLE, "").strip()
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{VARIABLE}={text}: not an amount in US dollars, such as 25 or 0.5")
    return value if text else None


class BudgetSpent(StopEarly):
    """The next request does not fit, and nothing that is under way can make room for it."""


def worst_usd(body: Mapping[str, Any], url: str, batch: bool = False) -> float:
    """What the answer to a request costs at most, at any time of the day. A token is at least one byte.

    Raises ValueError for a model without a known price.
    """
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    size = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    usage = {"prompt_tokens": size + OVERHEAD_TOKENS, "completion_tokens": limit}
    price = price_usd(body["model"], url, usage, batch)
    if price is None:
        raise ValueError(
            f"{VARIABLE} is set, and no price of '{body['model']}' is known; set {STATED}=<input>,<output>, its US"
            " dollars per million tokens"
        )
    return price * surge(body["model"], url)


def answer_usd(answer: Mapping[str, Any], asked: str, url: str) -> float | None:
    """What an answer cost, by its own account; None if it does not say."""
    usage, named = answer.get("usage"), answer.get("model")
    if not isinstance(usage, Mapping):
        return None
    return price_usd(named if isinstance(named, str) else asked, url, usage, asked=asked)


class Budget:
    """The money of one execution of a run; for one event loop, and its ledger's thread.

    What the ledger has reserved is never less than what may be spent. Until answers are committed it may be more, so
    that after a kill less than the rest of the budget may be left.

    Amounts are integers, billionths of a dollar, rounded up, so that sums are exact.
    """

    def __init__(self, limit_usd: float, ledger: Ledger, spent: Account, unpriced_usd: float = 0.0):
        self.limit, self.ledger = _nano(limit_usd), ledger
        self.paid = _nano(spent.paid + unpriced_usd)
        self._kept = {key: _nano(usd) for key, usd in spent.reserved.items()}
        """What keys have cost beside the prices of their answers, as far as anybody knows."""
        self._lost = sum(self._kept.values()) + sum(map(_nano, spent.in_batches.values()))
        self._written = dict(self._kept)
        self._under_way: dict[str, int] = {}
        self._answered: set[str] = set()
        self._group: asyncio.Future[None] | None = None

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        model: str,
        url: str,
        keys: Iterable[Sequence[str]],
        in_batches: Container[str] | None = (),
    ) -> "Budget | None":
        """What is left of the environment's budget, if there is one, for a run with these keys (in chunks).

        `in_batches`: of which of them what was reserved for a batch counts too; None: of all.
        """
        limit = budget_usd()
        if limit is None:
            return None
        spent = account(ledger, keys)
        if in_batches is not None:
            spent = spent._replace(in_batches={key: usd for key, usd in spent.in_batches.items() if key in in_batches})
        prompt, generated = spent.unpriced
        unpriced = price_usd(model, url, {"prompt_tokens": prompt, "completion_tokens": generated})
        return cls(limit, ledger, spent, unpriced or 0.0)

    @property
    def spent_usd(self) -> float:
        """What is paid for, or may have been."""
        return (self.paid + self._lost) / _NANO

    @property
    def limit_usd(self) -> float:
        return self.limit / _NANO

    def fits(self, usd: float) -> bool:
        """Whether so much is left."""
        return self.paid + self._lost + sum(self._under_way.values()) + _nano(usd) <= self.limit

    def exceeded(self, usd: float) -> BudgetSpent:
        """Why nothing more is asked."""
        left = f"the next answer may cost {usd:.6f}"
        return BudgetSpent(f"{self.spent_usd:.6f} of {self.limit_usd:g} USD ({VARIABLE}) are spent, and {left}")

    async def take(self, key: str, usd: float, pool: "Pool") -> None:
        """Waits until so much is left, takes it for an attempt, and returns when the ledger has it.

        Raises the pool's reason to stop, which this may be: there is no room, and nobody to wait for.
        """
        while not self.fits(usd):
            if not self._under_way:
                pool.halt(self.exceeded(usd))
            if pool.stop:
                raise pool.stop
            await pool.change()
        assert key not in self._under_way, "one attempt at a time"
        self._under_way[key] = _nano(usd)
        if self._written.get(key, 0) < self._needed(key):
            try:
                await asyncio.shield(self._soon())
            except BaseException:
                del self._under_way[key]  # it is not sent
                raise

    def _needed(self, key: str) -> int:
        return self._kept.get(key, 0) + self._under_way.get(key, 0)

    def _soon(self) -> "asyncio.Future[None]":
        """One transaction for all that are about to be sent."""
        if self._group is None:
            loop = asyncio.get_running_loop()
            self._group = loop.create_future()
            loop.call_soon(self._write_group)
        return self._group

    def _write_group(self) -> None:
        group, self._group = self._group, None
        assert group is not None, "who waits has made it"
        try:
            self._write({key for key in self._under_way if self._written.get(key, 0) < self._needed(key)})
        except OSError as error:
            group.set_exception(error)
        else:
            group.set_result(None)

    def _write(self, keys: Iterable[str]) -> None:
        rows = {key: self._needed(key) for key in keys}
        if rows:
            reserve(self.ledger, {key: value / _NANO for key, value in rows.items()})
            self._written |= rows

    def settle(self, key: str, usd: float | None, extra_usd: float = 0.0, answered: bool = False) -> None:
        """An attempt has ended: for this price, or lost (None). `answered`: the price goes with the answer.

        `extra_usd` was spent on the way, beside the answer.
        """
        worst = self._under_way.pop(key)
        beside = _nano(extra_usd) + (worst if usd is None else 0 if answered else _nano(usd))
        if answered:
            self._answered.add(key)
            self.paid += _nano(usd or 0.0)
        if beside:
            self._kept[key] = self._kept.get(key, 0) + beside
            self._lost += beside

    def with_answers(self, keys: Iterable[str]) -> dict[str, float]:
        """What keys have reserved once their answers are committed, in one transaction with them."""
        rows = {key: self._kept.get(key, 0) for key in keys}
        self._answered.difference_update(rows)
        changed = {key: value for key, value in rows.items() if value != self._written.get(key, 0)}
        self._written |= changed
        return {key: value / _NANO for key, value in changed.items()}

    def close(self) -> None:
        """Frees what was reserved and not spent. What was answered and not committed stays as it is."""
        open_keys = self._answered | set(self._under_way)
        changed = {key for key, value in self._written.items() if value != self._kept.get(key, 0)}
        self._write(changed - open_keys)


def _nano(usd: float) -> int:
    return math.ceil(usd * _NANO)
