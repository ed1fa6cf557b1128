"""Estimates follow the nearest history there is, and say which."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores.estimates import BOUND, announce, duration, estimate, history, similar
from stores.ledger import Completion, Ledger

SAMPLING = {"temperature": 1.0, "max_new_tokens": 100}
SETTING = {"sampling": SAMPLING, "seed": 0}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path)) as opened:
        yield opened


def add(ledger: Ledger, context: str, n: int, tokens: int, device_s: float, price: float | None = None) -> None:
    done = Completion("x" * 300, "stop", tokens, 40, (1,) * 25, None, price)
    ledger.append(context, "m", [(f"{context}-p-{i:04d}", done) for i in range(n)], 2 * device_s, device_s)


def test_history_is_means_per_completion(ledger: Ledger) -> None:
    add(ledger, "aa", 10, 50, 5.0, 0.25)
    add(ledger, "ab", 1, 999, 1.0)
    assert history(ledger, ["aa"]) == (50.0, 0.5, 40.0, 300 + 100 + 2 * 9 + 40, 0.25)
    assert history(ledger, ["a"]) is None, "a context that only starts like others"
    assert history(ledger, []) is None


def test_wall_time_counts_where_no_device_is_ours(ledger: Ledger) -> None:
    ledger.append("aa", "m", [("aa-p-0", Completion("x", "stop", 1, 1))], 3.0)
    found = history(ledger, ["aa"])
    assert found is not None
    assert found.device_s == 3.0


def test_the_nearest_history_is_taken(ledger: Ledger) -> None:
    def basis() -> tuple[str, int]:
        found = estimate(ledger, 10, 100, similar(ledger, "aa", "f1", SAMPLING))
        return found.basis, found.tokens

    assert basis() == (BOUND, 1000)
    ledger.begin("cc", "m0", "f0", SETTING)
    add(ledger, "cc", 4, 30, 1.0)
    assert basis() == ("another model", 300)
    ledger.begin("bb", "m1", "f1", {"sampling": SAMPLING | {"temperature": 0.0}})
    add(ledger, "bb", 4, 20, 1.0)
    assert basis() == ("this model", 200)
    add(ledger, "aa", 4, 10, 1.0)
    assert basis() == ("this setting", 100)


def test_longer_answers_of_another_setting_are_cut_at_this_limit(ledger: Ledger) -> None:
    add(ledger, "aa", 4, 200, 8.0)
    found = estimate(ledger, 10, 100, [("x", ["aa"])])
    assert (found.tokens, found.device_s) == (1000, 10.0)


def test_price_grows_with_the_completions(ledger: Ledger) -> None:
    add(ledger, "aa", 4, 10, 1.0, 0.002)
    price = estimate(ledger, 500, 100, [("x", ["aa"])]).price_usd
    assert price is not None
    assert math.isclose(price, 1.0)


def test_a_line_says_what_is_coming_and_the_context_is_noted(ledger: Ledger) -> None:
    lines: list[str] = []
    announce(ledger, "aa", "m1", "f1", SETTING, 2000, 2000, lines.append)
    add(ledger, "aa", 1000, 50, 90.0, 0.01)
    announce(ledger, "aa", "m1", "f1", SETTING, 3000, 2000, lines.append)
    assert lines == [
        "sampling m1: 2,000 completions to generate; at most 200,000 tokens, 1.8 MB in the ledger"
        " (no history: the limit of each)",
        "sampling m1: 3,000 completions, 1,000 are in the ledger, 2,000 to generate; about 100,000 tokens, 3.0 min of"
        " computing, 0.9 MB in the ledger, 20.00 USD (as this setting was)",
    ]
    rows = ledger.sql("select context, model, model_fingerprint, setting from contexts")[1]
    assert rows == [("aa", "m1", "f1", '{"sampling": {"max_new_tokens": 100, "temperature": 1.0}, "seed": 0}')]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (90, "1.5 min"), (7200, "2.0 h"), (2e5, "2.3 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
