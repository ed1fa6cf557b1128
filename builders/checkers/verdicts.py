"""Verdicts on completions in memory, for callers that hold no tables, such as validation during training."""

from collections.abc import Sequence

from builders.checkers import Checker, extract_all, get_checker
from schemas.rewards import Verdict

VERDICTS: dict[bool | None, Verdict] = {True: "correct", False: "wrong", None: "undecided"}
"""What a checker says of an extracted answer -> verdict."""


def verdicts(checker: str, texts: Sequence[str], prefills: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
    """One verdict per completion, in order: `correct`, `wrong`, `no_answer`, or `undecided` (time-out or crash).

    `prefills` holds the start of each answer that was given to the model. Starts and ends the checker's workers; call
    it once per batch of completions.
    """
    with get_checker(checker) as opened:
        return judge_texts(opened, texts, prefills, golds)


def judge_texts(checker: Checker, texts: Sequence[str], prefills: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
    """`verdicts` with a checker that is open already and keeps its workers."""
    extracted = extract_all(checker, [(prefill, text, None) for prefill, text in zip(prefills, texts, strict=True)])
    stated = [(e, gold) for e, gold in zip(extracted, golds, strict=True) if e is not None]
    found = iter(checker.matches(stated))
    return ["no_answer" if e is None else VERDICTS[next(found)] for e in extracted]
