"""The file that labels go to, tasks and what they are exported to, and the commands that move labels."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from builders.label_files import read_labels
from builders.labelling import appending
from builders.labelling.appending import LabelFile, merge
from builders.labelling.command import app
from builders.labelling.tasks import read_tasks, run_tasks, with_labels, without_others, write_tasks
from schemas.step_labels import StepSpan
from tests.conftest import REPOSITORY
from tests.label_world import build, hash_of, judged, keep, label
from tests.stage_world import write

MORNING, NOON = "2026-05-04T10:30:00.000Z", "2026-05-04T12:00:00.000Z"


def test_what_is_added_is_there_after_a_new_start(workspace: Path) -> None:
    first, second, _ = build()
    file = LabelFile(Path("labels/new/ada.jsonl"))
    file.add([label(first, 1, labeled_at=MORNING)])
    file.add([label(first, 2, labeled_at=NOON), label(second, None, "Bob")])
    again = LabelFile(Path("labels/new/ada.jsonl"))
    for each in (file, again):
        assert each.counting(first.sample_id) == {("Ada", 0): label(first, 2, labeled_at=NOON)}
        assert each.counting(second.sample_id) == {("Bob", 0): label(second, None, "Bob")}
    assert len(read_labels(again.path)) == 3


def test_a_line_that_was_cut_off_anywhere_is_taken_away_and_no_other(workspace: Path, capsys) -> None:
    first, second, _ = build()
    path = Path("ada.jsonl")
    keep(path, label(first, 1), label(second, 0, rationale="Ünal 🐈"))
    whole = path.read_bytes()
    kept = whole.index(b"\n") + 1
    for cut in range(kept, len(whole)):
        path.write_bytes(whole[:cut])
        LabelFile(path).add([label(second, 2)])
        found = [located.label.first_error for located in read_labels(path)]
        assert found == ([1, 0, 2] if cut == len(whole) - 1 else [1, 2]), cut
        assert ("removed a last line" in capsys.readouterr().err) == (kept < cut < len(whole) - 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sample_id": "s", "first_error": 0}', "the last line: labeler: Field required; mend the line or remove it"),
        ('{"name": "somebody\'s own", "n": 2}', "the last line: says neither"),
        ("Notes of mine", "the last line is no label"),
    ],
)
def test_a_last_line_that_no_crash_left_stays(workspace: Path, line: str, message: str) -> None:
    first, *_ = build()
    path = Path("mine.jsonl")
    for before in ("", label(first).line()):
        path.write_text(before + line)
        with pytest.raises(ValueError, match=f"^mine.jsonl: {message}"):
            LabelFile(path)
        assert path.read_text() == before + line


def test_zeros_at_the_end_are_no_label(workspace: Path, capsys) -> None:
    """What a loss of power may leave."""
    first, *_ = build()
    path = Path("ada.jsonl")
    keep(path, label(first, 1))
    whole = path.read_bytes()
    path.write_bytes(whole + b"\x00" * 100_000)
    LabelFile(path)
    assert path.read_bytes() == whole
    assert "\\x00" in capsys.readouterr().err


def test_a_mistake_in_the_middle_is_named_and_nothing_is_cut(workspace: Path) -> None:
    first, *_ = build()
    path = Path("ada.jsonl")
    path.write_text(label(first).line() + "oops\n" + label(first).line())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"ada.jsonl: line 2 is no label"):
        LabelFile(path)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_file_as_it_was(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = build()
    file = LabelFile(Path("ada.jsonl"))
    file.add([label(first)])
    before, write = file.path.read_bytes(), os.write
    calls = []

    def short(descriptor: int, data) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, bytes(data)[:10])

    monkeypatch.setattr(appending.os, "write", short)
    with pytest.raises(OSError, match="No space"):
        file.add([label(second)])
    assert file.path.read_bytes() == before
    assert file.counting(second.sample_id) == {}


WRITER = """
import sys
import threading
from pathlib import Path
from builders.labelling.appending import LabelFile
from tests.label_world import build, label
file = LabelFile(Path("all.jsonl"))
from builders.label_files import Label
for i in range(100):
    file.add([Label(sample_id=f"s{i}", labeler=sys.argv[1], verdict="error", first_error=i, rationale="x" * 5000)])
"""


def test_two_processes_that_write_one_file_lose_nothing(workspace: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], env=environment) for name in ("Ada", "Bob")]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = [located.label for located in read_labels(Path("all.jsonl"))]
    assert {(each.labeler, each.first_error) for each in found} == {(n, i) for n in ("Ada", "Bob") for i in range(100)}
    assert len(found) == 200


def test_a_label_waits_for_another_process_that_saves_one(workspace: Path) -> None:
    first, *_ = build()
    file = LabelFile(Path("ada.jsonl"))
    saving = threading.Thread(target=file.add, args=([label(first)],))
    with file.path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        saving.start()
        saving.join(0.2)
        assert file.path.read_bytes() == b""
        other.write('{"sample_id": "s", "lab')  # and is killed in the middle of it
    saving.join()
    assert [located.label for located in read_labels(file.path)] == [label(first)]


def test_merging_adds_what_is_missing_once(workspace: Path) -> None:
    first, second, third = build()
    mine = LabelFile(Path("mine.jsonl"))
    mine.add([label(first, 1, labeled_at=MORNING), label(second, 0, labeled_at=MORNING)])
    keep(
        Path("away/theirs.jsonl"),
        label(first, 1, labeled_at=MORNING),
        label(second, 2, labeled_at=NOON),
        label(second, 1, "Bob"),
        label(third, None),
        label(third, None),
    )
    assert merge(read_labels(Path("away")), mine) == (3, 1, [f"{second.sample_id} (Ada)"])
    assert mine.counting(second.sample_id)["Ada", 0].first_error == 2
    before = mine.path.read_bytes()
    assert merge(read_labels(Path("away")), LabelFile(mine.path)) == (0, 4, [])
    assert mine.path.read_bytes() == before
    assert [each.label.first_error for each in read_labels(mine.path)][:2] == [1, 0], "no line is lost or changed"


def test_a_run_s_tasks_survive_the_file_that_they_are_exported_to(workspace: Path) -> None:
    samples = build()
    tasks = run_tasks("people")
    assert [task.sample_id for task in tasks] == [sample.sample_id for sample in samples]
    assert [task.hash for task in tasks] == [hash_of(sample) for sample in samples]
    assert [[other.labeler for other in task.others] for task in tasks] == [["solomon"]] * 3
    assert tasks[0].solution
    assert write_tasks(Path("out/tasks.jsonl"), tasks) == 3
    assert read_tasks(Path("out/tasks.jsonl")) == tasks
    assert run_tasks("judged", limit=2) == tasks[:2]
    lines = Path("out/tasks.jsonl").read_text().splitlines()
    assert list(json.loads(lines[0]))[-1] == "others"
    assert not any(task.others for task in without_others(tasks))


def test_an_export_takes_the_place_of_tasks_alone(workspace: Path) -> None:
    first, *_ = build()
    keep(Path("labels/ada.jsonl"), label(first))
    before = Path("labels/ada.jsonl").read_bytes()
    for path in (Path("labels/ada.jsonl"), Path("labels"), Path("params.yaml")):
        with pytest.raises(ValueError, match=rf"^{path}: it is there, and holds no exported tasks; give the name of"):
            write_tasks(path, run_tasks("people"))
    assert Path("labels/ada.jsonl").read_bytes() == before
    assert [write_tasks(Path("tasks.jsonl"), run_tasks("people", limit=limit)) for limit in (1, 3)] == [1, 3]


def test_labels_go_with_tasks_where_their_text_is_the_same(workspace: Path) -> None:
    first, second, third = build()
    keep(
        Path("ada.jsonl"),
        label(first, 0, labeled_at=MORNING),
        label(first, 2, labeled_at=NOON),
        label(second, 0, hash="0123456789abcdef"),
        label(third, 0, labeled_at=MORNING),
        label(third, 0, labeled_at=NOON, verdict="withdrawn"),
    )
    found = [
        [(other.labeler, other.first_error) for other in t.others]
        for t in with_labels(run_tasks("people"), Path("ada.jsonl"))
    ]
    assert found == [[("solomon", 1), ("Ada", 2)], [("solomon", 1)], [("solomon", 1)]]


def test_judgements_of_other_steps_are_not_shown(workspace: Path) -> None:
    build()
    said = run_tasks("people")
    build(texts=(" One.\nStep 2: Two.", *(task.text for task in said[1:])))
    samples = build()
    rows = [judged(sample, "x") for sample in samples]
    moved = rows[0].model_copy(update={"steps": [StepSpan(start=0, end=1), StepSpan(start=1, end=2)]})
    write("step_labels", "judged", [moved, *rows[1:]])
    assert [len(task.others) for task in run_tasks("people")] == [0, 1, 1]


TASK_MISTAKES = {
    "no JSON": ("{", "line 1 is no task"),
    "an unknown version": ({"task": 2}, r"line 1 is no task \(task: "),
    "a changed text": ({"text": "Another."}, "no spans of `text`|`hash` is not that"),
    "steps out of order": ({"steps": [{"start": 5, "end": 2}]}, "no spans of `text` in order"),
}


@pytest.mark.parametrize(("change", "message"), TASK_MISTAKES.values(), ids=TASK_MISTAKES)
def test_a_file_of_tasks_that_was_changed(workspace: Path, change: dict | str, message: str) -> None:
    build()
    task = run_tasks("people")[0].model_dump()
    path = Path("tasks.jsonl")
    path.write_text(change if isinstance(change, str) else json.dumps(task | change))
    with pytest.raises(ValueError, match=rf"tasks.jsonl: .*(?:{message})"):
        read_tasks(path)


def test_a_task_that_is_there_twice(workspace: Path) -> None:
    build()
    line = run_tasks("people")[0].model_dump_json()
    Path("tasks.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(ValueError, match=r"tasks.jsonl: line 2: sample .* is there twice"):
        read_tasks(Path("tasks.jsonl"))


def test_labels_made_elsewhere_come_home(workspace: Path) -> None:
    first, *_ = build(human="labels/home.jsonl")
    run = CliRunner()
    done = run.invoke(app, ["export", "people", "away/tasks.jsonl"])
    assert (done.exit_code, done.output) == (0, "away/tasks.jsonl: 3 tasks\n")
    keep(Path("away/labels.jsonl"), label(first, 1, "Bob", labeled_at=MORNING))
    for expected in ("1 labels added, 0 were there", "0 labels added, 1 were there"):
        done = run.invoke(app, ["import", "away/labels.jsonl", "--labels", "labels/home.jsonl"])
        assert (done.exit_code, done.output) == (0, f"labels/home.jsonl: {expected}\n")
    keep(Path("away/more.jsonl"), label(first, 2, "Bob", labeled_at=NOON))
    done = run.invoke(app, ["import", "away/more.jsonl", "--labels", "labels/home.jsonl"])
    assert f"answered in two ways, the later one counts: {first.sample_id} (Bob)" in done.output
    done = run.invoke(app, ["export", "people", "tasks.jsonl", "--labels", "labels/home.jsonl", "--limit", "1"])
    assert [other.labeler for other in read_tasks(Path("tasks.jsonl"))[0].others] == ["solomon", "Bob"]
    run.invoke(app, ["export", "people", "tasks.jsonl", "--no-others"])
    assert not any(task.others for task in read_tasks(Path("tasks.jsonl")))


COMMAND_MISTAKES = {
    "no run": (["export", "peple", "t.jsonl"], "no run 'peple' under 'step_labels'"),
    "no file": (["serve", "gone.jsonl", "--labeler", "Ada"], "gone.jsonl: no such file; write one with"),
    "no labels": (["import", "gone.jsonl", "--labels", "l.jsonl"], "gone.jsonl: no such file"),
    "not a JSONL name": (
        ["serve", "people", "--labeler", "Ada", "--labels", "l.json"],
        "name a file of labels l.jsonl",
    ),
    "no name": (["serve", "people", "--labeler", " "], "labeler"),
    "an empty name": (["serve", "people", "--labeler", ""], "a labeler's name is one line"),
    "a mistake in what is imported": (["import", "params.yaml", "--labels", "l.jsonl"], "params.yaml: line 1 is no"),
    "nothing to read again": (
        ["serve", "people", "--labeler", "Ada", "--reading", "2"],
        "nothing to label in reading 2",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), COMMAND_MISTAKES.values(), ids=COMMAND_MISTAKES)
def test_a_mistake_says_what_is_wrong(workspace: Path, arguments: list[str], message: str) -> None:
    build()
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
    assert not Path("l.jsonl").exists()


def test_tasks_are_no_place_for_labels(workspace: Path) -> None:
    build()
    run = CliRunner()
    run.invoke(app, ["export", "people", "labels/tasks.jsonl"])
    before = Path("labels/tasks.jsonl").read_bytes()
    for options in ([], ["--labels", "labels/../labels/tasks.jsonl"]):
        done = run.invoke(app, ["serve", "labels/tasks.jsonl", "--labeler", "Ada", *options])
        assert "holds the tasks; give another file for the labels (--labels)" in str(done.exception)
    assert Path("labels/tasks.jsonl").read_bytes() == before


def test_a_machine_without_git_asks_for_the_name(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build()
    monkeypatch.setenv("PATH", str(workspace))
    done = CliRunner().invoke(app, ["serve", "people"])
    assert "--labeler: give your name" in str(done.exception)
