"""The rule of Iterative RPO (arXiv 2404.19733, sections 3.1-3.3): the reward is 1 if the final answer matches exactly.

Rule `final_answer`, version 1. The answer is what follows the last `Final answer:` on its line; a completion without
that phrase states none. `irpo` compares texts (GSM8K, and ARC, whose prompt asks for a letter in parentheses),
`irpo_math` "after normalization". The authors released no code. Ours is: a phrase counts in any case and in bold; the
space, asterisks and full stop around an answer, and the parentheses around a letter, are no part of it; a number may
have its thousands separators and one dollar sign in front; MATH's normal form is that of the `latex` checker, without
what math-verify would find equal beyond it.
"""

import re

from builders.checkers.base import PureChecker
from builders.checkers.latex_forms import canonical

_PHRASE = re.compile(r"final answer[ \t*]{0,4}:[ \t*]{0,8}([^\n]{0,2000})", re.IGNORECASE)
_AMOUNT = re.compile(r"\\?\$?(-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?)")


class IrpoChecker(PureChecker):
    """Exact match after `Final answer:`."""

    name = "irpo"
    rule = "final_answer"

    def extract(self, prefill: str, text: str) -> str | None:
        """The rest of the line after the last `Final answer:`."""
        found = [m for m in _PHRASE.finditer(prefill + text) if m.end() > len(prefill)]
        return found[-1][1].strip().strip("*").strip() or None if found else None

    def normalise(self, extracted: str) -> str | None:
        """Without a full stop, the parentheses of a letter, and a number's thousands separators and dollar sign."""
        text = extracted.strip().rstrip(".").strip()
        if re.fullmatch(r"\(\w\)", text):
            return text[1]
        amount = _AMOUNT.fullmatch(text)
        return (amount[1].replace(",", "") if amount else text) or None


class IrpoMathChecker(IrpoChecker):
    """Exact match after `Final answer:`, both in the normal form of the `latex` checker."""

    name = "irpo_math"

    def normalise(self, extracted: str) -> str | None:
        """The canonical LaTeX, without the box around it."""
        return canonical(extracted) or None
