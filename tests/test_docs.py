"""The README against the code: its commands run, its Python runs, its params parse."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.params import STAGES, parse_params
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


@pytest.mark.parametrize("block", blocks("python"))
def test_the_printed_python_runs(store: Path, block: str) -> None:
    found: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), found)
    with found["store"] as opened:
        assert opened.check() == []


def test_the_printed_params_parse() -> None:
    printed = yaml.safe_load(blocks("yaml")[0])
    sampling = {"explore": {"temperature": 0.8, "max_new_tokens": 512}}
    params = parse_params(yaml.safe_dump(EMPTY | {"sampling": sampling} | printed))
    assert params.samples["irpo_0"].model == "qwen"


def test_every_stage_is_named() -> None:
    table = README[README.index("| stage | makes |") : README.index("## Recipes")]
    assert set(re.findall(r"`(\w+)`", table)) >= {*STAGES, "report"}
