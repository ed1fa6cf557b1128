"""One person's labelling of some tasks: what the page asks for, and what it may say. No HTTP in here.

What others said of a sample is given out only once this person has answered it in this reading.
"""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builders.label_files import Label, utc
from builders.labelling.appending import LabelFile
from builders.labelling.maths import Typesetter, shown
from builders.labelling.tasks import Task
from schemas.step_labels import StepLabel

MAX_WORDS = 10_000
"""Code points of a remark or a correction."""


class Answer(BaseModel):
    """What the page sends: the first wrong step (null: none), with a remark and the step as it should be."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sample_id: str
    hash: str
    first_error: Annotated[int, Field(ge=0)] | None
    rationale: Annotated[str, Field(max_length=MAX_WORDS)] | None = None
    correction: Annotated[str, Field(max_length=MAX_WORDS)] | None = None


class Withdrawal(BaseModel):
    """What the page sends to take an answer back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sample_id: str
    hash: str


class Session:
    """The tasks, the file that labels go to, who labels, and which reading it is (`repeat`, from 0)."""

    def __init__(self, tasks: Sequence[Task], file: LabelFile, labeler: str, repeat: int, typesetter: Typesetter):
        self.file, self.labeler, self.repeat, self.typesetter = file, labeler, repeat, typesetter
        self.tasks = [task for task in tasks if repeat == 0 or self._is_read(task, repeat - 1)]
        self.place = {task.sample_id: i for i, task in enumerate(self.tasks)}
        self.lock = threading.Lock()

    def overview(self) -> dict[str, Any]:
        """Who labels, and for every task whether it is answered."""
        with self.lock:
            answered = [self._own(task) is not None for task in self.tasks]
        return {
            "labeler": self.labeler, "reading": self.repeat + 1, "file": str(self.file.path), "answered": answered,
        }  # fmt: skip

    def task(self, number: int) -> dict[str, Any]:
        """A task as the page shows it, without what others said unless it is answered."""
        task = self.tasks[number]
        texts = [task.problem, *(task.options or ()), task.answer or "", task.solution or "", _opening(task)]
        steps = [task.text[step.start : step.end].strip() for step in task.steps]
        pieces = iter(self.typesetter.pieces([*texts, *steps]))
        with self.lock:
            changed = self._own(task) is None and self._labelled_otherwise(task)
        return {
            "number": number, "sample_id": task.sample_id, "hash": task.hash, "source": shown(task.source),
            "problem": next(pieces), "options": [next(pieces) for _ in task.options or ()], "answer": next(pieces),
            "solution": next(pieces), "opening": next(pieces), "steps": list(pieces), "changed": changed,
            **self._answered(task),
        }  # fmt: skip

    def answer(self, given: Answer) -> dict[str, Any]:
        """Saves an answer; returns what is shown after it, when it is on the disk."""
        task = self._asked(given)
        if given.first_error is not None and given.first_error >= len(task.steps):
            raise ValueError(f"first_error is {given.first_error}, but the sample has {len(task.steps)} steps")
        correct: list[StepLabel] = ["correct"] * (len(task.steps) if given.first_error is None else given.first_error)
        with self.lock:
            label = Label(
                **self._about(task),
                verdict="no_error" if given.first_error is None else "error",
                first_error=given.first_error,
                labels=correct if given.first_error is None else [*correct, "incorrect"],
                rationale=_words(given.rationale),
                correction=_words(given.correction),
                informed=self._is_informed(task),
            )
            self.file.add([label])
        return self._answered(task)

    def withdraw(self, given: Withdrawal) -> dict[str, Any]:
        """Takes an answer back, by a line that says so."""
        task = self._asked(given)
        with self.lock:
            if self._own(task) is not None:
                self.file.add([Label(**self._about(task), verdict="withdrawn")])
        return self._answered(task)

    def _answered(self, task: Task) -> dict[str, Any]:
        """This person's answer, and then what others (and their own other readings) said."""
        with self.lock:
            own, counting = self._own(task), self.file.counting(task.sample_id)
        if own is None:
            return {"own": None, "others": []}
        labels = [label for label in counting.values() if self._is_other(task, label)]
        others = [self._opinion(label.model_dump(), "human") for label in labels]
        known = {(other["kind"], other["labeler"], other["repeat"]) for other in others}
        for opinion in task.others:
            mine = opinion.kind == "human" and (opinion.labeler, opinion.repeat) == (self.labeler, self.repeat)
            if not mine and (opinion.kind, shown(opinion.labeler), opinion.repeat) not in known:
                others.append(self._opinion(opinion.model_dump(), opinion.kind))
        return {"own": self._opinion(own.model_dump(), "human"), "others": others}

    def _opinion(self, said: dict[str, Any], kind: str) -> dict[str, Any]:
        words = self.typesetter.pieces([said["rationale"] or "", said["correction"] or ""])
        return {
            "kind": kind, "labeler": shown(said["labeler"]), "repeat": said["repeat"], "verdict": said["verdict"],
            "first_error": said["first_error"], "rationale": words[0], "correction": words[1],
            "words": {"rationale": said["rationale"] or "", "correction": said["correction"] or ""},
        }  # fmt: skip

    def _about(self, task: Task) -> dict[str, Any]:
        lines = [each.label for each in self.file.of_sample.get(task.sample_id, ())]
        earlier = [label.labeled_at or "" for label in lines if label.labeler == self.labeler]
        time = max([utc(datetime.now(UTC)), *earlier])  # a clock that was put back must not make the older answer count
        names = {"labeler": self.labeler, "repeat": self.repeat, "labeled_at": time}
        return {"sample_id": task.sample_id, "hash": task.hash, **names}

    def _asked(self, given: Answer | Withdrawal) -> Task:
        place = self.place.get(given.sample_id)
        if place is None or self.tasks[place].hash != given.hash:
            raise ValueError(f"no task here is sample {given.sample_id} with this text; load the page again")
        return self.tasks[place]

    def _own(self, task: Task, repeat: int | None = None) -> Label | None:
        """This person's label of the text as it is now."""
        label = self.file.counting(task.sample_id).get((self.labeler, self.repeat if repeat is None else repeat))
        return label if label is not None and label.hash in (None, task.hash) else None

    def _is_read(self, task: Task, repeat: int) -> bool:
        return self._own(task, repeat) is not None

    def _labelled_otherwise(self, task: Task) -> bool:
        return (self.labeler, self.repeat) in self.file.counting(task.sample_id)

    def _is_other(self, task: Task, label: Label) -> bool:
        return (label.labeler, label.repeat) != (self.labeler, self.repeat) and label.hash in (None, task.hash)

    def _is_informed(self, task: Task) -> bool:
        """Whether this person has been shown what others said: they have answered before, and there was something."""
        lines = [each.label for each in self.file.of_sample.get(task.sample_id, ())]
        has_answered = any(label.labeler == self.labeler and label.verdict != "withdrawn" for label in lines)
        is_by_others = any(label.labeler != self.labeler for label in lines)
        has_others = any(opinion.kind != "human" or opinion.labeler != self.labeler for opinion in task.others)
        return has_answered and (is_by_others or has_others)


def _opening(task: Task) -> str:
    """The start of the answer up to its first step, which is given to the model or is no step."""
    return (task.prefill + task.text[: task.steps[0].start]).strip()


def _words(written: str | None) -> str | None:
    return written.strip() or None if written else None


def mistake(error: ValidationError) -> str:
    """What is wrong with a request, in one line, without repeating what it said."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
