"""Rows of OlympicArena in its published shape, written for these tests, become problems or rejects with a reason."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from builders.checkers import checker_for, extract, get_checker
from builders.problems import run
from builders.prompts import load_template, messages_of
from builders.sources import SOURCES, Record
from schemas import TABLES
from schemas.params import Params
from schemas.slots import NO_FILE
from stores.parquet import read_table
from stores.paths import rejects_dir, run_dir
from stores.stage import execute

TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "id": pa.string(), "problem": pa.string(), "prompt": pa.string(), "figure_urls": TEXTS, "answer": TEXTS,
        "solution": pa.string(), "answer_type": pa.string(), "unit": TEXTS, "answer_sequence": TEXTS,
        "type_sequence": TEXTS, "test_cases": pa.struct({"input": TEXTS, "output": TEXTS}), "subject": pa.string(),
        "language": pa.string(), "modality": pa.string(),
    }
)  # fmt: skip
"""The features that the dataset card lists."""


def row(number: int, answer_type: str, answer: list[str] | None, problem: str = "How many?", **more: Any) -> dict:
    says = f"You are participating in an international Math competition.\nThe answer is a {answer_type}."
    wish = r'Please end your response with: "The final answer is $\boxed{ANSWER}$".'
    return dict.fromkeys(SCHEMA.names) | {
        "id": f"Math_{number}", "problem": problem, "prompt": f"{says}\n\nproblem:\n{problem}\n\n{wish}",
        "answer": answer, "answer_type": answer_type, "subject": "Math", "language": "EN", "modality": "text-only",
    } | more  # fmt: skip


def parsed(answer_type: str, answer: list[str] | None, **more: Any) -> Record:
    return SOURCES["olympicarena"].parse(row(1, answer_type, answer, **more), "row 1")


@pytest.mark.parametrize(
    ("answer_type", "answer", "parts", "kind", "gold"),
    [
        ("SC", ["B"], None, "choice", "B"),
        ("TF", ["True"], None, "latex", "True"),
        ("NV", [r"$\log_{2}9$"], None, "latex", r"$\log_{2}9$"),
        ("EX", ["12 g t^2"], None, "latex", "12 g t^2"),
        ("EQ", [r"y-x=\frac{1}{2}"], None, "latex", r"y-x=\frac{1}{2}"),
        ("IN", [r"(1,2] \cup[7,+\infty)"], None, "latex", r"(1,2] \cup[7,+\infty)"),
        ("TUP", ["(3, 5)"], None, "latex", "(3, 5)"),
        ("SET", ["3", "4"], None, "latex", r"\{3, 4\}"),
        ("SET", ["$3$"], None, "latex", r"\{3\}"),
        ("MA", ["3", "$x+1$"], ["NV", "EX"], "latex", r"\{3, x+1\}"),
        ("MPV", ["5", "7", "2.5"], ["NV", "NV", "NV"], "latex", "(5, 7, 2.5)"),
    ],
)
def test_answer_types_that_a_checker_compares(
    answer_type: str, answer: list[str], parts: list[str] | None, kind: str, gold: str
) -> None:
    record = parsed(answer_type, answer, type_sequence=parts)
    assert (record.answer, record.answer_kind, record.choices, record.reason) == (gold, kind, None, None)


RIGHT_AND_WRONG = [
    ("SC", ["B"], None, [r"\boxed{B}", r"\boxed{\text{B}}", r"\boxed{[B]}"], [r"\boxed{A}"]),
    ("TF", ["True"], None, [r"\boxed{\text{True}}", r"\boxed{True}"], [r"\boxed{False}"]),
    ("NV", ["1900"], None, [r"\boxed{1900}", r"\boxed{1.9 \times 10^3}"], [r"\boxed{190}"]),
    ("EX", ["4 x^{2}-8 x+2"], None, [r"\boxed{2-8x+4x^2}"], [r"\boxed{2-8x+5x^2}"]),
    ("EQ", [r"y-x=\frac{1}{2}"], None, [r"\boxed{y=x+\frac12}"], [r"\boxed{y-x=1}"]),
    ("IN", ["(1, 3]"], None, [r"\boxed{(1,3]}"], [r"\boxed{[1,3]}", r"\boxed{(1,3)}"]),
    ("TUP", ["(3, 4)"], None, [r"\boxed{(3,4)}"], [r"\boxed{(4,3)}"]),
    ("SET", ["3", "4", "5"], None, [r"\boxed{\{5, 4, 3\}}", r"\boxed{3,5,4}"], [r"\boxed{3,5}", r"\boxed{3,4,6}"]),
    ("MA", ["3", "4"], ["NV", "NV"], [r"\boxed{4, 3}"], [r"\boxed{4}", r"\boxed{4, 5}"]),
    ("MPV", ["3", "4", "x+1"], ["NV", "NV", "EX"], [r"\boxed{3, 4, 1+x}"], [r"\boxed{4, 3, x+1}", r"\boxed{3, 4}"]),
]


@pytest.mark.parametrize(("answer_type", "answer", "parts", "right", "wrong"), RIGHT_AND_WRONG)
def test_the_checker_of_its_kind_compares_it(
    answer_type: str, answer: list[str], parts: list[str] | None, right: list[str], wrong: list[str]
) -> None:
    record = parsed(answer_type, answer, type_sequence=parts)
    assert record.answer is not None
    with get_checker(checker_for(record.answer_kind or "", "auto")) as checker:
        stated = [extract(checker, "", f"The final answer is ${box}$.") or "" for box in (*right, *wrong)]
        verdicts = checker.matches([(answer, record.answer) for answer in stated])
    assert verdicts == [True] * len(right) + [False] * len(wrong)


@pytest.mark.parametrize(
    ("answer_type", "parts", "note"),
    [
        ("MC", None, "answer type MC"),
        ("CODE", None, "answer type CODE"),
        ("OT", None, "answer type OT"),
        ("MPV", ["NV", "EQ"], "answer type MPV of NV, EQ"),
        ("MA", ["TUP", "TUP"], "answer type MA of TUP, TUP"),
        ("MA", None, "answer type MA of parts that are not stated"),
    ],
)
def test_answer_types_that_none_compares(answer_type: str, parts: list[str] | None, note: str) -> None:
    for answer in (["A", "C"], None):
        record = parsed(answer_type, answer, type_sequence=parts)
        assert (record.answer, record.reason, record.note) == (None, "unsupported_answer", note)


@pytest.mark.parametrize(
    ("answer_type", "answer", "note"),
    [("SC", ["A", "B"], "SC is answered by A, B"), ("SC", ["red"], "SC is answered by red"),
     ("SC", ["AB"], "SC is answered by AB"), ("NV", [" "], ""),
     ("NV", ["1", "2"], "NV is answered by 1, 2"), ("NV", [], ""), ("NV", None, "")],
)  # fmt: skip
def test_answers_that_are_withheld_or_unclear(answer_type: str, answer: list[str] | None, note: str) -> None:
    record = parsed(answer_type, answer)
    assert (record.answer, record.note, record.reason) == (None, note, None)


def test_the_question_is_the_published_prompt_as_the_authors_ask_it() -> None:
    record = parsed("NV", ["7"], problem="How many edges?\n\n[figure1]", solution="So 7.")
    template, _ = load_template("olympicarena")
    (message,) = messages_of(template, record.question, None, [], "text")
    assert message["content"].startswith("You are participating in an international Math competition.\n")
    assert "\n\nQuestion: How many edges?\n\n[figure1]\n\nPlease end" in message["content"]
    assert message["content"].endswith('$".\n\nAnswer:')
    assert (record.solution, record.subject) == ("So 7.", "Math")


ROWS = [
    row(1, "NV", ["7"], "one"),
    row(2, "SC", ["A"], "two", modality="multi-modal"),
    row(3, "NV", ["7"], "一", language="ZH"),
    row(4, "MC", ["A", "B"], "four"),
    row(5, "OT", ["for people to judge"], "five"),
    row(6, "CODE", None, "six", subject="CS", test_cases={"input": ["1"], "output": ["2"]}),
    row(7, "NV", None, "seven"),
    row(8, "NV", ["7"], "one"),
]


@pytest.fixture
def published(workspace: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS, schema=SCHEMA), workspace / "val.parquet")
    return workspace


@pytest.mark.parametrize("unanswered", [False, True])
def test_a_file_in_the_published_shape(published: Path, unanswered: bool) -> None:
    settings = {"source": "olympicarena", "path": "val.parquet", "split": "test", "unanswered": unanswered}
    sections: dict[str, Any] = {name: {} for name in Params.model_fields}
    Path("params.yaml").write_text(yaml.safe_dump(sections | {"seed": 0, "problems": {"test": settings}}))
    execute("problems", "test", run)
    problems = {r["problem_id"]: r for r in read_table(run_dir("problems", "test"), TABLES["problems"]).to_pylist()}
    asked = {r["question"].partition("Question: ")[2].partition("\n")[0]: r for r in problems.values()}
    assert set(asked) == {"one", "two"} | ({"seven"} if unanswered else set())
    assert {r["licence"] for r in problems.values()} == {"CC-BY-NC-SA-4.0"}
    assert (asked["one"]["answer_kind"], asked["two"]["answer_kind"]) == ("latex", "choice")
    answers = read_table(run_dir("answers", "test"), TABLES["answers"]).to_pylist()
    assert {problems[r["problem_id"]]["question"]: r["answer"] for r in answers} == {
        asked["one"]["question"]: "7", asked["two"]["question"]: "A",
    }  # fmt: skip
    rejects = read_table(rejects_dir("problems", "test"), TABLES["rejects"]).to_pylist()
    expected = {
        ("other_language", "val.parquet row 3: language ZH"),
        ("unsupported_answer", "val.parquet row 4: answer type MC"),
        ("unsupported_answer", "val.parquet row 5: answer type OT"),
        ("unsupported_answer", "val.parquet row 6: answer type CODE"),
        ("duplicate", "val.parquet row 8 repeats val.parquet row 1"),
    }  # fmt: skip
    expected |= set() if unanswered else {("no_answer", "val.parquet row 7")}
    assert {(r["reason"], r["detail"]) for r in rejects} == expected
    assert len(rejects) + len(problems) == len(ROWS)


def test_the_hub_has_a_file_per_subject_and_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Authors of weak-to-strong reasoning train on `test`, whose answers are withheld, and test on `val`."""
    from builders.sources import reading
    from schemas.sections import ProblemsRun

    for name in ("Math/test-00000-of-00001", "Math/val-00000-of-00001", "CS/val-00000-of-00001"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.parquet").touch()
    monkeypatch.setattr(reading, "download", lambda *_: tmp_path)
    settings = {"source": "olympicarena", "path": NO_FILE, "revision": "0" * 40, "split": "train"}
    for changes, expected in (
        ({"files": "*/test-*.parquet"}, ["Math/test"]),
        ({"split": "val"}, ["CS/val", "Math/val"]),
        ({"split": "val", "subset": "Math"}, ["Math/val"]),
    ):
        config = ProblemsRun.model_validate(settings | changes)
        found = reading.source_files(config, reading.source_of(config), tmp_path)
        assert [name.removeprefix("GAIR/OlympicArena/").partition("-")[0] for name, _ in found] == expected
