"""Labels of the rule `arithmetic`: it computes the equations of every step anew.

A step with a false equation is `incorrect`, one whose equations all hold is `correct`, and one in which no equation can
be checked is `neutral`; labels end with the first incorrect one. A neutral step says nothing, so a rule run counts it
as no error (`neutral_is_error: false`; params with anything else are refused). A step that reasons wrongly and computes
right is beyond this rule.
"""

from collections.abc import Callable, Iterable, Iterator

from builders.equations import Equation, equations
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
    value = equation.value
    for decimals in range(7):
        if (scaled := value * 10**decimals).denominator == 1:
            return f"{value:.{decimals}f}" if abs(scaled.numerator) < 10**40 else f"{float(value):.6g}"
    fraction = str(value)
    return fraction if len(fraction) <= 30 else f"about {float(value):.6g}"
