"""`pairwright eval`: any model on any problem set, without touching the checkout."""

import json
from pathlib import Path

import pytest
import yaml

from builders import evaluate, models, problems, prompts, report
from builders.evaluation import Asked, evaluate_model
from stores.ledger import Ledger
from stores.stage import execute
from tests.pipeline import EMPTY, sampling_params

SCRIPT = [f"Final answer: {i}" for i in range(20)]


@pytest.fixture
def project(workspace: Path) -> Path:
    """A checkout whose scripted model `base` and problems `train` are built."""
    params = EMPTY | sampling_params("scripted", 1)
    params["sampling"] |= {"greedy": {"temperature": 0.0, "max_new_tokens": 512}}
    params["sampling"]["explore"] = {"temperature": 0.8, "max_new_tokens": 512}
    row = {"model": "base", "prompts": "train", "problems": "train", "engine": "scripted"}
    params["evaluate"] = {"base": row | {"greedy": "greedy", "explore": "explore", "k": 3}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    execute("problems", "train", problems.run, workspace)
    execute("models", "base", models.run, workspace)
    return workspace


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_it_finds_what_the_pipeline_finds_and_generates_nothing_again(project: Path) -> None:
    for section, run in (("prompts", prompts.run), ("evaluate", evaluate.run)):
        execute(section, {"prompts": "train"}.get(section, "base"), run, project)
    execute("report", "report", report.run, project)
    expected = json.loads((project / "data/report/metrics.json").read_text())["models"]["base"]
    before, ledger = files(project), Ledger()
    _, batches = ledger.sql("select count(*) from batches")
    found = evaluate_model(Asked("base", "train", engine="scripted", k=3))
    assert found["n"] == 40
    assert found == expected | {"model": "evaluated", "problems": "evaluated"}
    assert ledger.sql("select count(*) from batches") == (["count(*)"], batches)
    assert files(project) == before
    ledger.close()


def test_a_file_of_questions_and_a_model_that_params_do_not_name(project: Path) -> None:
    rows = [{"q": f"What is {i}?", "a": str(i)} for i in range(40)]
    (project / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"question": "q", "answer": "a"}
    asked = Asked("data/models/base", "mine.jsonl", "question_answer", "text", "scripted", columns=columns, limit=30)
    assert evaluate_model(asked)["n"] == 30


MISTAKES = {
    "model": (
        Asked("bas", "train"),
        r"MODEL 'bas': no model of params \(have base\), no directory, no ORG/NAME@COMMIT",
    ),
    "problems": (Asked("base", "tain"), r"PROBLEMS 'tain': no problems run of params \(have train\), no file"),
    "template": (Asked("base", "train", "nope", engine="scripted"), "template: no 'nope'"),
}


@pytest.mark.parametrize(("asked", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_what_there_is(project: Path, asked: Asked, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_model(asked)


def test_what_is_not_built_says_what_builds_it(project: Path) -> None:
    (project / "data/models/base").rename(project / "data/models/gone")
    with pytest.raises(ValueError, match="data/models/base: not there; build it with `dvc repro`"):
        evaluate_model(Asked("base", "train"))
