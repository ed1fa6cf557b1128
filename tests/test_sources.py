"""Rows of published data sets in their own shapes become records; what has no answer that can be used says why."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.sources import SOURCES, Record
from builders.sources.base import number_text, plain_text
from builders.sources.mathqa import option_value
from builders.sources.options import Options, read_options, unlabelled


def parsed(source: str, row: dict[str, Any], where: str = "row 1") -> Record:
    return SOURCES[source].parse(row, where)


@pytest.mark.parametrize("source", SOURCES)
def test_a_row_of_another_shape_names_the_columns_that_it_has(source: str) -> None:
    with pytest.raises(ValueError, match=r"f line 3: no column '.*' \(have 'gold', 'texts'\); is this the right"):
        parsed(source, {"gold": "1", "texts": "t"}, "f line 3")


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_licences_are_stated(source: Any) -> None:
    expected = {
        "arc": "CC-BY-SA-4.0", "mathqa": "Apache-2.0", "mathqa_numeric": "Apache-2.0", "aqua": "Apache-2.0",
        "mmiqc": "Apache-2.0", "reft": "Apache-2.0", "aime": "unknown", "olympicarena": "CC-BY-NC-SA-4.0",
    }  # fmt: skip
    assert source.licence == expected.get(source.name, "MIT")


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "texts", "labels"),
    [
        ("a ) 38 , b ) 27.675 , c ) data inadequate", ["38", "27.675", "data inadequate"], "abc"),
        ("a ) 1 , 2 , b ) 2 , 1", ["1 , 2", "2 , 1"], "ab"),
        ("a ) rs . 1,560 , b ) rs . 2 , 000 , c ) 3", ["rs . 1,560", "rs . 2 , 000", "3"], "abc"),
        ("a ) 10 a . m . , b ) 11 p . m .", ["10 a . m .", "11 p . m ."], "ab"),
        ("a ) , b ) 4", ["", "4"], "ab"),
        ("a ) a ) 4 inches , b ) b ) 6 inches", ["4 inches", "6 inches"], "ab"),
        ("a ) 124 % , b ) b ) 120 %", ["124 %", "120 %"], "ab"),
        ("['a ) 48 - 8 π', \"b ) it ' s 4\"]", ["48 - 8 π", "it ' s 4"], "AB"),
        ("A) 3 B) 4\nC) 5", ["3", "4", "5"], "abc"),
        ("(A) red, dark (B) 2.5 (C) i.e. none", ["red, dark", "2.5", "i.e. none"], "abc"),
        ("A. one\nB. two. Really\nC. three", ["one", "two. Really", "three"], "abc"),
        ("1. 2.5 2. 3", ["2.5", "3"], "12"),
        ("1) 1:2 2) 2:1", ["1:2", "2:1"], "12"),
        ('["x", "y"]', ["x", "y"], "AB"),
        (["A)21", "B)21.5"], ["21", "21.5"], "AB"),
        (["A) 1", "2"], ["A) 1", "2"], "AB"),
        (["1.5", "2.5", "3.5"], ["1.5", "2.5", "3.5"], "ABC"),
        ([1, 2.0, "3"], ["1", "2", "3"], "ABC"),
        ([{"label": "1", "text": "x"}, {"label": "2", "text": "y"}], ["x", "y"], "12"),
        ({"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, ["x", "y", "z"], "ABC"),
        ({"A": "x", "B": 2, "C": None}, ["x", "2"], "AB"),
    ],
)
def test_options_in_all_their_forms(value: Any, texts: list[str], labels: str) -> None:
    assert read_options(value) == Options(texts, list(labels))


@pytest.mark.parametrize(
    "value",
    ["", "no options here", "a ) only one", "a ) 1 , b ) 2 , d ) 4 , e ) 5", "first a ) 1 , b ) 2", "[1, 2", "[f(x)]",
     ["one"], [], ["x"] * 27, [None, "x"], {"text": ["x", "y"], "label": ["A"]}, {"A": "x"}, 7, None,
     [{"label": "A", "text": "x"}, {"label": "A", "text": "y"}],
     [{"label": "A", "text": "x"}, {"label": "B", "text": None}],
     "[{[]: 1}, 2]", {"text": None, "label": None}, {"text": ["x", None], "label": ["A", "B"]}, [1.0, float("nan")]],
)  # fmt: skip
def test_what_holds_no_options(value: Any) -> None:
    assert read_options(value) is None


@pytest.mark.parametrize(
    ("key", "letter"),
    [("A", "A"), ("b", "B"), ("(C)", "C"), ("C.", "C"), (" B ) ", "B"), ("4", "A"), ("5", None), ("E", None),
     ("", None), ("A or B", None), ("same", None)],
)  # fmt: skip
def test_keys_are_labels_or_whole_texts(key: str, letter: str | None) -> None:
    assert Options(["4", "same", "same"], ["A", "B", "C"]).letter(key) == letter


def test_digits_are_labels_before_they_are_texts() -> None:
    assert Options(["2", "1"], ["1", "2"]).letter("1") == "A"


OPTION = st.text("xyz 0123456789.,/%-", min_size=1).map(str.strip).filter(bool)


@given(st.lists(OPTION, min_size=2, max_size=9))
def test_labelled_options_are_read_back(options: list[str]) -> None:
    """Texts without labels of their own survive every form."""
    letters = "abcdefghi"[: len(options)]
    stripped = [option.strip(" ,") for option in options]
    one_line = " , ".join(f"{label} ) {text}" for label, text in zip(letters, options, strict=True))
    assert read_options(one_line) == Options(stripped, list(letters))
    assert unlabelled([f"({label.upper()}) {text}" for label, text in zip(letters, options, strict=True)]) == options


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "text"),
    [("8.0", "8"), ("-8.00", "-8"), ("2.5", "2.5"), ("80", "80"), ("1,080.0", "1,080.0"), ("8.", "8."), ("1e3", "1e3")],
)
def test_number_text(written: str, text: str) -> None:
    assert number_text(written) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.0, "8"), (0.1, "0.1"), (7, "7"), (" a ", "a"), (" ", None), (None, None), (float("nan"), None)],
)
def test_plain_text(value: object, text: str | None) -> None:
    assert plain_text(value, "answer", "row 1") == text


@pytest.mark.parametrize("value", [True, [1], {"a": 1}])
def test_what_is_no_plain_text(value: object) -> None:
    with pytest.raises(ValueError, match="row 1: column 'answer' must be text or a number, not"):
        plain_text(value, "answer", "row 1")


@pytest.mark.parametrize(
    ("option", "value"),
    [("12", "12"), ("27.675", "27.675"), (".5", ".5"), ("13,400", "13400"), ("- 6", "-6"), ("26 %", "26"),
     ("rs . 98.56", "98.56"), ("$ 1,354", "1354"), ("24 days .", "24"), ("165 °", "165"), ("576 cm 2", "576"),
     ("1200 m ^ 2", "1200"), ("36 km / hr", "36"), ("q = 35", "35"), ("331 times", "331"), ("1 / 4", "0.25"),
     ("2 1 / 2 days", "2.5"), ("15 / 3", "5"), ("- 1 / 2", "-0.5"), ("12 g", "12")],
)  # fmt: skip
def test_options_that_are_numbers(option: str, value: str) -> None:
    assert option_value(option) == value


@pytest.mark.parametrize(
    "option",
    ["none of these", "", "3 : 2", "4 , 2", "2 and 4", "48 - 8 π", "4 π", "√ 5", "4 √ 3", "10 ^ 5", "3 ab / 11", "5 x",
     "x + 2", "1 / 0", "2 3", "1 hour 40 min", "78 + ( 4 / 7 ) %"],
)  # fmt: skip
def test_options_that_are_no_number(option: str) -> None:
    assert option_value(option) is None


# --- one row of each source --------------------------------------------------------------------------------------

LISTED = [{"label": label, "text": f"option {label}"} for label in "1234"]


@pytest.mark.parametrize(
    ("row", "answer", "options"),
    [
        ({"choices": LISTED, "answerKey": "3"}, "C", 4),
        ({"choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "B"}, "B", 3),
        ({"choices": {"text": list("vwxyz"), "label": list("ABCDE")}, "answerKey": "E"}, "E", 5),
    ],
)
def test_arc(row: dict, answer: str, options: int) -> None:
    record = parsed("arc", {"id": "1", "question": "Why?"} | row, "allenai/ai2_arc/ARC-Easy/train.parquet row 1")
    assert (record.question, record.answer, len(record.choices or []), record.level) == (
        "Why?",
        answer,
        options,
        "easy",
    )


@pytest.mark.parametrize("where", ["ARC-Challenge-Dev.jsonl line 1", "data/arc_challenge/dev.jsonl.gz line 1"])
def test_arc_in_its_official_files(where: str) -> None:
    row = {"id": "1", "question": {"stem": "Why?", "choices": LISTED}, "answerKey": "1"}
    record = parsed("arc", row, where)
    assert (record.question, record.answer, record.level) == ("Why?", "A", "challenge")


def test_arc_without_a_usable_key() -> None:
    row = {"question": "Why?", "choices": LISTED, "answerKey": "5"}
    assert parsed("arc", row)[2:] == (None, None, [c["text"] for c in LISTED], None, None, None, None,
                                      "'5' names none of its options", None)  # fmt: skip
    assert parsed("arc", row | {"answerKey": ""}).answer is None


@pytest.mark.parametrize(("stated", "answer"), [(8.0, "8"), (2.5, "2.5"), ("145.0", "145"), (7, "7"), (None, None)])
def test_svamp(stated: object, answer: str | None) -> None:
    record = parsed("svamp", {"Body": "He has 8. ", "Question": "How many?", "Answer": stated, "Type": "Addition"})
    assert (record.question, record.answer, record.subject) == ("He has 8. How many?", answer, "Addition")


MATHQA = {
    "Problem": "p ?", "Rationale": '"2 + 2 = 4 , answer : b"', "options": "a ) 3 , b ) 4 , c ) none", "correct": "b",
    "category": "gain",
}  # fmt: skip


def test_mathqa() -> None:
    expected = Record("row 1", "p ?", "B", "2 + 2 = 4", ["3", "4", "none"], subject="gain")
    assert parsed("mathqa", MATHQA) == expected
    lower = {"problem": "p ?", "rationale": MATHQA["Rationale"], "type": "gain"}
    assert parsed("mathqa", lower | {k: MATHQA[k] for k in ("options", "correct")}) == expected


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"correct": "e"}, "'e' names none of its options"),
        ({"options": "3 or 4"}, "its options cannot be told apart"),
    ],
)
def test_mathqa_without_an_answer(changes: dict, note: str) -> None:
    for source in ("mathqa", "mathqa_numeric"):
        record = parsed(source, MATHQA | changes)
        assert (record.answer, record.note) == (None, note)


def test_mathqa_numeric() -> None:
    assert parsed("mathqa_numeric", MATHQA) == Record("row 1", "p ?", "4", "2 + 2 = 4", subject="gain")
    none = parsed("mathqa_numeric", MATHQA | {"correct": "c"})
    assert (none.answer, none.choices, none.note) == (None, None, "the correct option 'none' is no number")


@pytest.mark.parametrize(
    ("rationale", "solution"),
    [
        ("x = 4 answer is a .", "x = 4"),
        ("x = 4 . hence , the correct answer is option c", "x = 4 . hence"),
        ("26 years . answer : c", "26 years"),
        ("there are 4 ways to answer all", "there are 4 ways to answer all"),
        ("answer : d", None),
    ],
)
def test_the_letter_is_no_part_of_the_solution(rationale: str, solution: str | None) -> None:
    assert parsed("mathqa", MATHQA | {"Rationale": rationale}).solution == solution


def test_aqua() -> None:
    row = {"question": "q?", "options": ["A)21", "B)21.5", "C)22"], "rationale": "because", "correct": "B"}
    assert parsed("aqua", row) == Record("row 1", "q?", "B", "because", ["21", "21.5", "22"])
    assert parsed("aqua", row | {"correct": "D"}).note == "'D' names none of its options"


@pytest.mark.parametrize(
    ("row", "answer", "solution"),
    [
        ({"ID": "2024-I-1", "Problem": "p", "Solution": "so 204", "Answer": 204}, "204", "so 204"),
        ({"id": "1", "problem": "p", "answer": "033"}, "33", None),
        ({"problem": "p", "answer": r"336^\circ"}, "336", None),
        ({"problem": "p", "answer": "0"}, "0", None),
        ({"problem": "p", "solution": r"\boxed{073}", "url": "u"}, "73", r"\boxed{073}"),
        ({"question": "p", "answer": "588.0"}, "588", None),
    ],
)
def test_aime(row: dict, answer: str, solution: str | None) -> None:
    assert parsed("aime", row) == Record("row 1", "p", answer, solution)


def test_aime_without_a_whole_number() -> None:
    record = parsed("aime", {"problem": "p", "answer": "1.5"})
    assert (record.answer, record.note) == (None, "'1.5' is no whole number from 0 to 999")


ODYSSEY = {
    "question": "Find $n$.\n\t\n\\end{problem}\n\\noindent", "answer": "$x^2-8x+7$. \\\\\n\\noindent",
    "reasoning": "By $A$.", "label": "Algebra", "level": "high school competition",
}  # fmt: skip


@pytest.mark.parametrize("row", [ODYSSEY, {"Problem_1": ODYSSEY}])
def test_odyssey(row: dict) -> None:
    expected = Record("row 1", "Find $n$.", "$x^2-8x+7$", "By $A$.", None, "high school competition", "Algebra")
    assert parsed("odyssey", row) == expected


@pytest.mark.parametrize(
    ("kind", "response", "answer", "solution", "answer_kind"),
    [
        ("GSM_AnsAug", "2+2=4.\n#### 4\nThe answer is: 4", "4", "2+2=4.", "number"),
        ("MATH_AnsAug", r"So $\boxed{\frac12}$. The answer is: \frac12", r"\frac12", r"So $\boxed{\frac12}$.", "latex"),
        ("MATH_SV", "The answer is: no, 3.\nThe answer is: 3", "3", "The answer is: no, 3.", "latex"),
        ("GSM_SV", "I do not know.", None, "I do not know.", "number"),
        ("GSM_SV", "The answer is: ", None, None, "number"),
    ],
)
def test_metamath(kind: str, response: str, answer: str | None, solution: str | None, answer_kind: Any) -> None:
    record = parsed("metamath", {"query": "q?", "response": response, "type": kind, "original_question": "o?"})
    assert record == Record("row 1", "q?", answer, solution, subject=kind, answer_kind=answer_kind)


WISH = 'Please solve the following problem and put your answer at the end with "The answer is: ".'


@pytest.mark.parametrize(
    ("instruction", "output", "expected"),
    [
        (f"{WISH}\n\nHow?", "Thus.\nThe answer is: 5", ("How?", "5", "Thus.")),
        ("How?", r"It is $\boxed{7}$.", ("How?", "7", r"It is $\boxed{7}$.")),
        ("How?", "Hint: think.", ("How?", None, "Hint: think.")),
    ],
)
def test_mmiqc(instruction: str, output: str, expected: tuple) -> None:
    record = parsed("mmiqc", {"instruction": instruction, "output": output, "source": "stackexchange-math"})
    assert (record.question, record.answer, record.solution) == expected
    assert record.subject == "stackexchange-math"


CHAIN = "He has 2.\n\nTherefore, the answer is <203>."
PROGRAM = "def solution():\n    return 203"


@pytest.mark.parametrize(
    ("chain", "solution", "program"), [(CHAIN, "He has 2.", None), (PROGRAM, None, PROGRAM), (None, None, None)]
)
def test_reft(chain: str | None, solution: str | None, program: str | None) -> None:
    row = {"item_id": "svamp_0", "question": "q?", "answer_value": "203.0"} | ({"answer_cot": chain} if chain else {})
    expected = Record("row 1", "q?", "203", solution, None, None, "svamp", program, "number")
    assert parsed("reft", row) == expected


def test_reft_options_are_taken_off_the_question() -> None:
    row = {"item_id": "mathqa_0", "question": "what ?\na ) 38 , b ) 30", "answer_value": "b"}
    assert parsed("reft", row) == Record("row 1", "what ?", "B", None, ["38", "30"], None, "mathqa", None, "choice")
    none = parsed("reft", row | {"question": "what ?"})
    assert (none.answer, none.note) == (None, "its last line holds no options")
