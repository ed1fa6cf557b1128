"""Imports point one way, and importing a module loads nothing heavy that it does not need."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "stores", "builders", "train")
HEAVY = ("torch", "transformers", "vllm")
LINT = str(Path(sys.executable).parent / "lint-imports")

LOADED = """
import importlib, json, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
print(json.dumps([name for name in sys.argv[1].split(",") if name in sys.modules]))
"""


def modules(package: str) -> list[str]:
    """All modules of a package, as the tree has them now."""
    paths = sorted((REPOSITORY / package).rglob("*.py"))
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def loaded(heavy: tuple[str, ...], names: list[str]) -> list[str]:
    """Which of `heavy` are loaded once a fresh process has imported `names`."""
    command = [sys.executable, "-c", LOADED, ",".join(heavy), *names]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_an_installation_has_all_modules_and_the_files_beside_them() -> None:
    built = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {path.parent for package in PACKAGES for path in (REPOSITORY / package).rglob("__init__.py")}
    assert set(built["packages"]) == {".".join(path.relative_to(REPOSITORY).parts) for path in found}
    beside = {path for directory in found for path in directory.rglob("*") if path.is_file()}
    data = {path for path in beside if path.suffix not in (".py", ".pyc")}
    patterns = [(name.replace(".", "/"), each) for name, given in built["package-data"].items() for each in given]
    assert data == {path for directory, pattern in patterns for path in (REPOSITORY / directory).glob(pattern)}


@pytest.mark.parametrize("package", ["schemas", "stores", "builders"])
def test_no_module_below_train_imports_a_model_library(package: str) -> None:
    assert modules(package)
    assert loaded(HEAVY, modules(package)) == []


def test_training_runs_without_dvc_and_duckdb() -> None:
    """A GPU machine has torch, transformers, pyarrow and pydantic."""
    assert loaded(("dvc", "duckdb", "datasets", "typer", "matplotlib"), modules("train")) == []


def test_the_command_line_starts_light() -> None:
    heavy = (*HEAVY, "datasets", "dvc", "pandas", "rich", "duckdb", "pyarrow", "pydantic")
    assert loaded(heavy, ["stores.cli"]) == []
    assert loaded((*HEAVY, "datasets", "dvc", "pandas", "rich"), ["stores.store", "stores.ledger"]) == []


QUERY = """
import sys
sys.argv = ["pairwright", "sql", "select 6 * 7 as answer", "--format", "csv"]
from stores.__main__ import main
try:
    main()
finally:
    print([name for name in ("torch", "transformers", "datasets", "dvc", "pandas", "rich") if name in sys.modules])
"""


def test_a_query_loads_no_data_frames(workspace: Path) -> None:
    from tests.small_store import build

    build(workspace)
    environment = {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", QUERY], cwd=workspace, env=environment, capture_output=True, text=True)
    assert (done.stdout.splitlines(), done.stderr) == (["answer", "42", "[]"], "")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT, "--no-cache"], cwd=root, capture_output=True, text=True)


def test_imports_point_one_way() -> None:
    done = lint(REPOSITORY)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("schemas/ids.py", "import stores.paths"),
        ("stores/paths.py", "import builders"),
        ("schemas/ids.py", "import train"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, module: str, planted: str) -> None:
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "train" / "__init__.py").touch()
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{planted}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "is not allowed to import" in done.stdout
