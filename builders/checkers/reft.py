"""The rules of ReFT for natural-language chains of thought (arXiv 2401.08967; `mwp_ReFT@bdc844e`, `train_rl_reft.py`).

Rule `therefore`, version 1. The answer is all the text after the last `\\nTherefore, the answer is: `.

`reft_number` (GSM8K, SVAMP, numeric MathQA): it states a number if Python's `float` reads it, and equals gold within
1e-2. Commas are removed from gold only, so that a prediction of `1,000` states no answer: that is the rule.
`reft_choice` (MathQA): lower case without quotes, equal texts. A completion without the phrase states no answer, as the
paper has it; in the code its whole text is the answer, so that the partial reward never misses.
The rule for programs is `reft_program`, beside the `program` checker.
"""

import math

from builders.checkers.base import PureChecker

TRIGGER = "\nTherefore, the answer is: "
TOLERANCE = 1e-2


class ReftChoiceChecker(PureChecker):
    """The text after the phrase, letter for letter."""

    name = "reft_choice"
    rule = "therefore"

    def extract(self, prefill: str, text: str) -> str | None:
        """The text after the last phrase; None without one, or if the model added nothing."""
        _, phrase, answer = (prefill + text).rpartition(TRIGGER)
        return answer.strip() or None if phrase and text.strip() else None

    def normalise(self, extracted: str) -> str | None:
        """In lower case, without quotes."""
        return extracted.lower().replace('"', "").replace("'", "").strip() or None


class ReftNumberChecker(ReftChoiceChecker):
    """The number after the phrase, within 1e-2."""

    name = "reft_number"

    def extract(self, prefill: str, text: str) -> str | None:
        """The text after the last phrase if it is a number."""
        answer = super().extract(prefill, text)
        return answer if answer and _float(answer) is not None else None

    def normalise(self, extracted: str) -> str | None:
        """The shortest decimal of the same double."""
        value = _float(extracted)
        return None if value is None else repr(value)

    def equal(self, extracted: str, gold: str) -> bool | None:
        """Whether the two differ by 1e-2 at most; None if gold is no number."""
        a, b = _float(extracted), _float(gold.replace(",", ""))
        return None if b is None else a is not None and abs(a - b) <= TOLERANCE


def _float(text: str) -> float | None:
    """Python's reading, as the authors' `floatify`; what is not finite is no answer."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
