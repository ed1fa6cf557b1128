"""Hosted models are sampled within the same budget as judges are asked."""

from pathlib import Path

import pytest

from builders import evaluate, models, samples
from stores.buckets import Bucket
from stores.paths import run_dir
from stores.stage import StopEarly, execute
from tests import stage_world as world
from tests.fault_server import MODEL, Act, FaultServer
from tests.hosted_world import connect
from tests.judging_world import Meter, ledger_sql

PROMPTS = 40


@pytest.fixture
def hosted(workspace: Path) -> None:
    """Prompts for a hosted model, which is sampled twice and evaluated."""
    asked = [world.problem(f"Legs of {i} cats?") for i in range(PROMPTS)]
    world.write("problems", "train", asked)
    world.write("prompts", "train", [world.prompt(p) for p in asked])
    world.write("answers", "train", [world.answer(p, "8") for p in asked])
    row = {"model": "base", "prompts": "train", "problems": "train", "engine": "openai", "greedy": "greedy",
           "explore": "explore", "k": 2}  # fmt: skip
    world.write_params(
        models={"base": {"path": "data/none", "vocabulary": "none", "hosted": MODEL}},
        samples={"drawn": world.SAMPLES | {"engine": "openai", "n": 2}},
        sampling={name: {"temperature": t, "max_new_tokens": 64} for name, t in (("explore", 1.0), ("greedy", 0.0))},
        evaluate={"base": row},
    )  # fmt: skip
    execute("models", "base", models.run)


def test_samples_keep_to_the_budget_and_a_larger_one_continues(hosted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter((Act(cut=True), Act(500)), every=5)
    with FaultServer(meter).running() as server:
        connect(monkeypatch, server, budget_usd="0.001", max_attempts=50)
        with pytest.raises(StopEarly, match="completions are missing, the others are in the ledger") as stop:
            execute("samples", "drawn", samples.run)
        assert meter.charged <= 0.001
        assert "continues with a larger PAIRWRIGHT_BUDGET_USD" in str(stop.value)
        kept = ledger_sql("select count(*) from completions")[0][0]
        assert 0 < kept == meter.answered < 2 * PROMPTS
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
        execute("samples", "drawn", samples.run)
        assert meter.answered == 2 * PROMPTS
    assert len(world.read("samples", "drawn")) == 2 * PROMPTS


def test_buckets_share_the_budget_of_their_run(hosted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    meter, stopped = Meter(), 0
    with FaultServer(meter).running() as server:
        connect(monkeypatch, server, budget_usd="0.001")
        for number in range(16):
            try:
                execute("samples", "drawn", samples.run, bucket=Bucket(number, 16))
            except StopEarly:
                stopped += 1
        assert 0 < stopped < 16
        assert 0.0005 < meter.charged <= 0.001


def test_an_evaluation_has_one_budget_for_all_of_its_settings(hosted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    with FaultServer(meter).running() as server:
        connect(monkeypatch, server)
        execute("evaluate", "base", evaluate.run)
        total, greedy = meter.charged, ledger_sql("select sum(price_usd) from completions where key like '%-0000'")
        assert greedy[0][0] < total
        connect(monkeypatch, server, budget_usd=total * 0.7)
        monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(Path("another").resolve()))
        meter.charged = 0.0
        with pytest.raises(StopEarly, match="PAIRWRIGHT_BUDGET_USD"):
            execute("evaluate", "base", evaluate.run)
        assert 0 < meter.charged <= total * 0.7
        assert run_dir("samples", "base").exists(), "the one of before"
