"""Intervals and tests against values worked out elsewhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.reporting.statistics import Gap, Paired, mcnemar, wilson


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


def gap_of(floor: np.ndarray, model: np.ndarray, ceiling: np.ndarray) -> Gap:
    """Counts of 0-1 outcomes on the same problems."""
    counts = [floor, model, ceiling, floor * model, floor * ceiling, model * ceiling]
    return Gap(len(floor), *(int(count.sum()) for count in counts))


def paired_of(baseline: np.ndarray, candidate: np.ndarray) -> Paired:
    cells = [(0, 1), (1, 0), (1, 1), (0, 0)]
    return Paired(*(int(((baseline == b) & (candidate == c)).sum()) for b, c in cells))


@pytest.mark.parametrize(("solved", "recovered"), [((3, 5, 7), 0.5), ((3, 2, 7), -0.25), ((3, 9, 7), 1.5)])
def test_gap_recovered(solved: tuple[int, int, int], recovered: float) -> None:
    assert gap_of(*(np.arange(10) < n for n in solved)).recovered == recovered


@pytest.mark.parametrize("ceiling", [0, 2, 3])
def test_without_a_lead_nothing_is_recovered(ceiling: int) -> None:
    gap = gap_of(*(np.arange(10) < n for n in (3, 5, ceiling)))
    assert (gap.recovered, gap.interval()) == (None, None)


def test_a_lead_that_may_be_chance_bounds_nothing() -> None:
    gap = gap_of(*(np.arange(10) < n for n in (3, 5, 6)))
    assert (gap.recovered, gap.interval()) == (pytest.approx(2 / 3), None)


OUTCOMES = st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=1, max_size=60)


@given(OUTCOMES, st.integers(0, 40))
def test_interval_of_the_gap_is_fiellers_and_agrees_with_the_paired_ones(
    outcomes: list[tuple[int, int, int]], led: int
) -> None:
    floor, model, ceiling = np.array([*outcomes, *[(0, i % 2, 1) for i in range(led)]]).T
    gap = gap_of(floor, model, ceiling)
    ends = gap.interval()
    assert (ends is None) == (paired_of(floor, ceiling).verdict != "holds")
    if ends is None or gap.recovered is None:
        return
    assert ends[0] - 1e-12 <= gap.recovered <= ends[1] + 1e-12
    for end in ends:
        rest = (model - floor) - end * (ceiling - floor)
        error = rest.std(ddof=1) / math.sqrt(len(rest))
        assert abs(rest.mean()) == pytest.approx(1.9599639845 * error, abs=1e-6)
    for at, paired in ((0, paired_of(floor, model)), (1, paired_of(ceiling, model))):
        low, high = paired.interval()
        if min(abs(low), abs(high), abs(ends[0] - at), abs(ends[1] - at)) > 1e-6:
            assert (low > 0, high < 0) == (ends[0] > at, ends[1] < at)


def test_interval_of_the_gap_covers_the_true_share() -> None:
    """Problems of shared difficulty, solved by 30, 55 and 70 % of them: the share is 0.625."""
    rng, inside, trials = np.random.default_rng(0), 0, 1000
    for _ in range(trials):
        hard = rng.random(400)
        chance = [np.clip(share + 0.5 * (hard - 0.5), 0, 1) for share in (0.30, 0.55, 0.70)]
        ends = gap_of(*(rng.random(400) < c for c in chance)).interval()
        assert ends is not None
        inside += ends[0] <= 0.25 / 0.40 <= ends[1]
    assert 0.93 <= inside / trials <= 0.97
