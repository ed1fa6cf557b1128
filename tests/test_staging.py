"""Directories that are written beside their place: one process at a time, whatever it writes there."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builders.exporting import peers, release
from builders.exporting.peers import Wanted, export_for
from builders.materialize import materialize
from stores.staging import staged
from stores.store import Store
from tests import peer_world

HOLDER = """
import sys
from pathlib import Path
from stores.staging import staged

with staged(Path("out"), lambda directory: None) as whole:
    (whole / "file").write_text("the holder's")
    print("staged", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder() -> Iterator[subprocess.Popen[str]]:
    """A process that has staged a file and waits for a line before it ends."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == "staged\n"
        yield held


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def write(refuse: Callable[[Path], None] = lambda directory: None) -> None:
    with staged(Path("out"), refuse) as whole:
        (whole / "file").write_text("the other's")


def test_a_second_process_is_refused_and_harms_nothing(workspace: Path) -> None:
    with holder() as held:
        with pytest.raises(ValueError, match=rf"^another process \({held.pid}\) writes out; wait until it has ended$"):
            write()
        held.communicate("\n")
    assert Path("out/file").read_text() == "the holder's"
    write()
    assert Path("out/file").read_text() == "the other's"
    assert names() == ["out"]


def test_a_killed_one_holds_nothing(workspace: Path) -> None:
    with holder() as held:
        held.send_signal(signal.SIGKILL)
    assert names() == [".out.unfinished"]
    write()
    assert Path("out/file").read_text() == "the other's"
    assert names() == ["out"]


def test_a_place_is_looked_at_when_nobody_else_can_take_it(workspace: Path) -> None:
    """Another one may have ended between a first look and now."""

    def refuse(directory: Path) -> None:
        with pytest.raises(ValueError, match="another process"):
            write()
        raise ValueError(f"{directory}: not empty")

    with pytest.raises(ValueError, match=r"^out: not empty$"):
        write(refuse)
    assert names() == []


def for_training() -> None:
    with Store.open() as store:
        materialize(store, "sums", Path("out"))


def for_a_trainer() -> None:
    with Store.open() as store:
        export_for(store, Wanted("trl", "sums", "pairs"), Path("out"))


@pytest.mark.parametrize("second", [for_training, for_a_trainer])
@pytest.mark.parametrize(
    ("first", "module", "inside", "file"),
    [
        (for_training, release, "_written", "provenance.json"),
        (for_a_trainer, peers, "_describe", "export.json"),
    ],
)
def test_exports_to_one_directory_are_refused_while_one_is_written(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: Callable[[], None],
    module: Any,
    inside: str,
    file: str,
    second: Callable[[], None],
) -> None:
    peer_world.build(workspace, "words", "text")
    alone = getattr(module, inside)

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(module, inside, alone)
        with pytest.raises(ValueError, match=rf"^another process \({os.getpid()}\) writes out; wait until it has"):
            second()
        return alone(*arguments)

    monkeypatch.setattr(module, inside, meanwhile)
    first()
    assert getattr(module, inside) is alone, "the second was tried"
    assert Path("out", file).exists()
