"""The exact value of an expression. Exponents and results are bounded: what exceeds a bound has no value."""

from collections.abc import Sequence
from fractions import Fraction

from builders.equations.tokens import Number, Value

MAX_EXPONENT = 64
MAX_BITS = 4_000
Items = Sequence[Number | str]
"""Numbers, signs (`u-` and `u+` stand before an operand) and round brackets."""


def evaluate(items: Items, percent: bool) -> Value | None:
    """The exact value of an expression; None where it has none, or one beyond the bounds."""
    try:
        value, rest = _sum(items, 0, percent)
    except (ZeroDivisionError, OverflowError):
        return None
    return value if rest == len(items) else None


def _sum(items: Items, at: int, percent: bool) -> tuple[Value, int]:
    value, at = _product(items, at, percent)
    while at < len(items) and items[at] in ("+", "-"):
        other, after = _product(items, at + 1, percent)
        value, at = _bounded(value + other if items[at] == "+" else value - other), after
    return value, at


def _product(items: Items, at: int, percent: bool) -> tuple[Value, int]:
    value, at = _factor(items, at, percent)
    while at < len(items) and items[at] in ("*", "/"):
        other, after = _factor(items, at + 1, percent)
        value, at = _bounded(value * other if items[at] == "*" else Fraction(value) / other), after
    return value, at


def _factor(items: Items, at: int, percent: bool) -> tuple[Value, int]:
    """A number or bracket with its sign and power. `-2^2` is -4."""
    item = items[at]
    if item in ("u-", "u+"):
        value, at = _factor(items, at + 1, percent)
        return (-value if item == "u-" else value), at
    if isinstance(item, Number):
        value, at = Fraction(item.value) / 100 if item.percent and percent else item.value, at + 1
    elif item == "(":
        value, at = _sum(items, at + 1, percent)
        at += 1
    else:
        raise OverflowError(item)
    if at < len(items) and items[at] == "^":
        power, at = _factor(items, at + 1, percent)
        if power.denominator != 1 or abs(power) > MAX_EXPONENT:
            raise OverflowError("power")
        value = _bounded(Fraction(value) ** int(power))
    return value, at


def _bounded(value: Value) -> Value:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise OverflowError("value")
    return value


def is_rounded(value: Value, written: Value, hundredths: bool, number: Number) -> bool:
    """Whether a value, rounded to the decimals with which `number` is written, or cut there, is what is `written`."""
    last_digit = Fraction(1, 10**number.decimals * (100 if number.percent and hundredths else 1))
    distance = abs(value - written)
    cut = number.decimals > 0 and abs(written) < abs(value) and distance < last_digit
    return distance <= last_digit / 2 or cut
