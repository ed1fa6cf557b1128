"""A text's tokens, as far as arithmetic needs them: numbers, signs, brackets, words, and what breaks an expression."""

import re
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 40
Value = Fraction | int
"""An exact number; whole ones are whole numbers, with which computing is faster."""
_TOKEN = re.compile(
    r"""
    (?P<bullet> ^ [ \t]* (?: [-*+•] | \d{1,2} [.)] ) [ \t] )
    | (?: [ \t\r$€£¥₹&] | \n (?= [ \t]* [=≈] ) )*+ (?:
      (?P<foreign> \d+ (?: :\d+ )+ | (?:19|20)\d\d-\d\d-\d\d\b | \d{1,2}/\d{1,2}/(?:19|20)\d\d\b
        | (?! \d{1,3} (?: ,\d{3} )+ (?! ,?\d ) ) \d+ (?: ,\d+ )+ | [√π∑∏∫∞¼½¾⅓⅔⅛_\\°] )
    | (?P<mixed> \d{1,6} [ ]+ \d{1,4} / \d{1,4} (?! [\d.,/] \d | \d ) )
    | (?P<number> (?: \d{1,3} (?: ,\d{3} )+ (?! \d ) (?: \.\d+ )? | \d+ (?: \.\d+ )? | \.\d+ ) (?: [ ]? % )? )
    | (?P<equals> (?<! [<>!=:] ) = (?! [=>] ) | [≈≃] | \b (?: is[ ] )? equals? \b (?: [ ]to\b )? )
    | (?P<unit> (?<= \d ) - [a-z]{3,} )
    | (?P<word> [^\W\d_]+ (?: ['’-] [^\W\d_]+ )* )
    | (?P<sign> \*\* | [-+*/^×÷·∙⋅∗−–] )
    | (?P<open> [(\[] ) | (?P<close> [)\]] )
    | (?P<break> . | \n ) )
    """,
    re.VERBOSE | re.MULTILINE,
)
_KINDS = {"bullet": "break", "mixed": "number", "unit": "word"}
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|boxed)\{([^{}]*)\}")
_LATEX = [
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\approx\b"), "≈"),
    (re.compile(r"\\\\"), "\n"),
    (re.compile(r"\\(?:left|right)\b|\\!"), ""),
    (re.compile(r"\\[,;: ()\[\]$]"), " "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\{([^{}]*)\}"), r"^(\1)"),
]
_ASIDE = re.compile(r"(\d )\([A-Za-z]{2}[A-Za-z ]{0,40}\)")  # `$12 (adult tickets)`
_BOLD = re.compile(r"\*\*(?!\s*[\d(])|(?<![\d)])(?<![\d)]\s)\*\*")


class Number(NamedTuple):
    """A number as it is written; `value` of a percentage is that of its digits."""

    value: Value
    decimals: int
    percent: bool


class Token(NamedTuple):
    """A piece of the text, with its position.

    Its kind is number, sign, open, close, equals, word, foreign (what makes an expression none), or break.
    """

    kind: str
    text: str
    start: int
    end: int


def plain(text: str) -> str:
    """A text whose LaTeX is written in plain signs, as far as it is arithmetic, without bold type and asides."""
    if "\\" in text:
        for _ in range(3):  # as deep as fractions and words nest
            text = _FRACTION.sub(r"((\1)/(\2))", _WRAPPED.sub(r" \1 ", text))
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    if "(" in text:
        text = _ASIDE.sub(r"\1", text)
    return _BOLD.sub("  ", text) if "**" in text else text


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text. White space and currency signs are none."""
    tokens = []
    for found in _TOKEN.finditer(text):
        name = found.lastgroup or "break"
        tokens.append(Token(_KINDS.get(name, name), found[name], *found.span(name)))
    return tokens


def number_of(text: str) -> Number | None:
    """The number that a token is; None for one that is too long."""
    percent = text.endswith("%")
    digits = text.rstrip("% ").replace(",", "")
    if len(digits) > MAX_DIGITS:
        return None
    if "/" in digits:  # a mixed number
        whole, part = digits.split(maxsplit=1)
        over, under = (int(n) for n in part.split("/"))
        return Number(int(whole) + Fraction(over, under), 0, False) if 0 < over < under else None
    _, _, decimals = digits.partition(".")
    return Number(Fraction(digits) if decimals else int(digits), len(decimals), percent)
