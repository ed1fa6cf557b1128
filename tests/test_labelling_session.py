"""What a person's session gives out, when, and what it saves."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.label_files import read_labels
from builders.labelling.appending import LabelFile
from builders.labelling.maths import Typesetter
from builders.labelling.session import Answer, Session, Withdrawal
from builders.labelling.tasks import run_tasks, with_labels
from tests.label_world import SECRET, build, hash_of, keep, label

MORNING = "2026-05-04T10:30:00.000Z"


@pytest.fixture(scope="module")
def typesetter() -> Iterator[Typesetter]:
    made = Typesetter()
    yield made
    made.close()


def session_of(labeler: str = "Ada", repeat: int = 0, typesetter: Typesetter | None = None) -> Session:
    assert typesetter is not None
    return Session(run_tasks("people"), LabelFile(Path("labels/all.jsonl")), labeler, repeat, typesetter)


def test_others_are_heard_only_after_answering(workspace: Path, typesetter: Typesetter) -> None:
    first, *_ = build()
    keep(Path("labels/all.jsonl"), label(first, 0, "Bob", rationale="Bob's secret"))
    session = session_of(typesetter=typesetter)
    before = session.task(0)
    assert before["others"] == []
    assert SECRET not in json.dumps(before)
    assert "Bob" not in json.dumps(before)
    reply = session.answer(
        Answer(sample_id=first.sample_id, hash=hash_of(first), first_error=2, rationale=" why ", correction="")
    )
    assert [(other["labeler"], other["kind"], other["first_error"]) for other in reply["others"]] == [
        ("Bob", "human", 0),
        ("solomon", "judge", 1),
    ]
    assert SECRET in json.dumps(reply)
    assert reply["own"]["first_error"] == 2
    (saved,) = (each.label for each in read_labels(Path("labels/all.jsonl")) if each.label.labeler == "Ada")
    assert (saved.rationale, saved.correction, saved.informed) == ("why", None, False)
    assert saved.labels == ["correct", "correct", "incorrect"]
    assert session_of(typesetter=typesetter).task(0)["others"] == reply["others"]


def test_what_is_known_twice_is_said_once_and_of_this_text_alone(workspace: Path, typesetter: Typesetter) -> None:
    first, *_ = build()
    keep(Path("away.jsonl"), label(first, 0), label(first, 1, "Bob"), label(first, 2, "Bob", repeat=1))
    keep(Path("labels/all.jsonl"), label(first, 2, "Bob"), label(first, 0, "Eve", hash="0123456789abcdef"))
    tasks = with_labels(run_tasks("people"), Path("away.jsonl"))
    session = Session(tasks, LabelFile(Path("labels/all.jsonl")), "Ada", 0, typesetter)
    reply = session.answer(Answer(sample_id=first.sample_id, hash=hash_of(first), first_error=None))
    assert [(other["labeler"], other["repeat"], other["first_error"]) for other in reply["others"]] == [
        ("Bob", 0, 2), ("solomon", 0, 1), ("Bob", 1, 2),
    ]  # fmt: skip


def test_an_answer_that_is_taken_back_is_none(workspace: Path, typesetter: Typesetter) -> None:
    first, *_ = build()
    session = session_of(typesetter=typesetter)
    about = {"sample_id": first.sample_id, "hash": hash_of(first)}
    session.answer(Answer(**about, first_error=0))
    assert session.withdraw(Withdrawal(**about)) == {"own": None, "others": []}
    assert session.overview()["answered"] == [False] * 3
    session.withdraw(Withdrawal(**about))
    session.answer(Answer(**about, first_error=None))
    lines = [each.label for each in read_labels(Path("labels/all.jsonl"))]
    assert [(line.verdict, line.informed) for line in lines] == [
        ("error", False), ("withdrawn", None), ("no_error", True),
    ]  # fmt: skip


def test_the_last_answer_counts_though_the_clock_was_put_back(workspace: Path, typesetter: Typesetter) -> None:
    first, *_ = build()
    later, latest = "2999-01-01T00:00:00.000Z", "3999-01-01T00:00:00.000Z"
    keep(Path("labels/all.jsonl"), label(first, 0, labeled_at=later), label(first, 0, "Bob", labeled_at=latest))
    session = session_of(typesetter=typesetter)
    about = {"sample_id": first.sample_id, "hash": hash_of(first)}
    assert session.withdraw(Withdrawal(**about))["own"] is None
    assert session.answer(Answer(**about, first_error=2))["own"]["first_error"] == 2
    assert [each.label.labeled_at for each in read_labels(Path("labels/all.jsonl"))][2:] == [later, later]


def test_a_second_reading_is_of_what_was_read(workspace: Path, typesetter: Typesetter) -> None:
    first, second, _ = build()
    keep(Path("labels/all.jsonl"), label(first, 0), label(second, 1, "Bob"))
    session = session_of(repeat=1, typesetter=typesetter)
    assert [task.sample_id for task in session.tasks] == [first.sample_id]
    assert session.overview()["answered"] == [False]
    reply = session.answer(Answer(sample_id=first.sample_id, hash=hash_of(first), first_error=1))
    assert [(other["labeler"], other["repeat"], other["first_error"]) for other in reply["others"]] == [
        ("Ada", 0, 0),
        ("solomon", 0, 1),
    ]
    saved = read_labels(Path("labels/all.jsonl"))[-1].label
    assert (saved.repeat, saved.informed) == (1, True)


def test_a_changed_text_is_to_be_labelled_again(workspace: Path, typesetter: Typesetter) -> None:
    first, *_ = build()
    keep(Path("labels/all.jsonl"), label(first, 0, hash="0123456789abcdef", labeled_at=MORNING))
    session = session_of(typesetter=typesetter)
    task = session.task(0)
    assert (task["changed"], task["own"]) == (True, None)
    session.answer(Answer(sample_id=first.sample_id, hash=hash_of(first), first_error=1))
    assert session.task(0)["changed"] is False


def test_an_answer_to_what_is_not_asked_is_refused(workspace: Path, typesetter: Typesetter) -> None:
    first, *_ = build()
    session = session_of(typesetter=typesetter)
    with pytest.raises(ValueError, match="first_error is 3, but the sample has 3 steps"):
        session.answer(Answer(sample_id=first.sample_id, hash=hash_of(first), first_error=3))
    with pytest.raises(ValueError, match="load the page again"):
        session.answer(Answer(sample_id=first.sample_id, hash="0" * 16, first_error=0))
    assert read_labels(Path("labels/all.jsonl")) == []
