"""Rows of `step_labels` by people, from a tracked file of labels (or a directory of them).

One row per (sample, person, reading), of the label that counts (`builders.label_files`); the labeler is the person's
name. Rejects: `unlabeled` (a candidate that nobody has labelled), `unknown_problem` (a label of a sample that is not
among the candidates; the detail says whose, and where it stands).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from builders.label_files import Located, latest, read_labels, task_hash
from builders.step_label_rows import Candidate, label_row
from schemas import Reject
from schemas.ids import digest
from schemas.step_labels import StepLabel, StepLabels
from stores.buckets import Scope, bounds
from stores.stage import Stage

VERSION = "human-1"
"""Of the rules by which lines of a file become rows."""


def rows(stage: Stage, candidates: Callable[[], Iterable[list[Candidate]]]) -> Iterator[list[StepLabels]]:
    """Rows of the candidates in the order of (sample_id, labeler, repeat); a chunk of candidates is a chunk of rows.

    Raises ValueError for a label of another text than the candidate's, or of a step that it does not have, naming
    file, line and remedy.
    """
    path = stage.root / stage.config.path
    labels = _BySample(read_labels(path))
    for chunk in candidates():
        found = []
        for candidate in chunk:
            counting = labels.take(candidate)
            found += [_row(candidate, each, stage.config.neutral_is_error) for each in counting]
            if not counting:
                stage.reject([_unlabeled(candidate)])
        yield found
    left = list(labels.left())
    asked = _problems_asked(stage) if any(located.label.sample_id is None for located in left) else {}
    stage.reject(_unknown(located) for located in left if _is_within(_place(located, asked), stage.scope))


class _BySample:
    """Labels by the sample that they name, or by problem and text, where they name none."""

    def __init__(self, labels: Iterable[Located]):
        self.labels: dict[tuple[str, ...], list[Located]] = defaultdict(list)
        self.taken: set[tuple[str, ...]] = set()
        for located in labels:
            label = located.label
            named = (label.sample_id,) if label.sample_id else (_key(label.problem or ""), _key(label.text or ""))
            self.labels[named].append(located)

    def take(self, candidate: Candidate) -> list[Located]:
        """The labels of a candidate that count, in the order of (labeler, repeat)."""
        question = _key(candidate.question)
        whole = _key(candidate.prefill + candidate.text)
        names = dict.fromkeys([(candidate.sample_id,), (question, _key(candidate.text)), (question, whole)])
        found = [located for name in names for located in self.labels.get(name, ())]
        self.taken |= names.keys() & self.labels.keys()
        return [each for _, each in sorted(latest(found).items()) if each.label.verdict != "withdrawn"]

    def left(self) -> Iterator[Located]:
        """The labels that no candidate has taken."""
        for name in self.labels.keys() - self.taken:
            yield from self.labels[name]


def _key(text: str) -> str:
    return " ".join(text.split())


def _row(candidate: Candidate, located: Located, neutral_is_error: bool) -> StepLabels:
    label = located.label
    if label.hash is not None and label.hash != task_hash(candidate.text, candidate.steps):
        raise ValueError(
            f"{located}: the text of sample {candidate.sample_id}, or its steps, are others than those that"
            f" {label.labeler} labelled; label it again with `pairwright label serve`, or remove the line"
        )
    steps, named = len(candidate.steps), len(label.labels or ()) - 1 if label.first_error is None else label.first_error
    if named >= steps:
        raise ValueError(
            f"{located}: names step {named} (from 0), but sample {candidate.sample_id} has {steps}; label it again"
            " with `pairwright label serve`, or mend the line"
        )
    return label_row(
        candidate, label.labels or _derived(label.first_error, steps), neutral_is_error, kind="human",
        labeler=label.labeler, labeler_version=VERSION, repeat=label.repeat, rationale=label.rationale,
        correction=label.correction, labeled_at=label.labeled_at,
    )  # fmt: skip


def _derived(first_error: int | None, steps: int) -> list[StepLabel]:
    """Labels of the steps up to the first wrong one: whoever marks it has found those before it correct."""
    return ["correct"] * steps if first_error is None else [*(["correct"] * first_error), "incorrect"]


def _problems_asked(stage: Stage) -> dict[str, str]:
    """Question -> the problem's id, of the whole run."""
    problems = stage.scan("problems", stage.config.problems, ["problem_id", "question"], whole=True)
    return {_key(row["question"]): row["problem_id"] for batch in problems for row in batch.to_pylist()}


def _place(located: Located, asked: dict[str, str]) -> str:
    """What decides in which part of a run a label of no candidate is a reject, so that it is one in just one part."""
    label = located.label
    return label.sample_id or asked.get(_key(label.problem or "")) or digest(label.problem)


def _is_within(key: str, scope: Scope) -> bool:
    ends = [bounds(part) for part in scope]
    return any(first <= key and (behind is None or key < behind) for first, behind in ends)


def _unlabeled(candidate: Candidate) -> Reject:
    return Reject(problem_id=candidate.problem_id, sample_id=candidate.sample_id, reason="unlabeled")


def _unknown(located: Located) -> Reject:
    detail = f"label of {located.label.labeler}, {located}: its sample is not among the candidates"
    return Reject(sample_id=located.label.sample_id, reason="unknown_problem", detail=detail)
