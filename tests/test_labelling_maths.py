"""Mathematics of the label page: which parts of a text it is, and what of it becomes MathML."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.labelling import maths
from builders.labelling.maths import MAX_FORMULA, Typesetter, formulas, shown


@pytest.fixture(scope="module")
def typesetter() -> Iterator[Typesetter]:
    made = Typesetter()
    yield made
    made.close()


FORMULAS = {
    "It costs $5 and $6.": [],
    "$5-$6, or $5 per day and so $3.": [],
    "He pays $5 for two apples and one$ more": [],
    "so $x = 2$ and $y$": ["x = 2", "y"],
    r"\$5 and $\$6$": [r"\$6"],
    "$$a$$ then \\(b\\) then \\[c\nd\\]": ["a", "b", "c\nd"],
    "$a\n\nb$": [],
    r"\begin{align*}a&=b\end{align*}": [r"\begin{align*}a&=b\end{align*}"],
    r"\begin{itemize}a\end{itemize}": [],
    r"\( no end, and $x$": ["x"],
    "$$ no end": [],
    r"\\(a\\)": [],
    r"$\frac{1}{2} \text{ of the apples}$": [r"\frac{1}{2} \text{ of the apples}"],
}


@pytest.mark.parametrize(("text", "expected"), FORMULAS.items())
def test_mathematics_is_told_from_money(text: str, expected: list[str]) -> None:
    assert [formula.latex for formula in formulas(text)] == expected


@pytest.mark.parametrize(
    "text", ["\\(" * 50_000, "$a " * 50_000, "$$a" * 50_001, "\\begin{array}" * 20_000, "$x$ " * 20_000]
)
def test_long_texts_are_read_in_one_pass(text: str) -> None:
    assert sum(formula.end - formula.start for formula in formulas(text)) <= len(text)


def test_a_formula_becomes_a_tree_and_the_rest_stays_text(typesetter: Typesetter) -> None:
    (pieces,) = typesetter.pieces([r"If $x^2<4$, then \[\boxed{\frac{1}{2}}\] & so on <b>."])
    assert [piece if isinstance(piece, str) else piece["tex"] for piece in pieces] == [
        "If ", "$x^2<4$", ", then ", r"\[\boxed{\frac{1}{2}}\]", " & so on <b>.",
    ]  # fmt: skip
    inline, display = (piece["tree"] for piece in pieces if isinstance(piece, dict))
    assert inline[:2] == ["math", {}]
    assert ["mo", {}, ["<"]] in [[each[0], {}, each[2]] for each in inline[2]]
    assert display[:2] == ["math", {"display": "block"}]
    assert display[2][0][:2] == ["menclose", {"notation": "box"}]


AS_WRITTEN = {
    "a link": r"$\href{javascript:alert(1)}{x}$",
    "an address": r"$\url{https://example.org}$",
    "an unknown command": r"$\includegraphics{x.png}$",
    "attributes": r'$\color{red"onmouseover="x}y$',
    "invisible": r"$\phantom{The step is right.} x$",
    "white": r"$\color{white}{not} x$",
    "far away": r"$\hspace{1000em} x$",
    "off the line": r"$\raisebox{99em}{x}$",
    "below the line": r"$\raisebox{-9em}{x}$",
    "half a formula": r"$\frac{1$",
    "reordered": "$x \u202e y$",
    "too long": "$x" + "+x" * (MAX_FORMULA // 2) + "$",
    "too deep": "$" + r"\sqrt{" * 100 + "x" + "}" * 100 + "$",
    "deep enough to crash a converter": "$" + "{" * (MAX_FORMULA - 1) + "x$",
    "endless": r"$\def\a{\a\a}\a$",
}


@pytest.mark.parametrize("text", AS_WRITTEN.values(), ids=AS_WRITTEN)
def test_what_is_on_no_list_is_shown_as_written(typesetter: Typesetter, text: str) -> None:
    assert typesetter.pieces([text]) == [[shown(text)]]


def test_formulas_beyond_a_number_are_shown_as_written(typesetter: Typesetter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "MAX_FORMULAS", 2)
    first, second = typesetter.pieces(["$x$", "$y$ $z$"])
    assert [isinstance(piece, dict) for piece in (*first, *second)] == [True, True, False]
    assert second[1] == " $z$"


def test_functions_are_typeset(typesetter: Typesetter) -> None:
    (pieces,) = typesetter.pieces([r"$\sin x$"])
    assert isinstance(pieces[0], dict)
    assert "sin" in json.dumps(pieces[0]["tree"])


def test_markup_in_a_formula_is_its_text(typesetter: Typesetter) -> None:
    (pieces,) = typesetter.pieces([r"$\text{<script>alert(1)</script>}$"])
    assert isinstance(pieces[0], dict)
    assert pieces[0]["tree"] == ["math", {}, [["mtext", {}, ["<script>alert(1)</script>"]]]]


def test_a_converter_that_dies_costs_its_formula_alone(typesetter: Typesetter) -> None:
    """Its process is killed from outside here: which formula crashes it depends on the machine's stack."""
    typesetter.pieces(["$x$"])
    typesetter.pool.workers[0].process.kill()
    typesetter.pool.workers[0].process.wait()
    (pieces,) = typesetter.pieces(["$x$"])
    assert isinstance(pieces[0], dict)


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_no_formula_ends_the_process_that_serves(typesetter: Typesetter, size: int) -> None:
    """Longer than any that is asked, and deep enough to crash the converter: the worker is replaced."""
    answers = typesetter.pool.run([["{" * size, False], ["x", False]], lambda _: None)
    assert answers[0] is None
    assert answers[1] == ["math", {}, [["mi", {}, ["x"]]]]


def test_invisible_characters_are_written_out() -> None:
    assert shown("a\u202eb\u200bc\x1b[31m\ufeff\U000e0041 é 🐈\u200d⬛\r\n") == (
        "a\\u202eb\\u200bc\\x1b[31m\\ufeff\\U000e0041 é 🐈\u200d⬛\n"
    )


@pytest.mark.slow
def test_nearly_all_mathematics_of_real_solutions_is_typeset(typesetter: Typesetter, shared_data: Path) -> None:
    with gzip.open(shared_data / "math" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [row[part] for row in map(json.loads, file) for part in ("problem", "solution")]
    found = sum(len(list(formulas(text))) for text in texts)
    typeset = sum(isinstance(piece, dict) for text in texts for piece in typesetter.pieces([text])[0])
    assert found > 50_000
    assert typeset >= 0.99 * found
