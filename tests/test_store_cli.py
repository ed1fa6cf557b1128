"""The command line: what it prints, its exit codes, and that model output cannot drive the terminal."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stores.cli import main
from stores.ledger import Completion, Ledger
from stores.parquet import PART
from stores.paths import run_dir
from stores.store import Store
from tests.small_store import TEXTS, build, pair_id, prompts, rows, sample, write
from tests.versions import Project


@pytest.fixture
def root(workspace: Path) -> Path:
    build(workspace)
    return workspace


class Terminal:
    """Runs `pairwright` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)."""
        self.monkeypatch.setattr(sys, "argv", ["pairwright", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = self.capsys.readouterr()
        return int(end.value.code or 0), out, err


@pytest.fixture
def pairwright(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def test_sql_prints_a_table(root: Path, pairwright: Terminal) -> None:
    code, out, _ = pairwright("sql", "select run, count(*) as n, null as empty from samples group by run order by run")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["run", "n", "empty"], ["──────", "─", "─────"], ["gold", "2"], ["irpo_0", "6"], ["(2", "rows)"],
    ]  # fmt: skip


def test_sql_prints_json_and_csv_that_read_back(root: Path, pairwright: Terminal) -> None:
    controls = "text || chr(127) || chr(133) || chr(159) as text"
    query = f"select {controls}, token_ids, reward from samples left join rewards using (sample_id) order by sample_id"
    expected = Store.open().sql(query).fetchall()
    assert expected[0][0].endswith("\x7f\x85\x9f")
    _, out, _ = pairwright("sql", query, "--format", "json")
    assert [(r["text"], r["token_ids"], r["reward"]) for r in json.loads(out)] == expected
    _, out, _ = pairwright("sql", query, "--format", "csv")
    got = list(csv.reader(io.StringIO(out)))
    assert got[0] == ["text", "token_ids", "reward"]
    assert [row[0] for row in got[1:]] == [text for text, *_ in expected]


def test_sql_of_nothing_is_valid_json(root: Path, pairwright: Terminal) -> None:
    assert json.loads(pairwright("sql", "select * from training", "--format", "json")[1]) == []


def test_sql_reads_standard_input(root: Path, pairwright: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("select 6 * 7 as answer"))
    assert "42" in pairwright("sql")[1]


@pytest.mark.parametrize("rest", [["--ledger"], ["--output", "x.csv"], []], ids=["ledger", "file", "piped on"])
def test_sql_needs_a_query_where_there_is_no_prompt(
    root: Path, pairwright: Terminal, monkeypatch: pytest.MonkeyPatch, rest: list[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: bool(rest))
    code, _, err = pairwright("sql", *rest)
    assert (code, err) == (1, 'pairwright: give a query: pairwright sql "select * from funnel"\n')


POINTED = {
    "select foo from pairs": ['line 1, column 8: Binder Error: Referenced column "foo"', "select foo from pairs", 7],
    "select 1,\n\t'猫🐈', foo from pairs": ["line 2, column 8: Binder Error", " '猫🐈', foo from pairs", 9],
    "selec 1": ["line 1, column 1: Parser Error", "selec 1", 0],
    f"select {'1, ' * 200} foo from pairs": ["line 1, column 609: Binder", f"… {'1, ' * 16} foo from pairs", 51],
    "from read_text('x')": ["line 1, column 6: Permission Error: the function read_text", "from read_text('x')", 5],
}


@pytest.mark.parametrize(("query", "expected"), POINTED.items(), ids=["name", "wide", "syntax", "long", "guard"])
def test_a_mistake_in_a_query_is_pointed_at(root: Path, pairwright: Terminal, query: str, expected: list) -> None:
    code, out, err = pairwright("sql", query)
    lines = err.splitlines()
    assert (code, out, len(lines)) == (1, "", 3)
    assert lines[0].startswith(f"pairwright: {expected[0]}")
    assert lines[1:] == [f"  {expected[1]}", "  " + " " * expected[2] + "^"]


def test_parquet_and_files(root: Path, pairwright: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "select sample_id, text, token_ids, sum(1) over () as n from samples order by all"
    expected = Store.open().sql(query).to_arrow()
    assert pairwright("sql", query, "--format", "parquet", "--output", "rows.parquet")[:2] == (0, "")
    assert pq.read_table("rows.parquet").to_pylist() == expected.to_pylist()
    for format in ("csv", "json", "table"):
        assert pairwright("sql", query, "--format", format, "--output", "rows.txt")[:2] == (0, "")
        assert Path("rows.txt").read_text() == pairwright("sql", query, "--format", format)[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, _, err = pairwright("sql", query, "--format", "parquet")
    assert (code, "parquet is binary" in err) == (1, True)


def test_parquet_goes_to_a_pipe(root: Path) -> None:
    command = [sys.executable, "-m", "stores", "sql", "select 6 * 7 as answer", "--format", "parquet"]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, cwd=root, env=environment, check=True)
    assert pq.read_table(io.BytesIO(done.stdout)).to_pylist() == [{"answer": 42}]


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_a_file_appears_only_once_it_is_whole(root: Path, pairwright: Terminal, format: str) -> None:
    Path("rows").write_text("as before")
    late = "select case when range = 250000 then 'x' else '1' end::int as n from range(300000)"
    code, _, err = pairwright("sql", late, "--format", format, "--output", "rows")
    assert (code, "Could not convert string" in err) == (1, True)
    assert Path("rows").read_text() == "as before"
    assert [path.name for path in root.iterdir() if "rows" in path.name] == ["rows"]


def test_a_table_shows_so_many_rows(root: Path, pairwright: Terminal) -> None:
    query = "select range as n from range({})"
    assert pairwright("sql", query.format(1000))[1].splitlines()[-1] == "(1000 rows)"
    out = pairwright("sql", query.format(1001))[1].splitlines()
    assert (len(out), out[-1]) == (1003, "(the first 1000 rows; `--rows 0` shows all)")
    assert pairwright("sql", query.format(1001), "--rows", "0")[1].splitlines()[-1] == "(1001 rows)"
    assert len(pairwright("sql", query.format(1001), "--format", "csv")[1].splitlines()) == 1002
    endless = pairwright("sql", query.format(10**15), "--rows", "1")[1]
    assert endless.splitlines()[-1] == "(the first 1 row; `--rows 0` shows all)"


@pytest.mark.parametrize("format", ["csv", "json"])
def test_numbers_are_printed_as_they_are_in_a_whole_result(root: Path, pairwright: Terminal, format: str) -> None:
    query = (
        "select sum(range) as n, 0.5::double as d, [1] as l, date '2025-01-02' as day, null as nothing from range(4)"
    )
    expected = {"csv": "n,d,l,day,nothing\n6,0.5,[1],2025-01-02,\n"}
    expected["json"] = '[{"n": 6, "d": 0.5, "l": [1], "day": "2025-01-02", "nothing": null}]\n'
    assert pairwright("sql", query, "--format", format)[1] == expected[format]


def test_a_statement_that_is_no_query_runs_once(root: Path, pairwright: Terminal) -> None:
    counted = "create temp sequence s; select nextval('s') as n"
    assert pairwright("sql", "--unsafe", counted, "--format", "csv")[1] == "n\n1\n"
    assert pairwright("sql", "--unsafe", counted, "--format", "json")[1] == '[{"n": 1}]\n'
    copy = "copy (select 1 as one) to 'out.csv'"
    assert pairwright("sql", "--unsafe", copy, "--format", "csv")[1].splitlines() == ["Count", "1"]


@pytest.fixture
def versioned(root: Path) -> Project:
    """v1.0: 8 samples; the checkout: 3."""
    project = Project(root)
    project.commit(tag="v1.0")
    write(root, "samples", "irpo_0", [sample(prompts()[0], 0, "new")])
    return project


def test_commands_answer_of_another_version(versioned: Project, pairwright: Terminal) -> None:
    count = "select count(*) as n from samples"
    assert pairwright("sql", count, "--format", "csv")[1] == "n\n3\n"
    assert pairwright("sql", count, "--format", "csv", "--rev", "v1.0")[1] == "n\n8\n"
    both = "select (select count(*) from v1_0.samples) as a, (select count(*) from workspace.samples) as b"
    assert pairwright("sql", both, "--format", "csv", "--rev", "v1.0", "--rev", "workspace")[1] == "a,b\n8,3\n"
    runs = json.loads(pairwright("runs", "--rev", "v1.0", "--format", "json")[1])
    assert {row["run"]: row["rows"] for row in runs if row["table"] == "samples"}["irpo_0"] == 6
    assert "irpo_0  samples       True   6" in pairwright("describe", "samples", "--rev", "v1.0")[1]
    first = prompts()[0].prompt_id
    assert "answer '4'" in pairwright("show", first, "--rev", "v1.0")[1]
    assert pairwright("check", "--rev", "v1.0")[0] == 0
    assert pairwright("check")[0] == 1


def test_a_table_without_its_version_is_said_with_the_schemas(versioned: Project, pairwright: Terminal) -> None:
    _, _, err = pairwright("sql", count := "select count(*) from samples", "--rev", "v1.0", "--rev", "workspace")
    lines = err.splitlines()
    assert "Did you mean" in lines[0]
    assert lines[1:] == [f"  {count}", "  " + " " * 21 + "^", "(the versions are the schemas v1_0, workspace)"]
    code, _, err = pairwright("sql", "--ledger", "select 1", "--rev", "v1.0")
    assert (code, err) == (1, "pairwright: the ledger has no versions, and prints as table, json or csv\n")


def test_sql_is_guarded_unless_asked(root: Path, pairwright: Terminal) -> None:
    copy = "copy (select 1 as one) to 'out.csv'"
    code, _, err = pairwright("sql", copy)
    assert (code, len(err.splitlines()), (root / "out.csv").exists()) == (1, 1, False)
    assert pairwright("sql", copy, "--unsafe")[0] == 0
    assert (root / "out.csv").read_text() == "one\n1\n"


def test_sql_asks_the_ledger(root: Path, pairwright: Terminal) -> None:
    Ledger().append("c", "base", [("c-p-0", Completion("8", "stop", 1, 5, (1, 2)))], wall_s=1.0)
    _, out, _ = pairwright("sql", "--ledger", "select key, text, token_ids from completions", "--format", "json")
    assert json.loads(out) == [{"key": "c-p-0", "text": "8", "token_ids": "0100000002000000"}]
    code, _, err = pairwright("sql", "--ledger", "delete from completions")
    assert (code, len(err.splitlines())) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "pair"], "pairwright: no table or view 'pair' (did you mean 'pairs'?)"),
        (["show", "0123456789abcdef"], "pairwright: no pair with pair_id '0123456789abcdef'; `select pair_id, run"),
        (
            ["show", "f" * 16 + "-12345678"],
            f"pairwright: no pair with prompt_id '{'f' * 16}-12345678'; rejects: no_rej",
        ),
        (
            ["show", "0123456789abcdef", "--run", "x"],
            "pairwright: no pair with pair_id '0123456789abcdef' in the run 'x'",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    root: Path, pairwright: Terminal, arguments: list[str], message: str
) -> None:
    code, out, err = pairwright(*arguments)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(message)


@pytest.mark.parametrize("command", ["runs", "check", "sql", "show"])
def test_outside_a_project_it_says_so(workspace: Path, pairwright: Terminal, command: str) -> None:
    code, _, err = pairwright(command, *{"sql": ["select 1"], "show": ["x"]}.get(command, []))
    assert (code, err) == (
        1,
        "pairwright: params.yaml: no such file; run in the project's directory\n",
    )


def test_a_usage_error_exits_with_2(root: Path, pairwright: Terminal) -> None:
    assert pairwright("sql", "select 1", "--format", "yaml")[0] == 2


def test_runs_lists_what_is_built_and_what_is_not(root: Path, pairwright: Terminal) -> None:
    listed = json.loads(pairwright("runs", "--format", "json")[1])
    assert {
        "table": "samples",
        "run": "irpo_1",
        "section": "samples",
        "built": False,
        "rows": None,
        "bytes": None,
    } in listed
    assert {row["table"] for row in listed if row["built"]} >= {"pairs", "rejects", "problems"}


def test_describe_shows_meanings_counts_and_an_example(root: Path, pairwright: Terminal) -> None:
    _, out, _ = pairwright("describe", "rewards")
    meaning = "undecided: the checker timed out or crashed; never treated as wrong"
    for part in ("rewards: One row per sample", f"{meaning}  correct, wrong, no_answer", "irpo_0", '"verdict": '):
        assert part in out
    listed = pairwright("describe")[1]
    assert "pair_texts" in listed
    assert "reference_logprobs" in listed


def test_show_prints_a_pair_for_a_human(root: Path, pairwright: Terminal) -> None:
    pairs = [p for p in rows()["pairs", "irpo_0"] if p.prompt_id == prompts()[0].prompt_id]  # type: ignore[attr-defined]
    _, out, _ = pairwright("show", pair_id(pairs[0]))  # type: ignore[arg-type]
    for part in (
        "[user] Question: How many legs have 2 cats?",
        "── prefill",
        " Let us see.",
        "── chosen: correct, answer '8'",
        TEXTS[0][0][2:],
        "── rejected: wrong, answer '4'",
        TEXTS[1][0],
        "and the end of the sequence",
        "drawn by base (abcdef0123456789): seed 0, temperature 1.0, top_p 1.0, index 0; run irpo_0",
        "checked by number 1; reward 1.0; run irpo_0",
        "template question_answer-1234",
    ):
        assert part in out
    both = pairwright("show", prompts()[0].prompt_id, "--run", "irpo_0")[1]
    assert both.count("pair ") == 2
    assert "rejected: no_answer, no answer extracted" in both
    assert "chosen: no verdict" in both  # a gold solution


def test_show_says_what_is_not_there(root: Path, pairwright: Terminal) -> None:
    first = prompts()[0].prompt_id
    for table, run in (("prompts", "train"), ("samples", "gold")):
        (run_dir(table, run) / PART).unlink()
    _, out, _ = pairwright("show", first)
    assert out.count("prompt (not found: is its run built?)") == 2
    assert out.count("(not found: is its run built?)") == 3
    assert TEXTS[2][0].splitlines()[0][-20:] in out


def test_model_output_cannot_drive_the_terminal(root: Path, pairwright: Terminal) -> None:
    hostile = prompts()[0].prompt_id
    for arguments in (["show", hostile], ["sql", "select rejected from pair_texts"], ["describe", "pair_texts"]):
        _, out, _ = pairwright(*arguments)
        assert "\x1b" not in out
    assert "I \\x1b[31mdo not\\x1b[0m know [bold]at all[/bold]." in pairwright("show", hostile)[1]


@pytest.mark.parametrize("format", ["json", "csv"])
def test_whole_formats_do_not_drive_a_terminal_either(
    root: Path, pairwright: Terminal, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    query = ["sql", "select text from samples", "--format", format]
    assert ("\x1b" in pairwright(*query)[1]) == (format == "csv"), "a file gets the texts as they are"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b" not in pairwright(*query)[1]


def test_check_exits_with_1_on_violations(root: Path, pairwright: Terminal) -> None:
    assert pairwright("check")[:2] == (0, "no violations\n")
    (run_dir("rewards", "irpo_0") / PART).write_bytes(b"broken")
    code, out, _ = pairwright("check", "--format", "json")
    assert code == 1
    assert json.loads(out)[0]["check"] == "readable"


def test_a_closed_pipe_is_no_error(root: Path) -> None:
    command = f"{sys.executable} -m stores sql 'select range from range(300000)' --format csv | head -2"
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=root, env=environment)
    assert (done.stdout, done.stderr) == ("range\n0\n", "")
