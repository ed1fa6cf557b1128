"""Files of human labels: JSONL, one line per label, only ever added to.

A line says who labelled which sample when, and which step is the first wrong one:

    {"sample_id": "…", "hash": "…", "labeler": "Ada", "repeat": 0, "labeled_at": "2026-05-04T10:30:00.250Z",
     "verdict": "error", "first_error": 2, "labels": ["correct", "correct", "incorrect"], "rationale": null,
     "correction": null, "informed": false}

Files of other tools need less: `labeler`, `sample_id` (or the sample's `problem` and `text`), and `first_error`
(0-based; -1 or null: no step is wrong) or `labels`; other fields are ignored.

* `hash` stands for the sample's text and its steps, so that labels of another text are noticed.
* `repeat` is the reading: 0 is the first, 1 a second one by the same person, to see how far they agree with themselves.
* Of several lines of one sample, person and reading the latest counts (by `labeled_at`, else by place); lines without a
  time are older than those with one. `verdict: withdrawn` takes the earlier ones back.
* `informed`: the labels of others had been shown to this person before.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.ids import digest
from schemas.step_labels import StepLabel, StepSpan

SUFFIX = ".jsonl"
MAX_NAME = 200
"""Characters of a labeler's name."""


class Label(BaseModel):
    """One line of a file: a person's answer to one sample, or that it is taken back."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    sample_id: str | None = None
    problem: str | None = None
    text: str | None = None
    hash: str | None = None
    labeler: str
    repeat: Annotated[int, Field(ge=0)] = 0
    labeled_at: str | None = None
    verdict: Literal["error", "no_error", "withdrawn"]
    first_error: int | None = None
    labels: list[StepLabel] | None = None
    rationale: str | None = None
    correction: str | None = None
    informed: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, given: Any) -> Any:
        """What a line leaves out: the verdict from `first_error`, and that from `labels`."""
        if not isinstance(given, dict) or given.get("verdict") == "withdrawn":
            return given
        first, labels = given.get("first_error"), given.get("labels")
        if "first_error" not in given and labels is None:
            raise ValueError("says neither `first_error` (0-based; -1: no step is wrong) nor `labels`")
        if isinstance(first, bool) or not isinstance(first, int | float | None):
            raise ValueError(f"first_error is {first!r}; give the 0-based number of a step, or -1 or null")
        if first is None and isinstance(labels, list) and "first_error" not in given:
            first = next((i for i, label in enumerate(labels) if label != "correct"), None)
        first = None if first == -1 else first
        return {"verdict": "no_error" if first is None else "error", **given, "first_error": first}

    @field_validator("labeler")
    @classmethod
    def _named(cls, name: str) -> str:
        return labeler_name(name)

    @field_validator("labeled_at")
    @classmethod
    def _in_utc(cls, time: str | None) -> str | None:
        return None if time is None else utc(datetime.fromisoformat(time))

    @model_validator(mode="after")
    def _consistent(self) -> "Label":
        if self.sample_id is None and None in (self.problem, self.text):
            raise ValueError("names no sample: give `sample_id`, or `problem` and `text`")
        if self.verdict == "withdrawn":
            return self
        if (self.first_error is None) != (self.verdict == "no_error"):
            raise ValueError(f"verdict {self.verdict!r} does not fit first_error {self.first_error}")
        if self.first_error is not None and self.first_error < 0:
            raise ValueError(f"first_error is {self.first_error}; steps are numbered from 0, and -1 means none")
        if self.labels is not None and self.first_error not in _first_errors(self.labels):
            raise ValueError(f"first_error {self.first_error} is not the first wrong one of its `labels`")
        if self.correction is not None and self.first_error is None:
            raise ValueError("corrects a step, but says that none is wrong")
        return self

    def line(self) -> str:
        """The line of the file, with a line break; what was not given is left out."""
        given = self.model_dump(exclude_none=True)
        if self.verdict == "no_error":
            given["first_error"] = None
        return json.dumps(given, ensure_ascii=False) + "\n"


class Located(NamedTuple):
    """A label and where it stands; lines are counted from 1."""

    path: Path
    number: int
    label: Label

    def __str__(self) -> str:
        return f"{self.path}: line {self.number}"


def labeler_name(given: str) -> str:
    """A labeler's name, without white space around it. Raises ValueError for what is none."""
    name = given.strip()
    if not (name and name.isprintable() and len(name) <= MAX_NAME):
        raise ValueError(f"a labeler's name is one line of printable characters, at most {MAX_NAME}")
    return name


def utc(time: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, so that times sort as texts. Raises ValueError for one without a time zone."""
    if time.tzinfo is None:
        raise ValueError("a time needs its time zone, as in 2026-05-04T10:30:00Z")
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def task_hash(text: str, steps: Iterable[StepSpan]) -> str:
    """16 hex digits of what a label is about: the sample's text and the spans of its steps."""
    return digest([text, [[step.start, step.end] for step in steps]])


def read_labels(path: Path) -> list[Located]:
    """All labels of a file, or of every `.jsonl` file below a directory in the order of their paths.

    Raises ValueError for what is not there or is no label, naming file, line and remedy.
    """
    return [label for file in label_files(path) for label in _file_labels(file)]


def label_files(path: Path) -> list[Path]:
    """The file itself, or the `.jsonl` files below a directory."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: no such file; `pairwright label serve` makes it, or give the path of one")
    found = sorted(file for file in path.rglob(f"*{SUFFIX}") if file.is_file())
    if not found:
        raise ValueError(
            f"{path}: no {SUFFIX} file is in it; label with `pairwright label serve`, or give another path"
        )
    return found


def parse_line(place: str, line: bytes) -> Label:
    """The label of a line; `place` is what an error names."""
    try:
        given = json.loads(line.decode("utf-8-sig"))
        json.dumps(given, ensure_ascii=False).encode()  # JSON may hold half of a character, which UTF-8 cannot
        return Label.model_validate(given)
    except ValidationError as error:
        raise ValueError(f"{place}: {_first_mistake(error)}; mend the line or remove it") from None
    except ValueError as error:
        raise ValueError(f"{place} is no label ({error}); write one JSON object per line") from None


def latest(labels: Iterable[Located]) -> dict[tuple[str, int], Located]:
    """(labeler, repeat) -> the label that counts, of one sample's labels in the order of their places."""
    found: dict[tuple[str, int], Located] = {}
    for located in labels:
        key = located.label.labeler, located.label.repeat
        if key not in found or (located.label.labeled_at or "") >= (found[key].label.labeled_at or ""):
            found[key] = located
    return found


def _file_labels(path: Path) -> Iterator[Located]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            yield Located(path, number, parse_line(f"{path}: line {number}", line))


def _first_errors(labels: list[StepLabel]) -> set[int | None]:
    """The first wrong step, whether a neutral one counts as wrong or not."""
    incorrect = next((i for i, label in enumerate(labels) if label == "incorrect"), None)
    return {incorrect, next((i for i, label in enumerate(labels) if label != "correct"), None)}


def _first_mistake(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in mistake["loc"])
    return f"{place}: {mistake['msg']}" if place else mistake["msg"].removeprefix("Value error, ")
