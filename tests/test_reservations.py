"""What keys may have cost beside the prices of their answers: kept, moved and forgotten with the ledger."""

from pathlib import Path

import pytest

from stores.ledger import Completion, Ledger
from stores.ledger_admin import Selection, prune
from stores.ledger_transfer import export, merge
from stores.reservations import Account, account, reserve, reserve_in_batch

A, B, C = (f"{name}-{name * 4}-0000" for name in "abc")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """`a` is answered for 0.25 USD, `b` was in flight, `c` is in a batch; `a` also lost a reply."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.begin("a", "m", "f", {})
    reserve(ledger, {A: 0.5, B: 1.0})
    reserve_in_batch(ledger, {C: 2.0})
    ledger.append("a", "m", [(A, Completion("x", "stop", 3, 5, price_usd=0.25))], 1.0, reserved={A: 0.125})
    return ledger


def test_an_answer_settles_what_its_key_had_reserved(ledger: Ledger) -> None:
    assert account(ledger, [[A, B], [C]]) == Account(0.25, {A: 0.125, B: 1.0}, {C: 2.0}, (0, 0))
    assert account(ledger, [[B]]) == Account(0.0, {B: 1.0}, {}, (0, 0)), "of these keys alone"
    reserve(ledger, {A: 0.0, B: 0.0})
    ledger.append("c", "m", [(C, Completion("x", "stop", 3, 5))], 1.0)
    assert account(ledger, [[A, B, C]]) == Account(0.25, {}, {}, (5, 3)), "a batch's counts until the answer is there"


def test_a_batch_that_cannot_be_committed_settles_nothing(ledger: Ledger) -> None:
    with pytest.raises(Exception, match="UNIQUE"):
        ledger.append(
            "b", "m", [(B, Completion("", "stop", 1, 1)), (A, Completion("", "stop", 1, 1))], 1.0, 0.0, {B: 0.0}
        )
    assert account(ledger, [[B]]).reserved == {B: 1.0}


def test_money_travels_with_the_answers_and_is_merged_once(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other")
    reserve(other, {A: 1.0})
    export(ledger, tmp_path / "file")
    for _ in range(2):
        merge(other, tmp_path / "file")
        assert account(other, [[A, B, C]]) == Account(0.25, {A: 1.0}, {}, (0, 0)), "of contexts with answers"
    merge(other, ledger.path)
    assert account(other, [[A, B, C]]) == Account(0.25, {A: 1.0, B: 1.0}, {C: 2.0}, (0, 0))


def test_pruning_forgets_the_money_of_what_is_gone(ledger: Ledger) -> None:
    prune(ledger, Selection(contexts=["a"]))
    assert account(ledger, [[A, B, C]]) == Account(0.0, {B: 1.0}, {C: 2.0}, (0, 0))
