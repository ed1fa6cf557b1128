"""Runs the whole graph of a params file at the size that `builders.smoke.shrink` gives it: no network, no GPU.

It runs in one process, whose imports are paid for once, and in a directory of its own with a ledger of its own: the
checkout's `data/` and ledger are only read, and only what params do not build.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from builders.smoke import STEP_PAIRS, shrink, step_pairs
from schemas import TABLES
from schemas.params import STAGES, Params, load_params, parse_params, run_inputs, stage_runs, table_runs
from schemas.slots import NONE
from stores.ending import ended_in_order
from stores.paths import DATA
from stores.stage import Stage, StopEarly, execute

_OWN = {"data", "params.yaml", "dvc.lock", ".git", ".dvc"}
_ENVIRONMENT = {"PAIRWRIGHT_DEVICE": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""Threads that wait for each other cost models of this size more than they gain."""


class Ran(NamedTuple):
    """A stage that has run, and its seconds."""

    stage: str
    seconds: float


def order(params: Params) -> list[tuple[str, str]]:
    """Every (section, run) after those whose tables it reads, else in the order of params; what writes none is last."""
    writers = {
        (table, run): (section, run)
        for table in (*TABLES, "models")
        for run, section in table_runs(params, table).items()
    }
    graph: dict[tuple[str, str], list[tuple[str, str]]] = {(s, name): [] for s, name, _ in stage_runs(params)}
    for edge in run_inputs(params):
        after, before = writers[edge.table, edge.run], writers[edge.input_table, edge.input_run]
        graph[after] += [before] if before != after else []
    return sorted(TopologicalSorter(graph).static_order(), key=lambda run: not STAGES[run[0]].writes)


def smoke(params_file: Path, root: Path, scratch: Path, problems: int = 20) -> Iterator[Ran]:
    """Runs every stage of the smaller params file in `scratch`, the report last; each is yielded when it has ended.

    `root` is the checkout, whose `dvc.yaml` says which module each stage is. Raises ValueError, naming the stage, for
    the first one that fails as stages do; any other exception carries the stage's name as a note.
    """
    load_params(params_file)  # a mistake is told in the words of the user's file
    small = shrink(yaml.safe_load(params_file.read_text(encoding="utf-8")), problems)
    text = yaml.safe_dump(small, sort_keys=False)
    params = parse_params(text, "the smaller params")
    modules = _modules(root)
    workspace = _workspace(root.resolve(), scratch)
    (workspace / "params.yaml").write_text(text, encoding="utf-8")
    rows = "".join(json.dumps(row) + "\n" for row in step_pairs(2 * problems))
    (workspace / STEP_PAIRS).write_text(rows, encoding="utf-8")
    with _inside(workspace, root.resolve(), scratch / "ledger"):
        for section, name in [*order(params), ("report", "report")]:
            began = time.perf_counter()
            _run(modules[section], section, name)
            yield Ran(section if section == name == "report" else f"{section}.{name}", time.perf_counter() - began)


def _workspace(root: Path, scratch: Path) -> Path:
    """A directory that has what the checkout has, as links, but for the tables and models that runs write."""
    workspace = scratch / "workspace"
    (workspace / DATA).mkdir(parents=True)
    for path in root.iterdir():
        if path.name not in _OWN:
            (workspace / path.name).symlink_to(path)
    for path in (root / DATA).iterdir() if (root / DATA).is_dir() else ():
        if path.name not in {*TABLES, "models", "report", "export", ".staging"}:
            (workspace / DATA / path.name).symlink_to(path)
    for table in (*TABLES, "models"):
        empty = root / DATA / table / (NONE if table == "models" else f"run={NONE}")
        (workspace / DATA / table).mkdir()
        if empty.exists():
            (workspace / DATA / table / empty.name).symlink_to(empty)
    return workspace


def _modules(root: Path) -> dict[str, str]:
    """Stage -> the module that its command runs.

    Raises ValueError outside a checkout.
    """
    path = root / "dvc.yaml"
    if not path.exists():
        raise ValueError(f"{path.absolute()}: no such file; run in the project's directory")
    stages: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage)["cmd"].split()[2] for name, stage in stages.items()}


@contextlib.contextmanager
def _inside(workspace: Path, root: Path, ledger: Path) -> Iterator[None]:
    """The process as `python -m` in the workspace would find it."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT | {"PAIRWRIGHT_LEDGER": str(ledger)})
    sys.path.insert(0, str(root))
    try:
        with contextlib.chdir(workspace):
            yield
    finally:
        sys.path.remove(str(root))
        os.environ.clear()
        os.environ.update(before)


def _run(module: str, section: str, name: str) -> None:
    """One stage; what it prints is shown only if it fails."""
    said = io.StringIO()
    run: Callable[[Stage], None] = import_module(module).run
    try:
        with contextlib.redirect_stderr(said):
            execute(section, name, run)
    except (ValueError, OSError, StopEarly) as error:
        sys.stderr.write(said.getvalue())
        raise ValueError(f"{section}.{name}: {error}") from error
    except Exception as error:
        sys.stderr.write(said.getvalue())
        error.add_note(f"in {section}.{name}")
        raise


@contextlib.contextmanager
def scratch_directory(keep: bool = False) -> Iterator[Path]:
    """A temporary directory, which goes at the end, however that comes, unless it is to be kept; then it is named."""
    with ended_in_order(), contextlib.ExitStack() as stack:
        if keep:
            directory = tempfile.mkdtemp(prefix="pairwright-smoke-")
            stack.callback(print, f"kept in {directory}")
        else:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pairwright-smoke-"))
        yield Path(directory)
