r"""The `number` checker: one number, compared by exact value.

Rule `last_marker`, version 1. The answer is the first number after the last marker (`Final answer:`, `The answer is`,
`#### `, `A:` or `Answer:` opening a line, `\boxed{`), on the first line with content after it, behind the last `=` of
that line if there is one. A slot (any marker but `the answer is`) without a number states no answer. Without any
marker the answer is the last number of the text. A completion that goes on with another question after it has answered
is cut there. A number that lies wholly in the prefill is not the model's.

Currency signs, thousands separators, percent signs and units are not part of the value: `$1,234.50`, `1234.5` and
`1234.50 dollars` are equal, and so are `50%` and `50`. Fractions, mixed numbers and powers of ten are exact.
"""

import re
from collections.abc import Iterable
from fractions import Fraction

from builders.checkers.base import PureChecker
from builders.checkers.markers import Marker, answering_part, last_boxed, line_after, markers

MAX_CHARS = 80
"""A longer number (a model that repeats a digit without end) has no canonical form and equals only itself."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""
    (?P<minus>(?<![\w)\]}}.%])[-−])? (?:\\?[$€£¥])? (?P<minus2>(?<=[$€£¥])[-−])? (?<![A-Za-z_.\d])
    (?:
      (?P<whole>\d{{1,9}}[ ]?)? \\[dtc]?frac [ ]?
        \{{ [ ]?(?P<top>-?\d{{1,80}})[ ]? \}} [ ]? \{{ [ ]?(?P<bottom>\d{{1,80}})[ ]? \}}
    | (?P<whole2>\d{{1,9}})[ ](?P<top2>\d{{1,9}})/(?P<bottom2>\d{{1,9}}) (?![\d/])
    | (?P<value>{_DIGITS})
      (?: [eE](?P<exponent>[-+]?\d{{1,3}})(?!\w|[.]\d)
        | [ ]?(?:\\times|\\cdot|×|[*]|x)[ ]?10[ ]?(?:\^|[*][*])[ ]?\{{?(?P<power>[-−]?\d{{1,3}})\}}?
        | [ ]?/[ ]?(?P<divisor>\d{{1,80}}(?:\.\d{{1,80}})?)(?![/\d]) )?
    )
    """,
    re.VERBOSE,
)


class NumberChecker(PureChecker):
    """Extraction and exact comparison of numbers, in pure Python; nothing to time out."""

    name = "number"
    version = "1"
    rule = "last_marker"
    rule_version = "1"

    def extract(self, prefill: str, text: str) -> str | None:
        """The number as written, by the rule in the module's docstring."""
        kept = len(_plain(prefill))
        full = _plain(answering_part(prefill, text))
        found = markers(full)
        boxed = last_boxed(full)
        if boxed:
            found = sorted([*found, Marker(boxed[1].start, True)])
        for marker in reversed(found):
            is_box = boxed is not None and marker.end == boxed[1].start
            start, end = boxed[1] if boxed and is_box else line_after(full, marker.end)
            number = _first_after_equals(full, start, end)
            if number and number.end() + is_box > kept:
                return number[0].strip()
            if marker.slot and end > kept:
                return None
        return _last(_NUMBER.finditer(full), kept)

    def normalise(self, extracted: str) -> str | None:
        """The value as a decimal, or as `numerator/denominator` where that never ends; None if it is no number."""
        value = number_value(extracted)
        return None if value is None else _canonical(value)

    def equal(self, extracted: str, gold: str) -> bool:
        """Whether the values are equal; answers that are no numbers must be the same text."""
        a, b = number_value(extracted), number_value(gold)
        return a == b if a is not None and b is not None else extracted.strip() == gold.strip()


def _plain(text: str) -> str:
    """Without LaTeX's ways to write thousands: `10{,}000`, `10,\\!000`, `10\\,000`."""
    return text.replace("{,}", ",").replace("\\!", "").replace("\\,", "") if "\\" in text or "{,}" in text else text


def _first_after_equals(full: str, start: int, end: int) -> re.Match[str] | None:
    equals = full.rfind("=", start, end)
    after = _NUMBER.search(full, equals + 1, end) if equals >= 0 else None
    return after or _NUMBER.search(full, start, end)


def _last(matches: Iterable[re.Match[str]], kept: int) -> str | None:
    last = None
    for match in matches:
        last = match
    return last[0].strip() if last and last.end() > kept else None


def number_value(written: str) -> Fraction | None:
    """The exact value of a text that is one number, with or without a unit; None for any other."""
    text = _plain(written.strip())
    match = _NUMBER.search(text) if len(text) <= MAX_CHARS else None
    if not match or any(c.isdigit() for c in text[: match.start()] + text[match.end() :]):
        return None
    value = _magnitude(match)
    if value is None or len(_canonical(value)) > MAX_CHARS:
        return None
    return -value if match["minus"] or match["minus2"] else value


def is_number(written: str) -> bool:
    """Whether a text is one number and nothing else: a currency or percent sign is part of it, a unit is not."""
    text = _plain(written.strip()).removesuffix("\\%").removesuffix("%")
    return len(text) <= MAX_CHARS and _NUMBER.fullmatch(text) is not None


def _magnitude(match: re.Match[str]) -> Fraction | None:
    top, bottom = match["top"] or match["top2"], match["bottom"] or match["bottom2"]
    if bottom:
        whole = int(match["whole"] or match["whole2"] or 0)
        return whole + Fraction(int(top), int(bottom)) if int(bottom) else None
    value = Fraction(match["value"].replace(",", ""))
    if match["divisor"]:
        divisor = Fraction(match["divisor"])
        return value / divisor if divisor else None
    exponent = int((match["exponent"] or match["power"] or "0").replace("−", "-"))
    return value * Fraction(10) ** exponent


def _canonical(value: Fraction) -> str:
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
