r"""Canonical forms of LaTeX answers: what only styles is left out, so that most equal answers are equal texts."""

import re

MAX_CHARS = 1_000
"""Longer answers are not parsed; they equal only themselves, and are undecided otherwise."""
INTEGER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)")
_DECIMAL = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+\.\d+")

_STYLE = re.compile(r"(?<!\\)(?:\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\[!,;:$])|\$")
_ESCAPED_TWICE = re.compile(r"(?<!\\)\\\\(?=(?:text|[dt]?frac|sqrt|boxed)(?![A-Za-z]))")
_BOX = re.compile(r"\s*\$?\s*\\(?:boxed|fbox)\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}\s*\$?\s*\.?\s*")
_TEXT = re.compile(r"\\text(?:rm|bf|it|normal)?\s{0,4}\{")
_THOUSANDS = re.compile(r"(?<=\d)(?:,?\\!|\\[,;:])(?=\d{3}(?!\d))")
_RELATIONS = re.compile(r"!=|\\(?:lt|gt|ne|le|ge)(?![A-Za-z])")
_SPELLED = {"!=": r"\neq ", r"\ne": r"\neq ", r"\lt": "<", r"\gt": ">", r"\le": r"\leq ", r"\ge": r"\geq "}
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}(?![A-Za-z{}])|[぀-ヿ㐀-鿿]{2,}")
_MATH = re.compile(r"\$[^$]*\$|\\text\w{0,6}\{[^{}]*\}|\\begin\{.*", re.DOTALL)
_DIGITS = re.compile(r"\d[\d,.]*")


def canonical(text: str) -> str:
    r"""Without spaces, `\left`, `\dfrac`, dollar signs, a box around it, a full stop, thousands separators.

    `canonical(canonical(text)) == canonical(text)`. A text of more than `MAX_CHARS` is left as it is.
    """
    before, text = "", text.strip()
    if len(text) > MAX_CHARS:
        return text
    while text != before:
        before, text = text, _simpler(text)
    return text


def is_prose(text: str) -> bool:
    """Whether words outside of mathematics outnumber the numbers there: `We find that $x = 3$`, not `8 hours`."""
    if len(text) > MAX_CHARS:
        return False
    outside = _MATH.sub(" ", text)
    words = [word for word in _WORD.findall(outside) if word not in ("and", "or")]
    enough = 1 if any(ord(word[0]) > 0x2FFF for word in words) else 3
    has_mathematics = len(outside) != len(text) or any(c.isdigit() for c in text)
    return len(words) >= max(enough, 2 * len(_DIGITS.findall(outside)) if enough == 3 else 0) and has_mathematics


def _simpler(text: str) -> str:
    boxed = _BOX.fullmatch(text)
    text = _THOUSANDS.sub("", _ESCAPED_TWICE.sub(r"\\", boxed[1] if boxed else text))
    text = _STYLE.sub(" ", text.strip().rstrip(".\\").replace("{,}", ","))
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", text).replace("−", "-").replace("\\%", "%")
    text = _RELATIONS.sub(lambda relation: _SPELLED[relation[0]], _TEXT.sub(r"\\text{", text))
    text = _SPACE.sub(lambda space: " " if _between_words(space) else "", text)
    return text.replace(",", "").removeprefix("+") if INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text) else text


def _between_words(space: re.Match[str]) -> bool:
    before, after = space.string[: space.start()][-1:], space.string[space.end() :][:1]
    return before.isalnum() and after.isalnum()
