"""The `choice` checker: keys as completions state them, options written out, digit keys."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.checkers import Checker, extract, get_checker
from builders.checkers.choice import ChoiceChecker

CHOICE = ChoiceChecker()
WEATHER = ["fog", "rain", "drought", "tornado"]
KEYS = [
    # text, key
    ("Final answer: (B)", "B"),
    ("The answer is B", "B"),
    ("The answer is B.", "B"),
    ("the answer is (c)", "c"),
    ("The answer is: b", "b"),
    ("Therefore, the answer is: b", "b"),
    ("answer: e", "e"),
    ("#### c", "c"),
    (r"\boxed{C}", "C"),
    (r"so $\boxed{\text{(D)}}$.", "D"),
    (r"\boxed{\textbf{(E)}\ 5}", "E"),
    ("Final answer: B) rain", "B"),
    ("Final answer: B. rain", "B"),
    ("**Final answer:** **C**", "C"),
    ("Final answer: **(B) rain**", "B"),
    ("Final answer:\n(B)", "B"),
    ("Final answer: option D", "D"),
    ("The correct answer is option (D) because (A) is wrong.", "D"),
    ("The answer is the option (C).", "C"),
    ("The answer is B because rain is water.", "B"),
    ("So it is 150. Among all the answer choices, the best option is C)150.", "C"),
    ("Let P(A/B) be 0.2. Among all the answer choices, the best option is A) 0.2.", "A"),
    ("The answer is not (A). The answer is (B).", "B"),
    ("Final answer: (B), not (A)", "B"),
    ("The answer: D, it doesn't make sense for it to be A or B", "D"),
    ("It's not A because it doesn't make sense, therefore I think it's B", "B"),
    ("B is the correct option, A is not", "B"),
    ("B", "B"),
    ("B) rain", "B"),
    ("(B) rain falls", "B"),
    ("B\nIt is water.\n1. It falls.\n2. It is wet.", "B"),
    ("(A) is wrong. (B) is right.\nSo B", "B"),
    ("(A) Fog is no water.\n(B) Rain is water.\n\nSo it is (B).", "B"),
    ("A. wrong\nB. wrong\nC. right", "C"),
    ("1. Rain is water.\n2. Fog is air.\nSo (B)", "B"),
    ("(A) is wrong.\n(B) is right.\nThat is it.", None),
    ("Final answer: Z", "Z"),
    ("Final answer: (3)", "3"),
    ("B不是 A", "B"),
    ("Final answer: (C)\n\nQuestion: What else?\nFinal answer: (A)", "C"),
    ("Final answer: A plant", None),
    ("Final answer: drought", None),
    ("Final answer: (A) or (B)", None),
    ("Final answer: A and C", None),
    ("1: ", "1"),
    ("1:\n2: x", "2"),
    ("A dog barks.", None),
    ("I do not know", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "key"), KEYS)
def test_stated_keys(text: str, key: str | None) -> None:
    assert CHOICE.extract("", text) == key


WRITTEN_OUT = [
    # text, options, key
    ("Final answer: drought", WEATHER, "C"),
    ("Final answer: Rain.", WEATHER, "B"),
    ("Final answer: A plant", ["A plant", "A stone"], "A"),
    ("It is clearly rain.\nSo the answer is rain", WEATHER, "B"),
    ("The answer is the rain in spain", WEATHER, "B"),
    ("Final answer: rain or fog", WEATHER, None),
    ("Final answer: hail", WEATHER, None),
    ("Final answer: (E)", WEATHER, None),
    ("Final answer: 5", ["5", "5.", "6"], None),
    ("Final answer: 3", ["1", "3", "5"], "B"),
    ("Final answer: 3", ["red", "green", "blue"], "3"),
    ("Final answer: 4", ["red", "green", "blue"], None),
    ("Final answer: heat wave in June", ["heat", "heat wave"], "B"),
    ("(C) drought", WEATHER, "C"),
]


@pytest.mark.parametrize(("text", "options", "key"), WRITTEN_OUT)
def test_options_written_out(text: str, options: list[str], key: str | None) -> None:
    assert extract(CHOICE, "", text, options) == key


def test_what_the_prefill_states_is_not_the_models() -> None:
    assert CHOICE.extract("Final answer: (B)", "") is None
    assert CHOICE.extract("Final answer: (", "B)") == "B"
    assert CHOICE.extract("I think (A). Final answer:", " (B)") == "B"


PAIRS = [
    # extracted, gold, equal
    ("b", "B", True),
    ("B", "C", False),
    ("(b)", "B", True),
    ("C", "3", True),
    ("C", "2", False),
    ("3", "3", True),
    ("3", "C", None),  # a position or a value
]


def test_comparison() -> None:
    assert CHOICE.matches([(a, b) for a, b, _ in PAIRS]) == [equal for *_, equal in PAIRS]
    assert [CHOICE.normalise(key) for key in ("b", "(C)", "3", " ")] == ["B", "C", "3", None]


@given(st.integers(3, 26), st.data())
@settings(max_examples=60)
def test_every_key_of_3_to_26_options_is_read_in_every_form(options: int, data: st.DataObject) -> None:
    letter = data.draw(st.sampled_from(string.ascii_uppercase[:options]))
    form = data.draw(st.sampled_from(["({})", "{}", "{}.", "option {}", "**{}**", "({}) because", r"\boxed{{{}}}"]))
    choices = [f"option number {i}" for i in range(options)]
    assert extract(CHOICE, "", "Final answer: " + form.format(letter), choices) == letter


@given(st.text(alphabet="ABc()[]{}\\.,:\n fotxinal answer:is#13不", max_size=80), st.integers(0, 80))
@settings(max_examples=200)
def test_any_text_is_read(text: str, cut: int) -> None:
    found = CHOICE.extract(text[:cut], text[cut:])
    assert found is None or CHOICE.normalise(found) is not None
    assert extract(CHOICE, text, "", WEATHER) is None


@pytest.mark.parametrize("piece", ["(A) ", "not A ", "A ", "option ", "answer is ", "\\boxed{A", "A)", "1", " "])
def test_extraction_is_linear(piece: str) -> None:
    import time

    started = time.process_time()
    CHOICE.extract("", piece * (60_000 // len(piece)))
    assert time.process_time() - started < 2.0


def test_checkers_that_read_no_options_are_not_given_any() -> None:
    checker: Checker = get_checker("number")
    assert extract(checker, "", "Final answer: 5", ["5"]) == "5"
