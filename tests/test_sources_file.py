"""Any file of questions and answers is a source: JSON, CSV and Parquet, choices in every form, errors that locate."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from builders.problems import run
from builders.sources.files import read_rows
from builders.sources.reading import published
from schemas import TABLES
from schemas.params import Params, parse_params
from schemas.sections import ProblemsRun
from stores.parquet import read_table
from stores.paths import rejects_dir, run_dir
from stores.stage import execute

COLUMNS = {"question": "ask", "answer": "gold"}
FILE: dict[str, Any] = {"source": "file", "split": "test", "licence": "CC0-1.0", "answer_kind": "number"}


def write_json_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def write_json_list(path: Path, rows: list[dict]) -> None:
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def write_gzipped_list(path: Path, rows: list[dict]) -> None:
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))


def write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, list[dict]], None]] = {
    "mine.jsonl": write_json_lines, "mine.json": write_json_list, "mine.json.gz": write_gzipped_list,
    "mine.csv": write_csv, "mine.parquet": write_parquet, "lines.json": write_json_lines,
}  # fmt: skip


def sections(**settings: Any) -> dict[str, Any]:
    settings = FILE | {"path": "mine.jsonl", "columns": COLUMNS} | settings
    run = {name: value for name, value in settings.items() if value is not None}
    return {name: {} for name in Params.model_fields} | {"seed": 0, "problems": {"mine": run}}


def build(**settings: Any) -> dict[str, list[dict]]:
    """The tables and rejects of a run `mine` with these settings, in the working directory."""
    Path("params.yaml").write_text(yaml.safe_dump(sections(**settings)))
    execute("problems", "mine", run)
    tables = {name: read_table(run_dir(name, "mine"), TABLES[name]) for name in ("problems", "answers", "solutions")}
    tables["rejects"] = read_table(rejects_dir("problems", "mine"), TABLES["rejects"])
    return {name: table.to_pylist() for name, table in tables.items()}


# --- files -------------------------------------------------------------------------------------------------------

ROWS = [{"ask": f"«{i}», how\nmany?", "gold": str(i), "why": f"as, {i}", "level": i % 2} for i in range(5)]


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows_from_every_kind_of_file(workspace: Path, name: str) -> None:
    WRITERS[name](workspace / name, ROWS)
    columns = COLUMNS | {"solution": "why", "level": "level"}
    made = build(path=name, columns=columns, name="puzzles")
    assert sorted((p["question"], p["level"]) for p in made["problems"]) == [
        (row["ask"], str(row["level"])) for row in ROWS
    ]
    assert {(p["source"], p["split"], p["licence"], p["answer_kind"]) for p in made["problems"]} == {
        ("puzzles", "test", "CC0-1.0", "number")
    }
    assert sorted(row["answer"] for row in made["answers"]) == list("01234")
    assert sorted(row["text"] for row in made["solutions"]) == [f"as, {i}" for i in range(5)]


def test_the_name_is_the_files_unless_it_is_stated(workspace: Path) -> None:
    write_json_lines(workspace / "My-Rows.v2.jsonl", ROWS)
    assert {row["source"] for row in build(path="My-Rows.v2.jsonl")["problems"]} == {"my_rows"}


@pytest.mark.parametrize("size", [1, 7, 64])
def test_json_lists_are_streamed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("builders.sources.files._CHUNK", size)
    rows = [{"a": 1}, {"b": [{}, "]},{"]}, {"c": '«é» \\ "'}]
    for text in (json.dumps(rows), json.dumps(rows, indent=1, ensure_ascii=False), "\n".join(map(json.dumps, rows))):
        (tmp_path / "rows.json").write_text(text, encoding="utf-8")
        located = list(read_rows(tmp_path / "rows.json", "rows.json"))
        assert [row for _, row in located] == rows
        assert [place for place, _ in located] == [f"rows.json row {i}" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.json", '[{"a": 1}, {"a": ', "^r.json row 2: not valid JSON, or cut off"),
        ("r.json", '[{"a": 1}', "^r.json row 2: not valid JSON, or cut off"),
        ("r.json", '[{"a": 1} {"a": oops}]', "^r.json row 2: not valid JSON"),
        ("r.json", '[{"a": 1}, 7]', "^r.json row 2: a list of JSON objects is expected, not int"),
        ("r.json", "[]", "^r.json: the file has no rows"),
        ("r.json", "", "^r.json: the file has no rows"),
        ("r.csv", "a,b\n", "^r.csv: the file has no rows"),
        ("r.csv", "a,b\n1,2\n3\n", "^r.csv row 2: it has not 2 cells, as its first line; quote"),
        ("r.csv", "a,b\n1,2,3\n", "^r.csv row 1: it has not 2 cells"),
        ("r.csv", 'a,b\n1,"2\n', "^r.csv: not readable as CSV near line 1 .unexpected end"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / name, name))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "^missing.jsonl: no such file; check `path`"),
        (
            "rows.tsv",
            b"a\tb\n",
            r"^rows.tsv: unknown kind of file; have .jsonl, .jsonl.gz, .json, .* .parquet",
        ),
        ("empty.jsonl", b"", "^empty.jsonl: the file has no rows"),
        ("blank.jsonl", b"\n \n", "^blank.jsonl: the file has no rows"),
        ("bad.jsonl", b'{"a": 1}\n{"a": \n', r"^bad.jsonl line 2: not valid JSON \(.* at column 6\); mend the line"),
        ("list.jsonl", b"[1]\n", "^list.jsonl line 1: one JSON object per line is expected, not list"),
        ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9, mtime=0)[:-9], "^cut.jsonl.gz: damaged"),
        ("not.jsonl.gz", b'{"a": 1}\n', "^not.jsonl.gz: damaged"),
        ("latin.jsonl", b'{"a": "\xe9"}\n', "^latin.jsonl: damaged"),
        ("bad.parquet", b"PAR1 nonsense", "^bad.parquet: not a readable Parquet file"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / name, name))


# --- rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("12", "12"), (12, "12"), (12.0, "12"), (2.5, "2.5"), ("1,000 ", "1,000"), (None, None), ("", None)],
)
def test_answers(workspace: Path, gold: object, answer: str | None) -> None:
    write_json_lines(workspace / "mine.jsonl", [{"ask": "q", "gold": gold, "key": 7}])
    made = build(columns=COLUMNS | {"id": "key"})
    assert [row["answer"] for row in made["answers"]] == ([answer] if answer else [])
    assert [(row["reason"], row["detail"]) for row in made["rejects"]] == (
        [] if answer else [("no_answer", "mine.jsonl line 1 (7)")]
    )


def test_solutions_and_programs(workspace: Path) -> None:
    program = "def solution():\n    return 4"
    write_json_lines(workspace / "mine.jsonl", [{"ask": "q", "gold": "4", "why": "2 + 2", "code": program}])
    made = build(columns=COLUMNS | {"solution": "why", "program": "code"}, answer_kind="program")
    assert [(row["style"], row["text"]) for row in made["solutions"]] == [("natural", "2 + 2"), ("program", program)]


CHOICE = {"answer_kind": "choice", "columns": COLUMNS | {"choices": "options"}}


@pytest.mark.parametrize(
    ("options", "gold", "letter"),
    [
        (["red", "blue"], "B", "B"),
        (["red", "blue"], "blue", "B"),
        ([3, 4, 5], 4, "B"),
        ('["red", "blue"]', "(a)", "A"),
        ("A) red B) blue", "B", "B"),
        ({"1": "red", "2": "blue"}, 2, "B"),
        ([{"label": "x", "text": "red"}, {"label": "y", "text": "blue"}], "y", "B"),
    ],
)
def test_choices(workspace: Path, options: Any, gold: Any, letter: str) -> None:
    write_json_lines(workspace / "mine.jsonl", [{"ask": "q", "gold": gold, "options": options}])
    made = build(**CHOICE)
    assert [row["answer"] for row in made["answers"]] == [letter]
    assert [len(row["choices"]) for row in made["problems"]] == [len(options) if isinstance(options, list) else 2]


def test_choices_in_a_list_column(workspace: Path) -> None:
    write_parquet(workspace / "mine.parquet", [{"ask": "q", "gold": "C", "options": ["x", "y", "z"]}])
    assert build(path="mine.parquet", **CHOICE)["problems"][0]["choices"] == ["x", "y", "z"]


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"ask": "q"}, {}, r"line 1: no column 'gold' \(have 'ask'\); mend `columns.answer`"),
        ({"ask": 5, "gold": "1"}, {}, "line 1: column 'ask' must be text, not int"),
        ({"ask": "q", "gold": [1]}, {}, "line 1: column 'gold' must be text or a number, not list"),
        ({"ask": "q", "gold": True}, {}, "line 1: column 'gold' must be text or a number, not bool"),
        ({"ask": "q", "gold": "\ud83d"}, {}, "line 1: column 'gold' holds half of a surrogate pair"),
        ({"ask": "q", "gold": "A", "options": "red, blue"}, CHOICE, "line 1: column 'options' holds no options: write"),
        ({"ask": "q", "gold": "A", "options": {"text": None, "label": None}}, CHOICE, "line 1: column 'options' holds"),
        ({"ask": "q", "gold": "A", "options": {"text": ["x", None], "label": ["A", "B"]}}, CHOICE,
         "line 1: column 'options' holds no options"),
        ({"ask": "q", "gold": "B", "options": ["\ud83d", "y"]}, CHOICE,
         "line 1: column 'choices' holds half of a surrogate pair"),
        ({"ask": "q", "gold": "E", "options": ["x", "y"]}, CHOICE,
         "line 1: column 'gold' is 'E', which names no option; write one of the labels A, B, or the whole text"),
        ({"ask": "q", "gold": 1, "options": ["x", "y"]}, CHOICE, "line 1: column 'gold' is '1', which names no option"),
    ],
)  # fmt: skip
def test_mistakes_in_rows(workspace: Path, row: dict, settings: dict, message: str) -> None:
    (workspace / "mine.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match="^mine.jsonl " + message):
        build(**settings)
    assert not run_dir("problems", "mine").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": None}, "problems.mine: columns: map `answer` to the file's column"),
        ({"columns": {"answer": "a"}}, "columns: map `question`"),
        ({"columns": COLUMNS | {"gold": "a"}}, r"problems.mine.columns.gold: .*'question'"),
        ({"answer_kind": "choice"}, "columns: map `choices`"),
        ({"columns": COLUMNS | {"choices": "a"}}, "answer_kind: `choices` go with `choice`"),
        ({"answer_kind": None}, "answer_kind: `source: file` needs it"),
        ({"licence": None}, "licence: `source: file` needs it"),
        ({"name": "Mine!"}, "problems.mine.name: names are lower-case letters"),
        ({"source": "gsm8k"}, "columns: only `source: file` has it; remove it"),
        ({"source": "gsm9k"}, "problems.mine.source: .*'gsm8k', 'math', 'arc'"),
    ],
)
def test_mistakes_in_params(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_params(yaml.safe_dump(sections(**settings)))


# --- the Hub -----------------------------------------------------------------------------------------------------

HUB = {
    "allenai/ai2_arc": ("ARC-Easy/train-0.parquet", "ARC-Easy/test-0.parquet", "ARC-Challenge/train-0.parquet"),
    "owner/mine": ("data/part.jsonl", "data/other.txt"),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Repositories whose files hold their own names; returns what was asked for."""
    asked: list[str] = []

    def fetched(repo: str, kind: str, revision: str, patterns: list[str], where: str) -> Path:
        asked.append(f"{kind} {repo} {' '.join(patterns)}")
        for name in HUB[repo]:
            path = tmp_path / repo / name
            path.parent.mkdir(parents=True, exist_ok=True)
            row = {"question": name, "choices": ["x", "y"], "answerKey": "A", "ask": name, "gold": "1"}
            (write_parquet if path.suffix == ".parquet" else write_json_lines)(path, [row])
        return tmp_path / repo

    monkeypatch.setattr("builders.sources.reading.download", fetched)
    return asked


def asked_of(**settings: Any) -> list[str]:
    commit = {"path": "data/none", "revision": "0123456789" * 4}
    return [record.question for record in published(ProblemsRun.model_validate(commit | settings), Path())]


def test_subsets_and_splits_of_the_hub(hub: list[str]) -> None:
    arc = {"source": "arc", "split": "train"}
    assert asked_of(**arc) == ["ARC-Challenge/train-0.parquet", "ARC-Easy/train-0.parquet"]
    assert asked_of(**arc, subset="ARC-Easy") == ["ARC-Easy/train-0.parquet"]
    assert hub == ["dataset allenai/ai2_arc */*-*.parquet"] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "arc", "split": "dev"}, r"^split: allenai/ai2_arc has no split 'dev' \(have test, train\)"),
        ({"source": "arc", "split": "test", "subset": "Easy"}, r"no subset 'Easy' \(have ARC-Challenge, ARC-Easy\)"),
        ({"source": "arc", "split": "test", "subset": "ARC-Challenge"}, r"no split 'test' \(have train\)"),
        ({"source": "reft", "split": "test"}, "^path: 'reft' is not on the Hub; download its file"),
        (
            {"source": "arc", "split": "test", "files": "*.csv"},
            r"^files: allenai/ai2_arc has no file '\*.csv' at 0",
        ),
    ],
)
def test_what_the_hub_has_not(hub: list[str], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked_of(**settings)


def test_a_hub_data_set_of_ones_own(hub: list[str]) -> None:
    mine = FILE | {"hub": "owner/mine", "files": "data/*.jsonl", "columns": COLUMNS}
    assert asked_of(**mine) == ["data/part.jsonl"]
    assert hub == ["dataset owner/mine data/*.jsonl"]
