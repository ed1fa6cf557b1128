"""Files of human labels: what they may say, and the rows of `step_labels` that they become."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from builders import step_labels
from builders.label_files import Label, latest, read_labels, utc
from stores.buckets import Bucket
from stores.stage import execute
from tests.label_world import PREFILL, TEXTS, build, candidate, keep, label
from tests.stage_world import read, rejects

MORNING, NOON = "2026-05-04T10:30:00.000Z", "2026-05-04T12:00:00.000Z"


def run_people() -> list[dict]:
    execute("step_labels", "people", step_labels.run, Path())
    return read("step_labels", "people")


def write_lines(*rows: dict | str) -> Path:
    path = Path("labels/some.jsonl")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_every_label_of_every_person_is_a_row(workspace: Path) -> None:
    first, second, third = build()
    keep(
        Path("labels/ada.jsonl"),
        label(first, 1, labeled_at=MORNING, rationale="8 is wrong", correction="7"),
        label(second, None, labeled_at=MORNING),
        label(first, 0, labeled_at=NOON, repeat=1),
    )
    keep(Path("labels/team/bob.jsonl"), label(first, 2, "Bob"))
    rows = run_people()
    assert [(r["sample_id"], r["labeler"], r["repeat"], r["first_error"], r["verdict"]) for r in rows] == [
        (first.sample_id, "Ada", 0, 1, "error"),
        (first.sample_id, "Ada", 1, 0, "error"),
        (first.sample_id, "Bob", 0, 2, "error"),
        (second.sample_id, "Ada", 0, None, "no_error"),
    ]
    assert rows[0]["labels"] == ["correct", "incorrect"]
    assert rows[3]["labels"] == ["correct"] * len(rows[3]["steps"])
    written = {name: rows[0][name] for name in ("kind", "rationale", "correction", "labeled_at", "model")}
    assert written == {
        "kind": "human", "rationale": "8 is wrong", "correction": "7", "labeled_at": MORNING, "model": None,
    }  # fmt: skip
    assert rejects("step_labels", "people") == [(third.problem_id, third.sample_id, "unlabeled", "")]


def test_the_latest_line_of_a_person_counts_wherever_it_stands(workspace: Path) -> None:
    first, second, third = build()
    keep(
        Path("labels/ada.jsonl"),
        label(first, 2, labeled_at=NOON),
        label(first, 1, labeled_at=MORNING),
        label(second, 0),
        label(second, None),
        label(third, 0, labeled_at=MORNING),
        label(third, 1, labeled_at=NOON, verdict="withdrawn"),
    )
    assert [(r["sample_id"], r["first_error"]) for r in run_people()] == [
        (first.sample_id, 2),
        (second.sample_id, None),
    ]
    assert [row[1:3] for row in rejects("step_labels", "people")] == [(third.sample_id, "unlabeled")]


def test_labels_of_other_tools_need_a_sample_a_person_and_a_step(workspace: Path) -> None:
    samples = build()
    by_text = {sample.text: sample for sample in samples}
    first, second, third = (by_text[text] for text in TEXTS)
    write_lines(
        {"sample_id": first.sample_id, "labeler": "Ada", "first_error": -1, "generator": "anything"},
        {"problem": "Problem 1:  what is it?\n", "text": second.text, "labeler": "Ada", "first_error": 1.0},
        "",
        {
            "problem": "Problem 2: what is it?",
            "text": PREFILL + third.text,
            "labeler": "Ada",
            "labels": ["correct", "neutral"],
        },
    )
    found = {row["sample_id"]: (row["first_error"], row["labels"]) for row in run_people()}
    assert found == {
        first.sample_id: (None, ["correct"] * 3),
        second.sample_id: (1, ["correct", "incorrect"]),
        third.sample_id: (1, ["correct", "neutral"]),
    }


def test_a_label_of_no_candidate_is_a_reject(workspace: Path) -> None:
    first, *_ = build()
    path = write_lines(
        {"sample_id": "f" * 16 + "-00000000-00000000-0000", "labeler": "Ada", "first_error": 0},
        {"problem": "Another?", "text": "Text", "labeler": "Bob", "first_error": 0},
        label(first).line().strip(),
    )
    run_people()
    found = [
        (sample, detail) for _, sample, reason, detail in rejects("step_labels", "people") if reason != "unlabeled"
    ]
    assert sorted(found, key=str) == [
        ("f" * 16 + "-00000000-00000000-0000", f"label of Ada, {path}: line 1: its sample is not among the candidates"),
        (None, f"label of Bob, {path}: line 2: its sample is not among the candidates"),
    ]


def test_buckets_give_the_rejects_of_the_whole(workspace: Path) -> None:
    first, *_ = build()
    write_lines(
        label(first).line().strip(),
        {"problem": "Another?", "text": "Text", "labeler": "Bob", "first_error": 0},
        {"problem": "Problem 1: what is it?", "text": "Another text.", "labeler": "Bob", "first_error": 0},
        *({"sample_id": f"{i:x}" * 30, "labeler": "Ada", "first_error": 0} for i in range(16)),
    )
    whole, dropped = run_people(), rejects("step_labels", "people")
    assert len(dropped) == 2 + 2 + 16
    for number in range(16):
        execute("step_labels", "people", step_labels.run, Path(), bucket=Bucket(number, 16))
    assert (run_people(), rejects("step_labels", "people")) == (whole, dropped)


def test_a_changed_text_is_noticed_until_it_is_labelled_again(workspace: Path) -> None:
    first, *_ = build()
    old = label(first, hash="0123456789abcdef", labeled_at=MORNING)
    keep(Path("labels/ada.jsonl"), old)
    with pytest.raises(
        ValueError, match=r"labels/ada.jsonl: line 1: the text of sample .* label it again with `pairwright"
    ):
        run_people()
    keep(Path("labels/ada.jsonl"), label(first, labeled_at=NOON), old)
    assert [row["first_error"] for row in run_people()] == [1]


def test_a_step_that_the_sample_does_not_have(workspace: Path) -> None:
    first, *_ = build()
    count = len(candidate(first).steps)
    for step, labels in ((count, None), (9, None), (None, ["correct"] * (count + 1))):
        write_lines({"sample_id": first.sample_id, "labeler": "Ada", "first_error": step, "labels": labels})
        message = rf"names step {step or count} \(from 0\), but sample .* has {count}; label it"
        with pytest.raises(ValueError, match=rf"labels/some.jsonl: line 1: {message}"):
            run_people()


SAMPLE = {"sample_id": "s", "labeler": "Ada"}
MISTAKES = {
    "no JSON": ("{", r"is no label \(.*\); write one JSON object per line"),
    "no object": ("[1]", "valid dictionary.*; mend the line or remove it"),
    "not UTF-8": (b"\xff\xfe", "is no label"),
    "half a character": (
        '{"sample_id": "\\ud83d", "labeler": "Ada", "first_error": 0}',
        "surrogates not allowed",
    ),
    "no labeler": ({"sample_id": "s", "first_error": 0}, "labeler: Field required; mend"),
    "empty labeler": (SAMPLE | {"labeler": " ", "first_error": 0}, "labeler: .*one line of printable"),
    "a labeler of two lines": (SAMPLE | {"labeler": "a\nb", "first_error": 0}, "labeler: .*one line of printable"),
    "no sample": ({"labeler": "Ada", "first_error": 0, "text": "t"}, "names no sample: give `sample_id`, or `problem`"),
    "no step": (SAMPLE, "says neither `first_error`"),
    "a step that is a text": (SAMPLE | {"first_error": "2"}, "first_error is '2'; give the 0-based number"),
    "a step that is half": (SAMPLE | {"first_error": 1.5}, "first_error: .*integer"),
    "a step that is true": (SAMPLE | {"first_error": True}, "first_error is True"),
    "a negative step": (SAMPLE | {"first_error": -2}, "first_error is -2; steps are numbered from 0"),
    "an unknown label": (SAMPLE | {"labels": ["good"]}, r"labels.0: .*'correct', 'neutral' or 'incorrect'"),
    "labels of another step": (
        SAMPLE | {"first_error": 0, "labels": ["correct", "incorrect"]},
        "not the first wrong one",
    ),
    "a verdict of another step": (
        SAMPLE | {"first_error": 0, "verdict": "no_error"},
        "verdict 'no_error' does not fit",
    ),
    "a correction of nothing": (SAMPLE | {"first_error": None, "correction": "x"}, "says that none is wrong"),
    "a time without a zone": (SAMPLE | {"first_error": 0, "labeled_at": "2026-05-04T10:30:00"}, "needs its time zone"),
    "a time that is none": (SAMPLE | {"first_error": 0, "labeled_at": "now"}, "labeled_at: .*isoformat"),
    "a negative repeat": (SAMPLE | {"first_error": 0, "repeat": -1}, "repeat: .*greater than or equal to 0"),
}


@pytest.mark.parametrize(("line", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_file_line_and_remedy(workspace: Path, line: dict | str | bytes, message: str) -> None:
    path = Path("mine.jsonl")
    written = line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
    path.write_bytes(json.dumps(SAMPLE | {"first_error": 0}).encode() + b"\n" + written)
    with pytest.raises(ValueError, match=rf"(?s)^mine.jsonl: line 2:? .*{message}"):
        read_labels(path)


def test_nothing_to_read_says_what_makes_it(workspace: Path) -> None:
    with pytest.raises(ValueError, match=r"^gone.jsonl: no such file; `pairwright label serve` makes it"):
        read_labels(Path("gone.jsonl"))
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=r"^empty: no .jsonl file is in it"):
        read_labels(Path("empty"))


def test_times_sort_as_texts() -> None:
    east = datetime(2026, 5, 4, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    assert utc(east) == MORNING
    assert utc(datetime(2026, 5, 4, 10, 30, 0, 250_000, tzinfo=UTC)) == "2026-05-04T10:30:00.250Z"
    made = Label.model_validate(SAMPLE | {"first_error": 0, "labeled_at": east.isoformat()})
    assert made.labeled_at == MORNING


def test_a_line_reads_back(workspace: Path) -> None:
    path = Path("mine.jsonl")
    first, *_ = build()
    labels = [
        label(first, 1, "Ünal 🐈", rationale="a\nb \u2028 \x00 </script>", labeled_at=NOON, informed=True),
        label(first, None),
        label(first, 0, verdict="withdrawn"),
    ]
    keep(path, *labels)
    assert [located.label for located in read_labels(path)] == labels
    assert len(path.read_bytes().split(b"\n")) == 4
    assert list(latest(read_labels(path))) == [("Ünal 🐈", 0), ("Ada", 0)]
