"""The rule labeler: which equations it finds in a text, whether they hold, and what labels follow."""

import random
import re
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.arithmetic import generate
from builders.equations import equations
from builders.equations.usual import holds_simply
from builders.rule_labels import LABELER, VERSION, label, row
from builders.step_label_rows import Candidate
from builders.steps import split_steps

TRUE = [
    "The cups cost 3 * 3 = 9.", "3 + 4 = 7", "7-10=-3", "12 / 4 = 3", "3 apples + 4 apples = 7 apples",
    "$5 x 3 = $15", "5 × 3 = 15", "6 ÷ 2 = 3", "5 · 3 = 15", "5 − 3 = 2", "1,200 + 300 = 1,500", ".5 + .25 = .75",
    "-9 + 3 = -6", "7 - -7 * 4 = 35", "(3 + 4) * 2 = 14", "2(3 + 4) = 14", "[3 + 4] * 2 = 14", "2^3 = 8", "2**3 = 8",
    "-2^2 + 5 = 1", "10 / 3 = 3.33", "2 / 3 = 0.67", "2/3 = 0.66", "16.875 + 0.2 = 17", "5.625 x 3 = 16.875",
    "1 / 4 = 25%", "25% of 80 = 20", "1/2 of 20 = 10", "20% * 50 = 10", "100% - 20% = 80%", "5 / 20 * 100 = 25%",
    "3 times 4 = 12", "3 + 4 equals 7", "3 plus 4 is equal to 7", "The sum of 3 + 4 = 7",
    "A = (-9 - 5 - 0) = (-9 - 5) = -14", "4 * 4 = <<4*4=16>>16 minutes", "x = 3 + 4 = 7", "**3 + 4 = 7**",
    r"\( 3 \times 4 = 12 \)", r"$\frac{1}{2} \cdot 4 = 2$", r"\[ \boxed{3 + 4} = 7 \]",
    "12 inches/foot * 3 feet = 36 inches", "$5/hour * 3 hours = $15", "2 $12 + 1 = 13", "3 + 4\n= 7", "- 3 * 4 = 12",
    "1. 3 * 4 = 12", "(a) 3 * 4 = 12", "So (she has 3 + 4 = 7) left", "1 1/2 + 2 = 3 1/2",
    "60 * 2 = 120 minutes = 2 hours", "$12 (adult tickets) + $3 (children) = $15", "12 - 3 = 9!", "3 + 4 ≈ 7",
    "Hugo = 3 + 4 = 7", "4 oxygen atoms is -2 x 4 = -8", "0.1 + 0.2 = 0.3", "9" * 30 + " + 1 = 1" + "0" * 30,
]  # fmt: skip
FALSE = {
    "The cups cost 3 * 3 = 8.": ("3 * 3", 9), "3 apples + 4 apples = 8 apples": ("3 apples + 4", 7),
    "25% of 80 = 21": ("25% of 80", 20), "10 / 3 = 3.4": ("10 / 3", Fraction(10, 3)),
    "2/3 = 0.68": ("2/3", Fraction(2, 3)), "1,200 + 300 = 1,600": ("1,200 + 300", 1500), "3 + 4 = 7 = 8": ("7", 7),
    "3 + 4 = 8 = 7": ("3 + 4", 7), "3 + 4 = 7 and 5 + 2 = 8": ("5 + 2", 7), "-14 + 1258 = 1243": ("-14 + 1258", 1244),
    "2^3 = 9": ("2^3", 8), "(3 + 4) * 2 = 15": ("(3 + 4) * 2", 14), "4 * 4 = <<4*4=17>>17": ("4*4", 16),
    "4 * 4 = <<4*4=16>>17": ("4 * 4", 16),
    r"\( \frac{1}{2} + \frac{1}{4} = \frac{2}{6} \)": ("((1)/(2)) + ((1)/(4))", Fraction(3, 4)),
    "100% - 60% = 50%": ("100% - 60%", Fraction(2, 5)), "10 - 7 = 4 apples": ("10 - 7", 3),
    "250 x 2 = 2000": ("250 x 2", 500), "7 = 3 + 5": ("7", 7),
}  # fmt: skip
UNSAID = [
    "x = 5", "2x + 3 = 7", "x + 3 * 2 = 12", "f(3) + 2 = 9", "sin(30) + 1 = 2", "1 foot = 12 inches", "A = 5",
    "3 + y = 8", "the 3rd + 4 = 8", "10:30 + 2 = 12:30", "a ratio of 5:3 = 2", "3-5 days", "12/25/2020",
    "on 2020-01-02 = 3", "3 + 4 != 8", "3 + 4 >= 8", "3 + 4 <= 8", "3 + 4 == 8", "1/0 = 5", "0/0 = 1",
    "3 / (2 - 2) = 1", "3 + = 4", "= 4", "3 + 4 =", "3 + 4 = ?", "5! = 121", "√16 + 3 = 8", "log_2 8 + 1 = 5",
    "5 apples, so 3 = 4", "3 3 + 4 = 8 9", "16,0000/10 = 16000", "3 + (4 = 8", "9" * 60 + " + 1 = 3", "2^99999 = 4",
    "9^64^64 = 4", "(" * 100 + "3" + ")" * 100 + " + 1 = 5", "x2 + 3 = 9", "Ni(NO3)2 + 1 = 9", "3 % 2 = 5 mod 7",
    "2 + 2 = 5x", "5 cm^2 + 1 = 9", "three + 4 = 8", "3 + 4 → 8", "Step 1", "",
]  # fmt: skip
DOUBTFUL = [
    "half of 20 + 3 = 13", "60 * 3 = 3 hours", "50 cents * 4 = $2", "5 * 3 = 15,000 (in thousands)",
    "8 + 8 = 6 (modulo 10)", "3 + 4 ≈ 7.3", "100 + 10% = 110", "expenses in 2014 = 20 * 3",
    "14, 400 / 80 and 5 + 2 2 = 180", "25 / 1/3 = 75", "Monday 12 - 5 + 4 = 9", "17 / 3 = 5 boxes and 2 are left",
    "3.33 * 3 = 10.00", "343/4(131) = 0.65", "3 + 4 = 7 - 2 = 5", "5m + 3 = 9",
]  # fmt: skip


@pytest.mark.parametrize("text", TRUE)
def test_true_equations_are_found(text: str) -> None:
    found = list(equations(text))
    assert found
    assert [str(equation) for equation in found if not equation.holds] == []
    assert label([text])[0] == ["correct"]


@pytest.mark.parametrize(("text", "expected"), FALSE.items(), ids=FALSE)
def test_false_equations_are_found_with_their_values(text: str, expected: tuple[str, Fraction]) -> None:
    labels, wrong = label([text])
    assert labels == ["incorrect"]
    assert wrong is not None
    assert (wrong.left, wrong.value) == expected
    assert not holds_simply(text)


@pytest.mark.parametrize("text", UNSAID, ids=lambda text: text[:30])
def test_what_is_no_arithmetic_is_left_alone(text: str) -> None:
    assert label([text]) == (["neutral"], None)


@pytest.mark.parametrize("text", DOUBTFUL)
def test_what_may_mean_something_else_is_no_error(text: str) -> None:
    assert "incorrect" not in label([text])[0]


NUMBERS = st.integers(0, 10**6)


@given(
    NUMBERS, st.sampled_from("+-*"), NUMBERS, st.integers(-3, 3), st.sampled_from(["", "$"]), st.sampled_from(["", " "])
)
def test_whole_numbers_are_computed_exactly(a: int, sign: str, b: int, off: int, money: str, space: str) -> None:
    value = a + b if sign == "+" else a - b if sign == "-" else a * b
    text = f"They pay {money}{a}{space}{sign}{space}{money}{b}{space}={space}{money}{value + off}."
    labels, wrong = label([text])
    assert labels == ["correct" if off == 0 else "incorrect"]
    assert wrong is None or wrong.value == value


def decimal(value: Fraction, decimals: int) -> str:
    digits = str(int(value * 10**decimals)).rjust(decimals + 1, "0")
    return digits[: len(digits) - decimals] + ("." + digits[len(digits) - decimals :] if decimals else "")


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(0, 6))
def test_a_result_may_be_rounded_to_its_digits(a: int, b: int, decimals: int) -> None:
    exact = Fraction(a, b)
    rounded = round(exact, decimals)
    digits = decimal(rounded, decimals)
    assert label([f"That is {a} / {b} = {digits}"])[0] == ["correct"]
    beyond = decimal(rounded + Fraction(2, 10**decimals), decimals)
    assert label([f"That is {a} / {b} = {beyond}"])[0] == ["incorrect"]


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from([" + ", " - ", " * "]), inner).map(lambda e: f"({''.join(e)})"),
    max_leaves=8,
)


@settings(max_examples=60)
@given(EXPRESSIONS, st.sampled_from([0, 1]))
def test_brackets_are_computed_as_everywhere(expression: str, off: int) -> None:
    value = eval(expression)  # of our own making: digits, signs and brackets
    text = f"{expression} + 1 = {value + 1 + off}"
    assert label([text])[0] == ["incorrect" if off else "correct"]


@pytest.mark.parametrize("seed", range(4))
def test_every_gold_chain_is_correct_and_a_changed_number_is_found_at_its_step(seed: int) -> None:
    generator = random.Random(seed)
    for problem in generate(seed, (1, 8), 150):
        steps = re.split(r"(?<=\.) ", problem.chain)
        assert label(steps) == (["correct"] * problem.steps, None)
        place = generator.randrange(len(steps))
        wrong = generator.choice(list(re.finditer(r"\d+", steps[place])))
        other = int(wrong[0]) + generator.choice([1, 2, 5])
        changed = steps[place][: wrong.start()] + str(other) + steps[place][wrong.end() :]
        if f"{other} * 0" in changed or f"0 * {other}" in changed:
            continue
        labels, equation = label([*steps[:place], changed, *steps[place + 1 :]])
        assert labels == ["correct"] * place + ["incorrect"]
        assert equation is not None
        assert str(equation) in changed


PIECES = st.sampled_from([
    "3", "4", "12", "0", "1,000", "2.5", "50%", " + ", " - ", " * ", "/", "^", "=", " = ", "(", ")", "x", " apples ",
    "$", ".", ", ", "<<", ">>", "\\frac{1}{2}", "**", "\n", "≈", "of ", "-", "and ", "!", ":", "é",
])  # fmt: skip


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=20).map("".join))
def test_the_quick_way_says_nothing_that_the_whole_way_denies(text: str) -> None:
    if holds_simply(text):
        found = [equation.holds for equation in equations(text)]
        assert False not in found
        assert True in found


@settings(max_examples=200)
@given(st.text(max_size=80))
def test_any_text_has_a_label(text: str) -> None:
    assert len(label([text])[0]) == 1


@pytest.mark.parametrize(
    "text",
    ["3 + " * 20_000 + "3 = 4", "=" * 50_000, "3 = " * 12_000, "(" * 50_000 + " = 3", "9" * 50_000 + " = 3",
     "2^" * 20_000 + "2 = 3", "<<3=" * 10_000, "\\frac{" * 8_000 + "= 3", "3 apples " * 5_000 + "= 4",
     "1,000," * 8_000 + "=", "3*" * 20_000 + "3=4", "a " * 20_000 + "3 + 4 = 7", "3 " * 20_000 + "= 4",
     "1:" * 20_000 + "=", "**" * 20_000 + "=", ("99999999 * " * 3_000) + "9 = 1", "-" * 40_000 + "3 = 3",
     "3 + 4 = 7 " * 2_000, "$" * 40_000 + "3 + 4 = 8"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    label([text])
    assert time.process_time() - started < 2


def test_labels_end_with_the_first_incorrect_one() -> None:
    labels, wrong = label(["Let us see.", "3 + 4 = 7", "7 * 2 = 15", "15 + 1 = 17", "done"])
    assert labels == ["neutral", "correct", "incorrect"]
    assert str(wrong) == "7 * 2 = 15"


def candidate(text: str) -> Candidate:
    steps = tuple(split_steps("", text))
    return Candidate("0" * 25 + "-abcdef01-0000", "0" * 16, "made", "?", None, "7", None, "", text, steps)


def test_a_row_names_the_equation_and_its_value() -> None:
    found = row(candidate("Step 1: 3 + 4 = 7\nStep 2: 10 / 4 = 2.7\nStep 3: 1 + 1 = 3"), neutral_is_error=False)
    assert (found.verdict, found.first_error, found.labels) == ("error", 1, ["correct", "incorrect"])
    assert found.rationale == "10 / 4 is 2.5, not 2.7"
    assert (found.kind, found.labeler, found.labeler_version, found.repeat) == ("rule", LABELER, VERSION, 0)
    assert (found.model, found.template, found.ledger_key, found.labeled_at, found.correction) == (None,) * 5


@pytest.mark.parametrize(
    ("text", "said"),
    [("1 / 3 = 0.4", "1 / 3 is 1/3, not 0.4"), ("3 * 4 = 13", "3 * 4 is 12, not 13"),
     ("9^40 = 3", f"9^40 is {9**40}, not 3"), ("1 / 7^60 = 3", "1 / 7^60 is about 1.96842e-51, not 3")],
)  # fmt: skip
def test_values_are_written_so_that_people_can_read_them(text: str, said: str) -> None:
    assert row(candidate(text), neutral_is_error=False).rationale == said


def test_no_equation_is_no_error() -> None:
    found = row(candidate("Step 1: Let us see.\nStep 2: Then x = 5."), neutral_is_error=False)
    assert (found.verdict, found.first_error, found.labels) == ("no_error", None, ["neutral", "neutral"])
