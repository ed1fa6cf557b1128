r"""The rules of weak-to-strong reasoning (arXiv 2407.13647; `weak-to-strong-reasoning@596a0b6`, `src/eval`).

Rule `last_line`, version 1. A completion is cut where it writes `Question`. On its last line, the answer is what
follows the first `#### ` (`w2s_gsm8k`) or `The answer is: ` (`w2s_math`); else the first number after `The answer is `
there. The authors' pattern ends with `$` outside of multi-line mode, so only the last line counts: that is the rule.

Answers are normalised as Minerva's are (Lewkowycz et al. 2022, appendix D.1), which is crude on purpose of the rule:
all that stands before the last `=` goes, and every space, `a `, `an ` and words such as `ways` and `dollars` inside
words too. Equal forms are equal; the authors then ask sympy whether the difference simplifies to 0, and here
math-verify decides, in its killable workers. They count an empty answer in votes; here it is none.
"""

import re
from typing import ClassVar

from builders.checkers.symbolic import SymbolicChecker

_REPLACED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), ("\\%", "%"), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
_WORDS = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{}^2", "\\text{}^3", "\\text{}", "\\mathrm{th}",
    "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
_WRAPPED = re.compile(r"\\(?:text|textbf|overline)\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d+\.?\d*")


class W2sGsm8kChecker(SymbolicChecker):
    """`#### x`."""

    name = "w2s_gsm8k"
    rule = "last_line"
    rule_version = "1"
    key: ClassVar[str] = "#### "

    def extract(self, prefill: str, text: str) -> str | None:
        """What the last line states, by the rule in the module's docstring."""
        last = (prefill + text.partition("Question")[0]).strip().rpartition("\n")[2]
        _, key, answer = last.partition(self.key)
        if not (key and answer):
            _, _, after = last.partition("The answer is ")
            number = _NUMBER.search(after.replace(",", ""))
            answer = number[0].rstrip(".") if number else ""
        return answer.removesuffix("</s>").strip() or None if text.strip() else None

    def normalise(self, extracted: str) -> str | None:
        """Minerva's form."""
        text = extracted.rpartition("=")[2]
        for before, after in _REPLACED:
            text = text.replace(before, after)
        for word in _WORDS:
            text = text.replace(word, "")
        inline = re.search(r"\$([^$]*)\$", text)
        text = _WRAPPED.sub(r"\1", inline[1] if inline else text)
        text = re.sub(r"\\boxed\{(.*)\}", r"\1", text)
        text = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", text)
        return _plain(re.sub(r"sqrt([^{])", r"sqrt{\1}", text).replace("$", "")) or None


class W2sMathChecker(W2sGsm8kChecker):
    """`The answer is: x`."""

    name = "w2s_math"
    key = "The answer is: "


def _plain(text: str) -> str:
    """Numbers without separators, `.0`, `.00` and percent sign; a lone letter of A to G in lower case."""
    bare = text.replace(",", "")
    text = bare if bare.isdigit() else text
    for ending in (".0", ".00", "%"):
        if text.endswith(ending) and text.removesuffix(ending).isdigit():
            text = text.removesuffix(ending)
    return text.lower() if re.fullmatch("[A-Ga-g]", text) else text
