"""The prompt of `pairwright sql`: queries over several lines, completion, history, and mistakes that do not end it."""

import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from schemas import TABLES
from stores.printing import ResultFormat
from stores.prompt import Names, Prompt
from stores.versions import Versions, open_versions
from stores.views import DERIVED
from tests.conftest import REPOSITORY
from tests.small_store import build

UP, CTRL_C, CTRL_D, TAB = "\x1b[A", "\x03", "\x04", "\t"


@pytest.fixture
def versions(workspace: Path) -> Iterator[Versions]:
    build(workspace)
    with open_versions(["workspace"], guard=True) as opened:
        yield opened


def typed(versions: Versions, *keys: str) -> None:
    """Runs the prompt with what somebody types; every Enter is `\\r`. Arrows and Tab are pressed until they show."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        prompt = Prompt(versions, ResultFormat.csv, 100)
        typist = threading.Thread(target=_type, args=(prompt.session, pipe, keys))
        typist.start()
        prompt.run()
        typist.join()


def _type(session: "PromptSession[str]", pipe: PipeInput, keys: Sequence[str]) -> None:
    for text in keys:
        before = session.default_buffer.text
        pipe.send_text(text)
        while text in (UP, TAB) and session.default_buffer.text == before:
            time.sleep(0.05)
            if text == UP:  # the history is read in the background
                pipe.send_text(text)


GIVEN = {
    # what: (keys, standard output after the greeting, part of standard error)
    "several lines": (["select 6\r* 7 as\ranswer;\r"], "answer\n42\n", ""),
    "two queries": (["select 1 as a;\r", "select 2 as b;\r"], "a\n1\nb\n2\n", ""),
    "a mistake goes on": (["selec 1;\r", "select 2 as b;\r"], "b\n2\n", "syntax error"),
    "a refusal goes on": (["drop view samples;\r", "select 2 as b;\r"], "b\n2\n", "only one SELECT"),
    "an error while it runs": (["select 'x'::int;\r", "select 2 as b;\r"], "b\n2\n", "Could not convert"),
    "Ctrl-C gives up the text": (["select nonsense\r", CTRL_C, "select 2 as b;\r"], "b\n2\n", ""),
    "Ctrl-D on an empty line ends": ([CTRL_D, "select 1;\r"], "", ""),
    "nothing is no query": (["\r", ";\r", "select 2 as b;\r"], "b\n2\n", ""),
    "history": (["select 2 as b;\r", UP, "\r"], "b\n2\nb\n2\n", ""),
    "completion": (["select count(*) as n from sampl", TAB, ";\r"], "n\n8\n", ""),
    "quit": ([".quit\r", "select 1;\r"], "", ""),
    "format": ([".format json\r", "select 1 as a;\r"], '[{"a": 1}]\n', ""),
    "unknown command": ([".nothing\r", "select 2 as b;\r"], "b\n2\n", "no command '.nothing'; `.help` lists them"),
    "format without a name": ([".format yaml\r"], "", "no command '.format yaml'"),
}


@pytest.mark.parametrize(("keys", "out", "err"), GIVEN.values(), ids=GIVEN)
def test_what_is_typed_is_answered(
    versions: Versions, capsys: pytest.CaptureFixture[str], keys: list[str], out: str, err: str
) -> None:
    typed(versions, *keys, CTRL_D, CTRL_D)
    printed = capsys.readouterr()
    assert printed.out.partition("says more.\n")[2] == out
    assert err in printed.err
    assert bool(err) == bool(printed.err)


def test_a_mistake_is_pointed_at(versions: Versions, capsys: pytest.CaptureFixture[str]) -> None:
    typed(versions, "select\rfoo from samples;\r", CTRL_D)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("line 2, column 1: Binder Error")
    assert lines[1:] == ["  foo from samples", "  ^"]


def test_help_and_tables_and_describe(versions: Versions, capsys: pytest.CaptureFixture[str]) -> None:
    typed(versions, ".help\r", ".tables\r", ".describe answers\r", CTRL_D)
    out = capsys.readouterr().out
    for part in ("Ctrl-D", "table  samples", "view  pair_texts", "problem_id,VARCHAR"):
        assert part in out


def test_the_history_is_kept(versions: Versions, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(versions, "select 1 as first;\r", CTRL_D)
    typed(versions, UP, "\r", CTRL_D)
    assert capsys.readouterr().out.count("first\n1\n") == 2
    assert "select 1 as first;" in (tmp_path / "ledger" / "sql_history").read_text()


COMPLETIONS = {
    # text up to the cursor, and after it: some of the names that must be offered, and some that must not
    "select * from sam|": ({"samples"}, {"predictions", "select"}),
    "sel|": ({"select"}, set(TABLES)),
    "select ver| from rewards": ({"verdict"}, {"text"}),
    "select | from rewards": ({"verdict", "sample_id", "samples", "pair_texts"}, {"prefill"}),
    "select r.| from rewards r": ({"verdict", "run"}, {"samples", "select"}),
    "select rewards.ch| from rewards": ({"checker", "checker_version"}, {"verdict"}),
    "select p.| from pair_texts as p": ({"chosen", "rejected"}, {"verdict"}),
    "select * from workspace.|": ({*TABLES, *DERIVED}, {"select"}),
    "select w.verd| from workspace.rewards w": ({"verdict"}, {"checker"}),
    "select x.| from nowhere x": (set(), set(TABLES)),
    "SELECT * FROM PAIR_|": ({"pair_texts"}, {"pairs"}),
}


@pytest.mark.parametrize(("text", "expected"), COMPLETIONS.items(), ids=COMPLETIONS)
def test_names_are_completed(versions: Versions, text: str, expected: tuple[set[str], set[str]]) -> None:
    before, _, after = text.partition("|")
    document = Document(before + after, len(before))
    offered = {c.text for c in Names(versions).get_completions(document, CompleteEvent())}
    assert expected[0] <= offered
    assert not expected[1] & offered


def test_a_table_that_cannot_be_read_is_completed_from_its_definition(workspace: Path) -> None:
    build(workspace)
    (workspace / "data/rewards/run=irpo_0/part-00000.parquet").write_bytes(b"broken")
    with open_versions(["workspace"]) as versions:
        assert "verdict" in Names(versions).columns("rewards")
        assert Names(versions).columns("funnel") == []


def test_on_a_terminal_a_query_is_asked_for(workspace: Path) -> None:
    build(workspace)
    here, there = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}
    command = [sys.executable, "-m", "stores", "sql", "--format", "csv"]
    process = subprocess.Popen(command, cwd=workspace, env=environment, stdin=there, stdout=there, stderr=there)
    try:
        os.close(there)
        shown = _until(here, "pairwright>")
        os.write(here, b"select 6 * 7 as answer;\r")
        shown += _until(here, "\n42\r\n") + _until(here, "pairwright>")
        os.write(here, CTRL_D.encode())
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(here)
    assert "SQL over workspace; `.help` says more." in shown


def _until(terminal: int, text: str) -> str:
    """What is shown until it has a text; a terminal's question for the cursor's place is answered."""
    shown, deadline = "", time.monotonic() + 300
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], 1)
        assert time.monotonic() < deadline, shown
        if ready:
            more = os.read(terminal, 4096).decode(errors="replace")
            shown += more
            if "\x1b[6n" in more:
                os.write(terminal, b"\x1b[1;1R")
    return shown
