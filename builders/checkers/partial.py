"""What a verdict is worth: 1, 0, or in between for a wrong answer of the right kind (ReFT, arXiv 2401.08967, §3.2).

ReFT gives 0.1 to a wrong answer, so that an early policy learns at least to state one. Who gets it, the paper and its
authors' code (`mwp_ReFT@bdc844e`, `train_rl_reft.py`) say differently:

| rule | wrong answer, number | wrong answer, no number | no answer | with options, whatever is wrong |
|---|---|---|---|---|
| `none` | 0 | 0 | 0 | 0 |
| `paper` | partial | 0 | 0 | 0 |
| `code` | partial | partial | 0 | partial, even without an answer |

`paper`: the answer is a number, and so is gold; a data set whose gold is letters has no partial reward. `code`: its
extraction of an option takes the whole text if no phrase announces one, and the text `none` of a program that fails, so
that with options nothing ever scores 0: a reward that teaches nothing about stating answers. That is kept, for who
reproduces it. What is undecided (time-out, crash, no gold) has no reward under any rule: it must give no gradient.
"""

import itertools
import math
from collections.abc import Iterator
from typing import get_args

from builders.checkers.number import is_number
from schemas.rewards import Verdict
from schemas.slots import PartialRule


def reward(verdict: Verdict, numbers: bool, options: bool, rule: PartialRule, amount: float) -> float | None:
    """The reward of one sample; None if it is undecided.

    `numbers` is `are_numbers` of its answer and gold (False without an answer), `options` whether its problem is
    multiple choice, `amount` the partial reward.
    """
    if verdict in ("correct", "undecided"):
        return 1.0 if verdict == "correct" else None
    answered = verdict == "wrong"
    partial = {
        "none": False,
        "paper": answered and numbers and not options,
        "code": answered or options,
    }[rule]
    return amount if partial else 0.0


def are_numbers(extracted: str | None, gold: str) -> bool:
    """Whether an extracted answer and its gold answer both are numbers and nothing else."""
    return extracted is not None and _numeric(extracted) and _numeric(gold)


def cases(rule: PartialRule, amount: float) -> Iterator[tuple[Verdict, bool, bool, float | None]]:
    """One row per (verdict, numbers, options): with the reward that it has, to be joined in SQL."""
    for verdict, numbers, options in itertools.product(get_args(Verdict), (False, True), (False, True)):
        yield verdict, numbers, options, reward(verdict, numbers, options, rule, amount)


def _numeric(text: str) -> bool:
    """As the `number` checker reads it, or as Python does: a program's `1e+300` and its longest integers."""
    if is_number(text):
        return True
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
