"""What a run found of its steps, one line of JSON each, beside its checkpoints.

Appended and synced at once. A checkpoint goes back to an earlier step, but what was judged stays judged: a checker that
ran out of time once must not decide otherwise when a killed run goes on.
"""

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Lists by (kind, step). Of two of one step the later one counts; a line that was cut off does not count."""

    def __init__(self, path: Path):
        self.path = path
        self._at: dict[tuple[str, int], int] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._end = self._index()

    def _index(self) -> int:
        end = 0
        with self.path.open("ab+") as file:
            file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                kind, step, _ = line.split(b" ", 2)
                self._at[kind.decode(), int(step)] = end
                end += len(line)
            file.truncate(end)
        return end

    def append(self, kind: str, step: int, rows: list[Any]) -> None:
        """Keeps the rows of a step. Raises OSError if the disk is full."""
        line = f"{kind} {step} {json.dumps(rows)}\n".encode()
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._at[kind, step] = self._end
        self._end += len(line)

    def read(self, kind: str, step: int) -> list[Any] | None:
        """The rows of a step; None if there are none."""
        if (kind, step) not in self._at:
            return None
        with self.path.open("rb") as file:
            file.seek(self._at[kind, step])
            return json.loads(file.readline().split(b" ", 2)[2])
