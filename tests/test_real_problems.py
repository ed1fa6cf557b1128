"""GSM8K and MATH, whole: no row is lost on the way to problems and prompts."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from builders import problems, prompts
from builders.sources.math import last_boxed
from schemas import TABLES
from schemas.params import Params
from stores.parquet import read_table
from stores.paths import rejects_dir, run_dir
from stores.stage import execute


def source_rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def built(shared_data: Path, source: str, file: str, template: str) -> dict[str, list[dict]]:
    """The tables that a file becomes, in the working directory."""
    shutil.copy(shared_data / file, "rows.jsonl.gz")
    sections = {name: {} for name in Params.model_fields} | {"seed": 0}
    sections["problems"] = {"train": {"source": source, "path": "rows.jsonl.gz", "split": "train"}}
    none = {"demo_samples": "none", "demo_problems": "none"}
    sections["prompts"] = {"train": {"problems": "train", "template": template, "rendering": "chat"} | none}
    Path("params.yaml").write_text(yaml.safe_dump(sections))
    execute("problems", "train", problems.run)
    execute("prompts", "train", prompts.run)
    tables = ("problems", "answers", "solutions", "prompts")
    found = {table: read_table(run_dir(table, "train"), TABLES[table]).to_pylist() for table in tables}
    return found | {"rejects": read_table(rejects_dir("problems", "train"), TABLES["rejects"]).to_pylist()}


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
