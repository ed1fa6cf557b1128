"""Real data sets, whole: no row is lost on the way to problems and prompts."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from builders import problems, prompts
from builders.sources import reft
from builders.sources.math import last_boxed
from builders.sources.mathqa import option_value
from schemas import TABLES
from schemas.params import Params
from stores.parquet import read_table
from stores.paths import rejects_dir, run_dir
from stores.stage import execute


def source_rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def built(
    shared_data: Path, source: str, file: str, template: str | None, settings: dict | None = None
) -> dict[str, list[dict]]:
    """The tables that a file becomes, in the working directory; without a template no prompts."""
    copy = "rows" + "".join(Path(file).suffixes[-2:])
    shutil.copy(shared_data / file, copy)
    sections = {name: {} for name in Params.model_fields} | {"seed": 0}
    sections["problems"] = {"train": {"source": source, "path": copy, "split": "train"} | (settings or {})}
    none = {"demo_samples": "none", "demo_problems": "none"}
    if template:
        sections["prompts"] = {"train": {"problems": "train", "template": template, "rendering": "chat"} | none}
    Path("params.yaml").write_text(yaml.safe_dump(sections))
    execute("problems", "train", problems.run)
    if template:
        execute("prompts", "train", prompts.run)
    tables = ("problems", "answers", "solutions", *(["prompts"] if template else []))
    found = {table: read_table(run_dir(table, "train"), TABLES[table]).to_pylist() for table in tables}
    return found | {"rejects": read_table(rejects_dir("problems", "train"), TABLES["rejects"]).to_pylist()}


def counts(tables: dict[str, list[dict]]) -> dict[str, int]:
    return {name: len(table) for name, table in tables.items()}


def by_question(tables: dict[str, list[dict]], table: str, column: str) -> dict[str, str]:
    """Question -> a column of another table."""
    question = {row["problem_id"]: row["question"] for row in tables["problems"]}
    return {question[row["problem_id"]]: row[column] for row in tables[table]}


@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319), ("test_socratic", 1319)])
def test_gsm8k(shared_data: Path, workspace: Path, split: str, rows: int) -> None:
    raw = source_rows(shared_data / f"gsm8k/{split}.jsonl.gz")
    tables = built(shared_data, "gsm8k", f"gsm8k/{split}.jsonl.gz", "final_answer")
    assert len(raw) == rows
    assert {name: len(table) for name, table in tables.items()} == {
        "problems": rows, "answers": rows, "solutions": rows, "prompts": rows, "rejects": 0,
    }  # fmt: skip
    question = {row["problem_id"]: row["question"] for row in tables["problems"]}
    gold = {question[row["problem_id"]]: row["answer"] for row in tables["answers"]}
    chain = {question[row["problem_id"]]: row["text"] for row in tables["solutions"]}
    for row in raw:
        lines = row["answer"].split("\n")
        assert gold[row["question"]] == lines[-1].removeprefix("#### ")
        assert chain[row["question"]] == "\n".join(re.sub("<<.*?>>", "", line) for line in lines[:-1]).strip()
        assert not {"<<", ">>", "####"} & set(re.findall("<<|>>|####", chain[row["question"]]))
    for prompt in tables["prompts"]:
        assert prompt["messages"][-1]["content"].startswith(question[prompt["problem_id"]] + "\n")
    assert sum("," in answer for answer in gold.values()) > 0, "commas are kept as the source has them"


@pytest.mark.parametrize(("split", "rows", "unanswered"), [("train", 7500, 2), ("test", 5000, 0)])
def test_math(shared_data: Path, workspace: Path, split: str, rows: int, unanswered: int) -> None:
    """Two training rows have an empty box: their answer is unknown, so they are rejects."""
    raw = source_rows(shared_data / f"math/{split}.jsonl.gz")
    tables = built(shared_data, "math", f"math/{split}.jsonl.gz", "boxed")
    kept = rows - unanswered
    assert len(raw) == rows == kept + len(tables["rejects"])
    assert {len(tables[name]) for name in ("problems", "answers", "solutions", "prompts")} == {kept}
    empty = [f"rows.jsonl.gz line {i}" for i, row in enumerate(raw, 1) if r"\boxed{}" in row["solution"]]
    assert {(row["reason"], row["detail"]) for row in tables["rejects"]} == {("no_answer", where) for where in empty}
    by_question = {row["problem"]: row for row in raw}
    gold = {row["problem_id"]: row["answer"] for row in tables["answers"]}
    text = {row["problem_id"]: row["text"] for row in tables["solutions"]}
    for problem in tables["problems"]:
        row, identity = by_question[problem["question"]], problem["problem_id"]
        assert (problem["level"], problem["subject"], problem["answer_kind"]) == (row["level"], row["type"], "latex")
        assert gold[identity] == row["answer"].strip() == last_boxed(row["solution"])
        assert text[identity] == row["solution"]


@pytest.mark.parametrize(
    ("split", "rows", "digits", "repeated"), [("train", 1119, 23, 1), ("dev", 299, 4, 0), ("test", 1172, 22, 0)]
)
def test_arc(shared_data: Path, workspace: Path, split: str, rows: int, digits: int, repeated: int) -> None:
    """Keys that are digits become letters, and every prompt lists the three to five options of its question."""
    raw = source_rows(shared_data / f"arc_challenge/{split}.jsonl.gz")
    tables = built(shared_data, "arc", f"arc_challenge/{split}.jsonl.gz", "choice_final_answer")
    kept = rows - repeated
    assert counts(tables) == {"problems": kept, "answers": kept, "solutions": 0, "prompts": kept, "rejects": repeated}
    assert {row["reason"] for row in tables["rejects"]} <= {"duplicate"}
    assert sum(row["answerKey"].isdigit() for row in raw) == digits
    answer = {row["problem_id"]: row["answer"] for row in tables["answers"]}
    options = {row["problem_id"]: row["choices"] for row in tables["problems"]}
    assert {len(choices) for choices in options.values()} == {3, 4, 5}
    correct = {(p["question"], p["choices"]["ABCDE".index(answer[p["problem_id"]])]) for p in tables["problems"]}
    expected = {(r["question"], c["text"]) for r in raw for c in r["choices"] if c["label"] == r["answerKey"]}
    assert correct == expected
    for prompt in tables["prompts"]:
        shown = re.findall(r"^\(([A-E])\) ", prompt["messages"][0]["content"], re.MULTILINE)
        assert shown[: len(options[prompt["problem_id"]])] == list("ABCDE"[: len(options[prompt["problem_id"]])])
    assert {(p["answer_kind"], p["licence"]) for p in tables["problems"]} == {("choice", "CC-BY-SA-4.0")}


def test_svamp(shared_data: Path, workspace: Path) -> None:
    with gzip.open(shared_data / "svamp/SVAMP.json.gz", "rt") as file:
        raw = json.load(file)
    tables = built(shared_data, "svamp", "svamp/SVAMP.json.gz", "final_answer")
    assert counts(tables) == {"problems": 1000, "answers": 1000, "solutions": 0, "prompts": 1000, "rejects": 0}
    gold = by_question(tables, "answers", "answer")
    for row in raw:
        answer = gold[f"{row['Body'].strip()} {row['Question'].strip()}"]
        assert float(answer) == row["Answer"]
        assert "." not in answer, "all of SVAMP's answers are whole"


def test_mathqa(shared_data: Path, workspace: Path) -> None:
    """Options of all 1,000 rows are told apart, those in the text of a Python list and those labelled twice too."""
    raw = source_rows(shared_data / "mathqa/test_1000.jsonl.gz")
    tables = built(shared_data, "mathqa", "mathqa/test_1000.jsonl.gz", "choice_final_answer")
    assert counts(tables) == {"problems": 1000, "answers": 1000, "solutions": 998, "prompts": 1000, "rejects": 0}
    gold, choices = by_question(tables, "answers", "answer"), by_question(tables, "problems", "choices")
    for row in raw:
        assert gold[row["problem"]] == row["correct"].upper()
        assert len(choices[row["problem"]]) == 5
        assert all(choice in row["options"] for choice in choices[row["problem"]])
        labelled = [choice for choice in choices[row["problem"]] if re.match(r"[a-e] \) ", choice)]
        assert labelled == [], row["options"]
    assert sum(row["options"].startswith("[") for row in raw) == 16


def test_mathqa_numeric(shared_data: Path, workspace: Path) -> None:
    tables = built(shared_data, "mathqa_numeric", "mathqa/test_1000.jsonl.gz", "final_answer")
    assert len(tables["problems"]) + len(tables["rejects"]) == 1000
    assert len(tables["rejects"]) == 46
    assert all(re.fullmatch(r"-?(\d+(\.\d+)?|\.\d+)", row["answer"]) for row in tables["answers"])
    details = [row["detail"] for row in tables["rejects"]]
    assert all(re.fullmatch(r"rows.jsonl.gz line \d+: the correct option '.*' is no number", d) for d in details)
    assert {row["reason"] for row in tables["rejects"]} == {"no_answer"}


def test_option_values_against_refts(shared_data: Path) -> None:
    """ReFT's authors made numbers of the same 1,605 options: they cut five at a comma or a sign, and read six more."""
    numeric = source_rows(shared_data / "reft/mathqa-numeric_test_set.jsonl.gz")
    values = {row["item_id"].split("_")[1]: float(row["answer_value"]) for row in numeric}
    other, unread = [], []
    for row in source_rows(shared_data / "reft/mathqa_test_set.jsonl.gz"):
        record = reft.parse(row, row["item_id"])
        option = (record.choices or [])["ABCDE".index(record.answer or "")]
        value, theirs = option_value(option), values[row["item_id"].split("_")[1]]
        if value is None:
            unread.append(option)
        elif abs(float(value) - theirs) > 1e-2:
            other.append(option)
    assert sorted(other) == ["$ 1,354", "$ 3,375", "- 6", "13,400", "4,000"]
    assert sorted(unread) == ["1 , 000,000", "3 ab / 11", "30 , 10", "4 , 2", "78 + ( 4 / 7 ) %", "w . 100"]


@pytest.mark.parametrize(
    ("file", "rows", "distinct", "kind", "style"),
    [
        ("gsm8k_test_set", 1319, 1319, "number", None),
        ("mathqa-numeric_test_set", 1605, 1605, "number", None),
        ("mathqa_test_set", 1605, 1605, "choice", None),
        ("svamp_test_set", 1000, 1000, "number", None),
        ("svamp_nl", 3076, 3065, "number", "natural"),
        ("svamp_python_sdp", 3043, 3034, "number", "program"),
    ],
)
def test_reft(
    shared_data: Path, workspace: Path, file: str, rows: int, distinct: int, kind: str, style: str | None
) -> None:
    """Rows that repeat a question are rejects, yet their chains are kept where they state the same answer."""
    raw = source_rows(shared_data / f"reft/{file}.jsonl.gz")
    template = "reft_natural_choice" if kind == "choice" else "reft_program" if style == "program" else "reft_natural"
    tables = built(shared_data, "reft", f"reft/{file}.jsonl.gz", template, {"all_solutions": True})
    assert len(tables["problems"]) == len(tables["prompts"]) == len(tables["answers"]) == distinct
    assert len(tables["problems"]) + len(tables["rejects"]) == len(raw) == rows
    assert {row["answer_kind"] for row in tables["problems"]} == {kind}
    assert {row["style"] for row in tables["solutions"]} == ({style} if style else set())
    first = {row["question"]: float(row["answer_value"]) for row in reversed(raw)} if style else {}
    agreeing = [row for row in raw if style and float(row["answer_value"]) == first[row["question"]]]
    assert len(tables["solutions"]) == len({(row["question"], row["answer_cot"]) for row in agreeing})
    chains = {row["answer_cot"] for row in raw} if style else set()
    for row in tables["solutions"]:
        assert row["text"].startswith("def solution():") or "Therefore, the answer is <" not in row["text"]
        assert style == "natural" or row["text"] in chains
    for row in tables["problems"]:
        assert (row["choices"] is not None) == (kind == "choice")
        assert "\na ) " not in row["question"]


@pytest.mark.parametrize(
    ("file", "columns", "settings", "rows", "rejects"),
    [
        ("reft/gsm8k_test_set.jsonl.gz", {"question": "question", "answer": "answer_value", "id": "item_id"},
         {"answer_kind": "number"}, 1319, 0),
        ("mathqa/test_1000.jsonl.gz", {"question": "problem", "answer": "correct", "choices": "options",
                                       "solution": "rationale", "subject": "type"}, {"answer_kind": "choice"}, 1000, 0),
        ("arc_challenge/test.jsonl.gz", {"question": "question", "answer": "answerKey", "choices": "choices"},
         {"answer_kind": "choice"}, 1172, 0),
        ("math/test.jsonl.gz", {"question": "problem", "answer": "answer", "level": "level"}, {"answer_kind": "latex"},
         5000, 0),
        ("model_samples/qwen25math_math100x8.problems.parquet",
         {"question": "problem", "answer": "gold", "solution": "gold_solution"}, {"answer_kind": "latex"}, 100, 0),
        ("model_samples/pot_pcot.problems.parquet", {"question": "problem", "answer": "gold", "subject": "dataset"},
         {"answer_kind": "number"}, 2675, 0),
    ],
)  # fmt: skip
def test_any_file(
    shared_data: Path, workspace: Path, file: str, columns: dict, settings: dict, rows: int, rejects: int
) -> None:
    shared = {"columns": columns, "licence": "unknown", "name": "mine"}
    tables = built(shared_data, "file", file, None, settings | shared)
    assert (len(tables["problems"]), len(tables["rejects"])) == (rows - rejects, rejects)
    assert len(tables["answers"]) == rows - rejects
    if settings["answer_kind"] == "choice":
        choices = {row["problem_id"]: row["choices"] for row in tables["problems"]}
        assert all("ABCDE".index(a["answer"]) < len(choices[a["problem_id"]]) for a in tables["answers"])
