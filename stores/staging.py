"""What is written beside its place by one process at a time, and moved there when it is whole."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def staged(directory: Path, refuse: Callable[[Path], None]) -> Iterator[Path]:
    """An empty directory to fill beside `directory`, whose place it takes when the block ends well.

    `refuse` raises for a directory whose place must not be taken; it is asked when nobody else can fill it any more.
    What a killed one has left is removed. Raises ValueError if another process writes there.
    """
    final = directory.resolve()
    staging = final.with_name(f".{final.name}.unfinished")
    staging.mkdir(parents=True, exist_ok=True)
    with locked(staging / "lock", f"writes {directory}"):
        try:
            refuse(directory)
            shutil.rmtree(staging / "whole", ignore_errors=True)
            (staging / "whole").mkdir()
            yield staging / "whole"
            replace_directory(staging / "whole", final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def replace_directory(whole: Path, final: Path) -> None:
    """Moves a directory that is whole to its place; what was there goes."""
    final.parent.mkdir(parents=True, exist_ok=True)
    old = whole.with_name(whole.name + ".old")
    if final.exists():
        final.replace(old)
    whole.replace(final)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, work: str, shared: bool = False, others: str = "") -> Iterator[None]:
    """Holds a file, which says who holds it alone; the operating system lets go of it when the holder ends.

    `work` is what a holder does, and `others` says who does it where it is `shared`. Raises ValueError if it is held.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(file.fileno()), path.stat())  # not, where its last holder has removed it
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            file.seek(0)
            holder = file.read().strip()
            who = f"another process ({holder}) {work}" if holder else others or f"another process {work}"
            raise ValueError(f"{who}; wait until it has ended")
        file.truncate(0)
        if not shared:
            print(os.getpid(), file=file, flush=True)
        yield
