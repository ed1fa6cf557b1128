"""A user's own checker, named in params as `package.module:Class@version`."""

import subprocess
import sys
from pathlib import Path

import pytest

from builders import predictions, rewards
from builders.checkers import checker_for, get_checker
from builders.checkers.verdicts import verdicts
from stores.stage import execute
from tests import stage_world as world
from tests.conftest import REPOSITORY

MODULE = '''
from builders.checkers.base import PureChecker


class Last(PureChecker):
    """The last word, letter for letter."""

    version = "2"
    rule = "last_word"

    def extract(self, prefill, text):
        return text.split()[-1] if text.split() else None

    def equal(self, extracted, gold):
        return None if extracted == "?" else extracted == gold


class Colon(Last):
    rule = "a:b"


class Half:
    version = "1"

    def extract(self, prefill, text):
        return text
'''
NAME = "my_checks.words:Last@2"


@pytest.fixture
def package(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the working directory, importable from there."""
    directory = workspace / "my_checks"
    directory.mkdir()
    (directory / "__init__.py").touch()
    (directory / "words.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(workspace))
    for name in [name for name in sys.modules if name.startswith("my_checks")]:
        monkeypatch.delitem(sys.modules, name)
    return directory


def made() -> dict[str, str]:
    """A workspace with three samples of one problem; sample id -> expected verdict."""
    asked = world.problem("Which word?")
    prompt = world.prompt(asked)
    given = {"it is so": "correct", "it is not": "wrong", "": "no_answer", "who knows ?": "undecided"}
    rows = [world.sample(prompt, index, text) for index, text in enumerate(given)]
    world.write_params(
        predictions={"p": {"samples": "drawn", "prompts": "train", "problems": "train", "checker": NAME}},
        rewards={"r": {"predictions": "p", "problems": "train"}},
    )
    world.write("problems", "train", [asked])
    world.write("answers", "train", [world.answer(asked, "so")])
    world.write("prompts", "train", [prompt])
    world.write("samples", "drawn", rows)
    return {row.sample_id: given[row.text] for row in rows}


def test_it_decides_predictions_and_rewards(package: Path) -> None:
    expected = made()
    execute("predictions", "p", predictions.run)
    execute("rewards", "r", rewards.run)
    assert {row["extractor"] for row in world.read("predictions", "p")} == {f"{NAME}:last_word"}
    judged = world.read("rewards", "r")
    assert {row["sample_id"]: row["verdict"] for row in judged} == expected
    assert {(row["checker"], row["checker_version"]) for row in judged} == {(NAME, "2")}


def test_the_stage_finds_it_where_it_runs(package: Path) -> None:
    made()
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": str(Path(sys.executable).parent), "PAIRWRIGHT_LEDGER": "l"}
    for stage, run in (("predictions", "p"), ("rewards", "r")):
        command = [sys.executable, "-m", f"builders.{stage}", run]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    assert {row["checker"] for row in world.read("rewards", "r")} == {NAME}


def test_it_serves_validation(package: Path) -> None:
    assert checker_for("number", NAME) == NAME
    assert verdicts(NAME, ["it is so", "no"], ["", ""], ["so", "so"]) == ["correct", "wrong"]


MISTAKES = [
    # name, message
    ("my_checks.words:Last@1", r"Last\.version is '2'; write @2 in params"),
    ("my_checks.words:First@1", "module my_checks.words has no class 'First'"),
    (".words:Last@2", "write package.module:Class@version"),
    (":Last@2", "write package.module:Class@version"),
    ("my_checks.nowhere:Last@2", "No module named 'my_checks.nowhere'; install its package"),
    ("elsewhere_entirely:Last@2", "No module named 'elsewhere_entirely'"),
    ("my_checks.words:Half@1", "Half has no normalise, matches.*derive it from builders.checkers.base.PureChecker"),
    ("my_checks.words:Colon@2", "its rule, 'a:b', must not contain a colon"),
    ("nubmer", r"no checker 'nubmer' \(have .*number.*or your own as package.module:Class@version"),
]


@pytest.mark.parametrize(("name", "message"), MISTAKES)
def test_mistakes_name_the_remedy(package: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_checker(name)


def test_every_checker_of_ours_has_the_whole_protocol() -> None:
    from builders import checkers

    for name in checkers._CHECKERS:
        checker = get_checker(name)
        assert all(hasattr(checker, needed) for needed in checkers._NEEDED)
        assert (checker.name, ":" in checker.rule) == (name, False)
        assert checker.__doc__
