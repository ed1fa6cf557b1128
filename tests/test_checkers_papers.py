"""The papers' own rules, and the `text` checker: extraction and comparison."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.checkers import get_checker
from builders.checkers.step_dpo import StepDpoChecker

EXTRACTIONS = [
    # checker, text, extracted
    ("irpo", "3 + 4 = 7\nFinal answer: 7", "7"),
    ("irpo", "**Final Answer:** 7\nbye", "7"),
    ("irpo", "Final answer: 5\nNo.\nFinal answer: (B)", "(B)"),
    ("irpo", "The answer is 7", None),
    ("irpo", "Final answer:\n7", None),
    ("irpo_math", r"\boxed{1} Final answer: $\frac{1}{2}$.", r"$\frac{1}{2}$."),
    ("step_dpo", r"so \boxed{\frac{\{1\}}{2}}", r"\frac{\{1\}}{2}"),
    ("step_dpo", r"\boxed{1} and \boxed{2}, then \boxed{1}", "1\n2"),
    ("step_dpo", r"\boxed{1", None),
    ("step_dpo", "The answer is: 5 apples.", "5 apples"),
    ("step_dpo", "the final answer is $3$. I hope it is correct. \\boxed{4}", "3"),
    ("step_dpo", "```output\n16\n```\nIt is 17.", "16"),
    ("step_dpo", "first 3, then 1,200 in all", "1200"),
    ("step_dpo", "nothing", None),
    ("w2s_gsm8k", "a\n#### 12", "12"),
    ("w2s_gsm8k", "#### 12\nthat is all", None),
    ("w2s_gsm8k", "#### 12\n\nQuestion: more\n#### 13", "12"),
    ("w2s_gsm8k", "The answer is 1,200 apples", "1200"),
    ("w2s_gsm8k", "it is 12", None),
    ("w2s_math", r"The answer is: $\frac12$", r"$\frac12$"),
    ("w2s_math", "The answer is about 5.", "5"),
    ("reft_number", "so\nTherefore, the answer is: 7.0", "7.0"),
    ("reft_number", "so\nTherefore, the answer is: 1,000", None),
    ("reft_number", "so\nTherefore, the answer is: 7 apples", None),
    ("reft_number", "so\nTherefore, the answer is: inf", None),
    ("reft_number", "7", None),
    ("reft_choice", "so\nTherefore, the answer is: 'B' ", "'B'"),
    ("reft_choice", "b", None),
    ("text", 'The letters give "oya a."', "oya a."),
    ("text", "Today is 3/5.\nSo tomorrow is 03/06/1973.", "03/06/1973"),
    ("text", "The answer is simply:\n\nToday is 03/05/1973.", "03/05/1973"),
    ("text", "Final answer: Paris. It is big.", "Paris"),
    ("text", r"\boxed{\text{east}}", r"\text{east}"),
    ("text", "I would say Paris", "Paris"),
    ("text", "", None),
]


@pytest.mark.parametrize(("checker", "text", "extracted"), EXTRACTIONS)
def test_extraction(checker: str, text: str, extracted: str | None) -> None:
    assert get_checker(checker).extract("", text) == extracted


PAIRS = [
    # checker, extracted, gold, equal
    ("irpo", "7", "7", True),
    ("irpo", "$1,200.", "1200", True),
    ("irpo", "7.0", "7", False),
    ("irpo", "7 apples", "7", False),
    ("irpo", "(B)", "B", True),
    ("irpo_math", r"$\dfrac{1}{2}$.", r"\frac{1}{2}", True),
    ("irpo_math", "0.5", r"\frac{1}{2}", False),
    ("step_dpo", "0.5005", "0.5", True),
    ("step_dpo", "0.502", "0.5", False),
    ("step_dpo", "50", "0.5", True),
    ("step_dpo", r"50\%", "0.5", True),
    ("step_dpo", "1,200", "1200", True),
    ("step_dpo", r"\text{east}", "east", True),
    ("step_dpo", r"5\text{ cm}", "5", True),
    ("step_dpo", r"\frac12", "1/2", True),
    ("step_dpo", "(1, 0.3333)", "(1,0.33333)", True),
    ("step_dpo", "0.333", r"\frac{1}{3}", True),
    ("step_dpo", r"-\frac{1}{3}", "-0.333", True),
    ("step_dpo", "0.33", r"\frac{1}{3}", False),
    ("step_dpo", r"\frac{1}{0}", "0", False),
    ("step_dpo", "x+1", "1+x", True),
    ("step_dpo", "x+1", "x+2", False),
    ("step_dpo", "3\n5", "5", True),
    ("step_dpo", "5\n3", "5", False),
    ("step_dpo", "1\n2", r"2 \text{ and } 1", True),
    ("step_dpo", "1", r"2 \text{ and } 1", False),
    ("w2s_gsm8k", "1,200 dollars", "1200", True),
    ("w2s_gsm8k", "x = 5.00", "5", True),
    ("w2s_gsm8k", "6", "5", False),
    ("w2s_math", r"$\frac12$", r"\frac{1}{2}", True),
    ("w2s_math", "0.5", r"\frac{1}{2}", True),
    ("w2s_math", r"\text{C}", "c", True),
    ("w2s_math", "12 ways", "12", True),
    ("reft_number", "7.009", "7", True),
    ("reft_number", "7.02", "7", False),
    ("reft_number", "1000", "1,000", True),
    ("reft_number", "1000", "many", None),
    ("reft_choice", "'B'", "b", True),
    ("reft_choice", "(b)", "b", False),
    ("text", "neh h", "nehh", True),
    ("text", "July 8, 1971", "07/08/1971", True),
    ("text", "8 July 1971", "1971-07-08", True),
    ("text", "7/8/1971", "08/07/1971", False),
    ("text", "Paris.", "paris", True),
    ("text", r"\text{east}", "East", True),
    ("text", "Paris", "London", False),
]


@pytest.mark.parametrize("name", sorted({checker for checker, *_ in PAIRS}))
def test_comparison(name: str) -> None:
    rows = [row for row in PAIRS if row[0] == name]
    settled: list[int] = []
    with get_checker(name) as checker:
        found = checker.matches([(a, b) for _, a, b, _ in rows], settled.append)
    assert dict(zip(rows, found, strict=True)) == {row: row[3] for row in rows}
    assert sum(settled) >= len(rows)


PAPERS = ("irpo", "irpo_math", "step_dpo", "w2s_gsm8k", "w2s_math", "reft_number", "reft_choice", "text")


@pytest.mark.parametrize("name", PAPERS)
def test_what_the_prefill_states_is_not_the_models(name: str) -> None:
    last = {"w2s_gsm8k": "#### 5", "w2s_math": "The answer is: 5"}.get(name, "Therefore, the answer is: 5")
    stated = f"Final answer: 5\nThe answer is: 5\n#### 5\n{last}"
    assert get_checker(name).extract(stated, "") is None
    assert get_checker(name).extract("", stated) == "5"


@pytest.mark.parametrize("name", PAPERS)
@given(text=st.text(alphabet="0123456789.,:$\\boxed{}()= \n#answer isThefolQut", max_size=80))
@settings(max_examples=60)
def test_any_text_is_read_and_normal_forms_are_stable(name: str, text: str) -> None:
    checker = get_checker(name)
    found = checker.extract("", text)
    form = checker.normalise(found) if found else None
    assert form is None or name.startswith("w2s") or checker.normalise(form) == form
    if form:
        assert checker.matches([(found or "", found or "")]) == [True]


def test_hangs_of_math_verify_are_undecided_under_a_papers_rule_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with StepDpoChecker() as checker:
        monkeypatch.setattr(checker.symbolic.pool, "timeout_s", 1.0)
        hangs = "9^{9^{9^{9^{9}}}} + \\sqrt{7}"
        assert checker.matches([(hangs, "x"), ("x+1", "1+x"), (hangs, "x")]) == [None, True, None]
