"""`pairwright label`: people mark the first wrong step of completions."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builders.label_files import SUFFIX
from stores.plain import printable

if TYPE_CHECKING:
    from builders.labelling.tasks import Task

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Label the first wrong step of completions.")
Source = Annotated[str, typer.Argument(help="A step_labels run of params, or a file of exported tasks.")]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", help="The file that keeps the labels (default: labels/<name>.jsonl).")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many samples.")]


@app.command()
def serve(
    source: Source,
    labels: LabelsOption = None,
    labeler: Annotated[str | None, typer.Option(help="Your name, as it stands in labels (default: Git's).")] = None,
    reading: Annotated[int, typer.Option(min=1, help="2: read again what you labelled, to compare.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1 (0: a free one).")] = 0,
    limit: Limit = None,
) -> None:
    """Serves the page on which you mark first wrong steps, on this machine alone; Ctrl-C ends it.

    Every label is on the disk before the page says so. Track the file of labels with Git, and name it as the `path` of
    a run with `labeler: human`.
    """
    from builders.label_files import labeler_name
    from builders.labelling.appending import LabelFile
    from builders.labelling.maths import Typesetter
    from builders.labelling.server import LabelServer
    from builders.labelling.session import Session

    name = labeler_name(_git_name() if labeler is None else labeler)
    tasks, file = _tasks(source, limit), LabelFile(_labels_path(source, labels, name))
    typesetter = Typesetter()
    session = Session(tasks, file, name, reading - 1, typesetter)
    if not session.tasks:
        raise ValueError(f"{source}: nothing to label{f' in reading {reading}' if reading > 1 and tasks else ''}")
    with LabelServer(session, port) as server:
        left = session.overview()["answered"].count(False)
        print(f"{left} of {len(session.tasks)} samples are left to {name}, for {file.path}; Ctrl-C ends this")
        print(server.url, flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        with session.lock:  # a label that is being saved is saved first
            typesetter.close()
    print(f"{session.overview()['answered'].count(True)} of {len(session.tasks)} samples are labelled by {name}")


@app.command()
def export(
    source: Source,
    file: Annotated[Path, typer.Argument(help="The file of tasks to write (.jsonl).")],
    labels: Annotated[Path | None, typer.Option(help="Labels that people have made already, to go with them.")] = None,
    others: Annotated[bool, typer.Option(help="With what judges, rules and others said, to be shown after.")] = True,
    limit: Limit = None,
) -> None:
    """Writes the samples of a run with all that is needed to label them elsewhere, without the tables."""
    from builders.labelling.tasks import with_labels, without_others, write_tasks

    tasks = _tasks(source, limit)
    if not others:
        tasks = without_others(tasks)
    elif labels is not None:
        tasks = with_labels(tasks, labels)
    print(f"{file}: {write_tasks(file, tasks):,} tasks")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Labels made elsewhere: a .jsonl file, or a directory of them.")],
    labels: Annotated[Path, typer.Option("--labels", help="The file that keeps the labels.")],
) -> None:
    """Adds labels made elsewhere to a file of labels. A second time adds nothing; none is lost."""
    from builders.label_files import read_labels
    from builders.labelling.appending import LabelFile, merge

    found = merge(read_labels(file), LabelFile(labels))
    print(f"{labels}: {found.added:,} labels added, {found.known:,} were there")
    for conflict in found.conflicts:
        print(f"answered in two ways, the later one counts: {printable(conflict)}")


def _tasks(source: str, limit: int | None) -> "list[Task]":
    """Raises ValueError if the source is neither a run nor a file."""
    from builders.labelling.tasks import read_tasks, run_tasks

    if Path(source).is_file():
        return read_tasks(Path(source))[:limit]
    if source.endswith(SUFFIX):
        raise ValueError(f"{source}: no such file; write one with `pairwright label export`")
    return run_tasks(source, limit=limit)


def _labels_path(source: str, given: Path | None, labeler: str) -> Path:
    """The file that keeps the labels. Raises ValueError if it is that of the tasks."""
    path = given or _default_labels(source, labeler)
    if path.is_file() and Path(source).is_file() and path.samefile(source):
        raise ValueError(f"{path} holds the tasks; give another file for the labels (--labels)")
    return path


def _default_labels(source: str, labeler: str) -> Path:
    """Where a run says that its labels are, else `labels/<name>.jsonl`; in a directory, the person's own file."""
    from schemas.params import load_params
    from schemas.slots import NO_FILE

    if Path(source).is_file():
        return Path("labels") / Path(source).with_suffix(SUFFIX).name
    config = load_params(Path("params.yaml")).step_labels[source]
    path = Path("labels") / f"{source}{SUFFIX}" if config.path == NO_FILE else Path(config.path)
    return path if path.suffix == SUFFIX else path / f"{_file_name(labeler)}{SUFFIX}"


def _file_name(labeler: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in labeler.casefold())


def _git_name() -> str:
    command = ["git", "config", "user.name"]
    known = subprocess.run(command, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    if not known:
        raise ValueError("--labeler: give your name, which stands in every label (Git knows none)")
    return known
