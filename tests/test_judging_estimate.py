"""`--estimate`: a pilot of a run's own questions, and what the others will cost."""

import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from builders import step_labels
from builders.engines.prices import price_usd
from builders.forecast import forecast
from builders.judging.estimate import Range, total
from schemas.params import load_params
from stores.ledger import Ledger
from stores.paths import run_dir
from stores.stage import Stage, StopEarly, run_stage
from tests import judging_world as judged
from tests import stage_world as world
from tests.fault_server import MODEL, Act, Asked, FaultServer
from tests.hosted_world import connect
from tests.judging_world import GOOD, Meter, number_of
from tests.replaying_judge import LABELS


def estimate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What the command prints."""
    run_stage("step_labels", step_labels.run, ["judged", "--estimate", *options], step_labels.estimate)
    return capsys.readouterr().out


def numbers(said: str, line: str) -> list[float]:
    (found,) = [text for text in said.splitlines() if text.startswith(line)]
    return [float(number.replace(",", "")) for number in re.findall(r"(?<=[ ])\d[\d,]*\.?\d*(?=[ )])", found)]


def test_a_pilot_is_part_of_the_run_and_its_mean_is_the_forecast(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged.write(200)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server)
        said = estimate(monkeypatch, capsys)
        assert len(server.asked) == 20
        assert sorted(number_of(asked) for asked in server.asked) != list(range(20)), "spaced over the whole run"
        assert not run_dir("step_labels", "judged").exists(), "no table"
        assert "step_labels.judged: pilot of 20 answers, 20 asked now for 0.00" in said
        assert "to ask    180 of 200 answers\n" in said
        assert estimate(monkeypatch, capsys).splitlines()[1:] == said.splitlines()[1:]
        assert len(server.asked) == 20, "the same pilot again asks nothing"
        usages = [judged.usage_of(asked) for asked in server.asked]
        tokens = statistics.fmean(u["completion_tokens"] for u in usages) * 180
        assert numbers(said, "answers")[0] == round(tokens)
        prices = [price_usd(MODEL, server.url, u) or 0.0 for u in usages]
        mean, low, high = numbers(said, "price")[:3]
        assert mean == pytest.approx(statistics.fmean(prices) * 180, abs=1e-4)
        judged.judge()
        assert len(server.asked) == 200
        rest = judged.ledger_sql("select sum(price_usd) from completions")[0][0] - sum(prices)
        assert low <= rest <= high
        assert estimate(monkeypatch, capsys, "7").splitlines()[1] == "to ask    0 of 200 answers"


def test_a_pilot_of_all_and_of_more_than_there_is(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged.write(5)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server)
        assert "pilot of 1 answers, 1 asked now" in estimate(monkeypatch, capsys, "1")
        run_stage("step_labels", step_labels.run, ["judged", "--estimate", "3"], step_labels.estimate)
        assert "3 completions, 1 are in the ledger, 2 to generate" in capsys.readouterr().err
        assert "pilot of 5 answers, 2 asked now" in estimate(monkeypatch, capsys, "99")
        assert len(server.asked) == 5


def test_a_bucket_has_a_forecast_of_its_own(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged.write(60)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server)
        said = "".join(estimate(monkeypatch, capsys, "1", "--bucket", f"{bucket}/16") for bucket in range(16))
    judged_in = [int(count) for count in re.findall(r"^to ask .* of (\d+) answers", said, re.MULTILINE)]
    assert sum(judged_in) == 60
    assert max(judged_in) < 20


def test_it_keeps_to_the_budget(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged.write(50)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server, budget_usd="0.001")
        with pytest.raises(SystemExit) as exit_:
            estimate(monkeypatch, capsys)
        assert exit_.value.code == 75
        assert 0 < len(server.asked) < 20
    said = capsys.readouterr().err
    assert "PAIRWRIGHT_BUDGET_USD" in said
    assert f"{20 - len(server.asked)} of 20 answers are missing" in said


def test_retries_and_batches_change_the_forecast(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quarter of the answers says nothing; a batch costs half."""
    judged.write(40)
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}

    def plan(asked: Asked) -> Act:
        return Act(text="no" if number_of(asked) % 4 == 0 else GOOD, fields={"usage": usage})

    with FaultServer(plan).running() as server:
        connect(monkeypatch, server)
        estimate(monkeypatch, capsys, "20")
        silent = sum(number_of(asked) % 4 == 0 for asked in server.asked) / 20
        assert f"{silent * 20:.0f} of them say nothing" in estimate(monkeypatch, capsys, "20")
        each, left = price_usd(MODEL, server.url, usage) or 0.0, 20
        ways: list[tuple[dict[str, Any], float, float]] = [
            ({}, left, each), ({"retries": 1}, left * (1 + silent), each),
            ({"retries": 2}, left * (1 + silent + silent**2), each), ({"mode": "batch"}, left, each / 2),
        ]  # fmt: skip
        assert silent > 0
        for judge, answers, price in ways:
            judged.set_judge(**judge)
            said = estimate(monkeypatch, capsys, "20")
            assert numbers(said, "price")[0] == pytest.approx(answers * price, abs=1e-4)
        assert len(server.asked) == 20


def test_a_price_that_nobody_knows(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged.write(5, model="our-own")
    with FaultServer(lambda asked: Act(text=GOOD, fields={"model": "our-own"})).running() as server:
        connect(monkeypatch, server)
        assert "price     not known; set PAIRWRIGHT_PRICE_USD_PER_MTOK=" in estimate(monkeypatch, capsys, "2")
        monkeypatch.setenv("PAIRWRIGHT_PRICE_USD_PER_MTOK", "1,1")
        assert numbers(estimate(monkeypatch, capsys, "2"), "price")[0] > 0


def test_other_labelers_cost_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged.write(1)
    rule = LABELS | {"labeler": "rule", "model": "none", "neutral_is_error": False}
    world.write_params(step_labels={"judged": rule})
    with pytest.raises(SystemExit) as exit_:
        estimate(monkeypatch, capsys)
    assert exit_.value.code == 1
    assert "step_labels.judged: --estimate: labels of a rule cost nothing" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["0", "-1", "x"])
def test_a_pilot_is_a_number_of_answers(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        estimate(monkeypatch, capsys, given)
    assert exit_.value.code == 2
    assert "not a number of answers" in capsys.readouterr().err or given == "-1"


def test_the_interval_of_a_sum() -> None:
    assert total([2.0], 10) == Range(20, 20, 20)
    assert total([1.0, 3.0], 0) == Range(0, 0, 0)
    mean, low, high = total([1.0, 2.0, 3.0, 4.0] * 5, 100)
    assert mean == 250
    # Student's t with 19 degrees of freedom is 2.093; the standard deviation is 1.147
    half = 2.093 * 1.14708 * 100 * (1 / 20 + 1 / 100) ** 0.5
    assert (low, high) == (pytest.approx(250 - half, rel=1e-3), pytest.approx(250 + half, rel=1e-3))


def test_a_stopped_pilot_says_how_to_continue(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(4)
    with FaultServer(lambda asked: Act(500)).running() as server:
        connect(monkeypatch, server, max_attempts=2)
        with pytest.raises(StopEarly, match="the same command continues"):
            step_labels.estimate(Stage("step_labels", "judged"), 4)


def forecast_rows() -> dict[str, Any]:
    ledger = Ledger()
    try:
        return {row.run: row for row in forecast(ledger, load_params())}
    finally:
        ledger.close()


def test_the_forecast_counts_judges_too(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(30)
    labels = {"judge": {"max_new_tokens": 64}, "neutral_is_error": True}
    hosted = world.COMMON["models"] | {"judge": {"path": "data/none", "vocabulary": "none", "hosted": MODEL}}
    runs = {
        "judged": LABELS | labels, "audited": LABELS | labels | {"limit": 10},
        "batched": LABELS | {"judge": {"max_new_tokens": 64, "mode": "batch", "repeats": 2}},
        "later": LABELS | labels | {"samples": "other"},
    }  # fmt: skip
    world.write_params(models=hosted, step_labels=runs, samples=dict.fromkeys(("drawn", "other"), world.SAMPLES))
    rows = forecast_rows()
    counts = {run: row[3:6] for run, row in rows.items() if run.startswith("step_labels")}
    assert counts == {
        "step_labels.judged": (30, 0, 30), "step_labels.audited": (10, 10, 0), "step_labels.batched": (60, 30, 30),
        "step_labels.later": (None, None, None),
    }  # fmt: skip
    assert rows["step_labels.later"].note == "samples not built, their number is not known"
    online, batch = rows["step_labels.judged"], rows["step_labels.batched"]
    assert (online.tokens, online.basis) == (30 * 64, "max_new_tokens")
    assert online.price_usd == pytest.approx(2 * batch.price_usd)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server)
        judged.judge()
        paid = judged.ledger_sql("select avg(price_usd) from completions")[0][0]
    rows = forecast_rows()
    assert rows["step_labels.judged"][3:6] == (30, 30, 0)
    assert (rows["step_labels.batched"].to_generate, rows["step_labels.batched"].basis) == (30, "this setting")
    assert rows["step_labels.batched"].price_usd == pytest.approx(30 * paid / 2, rel=0.02)
    assert not list(Path("data/.staging").glob("*audited*")), "it writes nothing"
