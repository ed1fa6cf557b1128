"""Extraction, comparison and faults of the checkers."""

import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.checkers import checker_for, get_checker
from builders.checkers.latex import LatexChecker
from builders.checkers.number import NumberChecker
from builders.checkers.verdicts import verdicts
from builders.checkers.workers import WorkerPool, worker_count

NUMBER = NumberChecker()
LATEX = LatexChecker(workers=1)  # extraction and canonical forms start no worker

NUMBER_EXTRACTIONS = [
    # text, extracted
    ("16 - 3 = <<16-3=13>>13 eggs\nA: 26", "26"),
    ("Some steps.\n#### 1,234", "1,234"),
    ("So 2 + 3 = 5.\nFinal answer: $5.00", "$5.00"),
    ("Final answer: 5 + 7 = 12 dollars.", "12"),
    ("**Final Answer:** 42", "42"),
    ("**Answer**:\n\n**42**", "42"),
    ("The answer is 3/4 of a pie.", "3/4"),
    ("The final answer is -7. I have 3 cats.", "-7"),
    (r"Thus \boxed{10{,}000} coins, 3 of them gold.", "10,000"),
    (r"It is $\boxed{\dfrac{3}{4}}$.", r"\dfrac{3}{4}"),
    (r"So \(\boxed{\$18}\).", r"\$18"),
    ("He pays $3 and then $4, so he pays 7 dollars in all.", "7"),
    ("10-5", "5"),
    ("x2 and H2O", None),
    ("I do not know.", None),
    ("2 + 2 is 4.\nFinal answer: unknown", None),
    (r"2 + 2 is 4, \boxed{\text{four}}", None),
    ("The answer is clear: 5 apples.", "5"),
    ("The answer is found below.\nIt is 12.", "12"),
    ("Final answer: 8\n\nQuestion: What is 1 + 1?\nFinal answer: 2", "8"),
    ("#### Step 3: add them up\n4 + 5 = 9\n\nSo 9.", "9"),
    ("#### 2. Add\n4 + 5 = 9", "9"),
    ("1.2 × 10^3 in 5 days\nA: 1.2 × 10^3", "1.2 × 10^3"),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), NUMBER_EXTRACTIONS)
def test_number_extraction(text: str, expected: str | None) -> None:
    assert NUMBER.extract("", text) == expected


LATEX_EXTRACTIONS = [
    (r"Then $x = 2$, so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
    (r"\boxed{\left\{ \frac{\{1\}}{2} \right\}} done", r"\left\{ \frac{\{1\}}{2} \right\}"),
    (r"either $\boxed{1}$ or $\boxed{-2}$", "1, -2"),
    (r"first \boxed{1}. Then more work gives \boxed{2}.", "2"),
    (r"\boxed{200} so far. Final Answer: The final answer is $455$. I hope it is correct.", "455"),
    (r"\boxed{5}. So the answer is correct.", "5"),
    (r"Final answer: \frac{2}{3}", r"\frac{2}{3}"),
    ("Final Answer: The final answer is -12+15i. I hope it is correct.", "-12+15i"),
    ("The answer is John makes $1260 if he works 7 days.", "1260"),
    ("So the answer is the coefficient of $x^2$, which is 15.", "15"),
    ("The answer is\n\\[\nx + 1\n\\]\nas wanted", "x + 1"),
    ("The answer is Evelyn.", "Evelyn"),
    ("we get $x = 4$ for all $n$", "x = 4"),
    ("we get 4 and then 5", "5"),
    ("so it is $x$", "x"),
    (r"\boxed 7", "7"),
    (r"the box \boxed{12 never closes", "12 never closes"),
    ("no mathematics here", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), LATEX_EXTRACTIONS)
def test_latex_extraction(text: str, expected: str | None) -> None:
    assert LATEX.extract("", text) == expected


@pytest.mark.parametrize(
    ("prefill", "text", "number", "latex"),
    [
        ("2 + 3 is 5.\nStep 2:", " I give up.", None, None),
        ("2 + 3 is 5.\nStep 2:", " So 6.", "6", "6"),
        ("Final answer:", " 12", "12", "12"),
        ("So \\boxed{", "7}", "7", "7"),
        ("So \\boxed{7}", " holds", None, None),
        ("It is 4", "5", "45", "45"),
    ],
)
def test_what_the_prefill_states_is_not_the_models(
    prefill: str, text: str, number: str | None, latex: str | None
) -> None:
    assert NUMBER.extract(prefill, text) == number
    assert LATEX.extract(prefill, text) == latex


NUMBERS = [
    # as written, canonical form
    ("$1,234.50", "1234.5"),
    ("1234.5 dollars", "1234.5"),
    ("−5", "-5"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("50%", "50"),
    (".5", "0.5"),
    ("007", "7"),
    ("18.", "18"),
    ("3/4", "0.75"),
    ("-1/3", "-1/3"),
    ("1 1/2", "1.5"),
    (r"\frac{2}{6}", "1/3"),
    (r"1\dfrac{1}{2}", "1.5"),
    ("1.5e3", "1500"),
    (r"2 \times 10^{-3}", "0.002"),
    ("3,4", None),
    ("5/0", None),
    ("four", None),
    ("7" * 5000, None),
]


@pytest.mark.parametrize(("written", "canonical"), NUMBERS)
def test_number_normalisation(written: str, canonical: str | None) -> None:
    assert NUMBER.normalise(written) == canonical


def test_number_comparison_is_exact() -> None:
    pairs = [("0.333333", "1/3"), ("0.1e1", "1"), ("72", "72.00"), ("12345678901234567890", "12345678901234567891")]
    assert NUMBER.matches(pairs) == [False, True, True, False]
    assert NUMBER.matches([("four", "four"), ("four", "4"), ("7" * 5000, "7" * 5000)]) == [True, False, True]


FRACTIONS = st.fractions(max_denominator=10**6).filter(lambda f: abs(f) < 10**12)


@given(FRACTIONS)
def test_number_formats_round_trip(value: Fraction) -> None:
    written = [str(value), f"{value.numerator}/{value.denominator}"]
    if value.denominator == 1:
        written += [f"{value.numerator:,}", f"{value.numerator}.0", f"${value.numerator:,}.00", f"{value.numerator} km"]
    canonical = NUMBER.normalise(str(value))
    assert canonical is not None
    assert Fraction(canonical) == value
    assert {NUMBER.normalise(text) for text in written} == {canonical}
    assert {NUMBER.extract("", f"Final answer: {text}.") for text in written} == set(written) - {
        f"{value.numerator} km"
    }


@given(st.text(alphabet="0123456789.,-/$%e \\{}frac+x^", max_size=30) | st.text(max_size=30))
@settings(max_examples=300)
def test_normalise_is_idempotent_and_answers_equal_themselves(text: str) -> None:
    for checker in (NUMBER, LATEX):
        once = checker.normalise(text)
        assert once is None or checker.normalise(once) == once
    assert NUMBER.matches([(text, text)]) == [True]
    if LATEX.normalise(text):
        assert LATEX.matches([(text, text)]) == [True]


@given(st.text(alphabet="0123456789.$\\boxed{}[]()= \nanswer is:#A-,/", max_size=80), st.integers(0, 80))
@settings(max_examples=300)
def test_extraction_takes_any_text_and_reads_on_from_the_prefill(text: str, cut: int) -> None:
    for checker in (NUMBER, LATEX):
        found = checker.extract(text[:cut], text[cut:])
        assert found is None or (found and found == found.strip())
        assert checker.extract(text, "") is None


SLOW = [
    "\\boxed{",
    "$",
    "\\(",
    "\\[1",
    "answer to ",
    "answer is ",
    "Final answer: ",
    "1,",
    "7",
    "-",
    "\n",
    " ",
    "Q:",
    ".",
]


@pytest.mark.parametrize("piece", SLOW)
def test_extraction_is_fast_on_repetitive_texts(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    started = time.process_time()
    for checker in (NUMBER, LATEX):
        extracted = checker.extract("", text)
        if extracted is not None:
            checker.normalise(extracted)
    assert time.process_time() - started < 2.0


LATEX_PAIRS = [
    # extracted, gold, equal
    (r"\dfrac{1}{2}", r"\frac12", True),
    ("0.5", r"\frac{1}{2}", True),
    ("x = 5", "5", True),
    (r"2(k+1)", "2k+2", True),
    (r"\{2, 1\}", "1,2", True),
    ("(1,2)", "(2,1)", False),
    (r"10\,000", "10{,}000", True),
    ("3,250", "3250", True),
    ("3250", "3251", False),
    (r"\text{Evelyn}", "Evelyn", True),
    (r"\$18.90", "18.90", True),
    (r"45^\circ", "45", True),
    (r"8\sqrt{3}", r"8\sqrt{3} \text { square inches}", True),
    ("36%", r"36\%", True),
    ("36", r"36\%", True),
    ("0.36", r"36\%", True),
    ("37", r"36\%", False),
    ("1 1/2", r"\frac{3}{2}", True),
    ("10 weeks", "10", True),
    ("", "5", False),
    (r"\frac{1}{", "5", False),
]


@pytest.fixture(scope="module")
def latex():
    with LatexChecker(workers=2) as checker:
        yield checker


def test_latex_comparison(latex: LatexChecker) -> None:
    settled: list[int] = []
    found = latex.matches([(a, b) for a, b, _ in LATEX_PAIRS], settled.append)
    assert dict(zip(LATEX_PAIRS, found, strict=True)) == {pair: pair[2] for pair in LATEX_PAIRS}
    assert sum(settled) == len(LATEX_PAIRS)


def test_nothing_of_an_answer_is_executed(latex: LatexChecker, tmp_path: Path) -> None:
    target = tmp_path / "made"
    code = f"__import__('pathlib').Path('{target}').touch()"
    pairs = [(code, "8191"), (f"${code}$", "8191"), (f"8191 + {code}", "8191")]  # a number that no path ends with
    assert latex.matches(pairs) == [False, False, False]
    assert not target.exists()


HANGS = "9^{9^{9^{9^{9}}}} + \\sqrt{7}"
"""What math-verify computes for ever, in one operation that its own time-out does not interrupt."""


def test_a_hanging_comparison_costs_its_time_out_once_and_only_itself() -> None:
    with LatexChecker(workers=1, timeout_s=1.0) as checker:
        checker.matches([("\\frac{1}{2}", "x")])  # the worker is up
        started = time.monotonic()
        found = checker.matches([(HANGS, "5"), ("\\frac{2}{4}", "\\frac{1}{2}"), (HANGS, "5"), ("x", "x + 1")])
    assert found == [None, True, None, False]
    assert time.monotonic() - started < 30.0


def test_a_worker_killed_from_outside_leaves_its_pair_undecided() -> None:
    with LatexChecker(workers=1, timeout_s=20.0) as checker:
        checker.matches([("\\frac{1}{2}", "x")])
        worker = checker.pool.workers[0]

        def kill_when_busy() -> None:
            while worker.task is None:
                time.sleep(0.001)
            os.kill(worker.process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_busy)
        killer.start()
        assert checker.matches([(HANGS, "5"), ("\\frac{2}{4}", "\\frac{1}{2}")]) == [None, True]
        killer.join()


def test_a_worker_that_died_idle_costs_nothing() -> None:
    with LatexChecker(workers=1) as checker:
        checker.matches([("\\frac{1}{2}", "x")])
        os.kill(checker.pool.workers[0].process.pid, signal.SIGKILL)
        checker.pool.workers[0].process.wait()
        assert checker.matches([("\\frac{2}{4}", "\\frac{1}{2}")]) == [True]


def test_answers_too_long_to_parse_are_undecided_unless_they_are_the_gold() -> None:
    long = "+".join(["x"] * 1000)
    assert LATEX.matches([(long, "5"), (long, long)]) == [None, True]


def test_a_worker_that_does_not_start_is_one_clear_error(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text("import no_such_module")
    pool = WorkerPool(program, 1, 1.0)
    with pytest.raises(OSError, match=r"broken\.py does not start: ModuleNotFoundError.*no_such_module"):
        pool.run([("a", "b")], lambda _: None)
    pool.close()


def test_workers_end_with_the_checker() -> None:
    with LatexChecker(workers=1) as checker:
        checker.matches([("\\frac{1}{2}", "x")])
        process = checker.pool.workers[0].process
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("value", ["0", "many", "-1"])
def test_worker_count_names_the_mistake(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_WORKERS", value)
    with pytest.raises(ValueError, match="PAIRWRIGHT_WORKERS"):
        worker_count()


def test_the_checker_follows_the_answer_kind_unless_it_is_named() -> None:
    assert [checker_for("number", "auto"), checker_for("latex", "auto"), checker_for("choice", "latex")] == [
        "number",
        "latex",
        "latex",
    ]
    assert [checker_for(kind, "auto") for kind in ("choice", "program")] == ["choice", "program"]
    with pytest.raises(ValueError, match="kind 'essay'"):
        checker_for("essay", "auto")
    with pytest.raises(ValueError, match="no checker 'nubmer'"):
        get_checker("nubmer")


def test_importing_checkers_imports_nothing_heavy() -> None:
    heavy = "{'duckdb', 'sympy', 'math_verify', 'torch', 'dvc'}"
    code = f"import sys; from builders.checkers import latex, verdicts; print({heavy} & set(sys.modules) or 'none')"
    root = Path(__file__).parent.parent
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "none"


def test_verdicts_of_texts_in_memory() -> None:
    texts = ["\nA: 5", "\nA: 6", "none", " = 7"]
    assert verdicts("number", texts, ["", "", "", "3 + 4"], ["5", "5", "5", "7"]) == [
        "correct",
        "wrong",
        "no_answer",
        "correct",
    ]
