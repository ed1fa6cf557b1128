"""Sources become problems and rejects, with no row lost; bad files are one clear line."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from builders.problems import TEXTS, Labels, build, run
from builders.sources import SOURCES, Record
from builders.sources.files import read_rows
from builders.sources.math import last_boxed
from builders.sources.spool import TextSpool
from schemas import TABLES
from schemas.ids import problem_id
from schemas.params import Params
from schemas.sections import ProblemsRun
from schemas.slots import NO_FILE
from stores.duck import Duck
from stores.parquet import read_table
from stores.paths import rejects_dir, run_dir
from stores.stage import execute

LABELS = Labels("gsm8k", "train", "number", "MIT")


def config(**changes: Any) -> ProblemsRun:
    return ProblemsRun.model_validate({"source": "gsm8k", "path": "rows.jsonl", "split": "train"} | changes)


def record(row: int, question: str, answer: str | None = "1") -> Record:
    return Record(f"rows.jsonl line {row}", question, answer, f"because {answer}")


def params_file(section: str, runs: dict[str, dict]) -> None:
    """A params.yaml in the working directory with one section filled."""
    sections: dict[str, Any] = {name: {} for name in Params.model_fields}
    Path("params.yaml").write_text(yaml.safe_dump(sections | {"seed": 0, section: runs}))


# --- one row -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "solution"),
    [
        ("48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72.\n#### 72", "72", "48/2 = 24 clips.\n48+24 = 72."),
        ("It is $<<1080=1080>>1,080.\n#### 1,080", "1,080", "It is $1,080."),
        ("#### is no answer\n#### -3", "-3", "#### is no answer"),
        ("No ending here.", None, "No ending here."),
        ("An empty ending.\n####", None, "An empty ending."),
        ("####5", "5", None),
    ],
)
def test_gsm8k_row(answer: str, gold: str | None, solution: str | None) -> None:
    parsed = SOURCES["gsm8k"].parse({"question": "How many?", "answer": answer}, "row 1")
    assert (parsed.question, parsed.answer, parsed.solution) == ("How many?", gold, solution)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so $x=\boxed{3}$, not \boxed{4}.", "4"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"the set \boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\boxed{a \\}", r"a \\"),
        (r"\fbox{7} at last", "7"),
        (r"$\boxed 12$.", "12"),
        (r"is \boxed  8.", "8"),
        (r"\boxed{ 5 }", "5"),
        (r"first \boxed{6}, then \boxed{unclosed", "6"),
        (r"\boxedminus{3}", None),
        (r"\boxed{}", None),
        (r"\boxed", None),
        ("nothing", None),
    ],
)
def test_last_boxed(solution: str, answer: str | None) -> None:
    assert last_boxed(solution) == answer


@pytest.mark.parametrize(
    ("stated", "answer"), [({}, "2"), ({"answer": None}, "2"), ({"answer": " 2.0 "}, "2.0"), ({"answer": " "}, "2")]
)
def test_math_row(stated: dict, answer: str) -> None:
    row = {"problem": "$1+1$?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{2}$."} | stated
    parsed = SOURCES["math"].parse(row, "row 1")
    assert parsed == Record("row 1", "$1+1$?", answer, r"It is $\boxed{2}$.", None, "Level 1", "Algebra")


@pytest.mark.parametrize("level", [2, "2"])
def test_math_row_of_the_split_of_prm800k(level: object) -> None:
    row = {"problem": "$1+1$?", "solution": r"It is $\boxed{2}$.", "answer": "2", "unique_id": "train/algebra/1.json"}
    parsed = SOURCES["math"].parse(row | {"subject": "Algebra", "level": level}, "row 1")
    assert (parsed.answer, parsed.level, parsed.subject) == ("2", "2", "Algebra")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "gold": "1"}, r"f line 3: no column 'answer' \(have 'question', 'gold'\)"),
        ({"question": 7, "answer": "#### 1"}, "f line 3: column 'question' must be text, not int"),
        ({"question": None, "answer": "#### 1"}, "column 'question' must be text, not NoneType"),
        ({"question": "\ud800", "answer": "#### 1"}, "column 'question' holds half of a surrogate pair"),
    ],
)
def test_wrong_columns(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SOURCES["gsm8k"].parse(row, "f line 3")


# --- windows, duplicates, rejects --------------------------------------------------------------------------------


class Rows(NamedTuple):
    """What `build` makes of some records, as dicts."""

    problems: list[dict]
    answers: list[dict]
    solutions: list[dict]
    rejects: list[dict]


def built(records: list[Record], settings: ProblemsRun) -> Rows:
    with Duck() as duck, TextSpool(TEXTS) as spool:
        return Rows(
            *(
                [row for batch in rows for row in batch.to_pylist()]
                for rows in build(duck, spool, records, LABELS, settings)
            )
        )


def questions(records: list[Record], settings: ProblemsRun) -> list[str]:
    return sorted(row["question"] for row in built(records, settings).problems)


def test_every_row_becomes_a_problem_or_a_reject() -> None:
    rows = [record(1, "a"), record(2, "b", None), record(3, "a", "9"), record(4, " "), record(5, "b"), record(6, "b")]
    made = built(rows, config())
    assert sorted((p["question"], p["answer_kind"], p["licence"], p["split"]) for p in made.problems) == [
        ("a", "number", "MIT", "train"),
        ("b", "number", "MIT", "train"),
    ]
    assert [a["answer"] for a in made.answers] == ["1", "1"]
    assert sorted((r["detail"], r["reason"]) for r in made.rejects) == [
        ("rows.jsonl line 2", "no_answer"),
        ("rows.jsonl line 3 repeats rows.jsonl line 1", "duplicate"),
        ("rows.jsonl line 4", "empty"),
        ("rows.jsonl line 6 repeats rows.jsonl line 5", "duplicate"),
    ]
    (repeated,) = (row for row in made.rejects if "line 3" in row["detail"])
    assert repeated["problem_id"] == problem_id("gsm8k", "a", None)
    assert repeated["problem_id"] in {row["problem_id"] for row in made.problems}


def test_a_note_says_why_there_is_no_answer() -> None:
    made = built([record(1, "a", None)._replace(note="its options cannot be told apart"), record(2, "b")], config())
    assert [row["detail"] for row in made.rejects] == ["rows.jsonl line 1: its options cannot be told apart"]


def test_questions_are_kept_without_answers_where_a_run_asks_for_it() -> None:
    rows = [record(1, "a", None), record(2, "b"), record(3, "a", "7"), record(4, " ", None)]
    made = built(rows, config(unanswered=True))
    assert sorted(row["question"] for row in made.problems) == ["a", "b"]
    assert [row["answer"] for row in made.answers] == ["1"]
    assert sorted(row["reason"] for row in made.rejects) == ["duplicate", "empty"]


@pytest.mark.parametrize("unanswered", [False, True])
def test_a_reason_of_its_own_makes_a_row_no_problem(unanswered: bool) -> None:
    """Not even the first of its question: a later row that has none is the problem."""
    rows = [record(1, "a")._replace(reason="unsupported_answer", note="answer type OT"), record(2, "a")]
    made = built(rows, config(unanswered=unanswered))
    assert [row["question"] for row in made.problems] == ["a"]
    assert [(row["reason"], row["detail"]) for row in made.rejects] == [
        ("unsupported_answer", "rows.jsonl line 1: answer type OT")
    ]


def test_a_kind_of_answer_of_its_own() -> None:
    made = built([record(1, "a")._replace(answer_kind="choice"), record(2, "b")], config())
    assert sorted((row["question"], row["answer_kind"]) for row in made.problems) == [("a", "choice"), ("b", "number")]


@pytest.mark.parametrize(
    ("skip", "limit", "expected"), [(0, None, "abcde"), (2, None, "cde"), (0, 2, "ab"), (1, 3, "bcd"), (4, 9, "e")]
)
def test_windows_in_file_order(skip: int, limit: int | None, expected: str) -> None:
    rows = [record(i, question) for i, question in enumerate("abcde")]
    assert questions(rows, config(skip=skip, limit=limit)) == list(expected)


def test_a_window_in_file_order_reads_no_further() -> None:
    def rows() -> Iterator[Record]:
        yield from (record(i, question) for i, question in enumerate("abc"))
        raise AssertionError("read beyond the window")

    with Duck() as duck, TextSpool(TEXTS) as spool:
        (batch,) = build(duck, spool, rows(), LABELS, config(skip=1, limit=2)).problems
    assert sorted(batch["question"].to_pylist()) == ["b", "c"]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_window_beyond_the_rows(shuffle: bool) -> None:
    with pytest.raises(ValueError, match="skip: 5 leaves nothing of the 5 rows"):
        built([record(i, q) for i, q in enumerate("abcde")], config(skip=5, limit=3, shuffle=shuffle))


def test_shuffled_windows_share_no_problem_even_with_duplicates() -> None:
    rows = [record(i, f"question {i % 70}") for i in range(100)]
    windows = [built(rows, config(shuffle=True, seed=4, skip=s, limit=25)) for s in (0, 25, 50, 75)]
    asked = [problem["question"] for window in windows for problem in window.problems]
    assert len(asked) == len(set(asked)) == 70
    assert sum(len(window.rejects) for window in windows) == 30


def test_the_shuffled_order_depends_on_seed_and_problems_alone() -> None:
    rows = [record(i, f"question {i}") for i in range(60)]
    held_out = questions(rows, config(shuffle=True, seed=1, limit=20))
    again = questions(rows[::-1], config(shuffle=True, seed=1, limit=20))
    other = questions(rows, config(shuffle=True, seed=2, limit=20))
    assert held_out == again != other
    assert set(held_out) != {f"question {i}" for i in range(20)}


REPEATED = [
    record(1, "a", "1")._replace(solution="one"),
    record(2, "a", "1")._replace(solution="another"),
    record(3, "a", "1")._replace(solution="one"),
    record(4, "a", "2")._replace(solution="of another answer"),
    record(5, "a", "1")._replace(solution=None, program="def solution(): return 1"),
    record(6, "b", "1")._replace(solution="b"),
    record(7, "a", "1")._replace(solution="a third"),
]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("natural", 0, "one")]),
        ({"all_solutions": True}, [("natural", 0, "one"), ("natural", 1, "another"), ("natural", 2, "a third"),
                                   ("program", 0, "def solution(): return 1")]),
        ({"all_solutions": True, "limit": 2}, [("natural", 0, "one"), ("natural", 1, "another")]),
        ({"all_solutions": True, "skip": 1}, []),
    ],
)  # fmt: skip
def test_solutions_of_repeated_problems(changes: dict, expected: list) -> None:
    """They are kept with their problem: not those of another answer, nor where the problem is in another window."""
    made = built(REPEATED, config(**changes))
    asked = problem_id("gsm8k", "a", None)
    found = [(row["style"], row["index"], row["text"]) for row in made.solutions if row["problem_id"] == asked]
    assert found == expected
    assert len(made.problems) + len(made.rejects) == min(changes.get("limit", 7), 7 - changes.get("skip", 0))


# --- files -------------------------------------------------------------------------------------------------------

ROWS = [{"question": f"question {i}, «ü»?", "answer": f"chain\n#### {i}"} for i in range(4)]


def write_jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n", encoding="utf-8")


def write_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in ROWS).encode()))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("name", "write", "third"),
    [
        ("rows.jsonl", write_jsonl, "rows.jsonl line 5"),
        ("rows.v2.jsonl.gz", write_gzip, "rows.v2.jsonl.gz line 3"),
        ("rows.parquet", write_parquet, "rows.parquet row 3"),
    ],
)
def test_local_files(tmp_path: Path, name: str, write: Any, third: str) -> None:
    write(tmp_path / name)
    located = list(read_rows(tmp_path / name, name))
    assert [dict(row) for _, row in located] == ROWS
    assert located[2][0] == third


# --- the stage ---------------------------------------------------------------------------------------------------


def rows_of(table: str, name: str) -> list[dict]:
    return read_table(run_dir(table, name), TABLES[table]).to_pylist()


def test_stage_from_a_local_file(workspace: Path) -> None:
    write_jsonl(workspace / "rows.jsonl")
    with (workspace / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    params_file("problems", {"train": {"source": "gsm8k", "path": "rows.jsonl", "split": "train"}})
    execute("problems", "train", run)
    problems = {row["problem_id"]: row for row in rows_of("problems", "train")}
    assert sorted(row["question"] for row in problems.values()) == [row["question"] for row in ROWS]
    assert {problems[row["problem_id"]]["question"][9]: row["answer"] for row in rows_of("answers", "train")} == {
        str(i): str(i) for i in range(4)
    }
    assert [(r["style"], r["index"], r["text"]) for r in rows_of("solutions", "train")] == [("natural", 0, "chain")] * 4
    rejects = read_table(rejects_dir("problems", "train"), TABLES["rejects"]).to_pylist()
    assert [(row["reason"], row["detail"]) for row in rejects] == [
        ("duplicate", "rows.jsonl line 8 repeats rows.jsonl line 1")
    ]


def test_stage_generates_windows_of_one_stream(workspace: Path) -> None:
    generated = {"source": "arithmetic", "path": NO_FILE, "seed": 3, "steps": [2, 3]}
    params_file(
        "problems",
        {
            "all": generated | {"split": "train", "limit": 30},
            "rest": generated | {"split": "validation", "skip": 20, "limit": 10},
        },
    )
    execute("problems", "all", run)
    execute("problems", "rest", run)
    every, rest = rows_of("problems", "all"), rows_of("problems", "rest")
    assert (len(every), len(rest)) == (30, 10)
    assert {row["question"] for row in rest} < {row["question"] for row in every}
    assert {(r["level"], r["subject"], r["licence"], r["source"]) for r in rest} == {
        (level, None, "CC0-1.0", "arithmetic") for level in ("2", "3")
    }
    solutions = [(row["problem_id"], row["style"]) for row in rows_of("solutions", "rest")]
    assert sorted(solutions) == sorted((row["problem_id"], s) for row in rest for s in ("natural", "program"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "arithmetic", "path": NO_FILE, "steps": [2, 3]}, "limit: generated problems need it"),
        ({"source": "arithmetic", "path": NO_FILE, "limit": 3}, "steps: generated problems need it"),
        ({"source": "arithmetic", "limit": 3, "steps": [2, 3]}, "take no file, revision or shuffle"),
        ({"steps": [2, 3]}, "steps: only generated problems have it"),
        ({"path": NO_FILE}, r"revision: give the 40-digit commit hash .* \(have nothing\)"),
        ({"path": NO_FILE, "revision": "main"}, r"revision: give the 40-digit commit hash .* \(have 'main'\)"),
        ({"path": "gone.jsonl"}, "gone.jsonl: no such file"),
    ],
)
def test_settings_that_do_not_go_with_the_source(workspace: Path, changes: dict, message: str) -> None:
    params_file("problems", {"train": {"source": "gsm8k", "path": "rows.jsonl", "split": "train"} | changes})
    with pytest.raises(ValueError, match=message):
        execute("problems", "train", run)
    assert not run_dir("problems", "train").exists()
