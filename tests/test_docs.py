"""The README against the code: its commands run, its Python runs, its params parse."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.checkers import get_checker
from schemas.params import STAGES, Params, parse_params
from schemas.sections import ModelRun
from schemas.sections_steps import Judge, StepLabelsRun
from tests import small_store
from tests.conftest import REPOSITORY
from tests.pipeline import EMPTY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("pairwright ")]


@pytest.fixture
def store(workspace: Path) -> Path:
    small_store.build(workspace)
    return workspace


@pytest.mark.parametrize("command", COMMANDS)
def test_every_printed_command_runs(store: Path, command: str) -> None:
    bin_dir = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["bash", "-c", command], cwd=store, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def printed_python(holding: str) -> dict[str, Any]:
    """What the block that holds these words defines."""
    (block,) = [block for block in blocks("python") if holding in block]
    found: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), found)
    return found


def test_the_printed_queries_run(store: Path) -> None:
    with printed_python("Store.open")["store"] as opened:
        assert opened.check() == []


def test_the_printed_checker_is_one(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in blocks("python") if "PureChecker" in block]
    (workspace / "my_package").mkdir()
    (workspace / "my_package/checks.py").write_text(block)
    monkeypatch.syspath_prepend(workspace)
    (name,) = re.findall(r"checker: (my_package\S+)", README)
    with get_checker(name) as checker:
        assert checker.extract("", "so\n8") == "8"
        assert checker.matches([("8", "8"), ("8", "9")]) == [True, False]


def printed_params(holding: str) -> Params:
    """The block of params that holds these words, with sections beside it that it does not print."""
    (block,) = [block for block in blocks("yaml") if holding in block]
    sampling = {"explore": {"temperature": 0.8, "max_new_tokens": 512}}
    return parse_params(yaml.safe_dump(EMPTY | {"sampling": sampling} | yaml.safe_load(block)))


def test_the_printed_params_parse() -> None:
    assert printed_params("irpo_0:").samples["irpo_0"].model == "qwen"
    assert printed_params("questions.csv").problems["mine"].licence == "CC-BY-4.0"


def test_the_printed_quality_run_parses() -> None:
    (block,) = [yaml.safe_load(block) for block in blocks("yaml") if "against:" in block]
    generated = {"source": "arithmetic", "path": "data/none", "split": "train", "limit": 2, "steps": [1, 2]}
    params = parse_params(yaml.safe_dump(EMPTY | {"problems": {"train": generated, "test": generated}} | block))
    assert params.quality["train_clean"].against.runs == ["test"]


def test_the_printed_judge_is_one() -> None:
    (block,) = [yaml.safe_load(block) for block in blocks("yaml") if "labeler: judge" in block]
    run = StepLabelsRun.model_validate(block["step_labels"]["wrong"])
    assert run.judge == Judge(answer="schema", mode="online", repeats=1)
    assert ModelRun.model_validate(block["models"][run.model]).hosted


def test_every_stage_is_named() -> None:
    table = README[README.index("| stage | makes |") : README.index("## Recipes")]
    assert set(re.findall(r"`(\w+)`", table)) >= {*STAGES, "report"}
