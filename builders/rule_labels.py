"""Labels of the rule `arithmetic`: it computes the equations of every step anew.

A step with a false equation is `incorrect`, one whose equations all hold is `correct`, and one in which no equation can
be checked is `neutral`; labels end with the first incorrect one. A neutral step says nothing, so a rule run counts it
as no error (`neutral_is_error: false`; params with anything else are refused). A step that reasons wrongly and computes
right is beyond this rule.
"""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction

from builders.equations import Equation, equations
from builders.equations.tokens import MAX_DIGITS
from builders.equations.usual import holds_simply
from builders.step_label_rows import Candidate, label_row
from schemas.step_labels import StepLabel, StepLabels
from stores.stage import Stage

LABELER = "arithmetic"
VERSION = "1"


def rows(stage: Stage, candidates: Callable[[], Iterable[list[Candidate]]]) -> Iterator[list[StepLabels]]:
    """One row per candidate, in chunks."""
    for chunk in candidates():
        yield [row(candidate, stage.config.neutral_is_error) for candidate in chunk]


def row(candidate: Candidate, neutral_is_error: bool) -> StepLabels:
    """The row of one candidate; the rationale names the equation that does not hold."""
    labels, wrong = label(candidate.step_texts)
    return label_row(
        candidate,
        labels,
        neutral_is_error,
        kind="rule",
        labeler=LABELER,
        labeler_version=VERSION,
        rationale=None if wrong is None else f"{wrong.left} is {shown(wrong)}, not {wrong.right}",
    )


def label(steps: Iterable[str]) -> tuple[list[StepLabel], Equation | None]:
    """(labels up to the first incorrect one, the equation that is false there)."""
    labels: list[StepLabel] = []
    for step in steps:
        if holds_simply(step):
            labels.append("correct")
            continue
        checked = [equation for equation in equations(step) if equation.holds is not None]
        wrong = next((equation for equation in checked if not equation.holds), None)
        labels.append("incorrect" if wrong else "correct" if checked else "neutral")
        if wrong:
            return labels, wrong
    return labels, None


def shown(equation: Equation) -> str:
    """The value of its left side: as a decimal number if that is exact and short, else as a fraction."""
    value = Fraction(equation.value)
    for decimals in range(7):
        scaled = value * 10**decimals
        if scaled.denominator == 1 and abs(scaled) < 10**MAX_DIGITS:
            digits = str(abs(scaled.numerator)).rjust(decimals + 1, "0")
            whole, rest = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
            return ("-" if value < 0 else "") + whole + (f".{rest}" if rest else "")
    fraction = str(value)
    return fraction if len(fraction) <= MAX_DIGITS else f"about {_rough(value)}"


def _rough(value: Fraction) -> str:
    """Six digits and a power of ten, of numbers too large for floats too."""
    with localcontext(prec=6):
        return f"{Decimal(value.numerator) / Decimal(value.denominator):.6g}"
