"""`pairwright ledger …`, which models count as used, and commands that other packages add."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
import typer

from builders.model_files import write_record
from builders.models import write_script
from stores import cli
from stores.ledger import Completion, Ledger
from stores.ledger_usage import checkouts, unused_models, used_models
from stores.paths import run_dir
from stores.run_log import RunLog
from tests import stage_world as world
from tests.test_ledger_admin import NEW, OLD, key, make
from tests.test_store_cli import Terminal


@pytest.fixture
def ledger(workspace: Path) -> Iterator[Ledger]:
    with contextlib.closing(make(workspace.parent / "ledger")) as opened:
        yield opened


@pytest.fixture
def pairwright(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def entries(ledger: Ledger) -> int:
    return ledger.sql("select count(*) from completions")[1][0][0]


def test_size(ledger: Ledger, pairwright: Terminal) -> None:
    code, out, _ = pairwright("ledger", "size")
    assert code == 0
    assert "together 14 entries" in out
    assert "1.00 USD" in out
    found = json.loads(pairwright("ledger", "size", "--model", "m1", "--format", "json")[1])
    assert [(row["model_fingerprint"], row["entries"], row["price_usd"]) for row in found] == [("f1", 4, 1.0)]


def test_pruning_is_shown_before_it_is_done(ledger: Ledger, pairwright: Terminal) -> None:
    code, out, _ = pairwright("ledger", "prune", "--older-than", "8w")
    assert (code, entries(ledger)) == (0, 14)
    assert "together 10 entries" in out
    assert "nothing was changed; --yes" in out
    assert pairwright("ledger", "prune", "--older-than", "8w", "--yes")[1] == "10 entries forgotten\n"
    assert entries(ledger) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "prune: say which entries: --unused, --model"),
        (["prune", "--yes"], "prune: say which entries"),
        (["prune", "--older-than", "3 months"], "--older-than 3 months: hours, days or weeks"),
        (["prune", "--context", "", "--yes"], "--context: an empty value"),
        (["export", "all", "--model", "m0", "--fingerprint", ""], "--fingerprint: an empty value"),
        (["redact", "--yes"], "redact: say which entries: --key, --keys, --model"),
        (["redact", "--key", "a", "--model", "m0"], "redact: give keys, or --model"),
        (["redact", "--key", "a", "--yes"], "no completion 'a'"),
        (["merge", "nothing"], "nothing: no such file"),
    ],
)
def test_mistakes_change_nothing(ledger: Ledger, pairwright: Terminal, arguments: list[str], message: str) -> None:
    code, _, err = pairwright("ledger", *arguments)
    assert (code, len(err.splitlines()), entries(ledger)) == (1, 1, 14)
    assert message in err


def test_a_part_travels_to_another_machine(
    ledger: Ledger, pairwright: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert pairwright("ledger", "export", "part", "--context", OLD[:4])[1] == "part: 10 entries\n"
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "there"))
    assert pairwright("ledger", "merge", "part")[1] == "10 entries added, 0 were here already\n"
    assert pairwright("ledger", "merge", "part")[1] == "0 entries added, 10 were here already\n"
    _, out, _ = pairwright("sql", "--ledger", "select count(*) as n, min(context) as c from batches", "--format", "csv")
    assert out == f"n,c\n2,{OLD}\n"


def test_conflicts_are_reported(ledger: Ledger, pairwright: Terminal, tmp_path: Path) -> None:
    with contextlib.closing(Ledger(tmp_path / "other")) as other:
        other.append(NEW, "m1", [(key(NEW, 0), Completion("other", "stop", 1, 1))], 1.0)
    out = pairwright("ledger", "merge", str(tmp_path / "other" / "ledger.sqlite"))[1]
    assert f"1 conflicts: here with another text, which was kept ({key(NEW, 0)}, …)" in out


def test_redaction(ledger: Ledger, pairwright: Terminal) -> None:
    Path("keys").write_text(f"{key(OLD, 1)}\n{key(OLD, 2)}\n")
    assert "2 entries" in pairwright("ledger", "redact", "--keys", "keys")[1]
    assert ledger.get([key(OLD, 1)])
    assert pairwright("ledger", "redact", "--keys", "keys", "--yes")[1].startswith("2 entries redacted; data/")
    assert pairwright("ledger", "redact", "--model", "m1", "--yes")[1].startswith("4 entries redacted")
    _, out, _ = pairwright("sql", "--ledger", "select count(redacted_at) as n from completions", "--format", "csv")
    assert out == "n\n6\n"


def write_model(name: str, answer: str) -> str:
    directory = run_dir("models", name)
    directory.mkdir(parents=True, exist_ok=True)
    write_script(directory, [answer])
    return write_record(directory, {"source": "script"})


def begin(ledger: Ledger, context: str, name: str, fingerprint: str) -> None:
    ledger.begin(context, name, fingerprint, {})
    ledger.append(context, name, [(f"{context}-p-0", Completion("8", "stop", 1, 1))], 1.0)


def test_models_of_this_checkout_and_of_others_are_used(
    ledger: Ledger, pairwright: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.write_params()
    begin(ledger, "aa", "here", write_model("here", "1"))
    here = Path.cwd()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    world.write_params()
    with RunLog().measure("samples", "drawn"):
        pass
    begin(ledger, "bb", "there", write_model("there", "2"))
    monkeypatch.chdir(here)
    assert checkouts(here) == [tmp_path / "other", here]
    assert unused_models(ledger, checkouts(here)) == ["f0", "f1"]
    ledger.append("cc", "m0", [("cc-p-0", Completion("8", "stop", 1, 1))], 1.0)
    out = pairwright("ledger", "prune", "--unused", "--yes")[1]
    assert out == "14 entries forgotten\n"
    assert {row[0] for row in ledger.sql("select context from batches")[1]} == {"aa", "bb", "cc"}, (
        "what no model is known of is kept"
    )


def test_a_checkout_whose_versions_git_does_not_list_is_named_before_anything_is_forgotten(
    ledger: Ledger, pairwright: Terminal, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write_params()
    subprocess.run(["git", "init", "-q"], check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    code, _, err = pairwright("ledger", "prune", "--unused", "--yes")
    assert (code, len(err.splitlines()), entries(ledger)) == (1, 1, 14)
    assert "versions cannot be read" in err
    assert "dubious ownership" in err


@pytest.mark.slow
def test_models_of_every_branch_tag_and_lost_version_are_used(ledger: Ledger, workspace: Path) -> None:
    def run(*command: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"] if command[0] == "git" else []
        subprocess.run([command[0], *identity, *command[1:]], check=True, capture_output=True)

    def version(answer: str, tag: str) -> str:
        fingerprint = write_model("base", answer)
        run("dvc", "commit", "-f")
        run("git", "add", "-A")
        run("git", "commit", "-qm", answer)
        run("git", "tag", tag)
        return fingerprint

    world.write_params()
    stage = {"cmd": "true", "outs": ["data/models/base"]}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"models@base": stage}}).replace("models@base", "models"))
    write_model("base", "0")
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    first, second = version("1", "v1"), version("2", "v2")
    third = write_model("base", "3")
    assert used_models([workspace]).fingerprints == {first, second, third}
    for path in (workspace / ".dvc/cache/files/md5").glob("*/*.dir"):
        path.unlink()
    assert used_models([workspace]) == ({third}, {"base"}), "what the cache has lost is kept by name"
    begin(ledger, "aa", "base", first)
    assert unused_models(ledger, [workspace]) == ["f0", "f1"]


def points(monkeypatch: pytest.MonkeyPatch, **values: str) -> list[str]:
    """Entry points by name; returns the group names that were asked for."""
    asked: list[str] = []

    def found(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint(name, value, group) for name, value in values.items()]

    monkeypatch.setattr(cli, "entry_points", found)
    commands, groups = list(cli.app.registered_commands), list(cli.app.registered_groups)
    monkeypatch.setattr(cli.app, "registered_commands", commands)
    monkeypatch.setattr(cli.app, "registered_groups", groups)
    return asked


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module, group = ModuleType("mine"), typer.Typer()

    def hello(name: str) -> None:
        """Greets somebody."""
        print(f"hello {name}")

    group.command("one")(lambda: print("one of mine"))
    group.command("two")(lambda: print("two of mine"))
    module.__dict__.update(hello=hello, group=group)
    monkeypatch.setitem(sys.modules, "mine", module)


def test_a_package_adds_commands(package: None, pairwright: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = points(monkeypatch, hello="mine:hello", ours="mine:group", broken="no_such_package:run")
    assert pairwright("hello", "you")[:2] == (0, "hello you\n")
    assert pairwright("ours", "two")[:2] == (0, "two of mine\n")
    code, _, err = pairwright("broken")
    assert (code, err.startswith("pairwright: broken: cannot be loaded (ModuleNotFoundError")) == (1, True)
    out = pairwright("--help")[1]
    for part in ("hello", "Greets somebody.", "ours", "broken", "cannot be loaded (ModuleNotFoundError"):
        assert part in out
    assert set(asked) == {cli.GROUP}


def test_our_own_commands_look_for_no_others(ledger: Ledger, pairwright: Terminal, monkeypatch) -> None:
    asked = points(monkeypatch, sql="no_such_package:run", broken="no_such_package:run")
    pairwright("sql", "--ledger", "select 1")
    pairwright("ledger", "size")
    assert asked == []


def test_an_unknown_command_exits_with_2(pairwright: Terminal) -> None:
    code, _, err = pairwright("nothing")
    assert (code, "No such command 'nothing'" in err) == (2, True)


def test_the_shipped_commands_are_listed() -> None:
    done = subprocess.run([sys.executable, "-m", "stores", "--help"], capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.strip()}
    assert listed >= {"sql", "ledger", "doctor", "forecast", "smoke", "eval"}
    assert "annot be loaded" not in done.stdout


def test_a_query_loads_no_higher_layer(ledger: Ledger) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "stores", "sql", "--ledger", "select 1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert loaded & {"stores", "builders", "duckdb", "torch"} == {"stores"}
