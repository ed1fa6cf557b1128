"""One model on one problem set, outside `dvc repro`: the same stages, in a directory of their own.

Completions go through the ledger like any others, so asking again costs nothing. Nothing in the checkout changes.
"""

import fcntl
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from builders import evaluate, models, problems, prompts
from builders.reporting.metrics import measure
from builders.reporting.views import open_views
from builders.sources import SOURCES
from schemas import Problem
from schemas.ids import digest
from schemas.params import STAGES, Params, load_params, table_runs
from schemas.slots import NO_FILE, NONE
from stores.duck import Duck
from stores.model_record import RECORD
from stores.parquet import read_table
from stores.paths import ledger_dir, run_dir
from stores.stage import Stage, execute

NAME = "evaluated"
_TEMPLATES = {"number": "final_answer", "latex": "boxed", "choice": "choice_final_answer"}
_HUB = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
_TABLES = ("problems", "answers", "solutions")


@dataclass(frozen=True)
class Asked:
    """What to evaluate, and how. None: as the pipeline asks these problems, else by the model and the answers' kind.

    `model` is a model of params, a directory, `ORG/NAME@COMMIT`, or `hosted:NAME`; `problems` is a problems run of
    params, `SOURCE=PATH`, `SOURCE@COMMIT`, or a file of questions and answers.
    """

    model: str
    problems: str
    template: str | None = None
    rendering: str | None = None
    engine: str = "hf"
    precision: str = "fp32"
    split: str | None = None
    limit: int | None = None
    answer_kind: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    checker: str = "auto"
    k: int = 0
    temperature: float = 0.8
    max_new_tokens: int = 512
    batch_size: int = 256


def evaluate_model(asked: Asked, root: Path = Path()) -> dict[str, Any]:
    """What the report says of one model: accuracy with its interval, maj@k and pass@k, by level, subject and steps.

    Raises ValueError for a model or a problem set that is not there, and as the stages do.
    """
    params = load_params(root / "params.yaml") if (root / "params.yaml").exists() else None
    with tempfile.TemporaryDirectory(prefix="pairwright-eval-") as directory:
        scratch = Path(directory)
        raw: dict[str, Any] = {"seed": params.seed if params else 0, "report": {}} | {s: {} for s in STAGES}
        raw["models"] = {NAME: _model(asked.model, params, root, scratch)}
        raw["problems"] = {NAME: _problems(asked, params, root, scratch)}
        _run(raw, "problems", problems.run, scratch)
        raw["prompts"] = {NAME: _prompts(asked, params, scratch)}
        _run(raw, "prompts", prompts.run, scratch)
        raw["sampling"], raw["evaluate"] = _sampling(asked), {NAME: _evaluate(asked)}
        _run(raw, "evaluate", evaluate.run, scratch)
        with Duck() as duck:
            found = load_params(scratch / "params.yaml")
            return measure(duck, found, open_views(duck, found, scratch))["models"][NAME]


def _run(raw: dict[str, Any], section: str, run: Callable[[Stage], None], scratch: Path) -> None:
    """Runs a stage, unless its output was linked."""
    text = yaml.safe_dump({"sampling": {}} | raw, sort_keys=False)
    (scratch / "params.yaml").write_text(text, encoding="utf-8")
    if not run_dir(section, NAME, scratch).exists():
        execute(section, NAME, run, scratch)


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.resolve())


def _model(model: str, params: Params | None, root: Path, scratch: Path) -> dict[str, Any]:
    """The model's row; its directory is linked, and made first where it is not one of ours."""
    link, hub = run_dir("models", NAME, scratch), _HUB.fullmatch(model)
    if params and model in table_runs(params, "models"):
        _link(_built(run_dir("models", model, root)), link)
    elif (root / model / RECORD).exists():
        _link(root / model, link)
    elif (root / model).is_dir():
        directory = (root / model).resolve()
        _link(_made({"path": str(directory)}, _stamp(directory)), link)
    elif hub:
        _link(_made({"hub": hub[1], "revision": hub[2]}), link)
    elif model.startswith("hosted:"):
        _link(_made({"hosted": model.removeprefix("hosted:")}), link)
    else:
        known = ", ".join(sorted(table_runs(params, "models"))) if params else "none"
        raise ValueError(
            f"MODEL '{model}': no model of params (have {known}), no directory, no ORG/NAME@COMMIT (40 digits),"
            " no hosted:NAME"
        )
    return {"path": str(link.resolve()), "vocabulary": NONE}


def _built(directory: Path) -> Path:
    if not directory.exists():
        raise ValueError(f"{directory}: not there; build it with `dvc repro`, or restore it with `dvc checkout`")
    return directory


def _made(source: dict[str, Any], stamp: str = "") -> Path:
    """A model directory beside the ledger, made once from the Hub, a hosted model's name, or a directory as it is now.

    `stamp` tells the states of a directory apart: one that was trained on is read again, in place of its older copy.
    """
    root = ledger_dir() / "eval" / digest(source)
    made, stamped = run_dir("models", NAME, root), root / "stamp"
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another evaluation may be making it: that takes no longer than a copy
        if not made.exists() or not stamped.exists() or stamped.read_text(encoding="utf-8") != stamp:
            row = {"path": NO_FILE, "vocabulary": NONE} | source
            raw = {"seed": 0, "sampling": {}, "report": {}} | {s: {} for s in STAGES} | {"models": {NAME: row}}
            (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
            execute("models", NAME, models.run, root)
            stamped.write_text(stamp, encoding="utf-8")
    return made


def _stamp(directory: Path) -> str:
    """What changes with the files of a directory: their names, sizes and times of change."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return digest([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files])


def _problems(asked: Asked, params: Params | None, root: Path, scratch: Path) -> dict[str, Any]:
    """The problem set's row; the tables of a run of params are linked."""
    if params and asked.problems in table_runs(params, "solutions"):
        _check_whole(asked)
        for table in _TABLES:
            _link(_built(run_dir(table, asked.problems, root)), run_dir(table, NAME, scratch))
        return params.problems[asked.problems].model_dump(mode="json", exclude_unset=True)
    row = {"path": NO_FILE, "split": asked.split or "test"} | _published(asked, params, root)
    return row | ({"limit": asked.limit} if asked.limit is not None else {})


def _check_whole(asked: Asked) -> None:
    """Raises ValueError for what would choose or read other rows than a run of params has."""
    for name, given in (("limit", asked.limit), ("split", asked.split), ("answer-kind", asked.answer_kind),
                        ("column", asked.columns or None)):  # fmt: skip
        if given is not None:
            remedy = "leave it out, or give SOURCE=PATH, SOURCE@COMMIT or a file"
            raise ValueError(f"--{name}: PROBLEMS '{asked.problems}' is a run of params, taken as it is; {remedy}")


def _published(asked: Asked, params: Params | None, root: Path) -> dict[str, Any]:
    source, mark, rest = asked.problems.partition("=") if "=" in asked.problems else asked.problems.partition("@")
    if source in SOURCES and mark:
        return {"source": source} | ({"path": str((root / rest).resolve())} if mark == "=" else {"revision": rest})
    if (root / asked.problems).is_file():
        needed = ("question", "answer", *(("choices",) if asked.answer_kind == "choice" else ()))
        columns = {name: name for name in needed} | asked.columns
        path = {"source": "file", "path": str((root / asked.problems).resolve())}
        return path | {"columns": columns, "answer_kind": asked.answer_kind or "number", "licence": "unknown"}
    known = ", ".join(sorted(params.problems)) if params else "none"
    raise ValueError(
        f"PROBLEMS '{asked.problems}': no problems run of params (have {known}), no file, no SOURCE=PATH and no"
        f" SOURCE@COMMIT (sources: {', '.join(sorted(SOURCES))})"
    )


def _prompts(asked: Asked, params: Params | None, scratch: Path) -> dict[str, Any]:
    """As params ask these problems, where they do; else by the kind of answers and what the model can read."""
    same = [run for run in params.prompts.values() if run.problems == asked.problems] if params else []
    zero_shot = next((run for run in same if run.demo_samples == NONE), None)
    template = asked.template or (zero_shot.template if zero_shot else _template(scratch))
    rendering = asked.rendering or (zero_shot.rendering if zero_shot else _rendering(run_dir("models", NAME, scratch)))
    row = {"problems": NAME, "template": template, "rendering": rendering}
    return row | {"demo_samples": NONE, "demo_problems": NONE}


def _template(scratch: Path) -> str:
    kinds = set(read_table(run_dir("problems", NAME, scratch), Problem, ["answer_kind"])["answer_kind"].to_pylist())
    if not kinds:
        raise ValueError(
            "PROBLEMS: none of its rows has both a question and an answer; is it the right file or column?"
        )
    if len(kinds) != 1 or not kinds <= _TEMPLATES.keys():
        raise ValueError(f"--template: name one; there is no usual one for answers of kind {', '.join(sorted(kinds))}")
    return _TEMPLATES[kinds.pop()]


def _rendering(model: Path) -> str:
    """`chat` for a model with a chat template, or behind an API."""
    if (model / "chat_template.jinja").exists() or (model / "hosted.json").exists():
        return "chat"
    config = model / "tokenizer_config.json"
    chat = config.exists() and json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    return "chat" if chat else "text"


def _sampling(asked: Asked) -> dict[str, Any]:
    return {
        "greedy": {"temperature": 0.0, "max_new_tokens": asked.max_new_tokens},
        "explore": {"temperature": asked.temperature, "max_new_tokens": asked.max_new_tokens},
    }


def _evaluate(asked: Asked) -> dict[str, Any]:
    same = {name: getattr(asked, name) for name in ("engine", "precision", "checker", "k", "batch_size")}
    return {"model": NAME, "prompts": NAME, "problems": NAME, "greedy": "greedy", "explore": "explore"} | same
