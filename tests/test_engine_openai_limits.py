"""What the environment says about servers, what headers say about waiting, and how many requests are sent at once."""

import time
from email.utils import formatdate
from pathlib import Path

import pytest

from builders.engines.faults import Allowance, allowances, asked_to_wait, duration
from builders.engines.lanes import FAILURES, FIRST, Lane
from builders.engines.prices import price_usd
from builders.engines.servers import OPENAI, Limits, Server, limits, prefill_way, redact, servers
from tests.fault_server import FaultServer
from tests.hosted_world import asks, complete, connect, engine

TWO = {"PAIRWRIGHT_BASE_URLS": "http://a:1/v1, http://b:2/v1/"}


@pytest.mark.parametrize(
    ("environment", "urls", "keys"),
    [
        ({"OPENAI_API_KEY": "k"}, [OPENAI], ["k"]),
        ({"OPENAI_BASE_URL": "http://a:1/v1", "OPENAI_API_KEY": " k\n"}, ["http://a:1/v1"], ["k"]),
        (TWO, ["http://a:1/v1", "http://b:2/v1"], ["", ""]),
        (TWO | {"OPENAI_BASE_URL": "http://c", "OPENAI_API_KEY": "k"}, ["http://a:1/v1", "http://b:2/v1"], ["k", "k"]),
        (TWO | {"PAIRWRIGHT_API_KEYS": "k, l", "OPENAI_API_KEY": "m"}, ["http://a:1/v1", "http://b:2/v1"], ["k", "l"]),
    ],
)
def test_servers_and_keys_are_those_of_the_environment(
    environment: dict[str, str], urls: list[str], keys: list[str]
) -> None:
    found = servers(environment)
    assert [server.url for server in found] == urls
    assert [server.key for server in found] == keys
    assert not any(secret in repr(found) for secret in (*urls, "key="))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no key for the OpenAI API; set OPENAI_API_KEY"),
        (TWO | {"PAIRWRIGHT_API_KEYS": "sk-secret"}, "PAIRWRIGHT_API_KEYS has 1 keys for 2 base URLs"),
        (TWO | {"PAIRWRIGHT_API_KEYS": "sk-good,sk-sec ret"}, "key of server 2 of 2: holds characters that no key has"),
        ({"PAIRWRIGHT_BASE_URLS": "secret:8000/v1"}, "base URL of the server: not like http://host:8000/v1"),
    ],
)
def test_a_mistake_in_the_environment_names_the_place_and_shows_no_secret(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        servers(environment)
    assert "sec" not in str(error.value).replace("second", "")


def test_limits_are_positive_numbers() -> None:
    assert limits({}).attempts == 8
    assert limits({"PAIRWRIGHT_MAX_CONCURRENCY": "4", "PAIRWRIGHT_MIN_CONCURRENCY": "9"})[-2:] == (4, 4)
    for text in ("no", "0", "-1", "nan", "inf"):
        with pytest.raises(ValueError, match=f"PAIRWRIGHT_OUTAGE_S={text}: not a positive number"):
            limits({"PAIRWRIGHT_OUTAGE_S": text})
    with pytest.raises(ValueError, match="PAIRWRIGHT_PREFILL=yes: not one of continue_final_message"):
        prefill_way({"PAIRWRIGHT_PREFILL": "yes"})


def test_what_a_server_says_is_shown_without_keys_and_urls() -> None:
    known = (Server(1, 1, "http://host-a:8000/v1", "sk-secret-1"),)
    said = "Bad\n key sk-secret-1 at http://host-a:8000/v1/chat or host-a:8000"
    assert redact(said, known) == "Bad key *** at ***/chat or ***"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "9", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": formatdate(1, usegmt=True)}, 0.0),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_to_wait(headers) == seconds


def test_a_date_to_wait_for_is_a_time_from_now() -> None:
    waited = asked_to_wait({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert waited is not None
    assert 28 < waited <= 30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("7", 7.0), ("", None), ("1x", None)],
)
def test_durations_of_rate_limits(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


def test_rate_limit_headers_that_can_be_read() -> None:
    both = {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "2s",
            "x-ratelimit-remaining-tokens": "500", "x-ratelimit-reset-tokens": "100ms"}  # fmt: skip
    assert allowances(both) == [Allowance("requests", 3, 2.0), Allowance("tokens", 500, 0.1)]
    assert allowances({"x-ratelimit-remaining-requests": "3"}) == []
    assert allowances(both | {"x-ratelimit-remaining-requests": "many"}) == [Allowance("tokens", 500, 0.1)]


# How many requests are sent at once


def lane(most: int = 256, least: int = 1) -> Lane:
    made = Lane(Server(1, 1, OPENAI, "k"), (), Limits(8, 900, 600, 0.5, most, least))
    assert made.state == "up"
    return made


def a_round(of: Lane, refused: int = 0) -> None:
    """As many requests as it takes, all in flight together; the first `refused` get a 429."""
    sent = []
    while of.load(0.0) is not None:
        sent.append(of.take())
    for number in sent:
        if number < sent[0] + refused:
            of.throttled(number, None, 0.0)
        else:
            of.succeeded(number, 10)
        of.in_flight -= 1


def test_the_limit_doubles_until_it_is_refused_halves_once_and_then_grows_slowly() -> None:
    probed, seen = lane(), []
    for _ in range(2):
        a_round(probed)
        seen.append(probed.limit)
    assert seen == [2 * FIRST, 4 * FIRST]
    a_round(probed, refused=20)
    assert probed.threshold == 0.9 * 64
    assert probed.limit == 32, "halved once for all of a round, and answers of that round say nothing more"
    for _ in range(4):
        a_round(probed)
    assert 0.9 * 64 <= probed.limit < 64, "fast up to where it was refused, then slowly"


def test_the_limit_stays_within_its_bounds() -> None:
    bounded = lane(most=20, least=3)
    for _ in range(5):
        a_round(bounded)
    assert bounded.limit == 20
    for _ in range(9):
        bounded.throttled(bounded.take(), None, 0.0)
        bounded.in_flight -= 1
    assert bounded.limit == 3


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    idle = lane()
    for _ in range(50):
        idle.succeeded(idle.take(), 1)
        idle.in_flight -= 1
    assert idle.limit == FIRST


def test_what_a_server_asks_for_pauses_it() -> None:
    asked = lane()
    asked.throttled(asked.take(), 3.0, now=10.0)
    assert asked.load(12.9) is None
    assert asked.opens_at(12.0) == 13.0
    assert asked.load(13.0) is not None


def test_refusals_of_everything_pause_a_server_that_does_not_say_for_how_long() -> None:
    refusing = lane()
    for _ in range(FAILURES):
        refusing.throttled(refusing.take(), None, 0.0)
    assert refusing.resume_at == 0.0
    for _ in range(20):
        refusing.throttled(refusing.take(), None, 0.0)
    assert 0.0 < refusing.resume_at <= 30.0


def test_the_strictest_answer_says_how_many_more_requests_are_allowed() -> None:
    limited = lane()
    first, second = limited.take(), limited.take()
    limited.heard(second, [Allowance("requests", 2, 5.0)], now=0.0)
    limited.heard(first, [Allowance("requests", 9, 50.0)], now=0.0)
    assert limited.allowed(0.0) == 2
    limited.take()
    limited.take()
    assert limited.load(4.9) is None
    assert limited.opens_at(4.9) == 5.0
    assert limited.load(5.0) is not None
    limited.heard(limited.take(), [Allowance("requests", 9, 5.0)], now=5.0)
    assert limited.allowed(5.0) == 9, "the limits have been reset"


def test_tokens_that_are_left_are_counted_in_mean_answers() -> None:
    limited = lane()
    for _ in range(3):
        limited.succeeded(limited.take(), 100)
    limited.heard(limited.take(), [Allowance("tokens", 250, 5.0), Allowance("requests", 90, 60.0)], now=0.0)
    assert limited.allowed(0.0) == 2


def test_failures_of_several_requests_in_a_row_mean_that_a_server_is_down() -> None:
    one, many = lane(), lane()
    assert not any(one.failed(one.take(), 1, None, 0.0) for _ in range(50)), "it may be this request's fault"
    assert [many.failed(many.take(), asker, None, 0.0) for asker in range(FAILURES)][-2:] == [False, True]
    many.succeeded(many.take(), 1)
    assert not many.failed(many.take(), 1, None, 0.0)


def test_a_price_is_that_of_the_provider_else_of_the_name_else_unknown() -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000}
    price = price_usd("gpt-4o-mini-2024-07-18", OPENAI, usage)
    assert price == pytest.approx(0.15 + 0.06)
    assert price_usd("gpt-4o-mini", "http://gateway/v1", usage) == price
    cached = usage | {"prompt_tokens_details": {"cached_tokens": 1_000_000}}
    assert price_usd("gpt-4o-mini", OPENAI, cached) == pytest.approx(0.075 + 0.06)
    assert price_usd("no-such-model", OPENAI, usage) is None
    assert price_usd("gpt-4o-mini", OPENAI, {}) is None


@pytest.mark.parametrize("details", [{"cached_tokens": 100}, {"cached_tokens": -1}, {"cached_tokens": "4"}, [1], None])
def test_a_usage_that_cannot_be_stops_nothing(details: object) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": details}
    plain = price_usd("gpt-4o-mini", OPENAI, {"prompt_tokens": 10, "completion_tokens": 1})
    assert price_usd("gpt-4o-mini", OPENAI, usage) in (None, plain)
    assert price_usd("gpt-4o-mini", OPENAI, usage | {"prompt_tokens": -1}) is None


def test_a_look_that_fails_in_an_unknown_way_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: object) -> None:
        raise KeyError("unknown")

    with FaultServer().running() as server:
        connect(monkeypatch, server)
        loaded = engine(tmp_path)
        monkeypatch.setattr(loaded.model, "look", look)
        with pytest.raises(KeyError, match="unknown"):
            complete(loaded, asks(1))
