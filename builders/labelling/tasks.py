"""Tasks: samples to label, each with all that a person needs to see, from a run of `step_labels` or an exported file.

An exported file is JSONL, one task per line, and needs no tables: `label serve FILE` labels it anywhere. What others
said of a sample stands last, under `others`, so that whatever shows the tasks can keep it back until it is answered.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from builders.label_files import Label, Located, latest, read_labels, task_hash
from builders.step_label_rows import Candidate
from schemas.params import Params
from schemas.step_labels import LabelerKind, LabelVerdict, StepLabel, StepSpan
from stores.paths import run_dir
from stores.stage import Stage

SECTION = "step_labels"


class Opinion(BaseModel):
    """What another labeler said of a sample."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    labeler: str
    kind: LabelerKind
    repeat: int = 0
    verdict: LabelVerdict
    first_error: int | None = None
    labels: list[StepLabel] = Field(default_factory=list)
    rationale: str | None = None
    correction: str | None = None


class Task(BaseModel):
    """A sample to label; `hash` stands for its text and steps."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: Literal[1] = Field(default=1, description="version of this format")
    sample_id: str = Field(min_length=1)
    hash: str
    source: str
    problem: str
    options: list[str] | None
    answer: str | None
    solution: str | None
    prefill: str
    text: str
    steps: list[StepSpan] = Field(min_length=1)
    others: list[Opinion] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> "Task":
        ends = [0, *(edge for step in self.steps for edge in (step.start, step.end)), len(self.text)]
        if ends != sorted(ends):
            raise ValueError("`steps` are no spans of `text` in order")
        if self.hash != task_hash(self.text, self.steps):
            raise ValueError("`hash` is not that of `text` and `steps`: one of them was changed; export it again")
        return self


def run_tasks(name: str, root: Path = Path(), limit: int | None = None) -> list[Task]:
    """The tasks of a run of `step_labels`: its candidates, with what built runs of the same samples say of them."""
    from builders.step_labels import candidates, select
    from stores.duck import Duck

    stage = Stage(SECTION, name, root)
    with Duck() as duck:
        select(stage, duck)
        with_steps = (candidate for chunk in candidates(stage, duck) for candidate in chunk if candidate.steps)
        found = list(islice(with_steps, limit))
    others = _opinions(stage.params, name, root, found)
    return [_task(candidate, others[candidate.sample_id]) for candidate in found]


def read_tasks(path: Path) -> list[Task]:
    """The tasks of an exported file. Raises ValueError naming the line for what is none."""
    tasks: dict[str, Task] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            task = Task.model_validate_json(line)
        except ValidationError as error:
            mistake = error.errors(include_url=False)[0]
            place = ".".join(map(str, mistake["loc"]))
            raise ValueError(f"{path}: line {number} is no task ({place}: {mistake['msg']}); export it again") from None
        if task.sample_id in tasks:
            raise ValueError(f"{path}: line {number}: sample {task.sample_id} is there twice; remove one of them")
        tasks[task.sample_id] = task
    return list(tasks.values())


def write_tasks(path: Path, tasks: Iterable[Task]) -> int:
    """Writes an exported file, whole or not at all; returns the number of tasks.

    Raises ValueError for a path where something else is than tasks, such as people's labels.
    """
    if path.exists() and not _is_exported(path):
        raise ValueError(f"{path}: it is there, and holds no exported tasks; give the name of a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, count = path.with_name(path.name + ".partial"), 0
    with partial.open("w", encoding="utf-8") as file:
        for task in tasks:
            file.write(task.model_dump_json() + "\n")
            count += 1
    partial.replace(path)
    return count


def _is_exported(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        read_tasks(path)
    except ValueError:
        return False
    return True


def without_others(tasks: Iterable[Task]) -> list[Task]:
    """The tasks without what anybody said of them."""
    return [task.model_copy(update={"others": []}) for task in tasks]


def with_labels(tasks: Iterable[Task], path: Path) -> list[Task]:
    """The tasks with the labels of a file (or a directory) that are about their texts as they are now."""
    of_sample: dict[str | None, list[Located]] = defaultdict(list)
    for located in read_labels(path):
        of_sample[located.label.sample_id].append(located)
    return [_with(task, [each.label for each in latest(of_sample[task.sample_id]).values()]) for task in tasks]


def _with(task: Task, labels: list[Label]) -> Task:
    said = [each for each in labels if each.verdict != "withdrawn" and each.hash in (None, task.hash)]
    people = {(each.labeler, each.repeat) for each in said}
    kept = [each for each in task.others if each.kind != "human" or (each.labeler, each.repeat) not in people]
    made = [Opinion.model_validate({**each.model_dump(exclude_none=True), "kind": "human"}) for each in said]
    return task.model_copy(update={"others": [*kept, *made]})


def _task(candidate: Candidate, others: list[Opinion]) -> Task:
    return Task(
        sample_id=candidate.sample_id,
        hash=task_hash(candidate.text, candidate.steps),
        source=candidate.source,
        problem=candidate.question,
        options=candidate.choices,
        answer=candidate.answer,
        solution=candidate.solution,
        prefill=candidate.prefill,
        text=candidate.text,
        steps=list(candidate.steps),
        others=others,
    )


def _opinions(params: Params, name: str, root: Path, candidates: list[Candidate]) -> dict[str, list[Opinion]]:
    """sample_id -> labels of the candidates in built runs of the same samples, where these have the same steps."""
    runs = getattr(params, SECTION)
    same = [run for run, config in runs.items() if config.samples == runs[name].samples]
    steps = {c.sample_id: [step.model_dump() for step in c.steps] for c in candidates}
    found: dict[str, dict[tuple[str, str, int], Opinion]] = defaultdict(dict)
    for run in same:
        for row in _rows(run, params, root) if run_dir(SECTION, run, root).is_dir() else ():
            if steps.get(row["sample_id"]) == row["steps"]:
                key = row["kind"], row["labeler"], row["repeat"]
                found[row["sample_id"]][key] = Opinion.model_validate(row)
    return defaultdict(list, {sample: [opinion for _, opinion in sorted(of.items())] for sample, of in found.items()})


def _rows(run: str, params: Params, root: Path) -> Iterator[dict]:
    for batch in Stage(SECTION, run, root, params).scan(SECTION, run):
        yield from batch.to_pylist()
