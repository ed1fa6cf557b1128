"""Labels by a judge: its answers are asked for where the ledger lacks them, and the rows are what they say.

An answer that says nothing is kept and makes a row `invalid`. With `retries`, it is asked for again under another key,
and the first valid answer counts.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import islice

import numpy as np

from builders.engines import COMPLETED
from builders.judging.asking import Asker, Candidates, Chunk, Questions, missing
from builders.judging.parsing import PARSER_VERSION, Invalid, Labelled, parse
from builders.judging.questions import Setting, setting_of
from builders.step_label_rows import Candidate, Labeling, invalid_row, label_row
from schemas.step_labels import StepLabels
from stores.buckets import WHOLE
from stores.duck import Duck
from stores.ledger import Completion, Ledger
from stores.stage import Stage

Dated = tuple[Completion, float]


def rows(stage: Stage, candidates: Candidates) -> Iterator[list[StepLabels]]:
    """One row per candidate and repeat, in the order of (sample_id, repeat), in chunks.

    Raises ValueError for a model that is not `hosted`, a template that is none, and what no attempt can mend; StopEarly
    if not everything could be asked. Then the ledger has what was answered.
    """
    setting, ledger, neutral = setting_of(stage), Ledger(), stage.config.neutral_is_error
    run, done = Questions(setting, candidates), 0
    reading = run.read()
    with _no_collector():
        for chunk, asked in reading:  # once, as long as the ledger has it all
            answers = _answers(ledger, run, asked, neutral)
            if answers is None:
                break
            yield _rows(setting, chunk, answers, neutral)
            done += 1
        else:
            return
        for _ in reading:
            pass
    _ask(stage, ledger, run, neutral)
    with _no_collector():
        for chunk, asked in islice(zip(candidates(), run.chunks, strict=True), done, None):
            answers = _answers(ledger, run, asked, neutral)
            assert answers is not None, "all is answered now"
            yield _rows(setting, chunk, answers, neutral)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the search for cycles, a third of the time: a chunk is many small objects, and none of them is in one."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _ask(stage: Stage, ledger: Ledger, run: Questions, neutral: bool) -> None:
    """Gets all answers of a run into the ledger. Another process that wants the same waits here."""
    asker = Asker(ledger, run, command(stage), partial(keys_of_whole, stage, run))
    wanted, retries = None, run.setting.judge.retries
    with ledger.exclusive(run.setting.context):
        for attempt in range(retries + 1):
            asker.ask(missing(ledger, run, attempt, wanted))
            if attempt < retries:
                wanted = _invalid(ledger, run, attempt, wanted, neutral)
    asker.spent.charge(stage.cost)


def keys_of_whole(stage: Stage, run: Questions) -> Iterator[list[str]]:
    """Every key that a run may ever ask, in chunks, though these questions are a bucket's: they share the budget."""
    if stage.scope == WHOLE:
        yield from run.all_keys()
        return
    from builders.step_labels import judged, select  # which imports this module

    whole = stage.narrowed(WHOLE, [])
    with Duck() as duck:
        select(whole, duck)
        asked = Questions(run.setting, partial(judged, whole, duck))
        asked.read_all()
    yield from asked.all_keys()


def command(stage: Stage) -> str:
    """What a user types to continue."""
    return f"python -m builders.step_labels {stage.name}" + (f" --bucket {stage.bucket}" if stage.bucket else "")


def _invalid(
    ledger: Ledger, run: Questions, attempt: int, wanted: list[np.ndarray] | None, neutral: bool
) -> list[np.ndarray]:
    """Which of the wanted answers are to be asked for again: a mask for each chunk."""
    masks = []
    for number, chunk in enumerate(run.chunks):
        keys, steps = run.keys(chunk, attempt), np.repeat(chunk.n_steps, run.repeats).tolist()
        places = range(len(keys)) if wanted is None else np.flatnonzero(wanted[number]).tolist()
        found = _read(ledger, [keys[at] for at in places], [steps[at] for at in places], neutral)
        mask = np.zeros(len(keys), dtype=bool)
        mask[[place for at, place in enumerate(places) if found[at].is_open]] = True
        masks.append(mask)
    return masks


def read(answer: Completion, n_steps: int, neutral: bool) -> Labelled | Invalid:
    """What an answer says."""
    if answer.finish_reason not in COMPLETED:
        return Invalid(f"{answer.finish_reason}: {answer.text}")
    return parse(answer.text, n_steps, neutral, cut=answer.finish_reason == "length")


class Answer:
    """The answer that counts for one candidate and repeat."""

    __slots__ = ("answer", "at", "key", "said")

    def __init__(self, key: str, dated: Dated, n_steps: int, neutral: bool):
        self.key, (self.answer, self.at) = key, dated
        self.said = read(self.answer, n_steps, neutral)

    @property
    def is_invalid(self) -> bool:
        return isinstance(self.said, Invalid)

    @property
    def is_open(self) -> bool:
        """Whether it is to be asked for again, while attempts are left."""
        return self.is_invalid and self.answer.finish_reason in COMPLETED


def _answers(ledger: Ledger, run: Questions, chunk: Chunk, neutral: bool) -> list[Answer] | None:
    """The first valid answer for each key of a chunk's first attempt, else the last one; None if one is to be asked."""
    steps, retries = np.repeat(chunk.n_steps, run.repeats).tolist(), run.setting.judge.retries
    found = _read(ledger, run.keys(chunk), steps, neutral)
    if len(found) < len(steps):
        return None
    for attempt in range(1, retries + 1):
        keys = run.keys(chunk, attempt)
        left = [at for at, answer in found.items() if answer.is_invalid]
        later = _read(ledger, [keys[at] for at in left], [steps[at] for at in left], neutral)
        if any(at not in later and found[left[at]].is_open for at in range(len(left))):
            return None
        found |= {left[at]: answer for at, answer in later.items()}
    return [found[at] for at in range(len(steps))]


def _read(ledger: Ledger, keys: list[str], steps: list[int], neutral: bool) -> dict[int, Answer]:
    """Place -> answer, of the keys that are there."""
    dated = ledger.dated(keys)
    return {
        at: Answer(key, dated[key], n, neutral)
        for at, (key, n) in enumerate(zip(keys, steps, strict=True))
        if key in dated
    }


def _rows(setting: Setting, chunk: list[Candidate], answers: list[Answer], neutral: bool) -> list[StepLabels]:
    repeats = setting.judge.repeats
    assert len(answers) == len(chunk) * repeats, "candidates are the same whenever they are read"
    return [
        _row(setting, candidate, answers[at * repeats + repeat], repeat, neutral)
        for at, candidate in enumerate(chunk)
        for repeat in range(repeats)
    ]


def _row(setting: Setting, candidate: Candidate, found: Answer, repeat: int, neutral: bool) -> StepLabels:
    labeling: Labeling = {
        "kind": "judge",
        "labeler": setting.hosted,
        "labeler_version": PARSER_VERSION,
        "repeat": repeat,
        "model": found.answer.served_by or setting.hosted,
        "template": setting.label,
        "ledger_key": found.key,
        "labeled_at": _utc(found.at),
    }
    if isinstance(found.said, Invalid):
        return invalid_row(candidate, found.said.reason, **labeling)
    labels, rationale, corrections = found.said
    wrong = labels[-1] == "incorrect" or (neutral and labels[-1] == "neutral")
    correction = corrections.get(len(labels)) if wrong and setting.judge.corrections else None
    return label_row(candidate, labels, neutral, rationale=rationale, correction=correction, **labeling)


@lru_cache(1000)
def _utc(unix: float) -> str:
    """A time of the ledger, ISO 8601; answers of one batch share it."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")
