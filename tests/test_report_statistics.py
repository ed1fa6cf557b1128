"""Intervals and tests against values worked out elsewhere."""

import math

import numpy as np
import pytest

from builders.reporting.statistics import Paired, mcnemar, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
        (0.5, 1, 0.0546, 0.9454),  # by hand: 1/2 ± z / (2 sqrt(1 + z²))
    ],
)
def test_wilson_interval(successes: float, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (3, 0, 2 / 8),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (60, 40, 0.05688793),  # scipy.stats.binomtest(40, 100)
    ],
)
def test_exact_mcnemar(fixed: int, broken: int, p: float) -> None:
    assert mcnemar(fixed, broken) == pytest.approx(p, rel=1e-6)
    assert mcnemar(broken, fixed) == mcnemar(fixed, broken)


def test_mcnemar_of_large_counts_does_not_overflow() -> None:
    p = mcnemar(3000, 2000)
    tail = [math.lgamma(5001) - math.lgamma(i + 1) - math.lgamma(5001 - i) - 5000 * math.log(2) for i in range(2001)]
    assert p == pytest.approx(2 * math.fsum(map(math.exp, tail)), rel=1e-6)


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((60, 20, 100, 20), "holds"),
        ((20, 60, 100, 20), "does not hold"),
        ((40, 40, 100, 20), "not distinguishable"),
        ((0, 0, 100, 20), "not distinguishable"),
        ((3, 0, 0, 0), "not distinguishable"),  # three problems show nothing, though their interval has no width
        ((1, 0, 0, 0), "not distinguishable"),
    ],
)
def test_verdict(counts: tuple[int, int, int, int], verdict: str) -> None:
    assert Paired(*counts).verdict == verdict


def test_paired_interval_is_that_of_the_mean_difference() -> None:
    paired = Paired(fixed=30, broken=12, both_right=100, both_wrong=58)
    differences = np.array([1] * 30 + [-1] * 12 + [0] * 158)
    half = 1.9599639845 * differences.std(ddof=1) / math.sqrt(200)
    assert paired.points == pytest.approx(9.0)
    assert paired.interval() == pytest.approx((100 * (0.09 - half), 100 * (0.09 + half)))
