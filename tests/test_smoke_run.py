"""`pairwright smoke` runs a whole graph in a directory of its own, and stops at the first stage that fails."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.commands import smoke as command
from builders.smoke_run import Ran, order, smoke
from schemas.params import load_params, run_inputs, table_runs
from stores.parquet import count_rows, read_table
from stores.paths import ledger_dir, run_dir
from tests import stage_world as world
from tests.conftest import REPOSITORY

SCRIPTED: dict[str, Any] = {
    "models": {"base": {"path": "data/none", "vocabulary": "none", "script": ["Final answer: 3", "Final answer: 4"]}},
    "prompts": {"train": world.PROMPTS | {"template": "question_answer"}},
    "predictions": {"drawn": {"samples": "drawn", "prompts": "train", "problems": "train"}},
    "rewards": {"drawn": {"predictions": "drawn", "problems": "train"}},
}


@pytest.fixture
def checkout(workspace: Path) -> Path:
    """A project of scripted samples, with tables and a file of its own."""
    shutil.copy(REPOSITORY / "dvc.yaml", "dvc.yaml")
    world.write_params(**SCRIPTED)
    world.write("problems", "train", [world.problem("Mine?")])
    (workspace / "data" / "raw").mkdir()
    return workspace


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_stage_runs_after_what_it_reads() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    found = order(params)
    place = {(table, name): found.index((section, name))
             for table in ("samples", "rewards", "pairs", "models", "reference_logprobs", "problems")
             for name, section in table_runs(params, table).items()}  # fmt: skip
    edges = [e for e in run_inputs(params) if (e.table, e.run) in place and (e.input_table, e.input_run) in place]
    assert len(edges) > 20
    for edge in edges:
        assert place[edge.input_table, edge.input_run] < place[edge.table, edge.run]
    assert len(found) == len(set(found))


def test_a_graph_runs_and_the_checkout_is_as_it_was(checkout: Path, tmp_path: Path) -> None:
    before, environment = tree(checkout), dict(os.environ)
    scratch = tmp_path / "scratch"
    ran = [stage for stage, _ in smoke(checkout / "params.yaml", checkout, scratch)]
    built = {"problems.train", "models.base", "prompts.train", "samples.drawn", "predictions.drawn", "rewards.drawn"}
    assert set(ran) == built | {"report"}
    assert ran[-1] == "report"
    made = scratch / "workspace"
    assert count_rows(run_dir("samples", "drawn", made), world.TABLES["samples"]) == 20 * 2
    assert (made / "data" / "report" / "metrics.json").exists()
    assert (made / "data" / "raw").is_symlink(), "files that params may name are there"
    assert tree(checkout) == before
    assert not ledger_dir().exists()
    assert (dict(os.environ), Path.cwd()) == (environment, checkout)


def test_the_first_failing_stage_is_named_with_what_it_printed(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = SCRIPTED | {"samples": {"drawn": world.SAMPLES | {"engine": "hf"}}}
    world.write_params(**sections)
    ran: list[Ran] = []
    with pytest.raises(ValueError, match=r"^samples\.drawn: data/models/base"):
        ran.extend(smoke(checkout / "params.yaml", checkout, tmp_path / "scratch"))
    assert "sampling base: 40 completions" in capsys.readouterr().err
    assert Path.cwd() == checkout


def test_another_exception_carries_the_stage(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from builders import prompts

    def broken(stage: object) -> None:
        raise KeyError("a mistake of the program")

    monkeypatch.setattr(prompts, "run", broken)
    with pytest.raises(KeyError) as error:
        list(smoke(checkout / "params.yaml", checkout, tmp_path / "scratch"))
    assert error.value.__notes__ == ["in prompts.train"]


def test_a_mistake_in_params_is_told_in_the_users_words(checkout: Path, tmp_path: Path) -> None:
    (checkout / "mine.yaml").write_text((checkout / "params.yaml").read_text().replace("explore", "exploer", 1))
    with pytest.raises(ValueError, match=r"mine\.yaml: samples\.drawn\.sampling: no entry"):
        list(smoke(checkout / "mine.yaml", checkout, tmp_path / "scratch"))


def test_the_command_prints_stages_and_can_keep_the_report(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(keep=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[2] in ("problems.train", "models.base")
    kept = Path(lines[-1].split("kept in ")[1])
    assert (kept / "workspace" / "data" / "report" / "report.html").exists()
    shutil.rmtree(kept)


def test_a_failing_graph_that_is_kept_is_where_the_command_says(checkout: Path, capsys) -> None:
    world.write_params(**SCRIPTED | {"samples": {"drawn": world.SAMPLES | {"engine": "hf"}}})
    with pytest.raises(ValueError, match=r"^samples\.drawn"):
        command(keep=True)
    kept = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("kept in "))
    assert (kept / "workspace" / "data" / "prompts" / "run=train").exists()
    shutil.rmtree(kept)


def test_outside_a_checkout_the_remedy_is_said(checkout: Path, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    with pytest.raises(ValueError, match=r"elsewhere/dvc\.yaml: no such file; run in the project's directory"):
        list(smoke(checkout / "params.yaml", elsewhere, tmp_path / "scratch"))
    assert not (tmp_path / "scratch").exists()


WAITS = """
import time
from builders.smoke_run import scratch_directory
with scratch_directory() as scratch:
    print(scratch, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_ends_it_finds_nothing_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    heeded = f"import signal; signal.signal({number}, signal.SIG_DFL)"  # whoever runs this test may ignore it
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", heeded + WAITS], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        scratch = Path(process.stdout.readline().decode().strip())
        assert scratch.is_dir()
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.alone
def test_the_shipped_recipe_takes_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "ledger"))
    cpu = time.process_time()
    ran = list(smoke(REPOSITORY / "params.yaml", REPOSITORY, tmp_path / "scratch"))
    assert {stage.partition(".")[0] for stage, _ in ran} >= {"sft", "preference", "pairs_outcome", "evaluate", "report"}
    print(f"{time.process_time() - cpu:.0f} CPU-s, {len(ran)} stages")
    assert time.process_time() - cpu < 480
    made = tmp_path / "scratch" / "workspace"
    params = yaml.safe_load((made / "params.yaml").read_text())
    pairs = [count_rows(run_dir("pairs", run, made), world.TABLES["pairs"]) for run in params["pairs_outcome"]]
    assert min(pairs) > 0, "every run made pairs"


@pytest.mark.slow
def test_every_loss_and_validation_by_labels_run_small(checkout: Path, tmp_path: Path) -> None:
    """Labels of a weak model choose the checkpoints; no run names answers but those that make pairs."""
    hub = {"hub": "an/organisation", "revision": "0" * 40, "path": "data/none", "vocabulary": "none"}
    validation = {"prompts": "train", "problems": "none", "questions": "train", "labels": "weak", "sampling": "greedy"}
    optimizer = {"lr": 1e-4, "batch_size": 8, "steps": 100}
    common = {"model": "base", "pairs": "drawn", "reference": "drawn", "steps_from": "none", "optimizer": optimizer}
    drawn = world.SAMPLES | {"engine": "vllm", "n": 30}
    losses: dict[str, dict[str, Any]] = {"orpo": {"reference": "none"}, "ipo": {}, "kto": {"undesirable_weight": 1.5}}
    world.write_params(
        **SCRIPTED
        | {
            "sampling": {
                name: {"temperature": t, "max_new_tokens": 99} for name, t in (("explore", 1.0), ("greedy", 0.0))
            },
            "models": {"base": hub, "small": hub},
            "samples": {"drawn": drawn, "weak": drawn | {"model": "small", "sampling": "greedy", "n": 1}},
            "predictions": {n: SCRIPTED["predictions"]["drawn"] | {"samples": n} for n in ("drawn", "weak")},
            "pairs_outcome": {
                "drawn": {"samples": "drawn", "rewards": "drawn", "step_labels": "none", "gold": "none", "k": 4}
            },
            "reference": {"drawn": {"pairs": "drawn", "model": "base", "mismatched": True}},
            "preference": {n: common | {"loss": n, "validation": validation} | more for n, more in losses.items()},
        }
    )
    ran = [stage for stage, _ in smoke(checkout / "params.yaml", checkout, tmp_path / "scratch")]
    assert {f"preference.{name}" for name in losses} <= set(ran)
    for name in losses:
        rows = read_table(
            run_dir("training", name, tmp_path / "scratch/workspace"), world.TABLES["training"]
        ).to_pylist()
        assert [row["step"] for row in rows if row["validation_accuracy"] is not None] == [2, 4]
