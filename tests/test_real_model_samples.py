"""Verdicts of real model samples against the labels of their sources, every disagreement explained by class.

The data lie beside a developer's checkout. `python -m tests.real_verdicts` prints the same table.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.checkers import get_checker
from tests.real_verdicts import SOURCES, chains, judged, samples, table

TORA = {
    ("number", "right", "correct", "agrees"): 2171,
    ("number", "right", "wrong", "no box: the last number of the sentence is another"): 3,
    ("number", "wrong", "wrong", "agrees"): 464,
    ("program", "right", "correct", "agrees"): 2132,
    ("program", "right", "no_answer", "the program raises, the text answers nevertheless"): 2,
    ("program", "right", "undecided", "the program needs numpy or sympy"): 15,
    ("program", "right", "wrong", "the text drops the sign of the value"): 17,
    ("program", "right", "wrong", "the text rounds or corrects the value"): 7,
    ("program", "right", "wrong", "the text takes the first of several values"): 1,
    ("program", "wrong", "correct", "the program is right, the text is wrong or missing"): 2,
    ("program", "wrong", "no_answer", "agrees"): 1,
    ("program", "wrong", "undecided", "the program does not end"): 1,
    ("program", "wrong", "undecided", "the program needs numpy or sympy"): 7,
    ("program", "wrong", "wrong", "agrees"): 453,
}
POT = {
    ("program", "right", "correct", "agrees"): 3233,
    ("program", "right", "undecided", "the program does not end"): 1,
    ("program", "right", "undecided", "the program needs numpy or sympy"): 1,
    ("program", "right", "wrong", "the source drops the sign of the value"): 3,
    ("program", "right", "wrong", "the source takes the first of several values"): 11,
    ("program", "wrong", "no_answer", "agrees"): 291,
    ("program", "wrong", "undecided", "the program does not end"): 4,
    ("program", "wrong", "undecided", "the program needs numpy or sympy"): 8,
    ("program", "wrong", "wrong", "agrees"): 1081,
}
DATES = {
    ("text", "right", "correct", "agrees"): 2294,
    ("text", "right", "wrong", "several dates, and the last is another"): 7,
    ("text", "wrong", "correct", "right, but not written as MM/DD/YYYY"): 107,
    ("text", "wrong", "correct", "the source read an earlier date or quotation"): 2,
    ("text", "wrong", "wrong", "agrees"): 1280,
}
LETTERS = {
    ("text", "right", "correct", "agrees"): 31,
    ("text", "wrong", "correct", "the source read an earlier date or quotation"): 1,
    ("text", "wrong", "wrong", "agrees"): 48,
}
SUMS = {("number", "right", "correct", "agrees"): 51, ("number", "wrong", "wrong", "agrees"): 69}
PROGRAMS = {
    ("program", "right", "correct", "agrees"): 3034,
    ("program", "right", "wrong", "gold is rounded, or of another rounding"): 9,
    ("reft_program", "right", "correct", "agrees"): 3043,
}
CHAINS = {
    ("number", "right", "correct", "agrees"): 3050,
    ("number", "right", "wrong", "gold is rounded, or of another rounding"): 26,
    ("reft_number", "right", "correct", "agrees"): 3059,
    ("reft_number", "right", "no_answer", "a percent sign is no number to the authors' code"): 7,
    ("reft_number", "right", "no_answer", "another last sentence"): 9,
    ("reft_number", "right", "wrong", "gold is rounded, or of another rounding"): 1,
}
EXPECTED = {
    "tora": TORA, "pot": POT, "verify_cot date": DATES, "verify_cot last_letters": LETTERS, "verify_cot addsub": SUMS,
    "reft svamp programs": PROGRAMS, "reft svamp chains": CHAINS,
}  # fmt: skip


@pytest.mark.slow
def test_every_disagreement_is_of_a_known_class(shared_data: Path) -> None:
    """12,000 samples, 10,300 of them programs; eight of these run into the limit of time."""
    found: dict[str, Counter[tuple[str, ...]]] = {}
    for (name, *row), count in table(shared_data).items():
        found.setdefault(name, Counter())[tuple(row)] = count
    assert found == EXPECTED


def test_the_classes_stand_for_all_sources(shared_data: Path) -> None:
    assert {name for name, *_ in SOURCES} == set(EXPECTED)
    totals = {name: sum(rows.values()) for name, rows in EXPECTED.items()}
    assert (totals["pot"], totals["tora"]) == (4633, 2 * 2638)
    assert sum(totals[f"verify_cot {part}"] for part in ("date", "last_letters", "addsub")) == 3890


def test_programs_of_a_prefill_have_the_same_value(shared_data: Path) -> None:
    """ReFT's prompt ends with `def solution():` and the question; the model goes on from there."""
    with get_checker("program") as checker:
        for text, *_ in list(chains(shared_data, "svamp_python_sdp"))[:200]:
            end = text.index('"""', text.index('"""') + 3) + 4
            assert checker.extract(text[:end], text[end:]) == checker.extract("", text) is not None


def test_a_few_real_samples_agree(shared_data: Path) -> None:
    """The quick part of the table: sums of verify_cot, and 300 programs of ToRA."""

    def first(rows: Iterator[tuple[str, str, str, bool]], n: int) -> Iterator[tuple[str, str, str, bool]]:
        return (row for row, _ in zip(rows, range(n), strict=False))

    assert all(j.agrees for j in judged("number", samples(shared_data, "verify_cot_chatgpt_x10", "addsub")))
    programs = judged("program", first(samples(shared_data, "tora_gsm8k_tool"), 300))
    assert sum(j.agrees for j in programs) >= 290
