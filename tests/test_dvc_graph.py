"""dvc.yaml against the code: one stage per section, and every module that decides a stage's rows is a dependency."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import get_origin

import pytest
import yaml

from schemas.params import STAGES, load_params, references
from schemas.slots import Section, Slot
from stores.paths import run_dir
from tests.conftest import REPOSITORY

GRAPH = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
ALLOWED = re.compile(r"^(stores|schemas)/|^builders/__init__\.py$|^train/__init__\.py$")
"""Code that stages do not depend on: golden bytes guard it instead."""
LAZY = re.compile(r"^((?:builders|train|stores|schemas)(?:\.\w+)+):\w+$")


@cache
def imports(module_file: Path) -> frozenset[Path]:
    """The project's modules that a module imports, inside functions and by lazy name too."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(module_file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and LAZY.match(node.value):
            names = [node.value.split(":")[0]]
        else:
            continue
        found.update(path for name in names for path in files_of(name))
    return frozenset(found)


def files_of(name: str) -> list[Path]:
    base = REPOSITORY / name.replace(".", "/")
    return [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()]


def closure(module_file: Path) -> set[str]:
    todo, seen = [module_file], {module_file}
    while todo:
        new = imports(todo.pop()) - seen
        seen |= new
        todo += new
    return {path.relative_to(REPOSITORY).as_posix() for path in seen}


def body(stage: str) -> dict:
    return GRAPH[stage].get("do", GRAPH[stage])


def test_one_stage_per_section():
    assert set(GRAPH) == {*STAGES, "report"}


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_depends_on_the_code_that_decides_its_rows(stage):
    module = body(stage)["cmd"].split()[2]
    deps = [d for d in body(stage)["deps"] if not d.startswith(("data/", "${"))]
    wanted = {path for path in closure(REPOSITORY / (module.replace(".", "/") + ".py")) if not ALLOWED.match(path)}
    uncovered = {path for path in wanted if not any(path == d or path.startswith(d + "/") for d in deps)}
    unneeded = [d for d in deps if not any(path == d or path.startswith(d + "/") for path in wanted)]
    sql = {f"builders/sql/{name}.sql" for path in wanted for name in sql_names(REPOSITORY / path)}
    assert uncovered == set(), f"add to {stage}'s deps in dvc.yaml"
    assert sql <= set(deps), f"add the SQL files to {stage}'s deps in dvc.yaml"
    assert [d for d in unneeded if d not in sql and not d.startswith("builders/templates")] == []


def sql_names(path: Path) -> list[str]:
    """Names in calls of `sql_file(__file__, "<name>")`."""
    return re.findall(r'sql_file\(__file__, "(\w+)"\)', path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_its_slots_and_writes_its_tables(stage):
    outs = [out.replace("${key}", "KEY") for out in body(stage)["outs"]]
    expected = [run_dir(table, "KEY").as_posix() for table in STAGES[stage].writes]
    expected += [f"data/rejects/stage={stage}/run=KEY"] if STAGES[stage].rejects else [f"data/{stage}/KEY"]
    assert sorted(outs) == sorted(expected)
    whole = {marker.table for marker in lists_of_runs(STAGES[stage])}
    assert {f"data/{table}" for table in whole} <= set(body(stage)["deps"])
    fields = set(re.findall(r"\$\{item\.([\w.]+)\}", " ".join(body(stage)["deps"] + body(stage)["params"])))
    params = load_params(REPOSITORY / "params.yaml")
    for name, run in getattr(params, stage).items():
        slots = {ref.slot for ref in references(stage, name, run) if not ref.slot[-1].isdecimal()}
        assert slots <= fields, f"{stage}.{name}: dvc.yaml does not mention {slots - fields}"


def lists_of_runs(section: type[Section]) -> list[Slot]:
    """Fields that name any number of runs, which DVC cannot interpolate: the stage depends on the whole table."""
    fields = [info for info in section.model_fields.values() if get_origin(info.annotation) is list]
    return [marker for info in fields for marker in info.metadata if isinstance(marker, Slot)]


@pytest.mark.parametrize("stage", GRAPH)
def test_no_dependency_is_named_twice(stage):
    assert [d for d, count in Counter(body(stage)["deps"]).items() if count > 1] == []


def test_every_run_tracks_its_row_of_params():
    for stage in STAGES:
        assert f"{stage}.${{key}}" in body(stage)["params"]


def test_an_experiment_changes_one_line_of_params(tmp_path: Path) -> None:
    """`dvc exp run -S` rewrites the file in DVC's own style, so the shipped one is written in it."""
    from dvc.utils.serialize import modify_yaml

    shipped, copy = (REPOSITORY / "params.yaml").read_text().splitlines(), tmp_path / "params.yaml"
    copy.write_text("\n".join(shipped) + "\n")
    with modify_yaml(copy) as params:
        params["preference"]["m1"]["beta"] = 0.3
    changed = [(old, new) for old, new in zip(shipped, copy.read_text().splitlines(), strict=True) if old != new]
    assert changed == [("    beta: 0.1", "    beta: 0.3")]
