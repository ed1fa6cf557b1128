"""Engine `openai` against a server that fails: every request is answered once, or the stage says why not."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.engines import Request
from stores.ledger import Completion
from stores.stage import StopEarly
from tests.fault_server import Act, Asked, FaultServer
from tests.hosted_world import EXPLORE, KEY, ask, asks, complete, connect, engine
from tests.pipeline import wait_for

FAULTS = {
    "429 with Retry-After": Act(429, headers={"retry-after-ms": "40"}),
    "429": Act(429),
    "500": Act(500),
    "503": Act(503),
    "time-out": Act(delay_s=30.0),
    "cut connection": Act(cut=True),
    "truncated JSON": Act(content='{"choices": [{"message": {"content": "Final'),
    "no completion": Act(content='{"choices": []}'),
    "no object": Act(content="[]"),
    "unfinished": Act(finish_reason=""),
    "an error in a 200": Act(content='{"error": {"code": 502, "message": "upstream"}}'),
}


def once(fault: Act, every: int = 4):
    """A plan: every n-th question fails when it is asked for the first time."""
    return lambda asked: fault if asked.before == 0 and asked.question.endswith(f"{every - 1}") else Act()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_is_tried_again_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Act) -> None:
    with FaultServer(once(fault)).running() as server:
        connect(monkeypatch, server, timeout_s=3 if fault.delay_s else 30)
        found = complete(engine(tmp_path), asks(40))
        assert {c.text for c in found.values()} == {"Final answer: 8"}
        assert Counter(c.n_attempts for c in found.values()) == {1: 36, 2: 4}
        assert len(server.asked) == 44


def test_what_is_answered_is_a_completion_whatever_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = {"question empty": Act(text=""), "question cut": Act(finish_reason="length"), "question none": Act(
        content='{"model": "m", "choices": [{"message": {"content": null}, "finish_reason": "stop"}]}')}  # fmt: skip
    with FaultServer(lambda asked: acts[asked.question]).running() as server:
        connect(monkeypatch, server)
        found = complete(engine(tmp_path), [ask("empty"), ask("cut"), ask("none")])
        assert {key: (c.text, c.finish_reason, c.n_attempts) for key, c in found.items()} == {
            "empty": ("", "stop", 1), "cut": ("Final answer: 8", "length", 1), "none": ("", "stop", 1)
        }  # fmt: skip


REFUSALS = {
    "context": (400, '{"error": {"message": "maximum context length is 9", "code": "context_length_exceeded"}}'),
    "too large": (413, "Payload Too Large"),
    "policy": (400, '{"error": {"message": "no", "code": "content_filter"}}'),
    "moderation": (403, '{"error": {"message": "Your input was flagged", "metadata": {"reasons": []}}}'),
    "odd": (400, '{"error": {"message": "cannot answer this"}}'),
    "unprocessable": (422, '{"detail": "no such thing"}'),
}


def test_what_will_never_be_answered_is_an_answer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(asked: Asked) -> Act:
        status, content = REFUSALS.get(asked.question.removeprefix("question "), (200, None))
        return Act(status, content=content)

    filtered = Act(finish_reason="content_filter", text="")
    with FaultServer(lambda a: filtered if "filtered" in a.question else plan(a)).running() as server:
        connect(monkeypatch, server)
        found = complete(engine(tmp_path), [*map(ask, REFUSALS), ask("filtered"), *asks(5)])
    reasons = {key: c.finish_reason for key, c in found.items() if c.finish_reason != "stop"}
    assert reasons == {
        "context": "over_long", "too large": "over_long", "policy": "refused", "moderation": "refused",
        "odd": "refused", "unprocessable": "refused", "filtered": "refused",
    }  # fmt: skip
    assert found["context"].text == "400: maximum context length is 9"
    assert all(c.n_attempts == 1 for c in found.values())


def test_a_400_about_one_question_alone_is_told_from_a_bad_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Act(400, content='{"error": {"message": "odd"}}')
    with FaultServer(lambda asked: odd if "k000" in asked.question else Act()).running() as server:
        connect(monkeypatch, server)
        assert complete(engine(tmp_path), asks(1))["k000"].finish_reason == "refused"
        assert [asked.question for asked in server.asked] == ["question k000", "1 + 1 ="]
    with FaultServer(lambda asked: odd).running() as server:
        connect(monkeypatch, server)
        with pytest.raises(ValueError, match="the server answers 400: odd; change `sampling`"):
            complete(engine(tmp_path), asks(1))


def test_a_setting_that_is_refused_is_not_taken_for_the_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor after a question that was refused for itself; such answers would be in the ledger for good."""

    def plan(asked: Asked) -> Act:
        if "k000" in asked.question:
            return Act(400, content='{"error": {"message": "maximum context length is 9"}}')
        said = "max_tokens is too large: 16. This model supports at most 8 completion tokens"
        return Act(400, content=json.dumps({"error": {"message": said}})) if asked.body["max_tokens"] > 8 else Act()

    found: dict[str, Completion] = {}
    with FaultServer(plan).running() as server:
        connect(monkeypatch, server, max_concurrency=1)
        with pytest.raises(ValueError, match=r"max_tokens is too large: 16.*; change `sampling`"):
            complete(engine(tmp_path), asks(4), into=found)
    assert list(found) == ["k000"]


STOPS = {
    "key": (401, f"Incorrect API key provided: {KEY}", ValueError, r"refuses the key \(401\); set OPENAI_API_KEY"),
    "model": (404, "The model `x` does not exist", ValueError, "answers 404: The model `x` does not exist; check"),
    "forbidden": (403, "not yours", ValueError, "answers 403: not yours; the key may not use this model"),
    "setting": (400, "Unsupported value: 'temperature'", ValueError, "400: Unsupported value: 'temperature'; change"),
    "balance": (402, "", StopEarly, "the balance is used up"),
}


@pytest.mark.parametrize(("status", "said", "kind", "message"), STOPS.values(), ids=STOPS)
def test_what_no_attempt_can_mend_stops_at_once_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, said: str, kind: type[Exception], message: str
) -> None:
    with FaultServer(lambda asked: Act(status, content=f'{{"error": {{"message": "{said}"}}}}')).running() as server:
        connect(monkeypatch, server, max_concurrency=4)
        with pytest.raises(kind, match=message) as error:
            complete(engine(tmp_path), asks(100))
        assert len(server.asked) <= 4
    assert "\n" not in str(error.value)
    assert KEY not in str(error.value)
    assert server.url not in str(error.value)


def test_a_used_up_quota_is_no_rate_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used_up = Act(429, content='{"error": {"message": "pay", "code": "insufficient_quota"}}')
    with FaultServer(lambda asked: Act() if asked.number < 10 else used_up).running() as server:
        connect(monkeypatch, server, max_concurrency=2)
        found: dict[str, Completion] = {}
        with pytest.raises(StopEarly, match=r"the quota is used up .* the same command continues"):
            complete(engine(tmp_path), asks(50), into=found)
        assert len(found) == 10, "what was answered is committed first"
        assert len(server.asked) <= 13


def test_requests_that_use_up_their_attempts_come_after_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"question k003", "question k007"}
    with FaultServer(lambda asked: Act(500) if asked.question in bad else Act()).running() as server:
        connect(monkeypatch, server, max_attempts=3)
        found: dict[str, Completion] = {}
        with pytest.raises(StopEarly) as stop:
            complete(engine(tmp_path), asks(40), into=found)
        times = Counter(asked.question for asked in server.asked)
    assert len(found) == 38
    assert {times[question] for question in bad} == {3}
    assert str(stop.value).startswith("2 requests failed (3 times each, the last one: InternalServerError 500)")
    assert "the same command continues" in str(stop.value)


@pytest.mark.parametrize("fault", [Act(429), Act(500), Act(content="{"), Act(401, content="{")])
def test_a_server_that_refuses_everything_is_not_asked_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Act
) -> None:
    with FaultServer(lambda asked: fault).running() as server:
        connect(monkeypatch, server, outage_s=0.7)
        message = "refuses the key" if fault.status == 401 else "in a row failed|no answer for 1 s .last failure: "
        with pytest.raises((StopEarly, ValueError), match=message):
            complete(engine(tmp_path), asks(2000))
        assert len(server.asked) < 200
        assert max(asked.before for asked in server.asked) < 8


def test_a_server_that_answers_nonsense_is_left_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(lambda asked: Act(content="<html>")).running() as one, FaultServer(delay_s=0.01).running() as two:
        connect(monkeypatch, one, two, max_concurrency=8)
        assert len(complete(engine(tmp_path), asks(200))) == 200
        assert len(one.asked) < 60


def test_retry_after_pauses_all_that_use_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []
    refused, pause = 30, 0.6

    def plan(asked: Asked) -> Act:
        times.append(time.monotonic())
        if asked.number == refused:
            return Act(429, headers={"retry-after": str(pause)})
        return Act(delay_s=0.01)

    with FaultServer(plan).running() as server:
        connect(monkeypatch, server, max_concurrency=8)
        assert len(complete(engine(tmp_path), asks(80))) == 80
    since = [at - times[refused] for at in times[refused + 1 :]]
    assert len(since) == 50
    assert sum(gap < 0.9 * pause for gap in since) <= 8, "only what was in flight came before its end"
    assert max(since) < 30


def test_rate_limit_headers_are_obeyed_before_a_429_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, window = 20, 0.5
    started = [0.0, 0]

    def plan(asked: Asked) -> Act:
        now = time.monotonic()
        if now - started[0] > window:
            started[:] = [now, 0]
        started[1] += 1
        left = {"x-ratelimit-remaining-requests": str(max(0, allowed - int(started[1]))),
                "x-ratelimit-reset-requests": f"{started[0] + window - now + 0.05:.3f}s"}  # fmt: skip
        return Act(429 if started[1] > allowed else 200, headers=left, delay_s=0.01)

    with FaultServer(plan).running() as server:
        connect(monkeypatch, server, max_concurrency=8)
        found = complete(engine(tmp_path), asks(70))
        assert len(found) == 70
        assert {completion.n_attempts for completion in found.values()} == {1}, "no request was refused"


LONG = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2h"}


@pytest.mark.parametrize("act", [Act(429, headers={"retry-after": "7200"}), Act(headers=LONG)])
def test_a_pause_that_is_too_long_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act) -> None:
    with FaultServer(lambda asked: act).running() as server:
        connect(monkeypatch, server, outage_s=60)
        with pytest.raises(StopEarly, match=r"rate limits ask to wait for 7,\d\d\d s; .* the same command continues"):
            complete(engine(tmp_path), asks(100))
        assert len(server.asked) <= 17


@pytest.mark.parametrize("way", ["refuses connections", "503 for everything", "500 for questions"])
def test_a_server_that_goes_away_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    out = [False]
    with FaultServer(lambda asked: Act(500) if out[0] else Act(delay_s=0.01)).running() as server:
        connect(monkeypatch, server, max_concurrency=8)

        def fail() -> None:
            if way == "refuses connections":
                server.refuse_connections()
                time.sleep(1)
                server.accept_connections()
            elif way == "503 for everything":
                server.is_down = True
                time.sleep(1)
                server.is_down = False
            else:
                out[0] = True
                time.sleep(0.3)
                out[0] = False

        found: dict[str, int] = {}
        outage = threading.Thread(target=fail)
        for batch in engine(tmp_path).stream(iter(asks(150)), EXPLORE, 8):
            if len(found) < 50 <= len(found) + len(batch):
                outage.start()
                time.sleep(0.05)
            found |= {request.key: completion.n_attempts for request, completion in batch}
        outage.join()
        assert len(found) == 150
        assert max(found.values()) <= 8
        extra = len(server.asked) - 150
        assert extra <= 60, "an outage is looked at, not asked all questions"


def test_an_outage_that_lasts_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer().running() as server:
        connect(monkeypatch, server, outage_s=1)
        server.refuse_connections()
        began = time.monotonic()
        with pytest.raises(StopEarly, match=r"no answer for 1 s \(last failure: \w+\); what was"):
            complete(engine(tmp_path), asks(100))
        assert 0.9 < time.monotonic() - began < 60
        server.accept_connections()


def test_two_servers_share_the_load_and_one_takes_it_all_when_the_other_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(delay_s=0.02).running() as one, FaultServer(delay_s=0.02).running() as two:
        connect(monkeypatch, one, two, max_concurrency=8)
        assert len(complete(engine(tmp_path), asks(120))) == 120
        assert min(len(one.asked), len(two.asked)) > 30
        assert len(one.asked) + len(two.asked) == 120
        loaded, found = engine(tmp_path), 0
        for batch in loaded.stream(asks(120), EXPLORE, 8):
            if found < 40 <= found + len(batch):
                two.refuse_connections()
            found += len(batch)
        assert found == 120
        two.accept_connections()


def test_a_capacity_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(delay_s=0.02, capacity=24).running() as server:
        connect(monkeypatch, server)
        found = complete(engine(tmp_path), asks(600))
        refused = len(server.asked) - 600
        assert len(found) == 600
        assert server.most_at_once <= 24
        assert refused < 150, "a burst when it is found, then few"


def test_requests_are_read_as_they_are_needed_and_yielded_as_they_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, sizes = [0], []

    def requests() -> Iterator[Request]:
        for request in asks(100):
            read[0] += 1
            yield request

    with FaultServer(delay_s=0.01).running() as server:
        connect(monkeypatch, server, max_concurrency=6)
        done = 0
        for batch in engine(tmp_path).stream(requests(), EXPLORE, 4):
            done += len(batch)
            sizes.append(len(batch))
            assert read[0] <= done + 6, "no more than may be in flight"
            assert len(server.asked) <= done + 6
        assert max(sizes) <= 4


def test_nothing_is_sent_while_the_caller_commits_or_after_it_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(delay_s=0.02).running() as server:
        connect(monkeypatch, server, max_concurrency=6)
        stream = engine(tmp_path).stream(iter(asks(100)), EXPLORE, 4)
        next(stream)
        wait_for(lambda: server.at_once == 0, "end of what is in flight")
        sent = len(server.asked)
        time.sleep(0.2)
        assert len(server.asked) == sent <= 12
        stream.close()  # pyrefly: ignore
        time.sleep(0.2)
        assert len(server.asked) == sent
        assert server.at_once == 0
