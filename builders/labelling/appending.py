"""A file of labels that is only ever added to, and that survives a crash at any moment."""

import fcntl
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from builders.label_files import SUFFIX, Label, Located, latest, parse_line, read_labels
from stores.plain import printable


class LabelFile:
    """A person's (or several people's) labels. A label that `add` has returned from is on the disk.

    Opening it makes the file if it is not there, and mends its end: a last line that a crash has cut off was never
    reported as saved, and is taken away; one that merely lacks its line break gets it. Several processes may add to a
    file. Raises ValueError for a line that is no label, and leaves it where it is.
    """

    def __init__(self, path: Path):
        if path.suffix != SUFFIX:
            raise ValueError(f"{path}: name a file of labels {path.with_suffix(SUFFIX)}")
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path) as file:
            _mend(file, path)
            found = read_labels(path)
        _sync_directory(path.parent)
        self.of_sample: dict[str | None, list[Located]] = defaultdict(list)
        self.lines = 0
        for located in found:
            self._remember(located)

    def add(self, labels: Iterable[Label]) -> None:
        """Appends labels. Raises OSError where they cannot be saved; the file is then as it was."""
        added = list(labels)
        with _opened(self.path) as file:
            _mend(file, self.path)
            _append(file, "".join(label.line() for label in added).encode())
        for label in added:
            self._remember(Located(self.path, self.lines + 1, label))

    def counting(self, sample_id: str) -> dict[tuple[str, int], Label]:
        """(labeler, repeat) -> the label that counts, without those taken back."""
        found = latest(self.of_sample.get(sample_id, ()))
        return {key: each.label for key, each in found.items() if each.label.verdict != "withdrawn"}

    def all(self) -> Iterator[Label]:
        """All lines' labels, by sample."""
        return (located.label for found in self.of_sample.values() for located in found)

    def _remember(self, located: Located) -> None:
        self.of_sample[located.label.sample_id].append(located)
        self.lines = located.number


class Merged(NamedTuple):
    """What an import did: lines added, lines that were there, and samples that a person now answers in two ways."""

    added: int
    known: int
    conflicts: list[str]


def merge(made: Iterable[Located], target: LabelFile) -> Merged:
    """Adds the labels made elsewhere that the target lacks. A second time adds nothing; none is lost.

    Where a person has answered a sample differently in both, both lines are kept, the later one counts, and the
    sample is named.
    """
    known = {label.line() for label in target.all()}
    labels = {located.label.line(): located.label for located in made}
    new = [label for line, label in labels.items() if line not in known]
    conflicts = [f"{n.sample_id} ({n.labeler})" for n in new if n.sample_id and _differs(n, target)]
    if new:
        target.add(new)
    return Merged(len(new), len(labels) - len(new), list(dict.fromkeys(conflicts)))


def _differs(label: Label, target: LabelFile) -> bool:
    earlier = target.counting(label.sample_id or "").get((label.labeler, label.repeat))
    return earlier is not None and (earlier.verdict, earlier.first_error) != (label.verdict, label.first_error)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file, held against other processes that would add to it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _append(file: int, data: bytes) -> None:
    size = os.fstat(file).st_size
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _mend(file: int, path: Path) -> None:
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return
    start = _last_line(file, size)
    line = os.pread(file, size - start, start)
    try:
        parse_line(f"{path}: the last line", line)
    except ValueError:
        if not _is_cut_off(line):
            raise
        os.ftruncate(file, start)
        os.fsync(file)
        cut = printable(line.decode(errors="replace"))
        print(f"{path}: removed a last line that was cut off while it was saved: {cut}", file=sys.stderr)
    else:
        _append(file, b"\n")


def _is_cut_off(line: bytes) -> bool:
    """Whether a crash can have left this: the start of an object, or zeros. All else is somebody's, and stays."""
    try:
        json.loads(line.decode())
    except ValueError:
        return line.startswith((b"{", b"\x00"))
    return False


def _last_line(file: int, size: int) -> int:
    """Where the last line begins."""
    end = size
    while end:
        begin = max(end - 65_536, 0)
        found = os.pread(file, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _sync_directory(path: Path) -> None:
    """Makes the name of a new file as lasting as what is in it."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
