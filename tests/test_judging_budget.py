"""A hard budget: what a server charges for, in flight, lost or killed, never exceeds it."""

import asyncio
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import step_labels
from builders.engines.budget import Budget, BudgetSpent, answer_usd, budget_usd, worst_usd
from builders.engines.prices import price_table, price_usd, stated_prices, surge
from stores.buckets import Bucket
from stores.ledger import Ledger
from stores.reservations import Account, account, reserve
from stores.stage import StopEarly, execute
from tests import judging_world as judged
from tests.fault_server import MODEL, Act, Asked, FaultServer
from tests.hosted_world import connect
from tests.judging_world import GOOD, Meter

LOST = (Act(cut=True), Act(content='{"choices": [{'), Act(delay_s=3), Act(finish_reason=""))
CLEAN = (Act(500), Act(429, headers={"retry-after-ms": "10"}), Act(503))


def worst_of(server: FaultServer) -> float:
    """The worst case of a question that the server has seen."""
    return max(worst_usd(asked.body, server.url) for asked in server.asked)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param((), id="none"),
        pytest.param(LOST, id="lost", marks=pytest.mark.slow),
        pytest.param(CLEAN, id="clean", marks=pytest.mark.slow),
        pytest.param(LOST + CLEAN, id="both", marks=pytest.mark.slow),
    ],
)
def test_the_budget_is_never_exceeded_and_a_larger_one_continues(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, faults: tuple[Act, ...]
) -> None:
    meter = Meter(faults)
    judged.write(150)
    with FaultServer(meter, delay_s=0.01).running() as server:
        connect(monkeypatch, server, max_concurrency=64, min_concurrency=64, timeout_s=2, max_attempts=50)
        for budget in (0.006, 0.012):
            monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", str(budget))
            with pytest.raises(StopEarly, match=r"PAIRWRIGHT_BUDGET_USD\) are spent, and the next answer may cost"):
                judged.judge()
            assert meter.charged <= budget
            assert meter.charged - 1e-6 <= judged_spent() <= budget
            assert judged_spent() > budget - worst_of(server), "it is used up"
        answered = meter.answered
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
        assert len(judged.judge()) == 150
        assert answered < 150 == meter.answered, "everything that was paid for is kept"
    assert judged.ledger_sql("select count(*) from completions") == [(150,)]


def judged_spent() -> float:
    """What the ledger says that was spent, or may have been."""
    paid = judged.ledger_sql("select coalesce(sum(price_usd), 0) from completions")[0][0]
    return paid + judged.ledger_sql("select coalesce(sum(usd), 0) from reservations")[0][0]


def test_the_message_says_what_is_spent_what_is_left_and_how_to_continue(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.write(20)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server, budget_usd="0.0015")
        with pytest.raises(StopEarly) as stop:
            judged.judge()
        (count,) = judged.ledger_sql("select count(*) from completions")[0]
    said = str(stop.value)
    assert 0 < count < 20
    assert f"{judged_spent():.6f} of 0.0015 USD" in said
    assert f"{20 - count} of 20 answers are missing" in said
    assert (
        "`python -m builders.step_labels judged` or `dvc repro` continues with a larger PAIRWRIGHT_BUDGET_USD" in said
    )
    assert not Path("data/step_labels/run=judged").exists()


def test_nothing_is_sent_that_does_not_fit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(3)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server, budget_usd="0", max_concurrency=1)
        with pytest.raises(StopEarly, match=r"0\.000000 of 0 USD .* 3 of 3 answers are missing"):
            judged.judge()
        assert server.asked == []
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
        judged.judge()
        worst, paid = worst_of(server), [row[0] for row in judged.ledger_sql("select price_usd from completions")]
        assert judged.ledger_sql("select * from reservations") == [], "all is settled"
    judged.write(3, "Step 1: {} other steps.\nStep 2: Of the same length, nearly.\nStep 3: The answer is 8.")
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server, budget_usd=str(worst * 1.01), max_concurrency=64)
        with pytest.raises(StopEarly, match="2 of 3 answers are missing"):
            judged.judge()
        assert len(server.asked) == 1, "one worst case at a time"
    assert max(paid) < worst


@pytest.mark.slow
def test_buckets_share_the_budget_of_their_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    judged.write(64)
    with FaultServer(meter).running() as server:
        connect(monkeypatch, server, budget_usd="0.002")
        said = []
        for number in range(16):
            try:
                execute("step_labels", "judged", step_labels.run, bucket=Bucket(number, 16))
            except StopEarly as stop:
                said.append(str(stop))
        assert 0 < len(said) < 16
        assert all(re.search(r"`python -m builders\.step_labels judged --bucket \d+/16` or", stop) for stop in said)
        with pytest.raises(StopEarly, match=r"of 0\.002 USD"):
            judged.judge()
        assert 0.001 < meter.charged <= 0.002
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
        assert len(judged.judge()) == 64
    assert meter.answered == 64


def test_lost_replies_count_at_their_worst_case_and_refusals_at_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = {0: Act(cut=True), 1: Act(500), 2: Act(504), 3: Act(content='{"error": {"code": 429, "message": "busy"}}')}
    judged.write(5)

    def plan(asked: Asked) -> Act:
        number = judged.number_of(asked)
        return acts[number] if number in acts and asked.before == 0 else Act(text=GOOD)

    with FaultServer(plan).running() as server:
        connect(monkeypatch, server, budget_usd="1")
        rows = judged.judge()
        worst = {judged.number_of(asked): worst_usd(asked.body, server.url) for asked in server.asked}
    reserved = dict(judged.ledger_sql("select key, usd from reservations"))
    asked = {row.ledger_key for row in rows}
    assert set(reserved) <= asked
    assert sorted(reserved.values()) == pytest.approx(sorted([worst[0], worst[2]]), abs=2e-9)


def test_a_harmless_question_that_tells_a_bad_setting_from_a_refused_one_costs_too(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.write(1)
    odd = Act(400, content='{"error": {"message": "odd"}}')
    usage = {"prompt_tokens": 9, "completion_tokens": 60}
    with FaultServer(lambda asked: odd if asked.number == 0 else Act(fields={"usage": usage})).running() as server:
        connect(monkeypatch, server, budget_usd="1")
        (row,) = judged.judge()
        assert (row.verdict, row.rationale) == ("invalid", "refused: 400: odd")
        assert [usd for _, usd in judged.ledger_sql("select key, usd from reservations")] == [
            pytest.approx(price_usd(MODEL, server.url, usage), abs=2e-9)
        ]


def test_an_answer_without_usage_counts_at_its_worst_case(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(1)
    with FaultServer(lambda asked: Act(text=GOOD, fields={"usage": None})).running() as server:
        connect(monkeypatch, server, budget_usd="1")
        judged.judge()
        assert judged_spent() == pytest.approx(worst_of(server), abs=2e-9)


def test_what_another_execution_had_in_flight_counts(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(2)
    with FaultServer(Meter()).running() as server:
        connect(monkeypatch, server, budget_usd="1")
        keys = [row.ledger_key or "" for row in judged.judge()]
        judged.ledger_sql("select 1")
        ledger = Ledger()
        ledger.db.execute("delete from completions where key = ?", (keys[0],))
        reserve(ledger, {keys[0]: 0.9999, "another-run-0000": 5.0})
        ledger.close()
        with pytest.raises(StopEarly, match=r"1\.\d+ of 1 USD|0\.99\d+ of 1 USD"):
            judged.judge()
        assert len(server.asked) == 2
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1.1")
        judged.judge()


def test_without_a_budget_nothing_is_reserved(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(5)
    with FaultServer(lambda asked: Act(cut=asked.before == 0, text=GOOD)).running() as server:
        connect(monkeypatch, server)
        judged.judge()
    assert judged.ledger_sql("select * from reservations") == []


def test_a_model_without_a_price_needs_one_under_a_budget(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(4, model="our-own-judge")
    plan = lambda asked: Act(text=GOOD, fields={"model": "our-own-judge", "usage": judged.usage_of(asked)})  # noqa: E731
    with FaultServer(plan).running() as server:
        connect(monkeypatch, server, budget_usd="1")
        with pytest.raises(
            ValueError, match="no price of 'our-own-judge' is known; set PAIRWRIGHT_PRICE_USD_PER_MTOK="
        ):
            judged.judge()
        assert server.asked == []
        monkeypatch.setenv("PAIRWRIGHT_PRICE_USD_PER_MTOK", "2,8")
        judged.judge()
        spent = [judged.usage_of(asked) for asked in server.asked]
    expect = sum(u["prompt_tokens"] * 2 + u["completion_tokens"] * 8 for u in spent) / 1e6
    assert judged.ledger_sql("select sum(price_usd) from completions")[0][0] == pytest.approx(expect)
    assert price_table().endswith(", others 2,8 USD per million tokens")


def test_amounts_and_prices_of_the_environment() -> None:
    assert budget_usd({}) is None
    assert budget_usd({"PAIRWRIGHT_BUDGET_USD": "0"}) == 0
    assert stated_prices({}) is None
    assert stated_prices({"PAIRWRIGHT_PRICE_USD_PER_MTOK": "2.5, 10"}) == (2.5, 10.0)
    for text in ("-1", "ten", "inf", "nan"):
        with pytest.raises(ValueError, match=f"PAIRWRIGHT_BUDGET_USD={text}: not an amount"):
            budget_usd({"PAIRWRIGHT_BUDGET_USD": text})
        with pytest.raises(ValueError, match=f"PAIRWRIGHT_PRICE_USD_PER_MTOK={text},1: give the prices"):
            stated_prices({"PAIRWRIGHT_PRICE_USD_PER_MTOK": f"{text},1"})


def test_the_price_table_has_a_date() -> None:
    assert price_table().startswith("genai-prices 0.")
    assert price_table()[-14:-10] == " of "


def test_a_batch_costs_half_where_the_table_says_so() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 1000}
    assert price_usd(MODEL, "https://api.openai.com/v1", usage) == pytest.approx(0.00075)
    assert price_usd(MODEL, "https://api.openai.com/v1", usage, batch=True) == pytest.approx(0.000375)


def test_what_only_the_total_counts_is_paid_for() -> None:
    """Some providers leave what a model thinks out of `completion_tokens`."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    thought = price_usd(MODEL, "", usage | {"total_tokens": 1100})
    assert thought == price_usd(MODEL, "", usage | {"completion_tokens": 1000})
    for total in (110, 50, None, "1100"):
        assert price_usd(MODEL, "", usage | {"total_tokens": total}) == price_usd(MODEL, "", usage)


def test_a_model_that_answers_by_a_name_of_its_own_costs_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_PRICE_USD_PER_MTOK", "1000,1000")
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    assert price_usd("my-deployment", "", usage, asked=MODEL) == price_usd(MODEL, "", usage)
    assert answer_usd({"model": "my-deployment", "usage": usage}, MODEL, "") == price_usd(MODEL, "", usage)
    assert price_usd("my-deployment", "", usage, asked="another") == pytest.approx(0.11)


@pytest.mark.parametrize(("model", "times"), [("deepseek-chat", 2), (MODEL, 1), ("no-such-model", 1)])
def test_a_worst_case_is_that_of_the_dearest_time_of_a_day(
    monkeypatch: pytest.MonkeyPatch, model: str, times: int
) -> None:
    monkeypatch.setenv("PAIRWRIGHT_PRICE_USD_PER_MTOK", "1,1")
    assert surge(model, "") == pytest.approx(times)
    body, usage = {"model": model, "max_tokens": 10}, {"prompt_tokens": 20, "completion_tokens": 10}
    worst, prices = [], []
    for half_hour in range(48):
        monkeypatch.setattr("builders.engines.prices._now", lambda at=half_hour: 986_000 + at)
        worst.append(worst_usd(body, ""))
        prices.append(price_usd(model, "", usage) or math.inf)
    assert max(prices) <= min(worst)


@given(st.text(max_size=2000), st.integers(1, 5000))
def test_a_worst_case_is_above_any_tokenisation_into_bytes(text: str, limit: int) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": limit}
    usage = {"prompt_tokens": len(text.encode("utf-8", "surrogatepass")) + 16, "completion_tokens": limit}
    price = price_usd(MODEL, "", usage)
    assert price is not None
    assert worst_usd(body, "") >= price


class _Pool:
    """As much of a pool as a budget needs."""

    def __init__(self) -> None:
        self.stop: BaseException | None = None

    def halt(self, reason: BaseException) -> None:
        self.stop = self.stop or reason

    async def change(self) -> None:
        await asyncio.sleep(0)


class _Disk:
    """A ledger that only remembers what was written."""

    def __init__(self) -> None:
        self.rows: dict[str, float] = {}
        self.writes = 0


@pytest.fixture(scope="module")
def disk() -> Iterator[_Disk]:
    with pytest.MonkeyPatch.context() as patch:
        found = _Disk()

        def note(ledger: Any, usd: dict[str, float]) -> None:
            found.rows |= usd
            found.writes += 1

        patch.setattr("builders.engines.budget.reserve", note)
        yield found


ACTIONS = st.lists(
    st.tuples(st.integers(0, 9), st.floats(0, 1), st.sampled_from(["paid", "lost", "free"])), max_size=60
)


@given(ACTIONS, st.floats(0, 5), st.floats(0, 1))
def test_at_any_moment_the_disk_covers_what_may_be_spent(
    disk: _Disk, actions: list[tuple[int, float, str]], limit: float, before: float
) -> None:
    """Whatever happens, and whenever it is killed: answers that are committed, and what is reserved on the disk, cover
    all that the server may have charged; and that never exceeds the budget.
    """
    disk.rows.clear()
    budget = Budget(limit, SimpleNamespace(), Account(before, {}, {}, (0, 0)))  # type: ignore[arg-type]
    committed = charged = 0.0
    flying: dict[str, float] = {}
    answered: dict[str, float] = {}

    async def act() -> None:
        nonlocal committed, charged
        pool = _Pool()
        for number, size, end in actions:
            key = f"k{number}"
            if key in answered:
                disk.rows |= budget.with_answers([key])
                committed += answered.pop(key)
            elif key in flying:
                worst = flying.pop(key)
                real = {"paid": worst * size, "lost": None, "free": 0.0}[end]
                budget.settle(key, real, answered=end == "paid")
                charged += worst * size if end != "free" else 0.0
                if end == "paid":
                    answered[key] = worst * size
            elif budget.fits(size):
                await budget.take(key, size, pool)  # type: ignore[arg-type]
                flying[key] = size
            possible = before + charged + sum(flying.values())
            assert possible <= max(limit, before) + 1e-6
            assert before + committed + sum(disk.rows.values()) >= possible - 1e-6
        budget.close()
        open_usd = sum(flying.values()) + sum(answered.values())
        assert before + committed + sum(disk.rows.values()) >= before + charged - 1e-6
        assert math.isclose(budget.spent_usd, before + committed + sum(answered.values()) + lost_usd(), abs_tol=1e-6)
        assert open_usd >= 0

    def lost_usd() -> float:
        return sum(budget._kept.values()) / 1e9

    asyncio.run(act())


def test_what_is_paid_and_not_committed_stays_reserved(disk: _Disk) -> None:
    disk.rows.clear()

    async def pay() -> None:
        budget = Budget(10.0, SimpleNamespace(), Account(0.0, {}, {}, (0, 0)))  # type: ignore[arg-type]
        for key, usd in (("committed", 0.4), ("not", 0.4), ("refused", 0.0)):
            await budget.take(key, 1.0, _Pool())  # type: ignore[arg-type]
            budget.settle(key, usd, answered=usd > 0)
        disk.rows |= budget.with_answers(["committed"])
        budget.close()

    asyncio.run(pay())
    assert disk.rows == {"committed": 0.0, "not": 1.0, "refused": 0.0}


def test_many_reservations_are_one_write(disk: _Disk) -> None:
    disk.rows.clear()
    writes = disk.writes

    async def take_all() -> None:
        budget = Budget(10.0, SimpleNamespace(), Account(0.0, {}, {}, (0, 0)))  # type: ignore[arg-type]
        await asyncio.gather(*(budget.take(f"k{i}", 0.1, _Pool()) for i in range(64)))  # type: ignore[arg-type]

    asyncio.run(take_all())
    assert (disk.writes - writes, len(disk.rows)) == (1, 64)


def test_who_waits_for_room_gets_it_when_another_is_settled(disk: _Disk) -> None:
    async def wait() -> list[str]:
        budget, pool, order = Budget(1.0, SimpleNamespace(), Account(0.0, {}, {}, (0, 0))), _Pool(), []  # type: ignore[arg-type]

        async def second() -> None:
            await budget.take("b", 0.6, pool)  # type: ignore[arg-type]
            order.append("second")

        await budget.take("a", 0.6, pool)  # type: ignore[arg-type]
        waiting = asyncio.create_task(second())
        for _ in range(5):
            await asyncio.sleep(0)
        order.append("first")
        budget.settle("a", 0.1, answered=True)
        await waiting
        budget.settle("b", None)
        with pytest.raises(BudgetSpent):
            await budget.take("c", 0.6, pool)  # type: ignore[arg-type]
        return order

    assert asyncio.run(wait()) == ["first", "second"]


def test_the_account_is_of_these_keys_alone(workspace: Path) -> None:
    ledger = Ledger()
    reserve(ledger, {"a-0-0000": 1.0, "b-0-0000": 2.0})
    assert account(ledger, [["b-0-0000"], []]).reserved == {"b-0-0000": 2.0}
    ledger.close()
