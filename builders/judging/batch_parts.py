"""What is known of batches that are under way: one JSON file for each, beside the ledger.

A batch takes hours, so the process that submits it is not the one that collects it. A file is written before its batch
is created, and rewritten at every turn; it is replaced as a whole and synced, so a crash leaves the last turn's:

    file_id, no batch_id    the batch may be there or not: whoever finds this looks for it before doing anything else
    batch_id, not ended     under way, or finished and not collected yet: what is committed twice counts once
    ended                   collected; kept until all questions of the context are answered, for the failed attempts
"""

import json
import os
import shutil
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = "batches"


@dataclass
class Part:
    """One batch, from before it is created until all questions of its context are answered."""

    part: str
    """Random; the batch's metadata has it too."""
    context: str
    model: str
    keys: list[str]
    file_id: str
    sent_at: float
    """Unix time just before the server was asked to create the batch."""
    reserved_usd: float | None = None
    """Worst case of its price; None: nothing was reserved."""
    batch_id: str | None = None
    status: str = "sent"
    done: int = 0
    """How many of its questions the server was done with when it was last looked at."""
    ended: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    """Keys of the questions that have failed, though others may try again; with the reason."""
    dialect: str = ""
    """The name of the limit of tokens in its questions."""
    misnamed: bool = False
    """Whether the server wants the limit by its other name."""
    too_large: bool = False
    """Whether the server refused it for the number of tokens that are queued."""


class Parts:
    """The batches of one context. Whoever changes them holds the context (`Ledger.exclusive`)."""

    def __init__(self, root: Path, context: str):
        self.context, self.directory = context, root / FOLDER / context
        self.all = _load(self.directory)

    @property
    def under_way(self) -> list[Part]:
        """Those that the server may still be working on, or whose answers are not collected."""
        return [part for part in self.all if not part.ended]

    def failures(self) -> Counter[str]:
        """Key -> how often it has failed."""
        return Counter(key for part in self.all for key in part.failed)

    def dialects(self) -> set[str]:
        """The names of the limit of tokens that the server does not know."""
        return {part.dialect for part in self.all if part.misnamed}

    def questions(self) -> Path:
        """Where the questions of a batch lie until they are uploaded."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory / "questions.jsonl"

    def answers(self, part: Part, kind: str) -> Path:
        """Where the answers (or errors) of a batch lie until they are committed."""
        return self.directory / f"{part.part}.{kind}.jsonl"

    def save(self, part: Part) -> None:
        """Keeps a part, or what has become of it; it is on the disk when this returns."""
        if part not in self.all:
            self.all.append(part)
        path = self.directory / f"{part.part}.json"
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(asdict(part), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        directory = os.open(self.directory, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def drop(self, part: Part) -> None:
        """Forgets a part."""
        self.all.remove(part)
        (self.directory / f"{part.part}.json").unlink()

    def forget(self) -> None:
        """Forgets those that have ended, and what is left of files."""
        self.all = self.under_way
        if not self.all:
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        kept = {f"{part.part}.json" for part in self.all}
        for path in self.directory.iterdir():
            if path.name not in kept:
                path.unlink()


def taken(parts: Parts) -> set[str]:
    """The keys that batches under way will answer."""
    return {key for part in parts.under_way for key in part.keys}


def new_name() -> str:
    """A name for a part that nobody else has."""
    return uuid.uuid4().hex


def contexts(root: Path) -> list[str]:
    """The contexts of which batches are known."""
    return sorted(path.name for path in (root / FOLDER).glob("*") if any(path.glob("*.json")))


def _load(directory: Path) -> list[Part]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.json"))]
    return sorted((Part(**json.loads(text)) for text in texts), key=lambda part: (part.sent_at, part.part))
