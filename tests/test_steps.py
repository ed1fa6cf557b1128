"""The splitter: spans of steps between markers, as given and expected texts and as properties."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.steps import ends_in_marker, split_steps

PREFILL = "Let's think step by step.\nStep 1: "


def steps(prefill: str, text: str) -> list[str]:
    """The texts of the spans, which are in order, inside the text, disjoint and not blank."""
    spans = split_steps(prefill, text)
    edges = [0, *(edge for span in spans for edge in (span.start, span.end)), len(text)]
    assert edges == sorted(edges)
    assert all(text[span.start : span.end].strip() for span in spans)
    return [text[span.start : span.end] for span in spans]


CASES = {
    "after a prefill that ends in a marker": (PREFILL, "a\nStep 2: b\nStep 3: c", ["a", " b", " c"]),
    "without a prefill": ("", "Step 1: a\nStep 2: b", [" a", " b"]),
    "what comes before the first marker": ("", "Let us see.\nStep 1: a\nStep 2: b", [" a", " b"]),
    "a prefill that is no marker": ("Answer: ", "well\nStep 1: a", [" a"]),
    "a prefill with words after its marker": ("Step 1: First", " a\nStep 2: b", [" b"]),
    "mis-numbered": (PREFILL, "a\nStep 7: b\nStep 3: c", ["a", " b", " c"]),
    "repeated": (PREFILL, "a\nStep 2: b\nStep 2: c", ["a", " b", " c"]),
    "a number is missing": ("", "Step 1: a\nStep 3: c", [" a", " c"]),
    "long numbers": (PREFILL, "a\nStep 12345678901234567890: b", ["a", " b"]),
    "no marker: lines": ("", "a\n\n  b \r\nc\n", ["a", "  b ", "c"]),
    "no marker after one in the prefill": (PREFILL, "a\n\nb", ["a\n\nb"]),
    "blank lines belong to the step before": (PREFILL, "a\n\nStep 2: b\n\n\nStep 3: c\n", ["a\n", " b\n\n", " c\n"]),
    "empty steps are left out": (PREFILL, "\nStep 2:\nStep 3:   \nStep 4: d", [" d"]),
    "markers alone": ("", "Step 1:\nStep 2: ", []),
    "empty": (PREFILL, "", []),
    "blank": ("", " \n\t\n", []),
    "carriage returns": (PREFILL, "a\r\nStep 2: b\r\n\r\nStep 3: c\r\n", ["a", " b\r\n", " c\r\n"]),
    "inside a line": (PREFILL, "a Step 2: b\nsee Step 3: c", ["a Step 2: b\nsee Step 3: c"]),
    "a longer word": (PREFILL, "a\nSteps 2: b\nStep two: c\nStep 2. d\nstep 3: e", None),
    "in bold": (PREFILL, "**a**\n**Step 2:** b\n**Step 3: c**", ["**a**", "** b", " c**"]),
    "in bold up to the colon": (PREFILL, "a\n**Step 2**: **b**\n__Step 3__: c", ["a", " **b**", " c"]),
    "a heading": ("", "### Step 1: a\nb\n### Step 2: c", [" a\nb", " c"]),
    "indented": (PREFILL, "a\n  Step 2: b", ["a", " b"]),
    "the marker is repeated after the prefill": (PREFILL, "Step 1: a\nStep 2: b", ["Step 1: a", " b"]),
    "the marker is repeated on a line of its own": (PREFILL, "\nStep 1: a\nStep 2: b", [" a", " b"]),
    "other scripts": (PREFILL, "2 × 3 = ６ 🙂\nStep 2: é\u2028Step 3: ж", ["2 × 3 = ６ 🙂", " é\u2028Step 3: ж"]),
    "digits of other scripts": (PREFILL, "a\nStep ２: b", None),
    "a fence": (PREFILL, "a\n```python\nStep 2: b\n```\nStep 2: c", ["a\n```python\nStep 2: b\n```", " c"]),
    "a fence after a marker": ("", "Step 1: ```\nStep 2: b\n```\nStep 2: c", [" ```\nStep 2: b\n```", " c"]),
    "a comment in a fence": (PREFILL, "```\n# Step 2: b\n```\nStep 2: c", ["```\n# Step 2: b\n```", " c"]),
    "a longer fence": (PREFILL, "````\n```\nStep 2: b\n````\nStep 2: c", ["````\n```\nStep 2: b\n````", " c"]),
    "a fence of tildes": (PREFILL, "~~~\nStep 2: b\n~~~\nStep 2: c", ["~~~\nStep 2: b\n~~~", " c"]),
    "a fence that is left open": (PREFILL, "a\n```\nStep 2: b", None),
    "code in a line is no fence": (PREFILL, "a ```x``` b\nStep 2: c", ["a ```x``` b", " c"]),
    "brackets of LaTeX": (PREFILL, "\\[ a\nStep 2: b \\]\nStep 2: c", ["\\[ a\nStep 2: b \\]", " c"]),
    "round brackets of LaTeX": (PREFILL, "\\( a\nStep 2: b \\)\nStep 2: c", ["\\( a\nStep 2: b \\)", " c"]),
    "two dollars": (PREFILL, "$$\nStep 2: b\n$$\nStep 2: c", ["$$\nStep 2: b\n$$", " c"]),
    "one dollar": (PREFILL, "$a +\nStep 2: b$\nStep 2: c", ["$a +\nStep 2: b$", " c"]),
    "an environment": (
        PREFILL,
        "\\begin{align*}\na\n\\begin{cases}\nb\n\\end{cases}\nStep 2: c\n\\end{align*}\nStep 2: d",
        ["\\begin{align*}\na\n\\begin{cases}\nb\n\\end{cases}\nStep 2: c\n\\end{align*}", " d"],
    ),
    "one environment in another of its name": (
        PREFILL,
        "\\begin{array}\\begin{array}a\\end{array}\nStep 2: b\\end{array}\nStep 2: c",
        ["\\begin{array}\\begin{array}a\\end{array}\nStep 2: b\\end{array}", " c"],
    ),
    "an environment that is left open": (PREFILL, "\\begin{align}\na\nStep 2: b", ["\\begin{align}\na", " b"]),
    "a bracket that is left open": (PREFILL, "\\[ a ]\nStep 2: \\[ b \\]", ["\\[ a ]", " \\[ b \\]"]),
    "a new line of LaTeX is no bracket": (PREFILL, "a \\\\[4pt]\nStep 2: b \\]", ["a \\\\[4pt]", " b \\]"]),
    "money": (PREFILL, "costs $5\nStep 2: pays $7.\nStep 3: $12", ["costs $5", " pays $7.", " $12"]),
    "money before mathematics": (PREFILL, "costs $5 now\nStep 2: so $y$ is 3", ["costs $5 now", " so $y$ is 3"]),
    "money before a closing dollar": (PREFILL, "costs $5.\nStep 2: pays 7$", ["costs $5.", " pays 7$"]),
    "a dollar that is escaped": (PREFILL, "costs \\$a\nStep 2: b$", ["costs \\$a", " b$"]),
    "a blank line ends a formula in a line": (PREFILL, "$a\n\nStep 2: b$", ["$a\n", " b$"]),
    "lines keep displayed formulas together": ("", "so\n\\[\nx = 5\n\\]\ndone", ["so", "\\[\nx = 5\n\\]", "done"]),
    "lines keep code together": ("", "so\n```\na\n\nb\n```\ndone", ["so", "```\na\n\nb\n```", "done"]),
    "markers in a formula alone are none": ("", "a\n$$\nStep 1: b\n$$", ["a", "$$\nStep 1: b\n$$"]),
}  # fmt: skip


@pytest.mark.parametrize(("prefill", "text", "expected"), CASES.values(), ids=CASES)
def test_steps_are_what_lies_between_markers(prefill: str, text: str, expected: list[str] | None) -> None:
    assert steps(prefill, text) == ([text] if expected is None else expected)


@pytest.mark.parametrize(
    ("prefill", "expected"),
    [("Step 1:", True), (PREFILL, True), ("a\n\n**Step 12:** \n", True), ("a\n**Step 2**:", True),
     ("think step by step. Step 1:", True),
     ("", False), ("Step 1: a", False), ("Step :", False), ("Misstep 1:", False), ("Step 1", False)],
)  # fmt: skip
def test_a_prefill_that_ends_in_a_marker_begins_a_step(prefill: str, expected: bool) -> None:
    assert ends_in_marker(prefill) == expected
    assert steps(prefill, "a") == ["a"]
    assert steps(prefill, "a\nb") == (["a\nb"] if expected else ["a", "b"])


PIECES = st.sampled_from([
    "\n", "\r\n", "\n\n", "Step 1:", "Step 2: ", "\nStep 3: ", "**Step 4:**", "__Step 5__:", "### Step 5:", "a", " b",
    "$", "$$", "\\[", "\\]", "\\(", "\\)", "\\\\", "\\begin{align}", "\\end{align}", "\\begin{cases}", "\\end{cases}",
    "```", "~~~~", "$5", " ", "é", "🙂", "\u2028", "\\", "Step",
])  # fmt: skip
ANY = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join))


@given(prefill=st.sampled_from(["", "Go: ", PREFILL]), text=ANY)
def test_spans_are_in_order_disjoint_and_not_blank_whatever_the_text(prefill: str, text: str) -> None:
    found, begun = split_steps(prefill, text), ends_in_marker(prefill)
    steps(prefill, text)
    marked = [re.search(r"Step[ \t]+[0-9]+(?:__)?:\Z", text[: span.start]) is not None for span in found]
    if begun or any(marked):
        assert all(is_marked or (begun and span.start == 0) for span, is_marked in zip(found, marked, strict=True))
    elif found:
        assert "".join("".join(steps(prefill, text)).split()) == "".join(text.split()), "lines leave nothing out"
    else:
        assert not text.strip() or "Step" in text


LINES = st.lists(st.text(st.sampled_from("abc 123.,+=é"), min_size=1, max_size=12), min_size=1, max_size=3)


@given(st.lists(LINES.map("\n".join).filter(str.strip), min_size=1, max_size=6))
def test_ordinary_texts_are_split_as_the_authors_split_them(given_steps: list[str]) -> None:
    text = "".join(f"\nStep {n}:{step}" for n, step in enumerate(given_steps, 1)).removeprefix("\nStep 1:")
    spans = split_steps(PREFILL, text)
    assert [text[span.start : span.end] for span in spans] == given_steps
    for span in spans:
        assert text[span.start :].split("\nStep ")[0] == text[span.start : span.end]
        assert re.search(r"\nStep \d+:\s*\Z", PREFILL + text[: span.start]), "a prefix ends with its step's marker"


@given(st.lists(st.sampled_from(["a", "b $x$ c", "\\[ y \\]", "two\nlines"]), min_size=2, max_size=6), st.data())
def test_a_continuation_after_a_prefix_has_the_steps_that_were_left(texts: list[str], data: st.DataObject) -> None:
    text = "".join(f"\nStep {n}: {step}" for n, step in enumerate(texts, 1)).removeprefix("\nStep 1: ")
    spans = split_steps(PREFILL, text)
    cut = data.draw(st.sampled_from(spans)).start
    again = split_steps(PREFILL + text[:cut], text[cut:])
    assert [(s.start + cut, s.end + cut) for s in again] == [(s.start, s.end) for s in spans if s.start >= cut]


@pytest.mark.parametrize(
    "text",
    ["$" * 30_000, "\\[" * 15_000, "$a" * 15_000, "\\begin{a}" * 4_000, "```\n" * 9_000, "\nStep 1:" * 4_000,
     "Step 1: " * 4_000, " " * 40_000, "#" * 40_000, "\n" * 40_000, "\\" * 40_000, "**" * 20_000, "$$ " * 12_000,
     "~" * 40_000, "\\begin{a}\\end{b}" * 3_000, "$" + "a" * 40_000, "$\n" * 20_000],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    steps(PREFILL, text)
    steps("", text)
    assert time.process_time() - started < 2
