"""`step_labels` with a judge in the mode `batch`: the stage around the batches, and both modes over one ledger."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from builders import models, step_labels
from builders.engines.budget import worst_usd
from builders.engines.prices import price_usd
from builders.judging.batches import main
from stores.buckets import Bucket
from stores.stage import StopEarly, execute
from tests import stage_world as world
from tests.batch_server import BatchServer, Fate
from tests.fault_server import MODEL, Act, Asked
from tests.first_error_rows import LabelledRow
from tests.hosted_world import connect
from tests.judging_world import ledger_sql
from tests.replaying_judge import ReplayingJudge, is_malformed, write_params, write_rows

COUNT = 24


def labelled(first: int = 0, count: int = COUNT) -> list[LabelledRow]:
    return [a_row(n) for n in range(first, first + count)]


def a_row(n: int) -> LabelledRow:
    steps = [f"Take {n} apples.", f"Add {n + 1} pears.", "So it is much fruit."]
    text = "\n".join(f"Step {k}: {step}" for k, step in enumerate(steps, 1))
    wrong = None if n % 3 == 0 else n % 3
    return LabelledRow("made_up", str(n), f"Problem {n}?", None, text, steps, wrong, "7", None, None, None)


@pytest.fixture
def judge() -> ReplayingJudge:
    return ReplayingJudge(labelled(count=COUNT + 1))


@pytest.fixture
def server(workspace: Path, monkeypatch: pytest.MonkeyPatch, judge: ReplayingJudge):
    with BatchServer(lambda asked: Act(text="Well.") if is_odd(asked) else judge.plan(asked)).running() as made:
        connect(monkeypatch, made)
        write_rows(labelled(), judge={"mode": "batch"})
        execute("models", "judge", models.run)
        yield made


def number_of(asked: Asked) -> int:
    return int(re.search(r"Problem (\d+)\?", asked.question)[1])  # pyrefly: ignore


def is_odd(asked: Asked) -> bool:
    """Whether the judge says nothing; of number 5 in any case."""
    return number_of(asked) == 5 or is_malformed(asked.question)


def run() -> None:
    execute("step_labels", "judged", step_labels.run)


def until_done(calls: int = 20) -> list[str]:
    """Runs the stage until it has written its table; why it stopped before. Until then there is none."""
    said = []
    for _ in range(calls):
        try:
            run()
        except StopEarly as stop:
            said.append(str(stop))
        else:
            return said
    raise AssertionError(said)


def written() -> dict[str, bytes]:
    paths = [
        p for pattern in ("step_labels", "rejects/stage=step_labels") for p in Path("data", pattern).rglob("*.parquet")
    ]
    return {path.as_posix(): path.read_bytes() for path in paths}


def set_judge(**fields: Any) -> None:
    write_params(judge=fields)


def one_by_one(server: BatchServer) -> int:
    """How many questions were asked online."""
    return len(server.asked) - sum(len(lines) for made in server.batches.values() for lines in made.lines.values())


def test_a_batch_that_is_not_finished_is_no_table(server: BatchServer):
    with pytest.raises(StopEarly, match=r"24 questions submitted.*or the next `dvc repro`, continues"):
        run()
    assert written() == {}
    said = until_done()
    assert said, "a batch takes several looks"
    assert len(world.read("step_labels", "judged")) == COUNT
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == COUNT
    assert one_by_one(server) == 0
    paid = ledger_sql("select sum(price_usd) from completions")[0][0]
    assert 0 < paid == pytest.approx(may_cost(server)), "the price of a batch"


def test_the_labels_are_those_of_the_judge(server: BatchServer):
    until_done()
    verdicts = Counter(
        "invalid" if is_odd(asked) else "error" if number_of(asked) % 3 else "no_error" for asked in server.asked
    )
    assert set(verdicts) == {"invalid", "error", "no_error"}
    assert Counter(row["verdict"] for row in world.read("step_labels", "judged")) == verdicts


def test_a_second_run_makes_no_call(server: BatchServer):
    until_done()
    first, events = written(), server.events.copy()
    run()
    assert written() == first
    assert server.events == events


def test_online_after_batch_makes_no_call_and_the_same_bytes(server: BatchServer):
    until_done()
    first, asked = written(), len(server.asked)
    set_judge(mode="online")
    run()
    assert written() == first
    assert len(server.asked) == asked


def test_batch_after_online_makes_no_call_and_the_same_bytes(server: BatchServer):
    set_judge(mode="online")
    run()
    first = written()
    assert one_by_one(server) == COUNT
    set_judge(mode="batch")
    run()
    assert written() == first
    assert server.batches == {}
    assert len(server.asked) == COUNT


def test_one_more_row_makes_one_call(server: BatchServer):
    until_done()
    write_rows(labelled(count=COUNT + 1), judge={"mode": "batch"})
    until_done()
    assert len(world.read("step_labels", "judged")) == COUNT + 1
    assert [made.fields["request_counts"]["total"] for made in server.batches.values()] == [COUNT, 1]


def test_online_while_a_batch_is_pending_waits(server: BatchServer):
    with pytest.raises(StopEarly):
        run()
    set_judge(mode="online")
    with pytest.raises(StopEarly, match=r"24 of the questions are in batches under way.*--cancel \w{16}"):
        run()
    assert one_by_one(server) == 0
    run()  # by now the batch is done
    assert set(server.paid.values()) == {1}
    assert one_by_one(server) == 0


def test_online_after_a_cancelled_batch_asks_the_rest(
    server: BatchServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    server.steps = 3
    for _ in range(2):
        with pytest.raises(StopEarly):
            run()
    set_judge(mode="online")
    with pytest.raises(StopEarly) as stop:
        run()
    command = str(stop.value).split("`")[1].split()
    assert command[:3] == ["python", "-m", "builders.judging.batches"]
    monkeypatch.setattr("sys.argv", command[2:])
    main()
    run()
    answered = sum(server.paid.values())
    assert answered == 16
    assert one_by_one(server) == COUNT - answered
    assert len(world.read("step_labels", "judged")) == COUNT


def test_invalid_answers_are_asked_for_again_in_the_next_batch(server: BatchServer):
    until_done()
    malformed = sum(map(is_odd, server.asked))
    set_judge(mode="batch", retries=1)
    until_done()
    assert [made.fields["request_counts"]["total"] for made in server.batches.values()] == [COUNT, malformed]


def test_an_expired_batch_keeps_its_finished_part(server: BatchServer):
    server.fate = lambda number: Fate("expired", 0.5) if number == 0 else Fate()
    until_done()
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == COUNT


@pytest.mark.slow
def test_a_budget_is_kept_by_batches(server: BatchServer, monkeypatch: pytest.MonkeyPatch):
    """The worst case of a whole batch fits what is left; a larger budget continues."""
    owed: list[float] = []
    server.on = lambda event, number: owed.append(may_cost(server))
    monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "0.005")
    for _ in range(3):
        with pytest.raises(StopEarly):
            run()
    first = len(server.paid)
    assert 0 < first < COUNT
    for _ in range(8):
        with pytest.raises(StopEarly):
            run()
    assert written() == {}
    assert 0.003 < max(owed) <= 0.005
    monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
    until_done()
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == COUNT


def test_what_a_batch_of_another_bucket_may_cost_counts_online_too(
    server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = sorted({int(row["problem_id"][0], 16) for row in world.read("problems", "train")})[:2]
    monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
    with pytest.raises(StopEarly, match="under way"):
        build(one)
    in_batch, before = ledger_sql("select sum(batch_usd) from reservations")[0][0], one_by_one(server)
    set_judge(mode="online")
    monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", str(in_batch * 1.0001))
    with pytest.raises(StopEarly, match="are spent, and the next answer may cost"):
        build(other)
    assert one_by_one(server) == before
    monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", str(in_batch + 1))
    build(other)


def build(bucket: int) -> None:
    execute("step_labels", "judged", step_labels.run, bucket=Bucket(bucket, 16))


def may_cost(server: BatchServer) -> float:
    """What is answered, and the worst cases of what is not yet."""
    total = 0.0
    for made in server.batches.values():
        total += sum(worst_usd(line["body"], server.url, batch=True) for line in made.left)
        bodies = [json.loads(line)["response"]["body"] for line in made.lines["output"]]
        total += sum(price_usd(MODEL, server.url, body["usage"], batch=True) or 0.0 for body in bodies)
    return total
