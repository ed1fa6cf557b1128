"""`pairwright eval`: any model on any problem set, without touching the checkout."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml

from builders import evaluate, evaluation, models, problems, prompts, report
from builders.eval_command import _rows
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


def test_a_directory_that_was_trained_on_is_another_model(workspace: Path) -> None:
    mine = workspace / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("{}")

    def evaluated(weight: int | None, scratch: str) -> Path:
        if weight is not None:
            safetensors.numpy.save_file({"w": np.array([weight])}, mine / "model.safetensors")
        return Path(evaluation._model("mine", None, workspace, workspace / scratch)["path"]) / "model.safetensors"

    first = evaluated(1, "a").read_bytes()
    again = evaluated(2, "b")
    assert again.read_bytes() == (mine / "model.safetensors").read_bytes() != first
    written = again.stat().st_mtime_ns
    assert evaluated(None, "c").stat().st_mtime_ns == written, "what did not change is not copied again"


def test_two_at_once_wait_for_one_copy_of_the_model(workspace: Path) -> None:
    mine = workspace / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    safetensors.numpy.save_file({"w": np.zeros(1)}, mine / "model.safetensors")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: evaluation._model("mine", None, workspace, workspace / str(n)), range(4)))
    assert len({row["path"] for row in found}) == 1


def test_one_sampled_completion_has_one_row_of_pass_at_1(project: Path) -> None:
    names = [row[0] for row in _rows(evaluate_model(Asked("base", "train", engine="scripted", k=1)))]
    assert names.count("pass@1") == names.count("maj@1") == 1


def test_an_unknown_checker_shows_before_anything_is_generated(project: Path) -> None:
    with pytest.raises(ValueError, match="no checker 'nope'"):
        evaluate_model(Asked("base", "train", engine="scripted", checker="nope"))
    ledger = Ledger()
    assert ledger.sql("select count(*) from batches")[1] == [(0,)]
    ledger.close()


MISTAKES = {
    "model": (
        Asked("bas", "train"),
        r"MODEL 'bas': no model of params \(have base\), no directory, no ORG/NAME@COMMIT",
    ),
    "problems": (Asked("base", "tain"), r"PROBLEMS 'tain': no problems run of params \(have train\), no file"),
    "limit": (Asked("base", "train", limit=5), "--limit: PROBLEMS 'train' is a run of params, taken as it is; leave"),
    "split": (Asked("base", "train", split="dev"), "--split: PROBLEMS 'train' is a run of params"),
    "no answers": (Asked("base", "mine.jsonl", engine="scripted"), "PROBLEMS: none of its rows has both"),
    "limit 0": (Asked("base", "mine.jsonl", limit=0), "problems.evaluated.limit: .*greater than or equal to 1"),
    "options": (
        Asked("base", "mine.jsonl", answer_kind="choice"),
        r"mine.jsonl line 1: no column 'choices' \(have 'question', 'answer'\)",
    ),
    "template": (Asked("base", "train", "nope", engine="scripted"), "template: no 'nope'"),
}


@pytest.mark.parametrize(("asked", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_what_there_is(project: Path, asked: Asked, message: str) -> None:
    (project / "mine.jsonl").write_text('{"question": "q", "answer": null}')
    with pytest.raises(ValueError, match=message):
        evaluate_model(asked)


def test_what_is_not_built_says_what_builds_it(project: Path) -> None:
    (project / "data/models/base").rename(project / "data/models/gone")
    with pytest.raises(ValueError, match="data/models/base: not there; build it with `dvc repro`"):
        evaluate_model(Asked("base", "train"))
