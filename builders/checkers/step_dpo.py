r"""The rule of Step-DPO (arXiv 2406.18629; `Step-DPO@c4902fd`, `evaluation/data_processing`, `evaluation/eval`).

Rule `boxed_or_said`, version 1. The answers are what stands between `final answer is $` and `$. I hope`; else the
contents of all `boxed{…}`, braces matched; else what follows the last `he answer is`; else the last printed output of a
program (```` ```output ````); else the last number. `\text{ and }` separates two answers. Of several, the last n are
kept, where gold has n, and each must match one of gold's and the other way round. (The authors also split at commas
where the question says `separated by commas`; a checker does not see the question.)

Answers are equal if they are the same text after the authors' normalisation, numbers less than 1e-3 apart, or
`math_equal`: numbers equal up to a factor of 100 (percent), a fraction and a number less than 1e-3 apart, tuples and
intervals part by part, else by algebra, which is math-verify here, in its killable workers.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator

from builders.checkers import Pairs, _ignore
from builders.checkers.symbolic import SymbolicChecker

_SEPARATOR = "\n"
"""Between several answers, where they are extracted."""
_AND = re.compile(r"\\text\{\s{0,9}and\s{0,9}\}")
_NUMBER = re.compile(r"-?\d*\.?\d+")
_BRACE = re.compile(r"[{}]")
_DROPPED = (
    "\n", "\\!", "\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "$", "x\\in", "\\cdot", "\\mathbf",
    "\\mathrm", " ",
)  # fmt: skip
_UNIT = re.compile(r"(?<=.)\\text\{[^{}]*\}$|\\mbox\{[^{}]*\}")
_GROUP = re.compile(r"[(\[](.+)[)\]]")
_FRACTION = re.compile(r"(-?)\\frac\{(-?\d{1,40})\}\{(-?\d{1,40})\}")
_TOLERANCE = 1e-3


class StepDpoChecker(SymbolicChecker):
    """Boxes, else phrases, else the last number; numbers within 1e-3."""

    name = "step_dpo"
    rule = "boxed_or_said"
    rule_version = "1"

    def extract(self, prefill: str, text: str) -> str | None:
        """All answers, one per line, by the rule in the module's docstring."""
        answers = [_one_line(answer) for answer in _answers(prefill + text)] if text.strip() else []
        return _SEPARATOR.join(dict.fromkeys(answer for answer in answers if answer)) or None

    def normalise(self, extracted: str) -> str | None:
        """The authors' form of each answer, one per line."""
        return _SEPARATOR.join(_parts(extracted)) or None

    def settle(self, extracted: str, gold: str) -> bool | None:
        """What texts and numbers decide of one answer."""
        return _equal(extracted, gold)

    def matches(self, pairs: Pairs, advance: Callable[[int], None] = _ignore) -> list[bool | None]:
        """Whether the last answers match those of gold, each of them and the other way round."""
        split = [(_parts(extracted), _parts(gold)) for extracted, gold in pairs]
        kept = [(found[-len(golds) :], golds) if golds else ([], []) for found, golds in split]
        single = list(dict.fromkeys((a, b) for found, golds in kept for a in found for b in golds))
        equal = dict(zip(single, super().matches(single), strict=True))
        advance(len(pairs))
        return [
            _all(_any(equal[a, b] for b in golds) for a in found)
            and _all(_any(equal[a, b] for a in found) for b in golds)
            if found
            else False
            for found, golds in kept
        ]


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    return True if True in found else None if None in found else False


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    return False if False in found else None if None in found else True


def _answers(full: str) -> list[str]:
    if "final answer is $" in full and "$. I hope" in full:
        return [full.partition("final answer is $")[2].partition("$. I hope")[0]]
    if "boxed" in full:
        return list(_boxes(full))
    if "he answer is" in full:
        return [full.rpartition("he answer is")[2]]
    printed = full.rpartition("```output")[2].partition("```")[0].strip() if "```output" in full else ""
    numbers = [printed] if printed else _NUMBER.findall(full.replace(",", ""))
    return numbers[-1:]


def _boxes(full: str) -> Iterator[str]:
    """The content of each `boxed{`; one that does not close before the next is none."""
    for piece in full.split("boxed{")[1:]:
        depth = 1
        for brace in _BRACE.finditer(piece):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                yield piece[: brace.start()]
                break


def _one_line(answer: str) -> str:
    return " ".join(answer.strip().lstrip(":").rstrip("./").split())


def _parts(answers: str) -> list[str]:
    """The normal form of each answer, duplicates left out."""
    parts = [_form(part) for line in answers.split(_SEPARATOR) for part in _AND.split(line)]
    return list(dict.fromkeys(part for part in parts if part))


def _form(answer: str) -> str:
    """Without styles, units and spaces; fractions and roots with their braces; `.0` left out."""
    text = answer.strip().rstrip(".")
    if text.startswith("\\text{") and text.endswith("}"):
        text = text[6:-1]
    text = re.sub(r"[tdc]frac", "frac", _UNIT.sub("", text)).replace("\\%", "%")
    for dropped in _DROPPED:
        text = text.replace(dropped, "")
    text = re.sub(r"(\d)\.0+(?!\d)", r"\1", re.sub(r"^\.|(?<=\{)\.", "0.", text))
    text = re.sub(r"\\(sqrt|tan)(-?[0-9.a-zA-Z]+)", r"\\\1{\2}", text)
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text))
    text = re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)
    return text.rstrip("\\,.")


def _equal(a: str, b: str) -> bool | None:
    """What `math_equal` decides by texts and numbers; None is left to algebra."""
    if a == b:
        return True
    x, y = _digits(a), _digits(b)
    if x is not None and y is not None:
        near = any(math.isclose(x, gold, abs_tol=_TOLERANCE) for gold in (y / 100, y, y * 100))
        return near or abs(x - y) < _TOLERANCE
    x, y = _value(a), _value(b)
    if x is not None and y is not None and math.isclose(x, y, abs_tol=_TOLERANCE):
        return True
    groups = _GROUP.fullmatch(a), _GROUP.fullmatch(b)
    if not (groups[0] and groups[1]):
        return None
    parts = groups[0][1].split(","), groups[1][1].split(",")
    if len(parts[0]) == len(parts[1]) and all(_equal(*pair) for pair in zip(*parts, strict=True)):
        return True
    return None


def _digits(text: str) -> float | None:
    """The number that a text is, a percentage as its hundredth; None for any other."""
    bare = text.replace(",", "")
    number = bare.rstrip("%").rstrip("\\")
    if not re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?", number):
        return None
    return float(number) / (100 if bare != number else 1)


def _value(text: str) -> float | None:
    """The number that a text is, as digits or as a fraction of whole numbers; None for any other."""
    fraction = _FRACTION.fullmatch(text)
    if not fraction:
        return _digits(text)
    return float(f"{fraction[1]}1") * int(fraction[2]) / int(fraction[3]) if int(fraction[3]) else None
