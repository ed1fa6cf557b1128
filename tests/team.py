"""A team: a project of which there come to be two versions, and the shell of somebody who works with it."""

import os
import random
import subprocess
import sys
from pathlib import Path

import yaml

from stores.store import Store
from tests import small_store
from tests.conftest import REPOSITORY

_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
}
QUERIES = ("select * from pair_texts order by all", "select run, count(*) from rewards group by all")
BIG = 1 << 20
"""Bytes of each of the four files in `data/big`, which take a while on a slow line."""


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """That of a person with these settings and no others: none of ours decides which keys are used."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GIT_", "DVC_"))}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    return inherited | _IDENTITY | path | (extra or {})


def shell(command: str, cwd: Path, extra: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What a command line gives; what it says as an error is in `stdout`, too."""
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment(extra),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(command: str, cwd: Path, extra: dict[str, str] | None = None) -> str:
    """What a command line says, which must succeed."""
    done = shell(command, cwd, extra)
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


def project(root: Path) -> Path:
    """The small store and some large files, known to DVC; Git has no commit yet."""
    root.mkdir()
    small_store.build(root)
    (root / "data/big").mkdir()
    for number in range(4):
        (root / f"data/big/{number}").write_bytes(random.Random(number).randbytes(BIG))
    outs = [*sorted(str(path.relative_to(root)) for path in (root / "data").rglob("run=*")), "data/big"]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"store": {"cmd": "true", "outs": outs}}}))
    run("git init -q -b main && dvc init -q && dvc commit -q -f", root)
    return root


def versions(root: Path) -> None:
    """Tags v1.0 and v2.0, which has one pair less."""
    commit = "git add -A && git commit -q -m"
    run(f"{commit} one && git tag v1.0", root)
    small_store.write(root, "pairs", "irpo_0", small_store.rows()["pairs", "irpo_0"][1:])
    run(f"dvc commit -q -f && {commit} two && git tag v2.0", root)


def answers(root: Path, version: str) -> list[list[tuple[object, ...]]]:
    """What a version says to all queries."""
    with Store.open(root, rev=version) as store:
        return [store.sql(query).fetchall() for query in QUERIES]


def files(directory: Path) -> dict[str, bytes]:
    """Relative path -> content of each file."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
