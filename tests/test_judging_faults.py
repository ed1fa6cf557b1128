"""A judge in processes that are killed, at a server that fails: what is paid for is kept, and nothing is paid twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from builders.engines.budget import worst_usd
from stores.paths import run_dir
from tests import judging_world as judged
from tests import stage_world as world
from tests.conftest import REPOSITORY
from tests.fault_server import Act, Asked, FaultServer
from tests.hosted_world import KEY, connect
from tests.judging_world import GOOD, Meter, number_of
from tests.pipeline import wait_for

pytestmark = pytest.mark.slow
ROWS, AT_ONCE, ATTEMPTS = 200, 16, 6
FAULTS = {
    "429 with Retry-After": Act(429, headers={"retry-after": "0.05"}),
    "500": Act(500),
    "time-out": Act(delay_s=30.0),
    "cut connection": Act(cut=True),
    "truncated JSON": Act(content='{"choices": [{"message": {"content": "{'),
    "no completion": Act(content='{"choices": []}'),
}
WRONG_SCHEMA = Act(text='{"analysis": "x", "verdict": "step 2"}')


def start(cwd: Path, *options: str) -> subprocess.Popen[str]:
    """`python -m builders.step_labels judged` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "builders.step_labels", "judged", *options],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, error
    return out + error


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.3)  # what was in flight ends at the server


def committed() -> int:
    return judged.ledger_sql("select count(*) from completions")[0][0]


def sometimes(asked: Asked) -> Act:
    """Every fault in turn, one request in six, when it is asked for the first time; and answers of a wrong schema."""
    number = number_of(asked)
    if number % 20 == 7:
        return WRONG_SCHEMA
    faults = list(FAULTS.values())
    return faults[number // 6 % len(faults)] if number % 6 == 1 and asked.before == 0 else Act(text=GOOD)


def test_killed_halfway_it_pays_for_no_more_than_what_was_in_flight(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.write(ROWS)
    limits = {"max_concurrency": AT_ONCE, "timeout_s": 1.5, "max_attempts": ATTEMPTS, "budget_usd": 1}
    with FaultServer(sometimes, delay_s=0.05).running() as server:
        connect(monkeypatch, server, **limits)
        process = start(workspace)
        wait_for(lambda: server.answered >= ROWS // 2, "answers")
        kill(process)
        before, kept = server.answered, committed()
        assert before - AT_ONCE <= kept <= before
        assert not run_dir("step_labels", "judged").exists()
        said = finish(start(workspace))
        assert ROWS <= server.answered <= ROWS + AT_ONCE
        sent = len(server.asked)
        of_each = Counter(number_of(asked) for asked in server.asked)
        assert max(of_each.values()) <= 2 * ATTEMPTS
        assert sent - server.answered <= 2 * ROWS // 6 + AT_ONCE, "failed attempts are counted apart"
        finish(start(workspace))
        assert len(server.asked) == sent, "a second run makes no call"
        judged.write(ROWS + 1)
        finish(start(workspace))
        assert len(server.asked) == sent + 1, "one more row makes one call"
        address = server.url.removeprefix("http://")
    rows = world.read("step_labels", "judged")
    verdicts = Counter(row["verdict"] for row in rows)
    assert verdicts == {"error": ROWS + 1 - ROWS // 20, "invalid": ROWS // 20}
    assert {row["rationale"] for row in rows if row["verdict"] == "invalid"} == {
        "wrong schema: `steps` is no list of objects"
    }
    attempts = judged.ledger_sql("select max(n_attempts) from completions")[0][0]
    assert 2 <= attempts <= ATTEMPTS
    secrets = [KEY.encode(), address.encode()]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files for secret in secrets if secret in path.read_bytes()] == []
    assert KEY not in said
    assert address not in said


def test_the_budget_holds_over_kills_at_any_moment(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the accounts of a server that charges for everything it may have answered."""
    judged.write(ROWS)
    meter, budget, moments = Meter((Act(cut=True), Act(500)), every=7), 0.06, random.Random(4)
    with FaultServer(meter, delay_s=0.1).running() as server:
        connect(monkeypatch, server, max_concurrency=64, min_concurrency=64, budget_usd=budget)
        for _ in range(6):
            seen, process = len(server.asked), start(workspace)
            wait_for(lambda seen=seen, p=process: len(server.asked) > seen or p.poll() is not None, "a request")
            time.sleep(moments.uniform(0, 0.6))
            kill(process)
            assert meter.charged <= budget
        code = 75 if committed() < ROWS else 0
        said = finish(start(workspace), code)
        assert meter.charged <= budget
        worst = max(worst_usd(asked.body, server.url) for asked in server.asked)
        if code:
            assert "PAIRWRIGHT_BUDGET_USD" in said
            assert judged.ledger_sql("select count(*) from reservations")[0][0] > 0
        reserved = judged.ledger_sql("select coalesce(sum(usd), 0) from reservations")[0][0]
        paid = judged.ledger_sql("select coalesce(sum(price_usd), 0) from completions")[0][0]
        assert budget - worst < paid + reserved or not code, "all that is left is less than one answer"
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
        answered = meter.answered
        finish(start(workspace))
        assert committed() == ROWS
        assert meter.answered - answered <= ROWS


def test_two_processes_never_pay_for_the_same_answer(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.write(60)
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", workspace, other], check=True)
    with FaultServer(lambda asked: Act(text=GOOD), delay_s=0.02).running() as server:
        connect(monkeypatch, server, max_concurrency=8)
        for process in [start(workspace), start(other)]:
            finish(process)
        assert len(server.asked) == 60
    first, second = ((root / run_dir("step_labels", "judged") / "part-00000.parquet") for root in (workspace, other))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_is_tried_again(workspace: Path, monkeypatch: pytest.MonkeyPatch, fault: Act) -> None:
    judged.write(40)
    plan = lambda asked: fault if asked.before == 0 and number_of(asked) % 4 == 0 else Act(text=GOOD)  # noqa: E731
    with FaultServer(plan).running() as server:
        connect(monkeypatch, server, timeout_s=3 if fault.delay_s else 30, budget_usd=1)
        assert {row.verdict for row in judged.judge()} == {"error"}
        assert len(server.asked) == 50
    assert judged.ledger_sql("select n_attempts, count(*) from completions group by 1 order by 1") == [(1, 30), (2, 10)]


def test_a_stop_for_the_budget_exits_75_and_leaves_no_table(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(30)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server, budget_usd="0.001")
        said = finish(start(workspace), 75)
        assert "step_labels.judged: 0.000" in said
        assert "continues with a larger PAIRWRIGHT_BUDGET_USD" in said
        assert not run_dir("step_labels", "judged").exists()
        kept = committed()
        said = finish(start(workspace, "--estimate", "5"), 0 if kept >= 30 else 75)
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
        assert "pilot of 5 answers" in finish(start(workspace, "--estimate", "5"))
        finish(start(workspace))
        assert len(server.asked) == 30
