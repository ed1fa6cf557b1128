"""Equations in a text, such as `3 * 4 = 12`, and whether they hold, computed exactly. Nothing in a text is executed.

A text is cut into tokens; between two breaks (`,`, `;`, a full stop, a line's end, …) equality signs divide it into
sides, and what a side begins or ends with is read as an expression of numbers, signs and brackets, with units after
numbers (`3 apples + 4 apples = 7`). What is not arithmetic through and through (variables, functions, words for
numbers) is no equation, and is left alone.

An equation is false only if no reading of it is true. Results may be rounded to the digits that they are written
with, or cut there; a percentage may be meant as such or as its number; `3 + 4 = 7 + 2 = 9` goes on from 7; quantities
whose ratio is that of two usual units may have been converted. In such doubt nothing is said of the equation.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from builders.equations.runs import Run, runs_of
from builders.equations.tokens import Token, Value, plain, tokens_of
from builders.equations.values import is_rounded

MAX_CHARS = 20_000
"""Of a text; what comes after is not read."""
_CONVERSIONS = frozenset({
    12, 16, 20, 24, 25, 30, 36, 50, 52, 60, 100, 128, 365, 366, 1000, 1440, 1760, 3600, 5280, 86400, 10**6, 10**9,
})  # fmt: skip
"""Ratios of usual units and counting words (a dozen, a minute, a foot, a thousand, …)."""
_SMALL_CONVERSIONS = frozenset({2, 3, 4, 7, 8, 10})
"""The same (a pair, a yard, a week, …), which are slips as often: only between different units."""
_NEARLY = Fraction(1, 250)
"""Relative difference that rounding on the way may explain."""
_COUNTING = re.compile(r"\b(?:dozen|hundred|thousand|million|billion)s?\b|\bcents?\b|¢")
_OTHER_ARITHMETIC = re.compile(r"\bmod(?:ulo|ulus)?\b|\bbase[- ]\d|\b(?:binary|octal|hexadecimal)\b", re.IGNORECASE)
_ANNOTATION = re.compile(r"<<([^<>\n]{1,200})>>")
_EQUALS = re.compile(r"=|≈|≃|\\approx|\bequals?\b")


class Equation(NamedTuple):
    """Two neighbouring sides of an equality sign, as they are written, and the exact value of the first.

    `holds` is None where the text may mean something else than what it says.
    """

    left: str
    right: str
    value: Value
    holds: bool | None

    def __str__(self) -> str:
        return f"{self.left} = {self.right}"


def equations(text: str) -> Iterator[Equation]:
    """The equations of a text, in order; what GSM8K's calculator marks (`<<3*4=12>>`) say comes first."""
    text = text[:MAX_CHARS]
    if "<<" in text:
        for annotation in _ANNOTATION.findall(text):
            yield from _equations(annotation, text)
        text = _ANNOTATION.sub("", text)
    if _EQUALS.search(text):
        yield from _equations(plain(text), text)


def _equations(text: str, whole: str) -> Iterator[Equation]:
    """The equations of a part of a text."""
    for sentence in _sentences(tokens_of(text)):
        sides = _sides(sentence)
        for number, ((left, _), (right, approximate)) in enumerate(pairwise(sides)):
            found = _compare(left, right, approximate, in_chain=number > 0)
            if found is None:
                continue
            a, b, holds = found
            if holds is False and _said_otherwise(a, b, whole):
                holds = None
            yield Equation(left[-1].written(text), right[0].written(text), a, holds)


def _sentences(tokens: list[Token]) -> Iterator[list[Token]]:
    """Tokens between breaks, where there is an equality sign among them."""
    current: list[Token] = []
    for token in tokens:
        if token.kind == "break":
            if any(t.kind == "equals" for t in current):
                yield current
            current = []
        else:
            current.append(token)
    if any(t.kind == "equals" for t in current):
        yield current


def _sides(tokens: list[Token]) -> list[tuple[list[Run], bool]]:
    """The sides of equality signs: (expressions in it, whether the sign before it is `≈`)."""
    sides: list[tuple[list[Token], bool]] = [([], False)]
    for token in tokens:
        if token.kind == "equals":
            sides.append(([], token.text != "="))
        else:
            sides[-1][0].append(token)
    return [(runs_of(side), approximate) for side, approximate in sides]


def _compare(
    before: list[Run], after: list[Run], approximate: bool, in_chain: bool
) -> tuple[Value, Value, bool | None] | None:
    """(value, value, whether they are the same) of the last expression before a sign and the first one after it.

    None if they make no equation.
    """
    if not before or not after or not before[-1].ends or not after[0].begins:
        return None
    left, right = before[-1], after[0]
    values, others = left.values(), right.values()
    if not values or not others or not _is_equation(left, right, in_chain):
        return None
    a, b = values[0][0], others[0][0]
    holds: bool | None = any(_same(a, b, left, right) for a in values for b in others)
    if not holds and (approximate or _doubtful(left, right, a, b, in_chain)):
        holds = None
    return a, b, holds


def _is_equation(left: Run, right: Run, in_chain: bool) -> bool:
    """Two plain numbers say nothing (`1 foot = 12 inches`), unless they follow from a calculation."""
    if left.computes or right.computes:
        return True
    return in_chain and not left.units and not right.units


def _same(a: tuple[Value, bool], b: tuple[Value, bool], left: Run, right: Run) -> bool:
    """Equal, or one is the other rounded to the digits that it is written with, or cut there."""
    if a[0] == b[0]:
        return True
    ways = ((a[0], b, right.plain), (b[0], a, left.plain))
    return any(number and is_rounded(value, *written, number) for value, written, number in ways)


def _doubtful(left: Run, right: Run, a: Value, b: Value, in_chain: bool) -> bool:
    """Whether what looks false may be meant otherwise."""
    if left.doubtful or right.doubtful or left.mixes_percent or right.mixes_percent or right.takes_part:
        return True
    if left.divides_twice or right.divides_twice or _adds_to_percents(left, right) or _adds_to_percents(right, left):
        return True
    if "/" in left.items and right.plain and not right.plain.decimals and 0 < a - b < 1:
        return True  # something remains
    if left.plain and left.named and not in_chain:
        return True  # a name, no number: `costs in 2014 = 3 * 4`
    if right.first is not None and right.first.value == a and right.computes:
        return True  # the first result is calculated on with
    if left.last_of_difference is not None and _close(left.last_of_difference, b):
        return True  # a dash before the calculation, no minus
    if (left.units or right.units) and a and b and _converts(_ratio(a, b), left, right):
        return True
    return (left.rounded or right.rounded) and _close(a, b)


def _adds_to_percents(run: Run, other: Run) -> bool:
    """Whether percentages make up something of which the other side is a number (`48 = 100% + 20%`)."""
    percents, others = (all(number.percent for number in each.numbers) for each in (run, other))
    return run.computes and percents and not others


def _said_otherwise(a: Value, b: Value, text: str) -> bool:
    """Whether words elsewhere in the text make numbers mean something else."""
    if _COUNTING.search(text) and a and b and _ratio(a, b) in _CONVERSIONS:
        return True
    return _OTHER_ARITHMETIC.search(text) is not None


def _converts(ratio: Fraction, left: Run, right: Run) -> bool:
    """Whether a number of one usual unit is `ratio` of another; with powers of ten, any power is."""
    if ratio in _CONVERSIONS:
        return True
    if ratio in _SMALL_CONVERSIONS:
        return left.units[-1:] != right.units[:1] and bool(left.units and right.units)
    return "^" in left.items + right.items and ratio.denominator == 1 and str(ratio).rstrip("0") == "1"


def _ratio(a: Value, b: Value) -> Fraction:
    ratio = Fraction(a) / Fraction(b)
    return max(ratio, 1 / ratio)


def _close(a: Value, b: Value) -> bool:
    return abs(a - b) <= _NEARLY * max(abs(a), abs(b))
