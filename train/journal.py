"""What a run found of its steps, one line of JSON each, beside its checkpoints.

Appended and synced at once. A checkpoint goes back to an earlier step, but what was judged stays judged: a checker that
ran out of time once must not decide otherwise when a killed run goes on.
"""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any


class Journal:
    """Lists by (kind, step). Of two of one step the later one counts; a line that was cut off does not count.

    The file is opened, and such a line removed, when the journal is first used: by then its run holds the directory. A
    second process that is about to be refused must not cut off what the first one is writing.
    """

    def __init__(self, path: Path):
        self.path, self._end = path, 0

    @cached_property
    def _at(self) -> dict[tuple[str, int], int]:
        """Where the line of each is, after which `_end` is where the next one goes."""
        found: dict[tuple[str, int], int] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                kind, step, _ = line.split(b" ", 2)
                found[kind.decode(), int(step)] = self._end
                self._end += len(line)
            file.truncate(self._end)
        return found

    def append(self, kind: str, step: int, rows: list[Any]) -> None:
        """Keeps the rows of a step. Raises OSError if the disk is full."""
        line, places = f"{kind} {step} {json.dumps(rows)}\n".encode(), self._at
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        places[kind, step] = self._end
        self._end += len(line)

    def read(self, kind: str, step: int) -> list[Any] | None:
        """The rows of a step; None if there are none."""
        if (kind, step) not in self._at:
            return None
        with self.path.open("rb") as file:
            file.seek(self._at[kind, step])
            return json.loads(file.readline().split(b" ", 2)[2])
