"""Intervals and tests on shares of problems. Pure functions of counts; shares are 0 to 1, points are hundredths."""

import math
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4). `n` is at least 1.

    `successes` need not be whole: each of the n may be a mean over several looks at it.
    """
    assert 0 <= successes <= n > 0
    share, z2 = successes / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    return low, 1.0 if successes == n else centre + half


def mcnemar(fixed: int, broken: int) -> float:
    """Two-sided p-value that fixed and broken problems are equally likely: McNemar's test in its exact, binomial form.

    Twice the smaller tail of Binomial(fixed + broken, 1/2), at most 1.
    """
    n, term, tail = fixed + broken, 1, 0
    for i in range(min(fixed, broken) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    return min(1.0, 2 * tail / 2**n)


class Paired(NamedTuple):
    """Two models on the same problems, by who is right. `fixed`: only the candidate; `broken`: only the baseline."""

    fixed: int
    broken: int
    both_right: int
    both_wrong: int

    @property
    def n(self) -> int:
        return sum(self)

    @property
    def points(self) -> float:
        """Candidate's accuracy minus the baseline's, in points."""
        return 100 * (self.fixed - self.broken) / self.n

    @property
    def p_value(self) -> float:
        return mcnemar(self.fixed, self.broken)

    def interval(self) -> tuple[float, float]:
        """95 % interval of `points`: the mean of the per-problem differences (1, 0 or -1) ± z standard errors.

        The standard error is that of a mean, with n - 1 in the sample variance (Agresti, Categorical Data Analysis,
        3rd ed., §11.1.1; Miller 2024, arXiv 2411.00640, §4.2). With one problem nothing is known: ±100 points.
        """
        if self.n < 2:
            return -100.0, 100.0
        mean = self.points / 100
        variance = ((self.fixed + self.broken) - self.n * mean * mean) / (self.n - 1)
        half = 100 * Z * math.sqrt(max(variance, 0.0) / self.n)
        return self.points - half, self.points + half

    @property
    def verdict(self) -> str:
        """Whether the candidate is better: `holds`, `does not hold` (it is worse), or `not distinguishable`.

        Both the interval must leave out 0 and McNemar's test reject: the interval alone is too narrow where few
        problems differ.
        """
        low, high = self.interval()
        if low <= 0 <= high or self.p_value >= 1 - LEVEL:
            return "not distinguishable"
        return "holds" if low > 0 else "does not hold"


class Gap(NamedTuple):
    """Three models on the same problems: how many each solves, and how many two of them both solve."""

    n: int
    floor: int
    model: int
    ceiling: int
    floor_model: int
    floor_ceiling: int
    model_ceiling: int

    @property
    def lead(self) -> Paired:
        """The ceiling against the floor."""
        fixed, broken = self.ceiling - self.floor_ceiling, self.floor - self.floor_ceiling
        return Paired(fixed, broken, self.floor_ceiling, self.n - self.floor_ceiling - fixed - broken)

    @property
    def recovered(self) -> float | None:
        """(model - floor) / (ceiling - floor) (Burns et al. 2023, arXiv 2312.09390, §3); None: no lead to recover."""
        if self.ceiling <= self.floor:
            return None
        return (self.model - self.floor) / (self.ceiling - self.floor)

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of `recovered`: Fieller's, of a ratio of two means over the same problems (1954, JRSS B 16).

        Those shares ρ for which the mean of (model - floor) - ρ (ceiling - floor) lies within z standard errors of 0;
        so 0 is outside where the `Paired` interval of model and floor leaves out 0, and 1 where that of model and
        ceiling does. None where the lead is not distinguishable from 0: then no share is excluded.
        """
        if self.lead.verdict != "holds":
            return None
        gained, lead = (self.model - self.floor) / self.n, (self.ceiling - self.floor) / self.n
        products = self.model_ceiling - self.floor_model - self.floor_ceiling + self.floor
        squares = self.model + self.floor - 2 * self.floor_model, self.ceiling + self.floor - 2 * self.floor_ceiling
        a = lead * lead - self._error(squares[1], lead * lead)
        b = gained * lead - self._error(products, gained * lead)
        c = gained * gained - self._error(squares[0], gained * gained)
        half = math.sqrt(max(b * b - a * c, 0.0))
        return (b - half) / a, (b + half) / a

    def _error(self, total: int, mean_product: float) -> float:
        """z² times the sampling covariance of two means, from the sum of products of their parts."""
        return Z * Z * (total - self.n * mean_product) / ((self.n - 1) * self.n)
