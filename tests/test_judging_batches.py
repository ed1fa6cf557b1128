"""Questions in batches: each is asked once, whatever happens in between."""

import gc
import json
import re
from pathlib import Path

import pytest

from builders.judging import batch_questions
from builders.judging.batch_parts import Parts
from builders.judging.batches import main
from stores.reservations import account, reserve_in_batch
from stores.stage import StopEarly
from tests.batch_server import BatchServer, Fate, Other, failing
from tests.batch_world import CONTEXT, World, a_world, asks
from tests.fault_server import Act, Asked
from tests.hosted_world import KEY
from tests.pipeline import wait_for


@pytest.fixture
def server() -> BatchServer:
    return BatchServer(lambda asked: Act(text=f"about {asked.question}"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: BatchServer):
    with a_world(tmp_path / "ledger", monkeypatch, server) as made:
        yield made


def number_of(asked: Asked) -> int:
    return int(asked.question.split()[-1])


def test_submits_then_waits_then_collects(world: World, server: BatchServer):
    questions = asks(10)
    said = world.until_done(questions)
    assert re.search(r"10 questions submitted; 0 of 10 done in 1 batch under way \(validating\)", said[0])
    assert all("the same command, or the next `dvc repro`, continues" in line for line in said)
    assert world.paid_once(questions)
    assert len(server.batches) == 1
    found = world.found(questions)
    assert [found[key].text for key, _ in questions] == [f"about question {n}" for n in range(10)]
    one = found[questions[0][0]]
    assert (one.n_prompt_tokens, one.n_tokens, one.n_attempts, one.finish_reason) == (2, 4, 1, "stop")
    assert one.price_usd == pytest.approx((2 * 0.15 + 4 * 0.6) / 1e6 / 2)
    assert one.served_by == "gpt-4o-mini-2024-07-18 fp_1"


def test_connections_end_with_the_call(
    world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def nobody_is_connected() -> bool:
        return not server._writers

    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(world.root))
    monkeypatch.setattr("sys.argv", ["batches", "--cancel", CONTEXT])
    gc.disable()  # which would end them, too, some time
    try:
        with pytest.raises(StopEarly):
            world.call(asks(4))
        wait_for(nobody_is_connected, "end of what submits", 10)
        main()
        wait_for(nobody_is_connected, "end of what cancels", 10)
        world.online(asks(4))
        wait_for(nobody_is_connected, "end of what collects", 10)
    finally:
        gc.enable()
    assert set(server.events) >= {"upload", "create", "look"}


def test_progress_is_told(world: World, server: BatchServer):
    server.steps = 4
    said = world.until_done(asks(8))
    done = [re.search(r"(\d) of 8 done", line).group(1) for line in said]  # pyrefly: ignore
    assert done == ["0", "2", "4", "6", "8"]
    assert "(finalizing)" in said[-1]


def test_a_second_run_asks_nothing(world: World, server: BatchServer):
    world.until_done(asks(5))
    before = server.events.copy()
    assert world.call(asks(5)) == (0.0, 0, 0.0)
    assert server.events == before
    assert not (world.root / "batches" / CONTEXT).exists()


def test_what_it_cost_is_returned(world: World):
    questions = asks(5)
    with pytest.raises(StopEarly, match="submitted"):
        world.call(questions)
    with pytest.raises(StopEarly, match="5 of 5 done"):
        world.call(questions)
    spent = world.call(questions)
    assert spent.tokens == 20
    assert spent.price_usd == pytest.approx(sum(c.price_usd or 0 for c in world.found(questions).values()))


def test_one_more_question_makes_one_call(world: World, server: BatchServer):
    world.until_done(asks(5))
    world.until_done(asks(6))
    assert world.paid_once(asks(6))
    assert [made.fields["request_counts"]["total"] for made in server.batches.values()] == [5, 1]


def test_more_questions_while_a_batch_is_under_way(world: World, server: BatchServer):
    with pytest.raises(StopEarly):
        world.call(asks(5))
    world.until_done(asks(8))
    assert world.paid_once(asks(8))


def test_repeated_keys_are_asked_once(world: World):
    world.until_done([*asks(3), *asks(3)])
    assert world.paid_once(asks(3))


def test_answers_that_nobody_wants_any_more_are_kept(world: World):
    with pytest.raises(StopEarly):
        world.call(asks(5))
    world.until_done(asks(2))
    assert len(world.found(asks(5))) == 5


def test_parts_of_the_allowed_size(world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAIRWRIGHT_BATCH_SIZE", "4")
    world.until_done(asks(10))
    assert [made.fields["request_counts"]["total"] for made in server.batches.values()] == [4, 4, 2]
    assert world.paid_once(asks(10))


def test_files_of_the_allowed_size(world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_questions, "MOST_BYTES", 1000)
    world.until_done(asks(20))
    sizes = [len(data) for purpose, data in server.files.values() if purpose == "batch"]
    assert len(sizes) > 1
    assert max(sizes) <= 1000
    assert world.paid_once(asks(20))


def test_waits_if_it_shall(
    world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("PAIRWRIGHT_BATCH_WAIT_S", "20")
    assert world.call(asks(6)).tokens == 24
    assert world.paid_once(asks(6))
    assert capsys.readouterr().err.splitlines() == [
        "judging judge: 6 questions submitted; 0 of 6 done in 1 batch under way (validating)",
        "judging judge: 6 of 6 done in 1 batch under way (finalizing)",
    ]


def test_waits_no_longer_than_it_shall(world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAIRWRIGHT_BATCH_WAIT_S", "0.5")
    server.steps = 1000
    with pytest.raises(StopEarly, match=r"\d of 1,000 done in 1 batch under way \((validating|in_progress)\); the"):
        world.call(asks(1000))
    assert 1 <= server.events["look"] <= 5


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_wrong_setting(world: World, monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("PAIRWRIGHT_BATCH_WAIT_S", text)
    with pytest.raises(ValueError, match=f"PAIRWRIGHT_BATCH_WAIT_S={text}: not a number from 0"):
        world.call(asks(1))


@pytest.mark.parametrize("end", ["expired", "cancelled", "failed"])
def test_what_ends_early_keeps_its_finished_part(world: World, server: BatchServer, end: str):
    server.fate = lambda number: Fate(end, 0.5) if number == 0 else Fate()
    world.until_done(asks(10))
    assert world.paid_once(asks(10))
    assert [made.fields["request_counts"]["total"] for made in server.batches.values()] == [10, 5]
    assert {c.n_attempts for c in world.found(asks(10)).values()} == ({1, 2} if end == "failed" else {1})


def test_a_lost_reply_is_no_second_batch(world: World, server: BatchServer):
    server.lost_replies = 1
    world.until_done(asks(5))
    assert len(server.batches) == 1
    assert world.paid_once(asks(5))


def test_the_batch_of_a_lost_reply_is_on_a_later_page(world: World, server: BatchServer):
    def others(event: str, number: int) -> None:
        if event == "created" and number == 0:
            for other in range(1, 251):
                fields = server.batches["batch_0"].fields | {"id": f"x{other}", "metadata": None, "input_file_id": "x"}
                server.batches[f"x{other}"] = type(server.batches["batch_0"])(fields, Fate(), [])

    server.on, server.lost_replies = others, 1
    world.until_done(asks(5))
    assert world.paid_once(asks(5))
    assert server.events["create"] == 1
    assert server.events["list"] == 3


@pytest.mark.parametrize("status", [429, 500])
@pytest.mark.parametrize("event", ["upload", "create", "look", "content", "list"])
def test_trouble_is_tried_again(world: World, server: BatchServer, event: str, status: int):
    server.trouble = lambda e, n: Other(status, "{}", {"retry-after": "0"}) if e == event and n < 2 else None
    server.lost_replies = event == "list"
    world.until_done(asks(5))
    assert world.paid_once(asks(5))


@pytest.mark.parametrize("event", ["upload", "create", "look", "content"])
@pytest.mark.parametrize("content", ["{", "{}"])
def test_answers_that_are_none(world: World, server: BatchServer, event: str, content: str):
    server.trouble = lambda e, n: Other(200, content) if e == event and n < 1 else None
    world.until_done(asks(5))
    assert world.paid_once(asks(5))


@pytest.mark.parametrize("event", ["upload", "create", "look", "content"])
def test_cut_connections(world: World, server: BatchServer, event: str):
    server.trouble = lambda e, n: Other(200, '{"id": "x"}', cut=True) if e == event and n < 2 else None
    world.until_done(asks(5))
    assert world.paid_once(asks(5))


def test_trouble_without_end_stops_early(world: World, server: BatchServer):
    server.trouble = lambda e, n: Other(500, "{}") if e == "upload" else None
    with pytest.raises(StopEarly, match=r"does not answer about batches \(.*500\); what was answered is in the ledger"):
        world.call(asks(2))
    assert server.events["upload"] == 8


def test_a_server_that_is_away_stops_early(world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAIRWRIGHT_OUTAGE_S", "0.3")
    server.refuse_connections()
    with pytest.raises(StopEarly, match="does not answer about batches"):
        world.call(asks(2))


@pytest.mark.parametrize("counts", [True, False])
def test_a_cut_file_is_read_again(world: World, server: BatchServer, counts: bool):
    server.cut_outputs, server.has_counts = 1, counts
    said = world.until_done(asks(10))
    assert any("its files are not whole" in line for line in said)
    assert world.paid_once(asks(10))


def test_a_file_that_lost_whole_lines_is_read_again(world: World, server: BatchServer):
    def shorten(event: str, number: int) -> None:
        purpose, data = server.files["file-batch_0-output"] if event == "content" else ("", b"")
        if event == "content" and number == 0:
            kept.append(data)
            server.files["file-batch_0-output"] = (purpose, b"".join(data.splitlines(keepends=True)[:-2]))
        elif event == "content":
            server.files["file-batch_0-output"] = (purpose, kept[0])

    kept: list[bytes] = []
    server.on = shorten
    said = world.until_done(asks(10))
    assert any("(8 lines of at least 10)" in line for line in said)
    assert world.paid_once(asks(10))


def test_foreign_and_repeated_lines_are_passed_over(world: World, server: BatchServer):
    def add(event: str, number: int) -> None:
        if event == "content" and number == 0:
            purpose, data = server.files["file-batch_0-output"]
            changed = data.replace(b"about", b"again")
            foreign = data.splitlines()[0].replace(CONTEXT.encode(), b"f" * 16)
            more = data + changed + foreign + b'\n\n[1]\n{"custom_id": 7}\n{"custom_id": ["a"]}\n'
            server.files["file-batch_0-output"] = (purpose, more)

    server.on = add
    questions = asks(4)
    world.until_done(questions)
    assert [world.found(questions)[key].text for key, _ in questions] == [f"about question {n}" for n in range(4)]
    with world.ledger() as ledger:
        assert ledger.sql("select count(*) from completions")[1] == [(4,)]


def test_errors_of_single_questions(world: World, server: BatchServer):
    """429, 500, no answer: asked again; over-long and refused ones: kept as such, as online."""
    acts = {
        1: lambda before: Act(429) if before < 1 else Act(text="late"),
        2: lambda before: Act(500) if before < 2 else Act(text="later"),
        3: lambda before: Act(cut=True) if before < 1 else Act(text="late"),
        4: lambda before: Act(finish_reason="strange") if before < 1 else Act(text="late"),
        5: lambda before: Act(400, content=error("maximum context length is 8 tokens", "context_length_exceeded")),
        6: lambda before: Act(400, content=error("flagged by our content policy", "content_filter")),
        7: lambda before: Act(400, content=error("I do not like this one", "odd")),
        8: lambda before: Act(text="", finish_reason="content_filter"),
    }
    server.plan = lambda asked: acts.get(number_of(asked), lambda before: Act())(asked.before)
    questions = asks(10)
    world.until_done(questions)
    found = [world.found(questions)[key] for key, _ in questions]
    assert [c.finish_reason for c in found] == ["stop"] * 5 + ["over_long", "refused", "refused", "refused", "stop"]
    assert [c.n_attempts for c in found] == [1, 2, 3, 2, 2, 1, 1, 1, 1, 1]
    assert "I do not like this one" in found[7].text
    assert [made.fields["request_counts"]["total"] for made in server.batches.values()] == [10, 4, 1]


def error(message: str, code: str) -> str:
    return json.dumps({"error": {"message": message, "code": code, "type": "invalid_request_error"}})


def test_what_fails_too_often_stops_early_and_can_be_tried_again(world: World, server: BatchServer):
    server.plan = lambda asked: Act(500) if number_of(asked) == 2 and asked.before < 4 else Act()
    questions, said = asks(4), []
    for _ in range(7):
        with pytest.raises(StopEarly) as stop:
            world.call(questions)
        said.append(str(stop.value))
    assert "1 question failed in 3 batches each (APIStatusError 500)" in said[-1]
    world.until_done(questions)
    assert world.paid_once(questions)


def test_settings_that_all_refuse_are_a_mistake(world: World, server: BatchServer):
    server.plan = lambda asked: Act(400, content=error("temperature must be 1", "odd"))
    for match in ("submitted", "done"):
        with pytest.raises(StopEarly, match=match):
            world.call(asks(3))
    with pytest.raises(
        ValueError, match=r"answers 400: temperature must be 1; change `judge` .*`answer: text`.* or the model"
    ):
        world.call(asks(3))
    server.plan = lambda asked: Act()
    world.until_done(asks(3))
    assert world.paid_once(asks(3))


@pytest.mark.parametrize("known", ["max_completion_tokens", "max_output_tokens"])
def test_the_limit_of_tokens_has_another_name(
    world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch, known: str
):
    """A server says that it wants the other name: it gets it. If it wants neither, that is a mistake."""
    said = "Unsupported parameter: '{}' is not supported with this model. Use '{}' instead."

    def plan(asked: Asked) -> Act:
        name = next(name for name in asked.body if name.startswith("max_"))
        return Act() if name == known else Act(400, content=error(said.format(name, known), "unsupported_parameter"))

    server.plan = plan
    monkeypatch.setenv("PAIRWRIGHT_BATCH_SIZE", "2")
    if known == "max_completion_tokens":
        world.until_done(asks(3))
        assert world.paid_once(asks(3))
        assert {c.n_attempts for c in world.found(asks(3)).values()} == {1}
    else:
        with pytest.raises(ValueError, match="answers 400: Unsupported parameter: 'max_completion_tokens'"):
            world.until_done(asks(3))


def test_a_quota_that_is_used_up_stops_early(world: World, server: BatchServer):
    used = error("You exceeded your current quota", "insufficient_quota")
    server.plan = lambda asked: Act(429, content=used) if len(server.batches) == 1 and number_of(asked) else Act()
    said = world.until_done(asks(4))
    assert any("the quota is used up (429)" in line for line in said)
    assert world.paid_once(asks(4))


def test_a_batch_that_fails_is_a_mistake(world: World, server: BatchServer):
    server.fate = lambda number: Fate() if number else failing("model_not_found", f"no model for {KEY}")
    with pytest.raises(StopEarly):
        world.call(asks(3))
    with pytest.raises(
        ValueError, match=r"batch_0 was refused \(model_not_found: no model for \*\*\*\); change"
    ) as mistake:
        world.call(asks(3))
    assert KEY not in str(mistake.value)
    world.until_done(asks(3))
    assert world.paid_once(asks(3))


def test_a_batch_without_money_stops_early(world: World, server: BatchServer):
    server.fate = lambda number: Fate() if number else failing("billing_hard_limit_reached", "limit reached")
    said = world.until_done(asks(3))
    assert any("limit reached; the same command continues when there is more" in line for line in said)


def test_a_batch_that_fails_without_a_reason_is_tried_again(world: World, server: BatchServer):
    server.fate = lambda number: Fate("failed", begins=False) if number < 2 else Fate()
    world.until_done(asks(3))
    assert {c.n_attempts for c in world.found(asks(3)).values()} == {3}


def test_a_short_queue_makes_smaller_batches(world: World, server: BatchServer, capsys: pytest.CaptureFixture):
    server.queue_tokens = 12  # words: six questions
    world.until_done(asks(16), calls=40)
    assert world.paid_once(asks(16))
    totals = [made.fields["request_counts"]["total"] for made in server.batches.values()]
    assert totals == [0, 0, 4, 4, 4, 4]
    assert (
        "token_limit_exceeded: Enqueued token limit reached. Limit: 12; smaller ones follow" in capsys.readouterr().err
    )


def test_a_queue_that_others_fill_stops_early(world: World, server: BatchServer):
    server.queue_tokens = 0
    said = []
    for _ in range(7):
        with pytest.raises(StopEarly) as stop:
            world.call(asks(64))
        said.append(str(stop.value))
    assert "other batches fill the server's queue" in said[5]
    assert "64 questions submitted" in said[6]


def test_a_server_without_batches_is_a_mistake(world: World, server: BatchServer):
    server.has_batches = False
    with pytest.raises(ValueError, match=r"the server has no Batch API \(404\); set `mode: online`"):
        world.call(asks(3))
    assert Parts(world.root, CONTEXT).all == []
    assert world.online(asks(3)) == (0.0, 0, 0.0)


def test_a_key_that_is_refused_is_a_mistake(world: World, server: BatchServer):
    server.trouble = lambda e, n: Other(401, error(f"Incorrect API key provided: {KEY}", "invalid_api_key"))
    with pytest.raises(ValueError, match=r"the server refuses the key \(401\); set OPENAI_API_KEY") as mistake:
        world.call(asks(3))
    assert KEY not in str(mistake.value)


def test_a_batch_that_the_server_does_not_know(world: World, server: BatchServer):
    with pytest.raises(StopEarly):
        world.call(asks(3))
    server.batches.clear()
    with pytest.raises(
        ValueError, match=r"knows no batch batch_0: it was submitted to another server.*--forget " + CONTEXT
    ):
        world.call(asks(3))


def test_answers_that_the_server_keeps_no_more_are_asked_for_again(
    world: World, server: BatchServer, capsys: pytest.CaptureFixture
):
    """What they may have cost counts beside what the second ones cost."""
    keys = [key for key, _ in asks(3)]
    with world.ledger() as ledger:
        reserve_in_batch(ledger, dict.fromkeys(keys, 0.25))
    for _ in range(2):
        with pytest.raises(StopEarly):
            world.call(asks(3))
    server.on = lambda event, number: server.files.pop("file-batch_0-output", None) and None
    with pytest.raises(StopEarly, match="batch_0: some answers are none; the same command asks for them again"):
        world.call(asks(3))
    assert "batch_0: the server keeps its answers no more" in capsys.readouterr().err
    with world.ledger() as ledger:
        lost = account(ledger, [keys])
    assert (lost.reserved, lost.in_batches) == (dict.fromkeys(keys, 0.25), {})
    world.until_done(asks(3))
    assert len(world.found(asks(3))) == 3


def test_an_answer_that_is_none_counts_as_spent(world: World, server: BatchServer):
    """Its price is not known, so it is the worst case; and it is asked again when that is reserved anew."""
    server.plan = lambda asked: Act(finish_reason="strange") if number_of(asked) == 1 and not asked.before else Act()
    keys = [key for key, _ in asks(3)]
    with world.ledger() as ledger:
        reserve_in_batch(ledger, dict.fromkeys(keys, 0.25))
    for match in ("submitted", "3 of 3 done", "some answers are none"):
        with pytest.raises(StopEarly, match=match):
            world.call(asks(3))
    with world.ledger() as ledger:
        spent = account(ledger, [keys])
    assert (spent.reserved, spent.in_batches) == ({keys[1]: 0.25}, {})
    world.until_done(asks(3))
    assert world.found(asks(3))[keys[1]].n_attempts == 2


def test_keys_and_places_are_in_no_file(world: World, server: BatchServer):
    with pytest.raises(StopEarly):
        world.call(asks(3))
    for path in world.root.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert KEY.encode() not in content
        assert str(server.port).encode() not in content


class TestOnline:
    """`finish_batches`, before questions are asked one by one."""

    def test_nothing_is_under_way(self, world: World, server: BatchServer):
        assert world.online(asks(3)) == (0.0, 0, 0.0)
        assert server.events == {}

    def test_pending_questions_are_not_paid_for_twice(self, world: World, server: BatchServer):
        with pytest.raises(StopEarly):
            world.call(asks(3))
        with pytest.raises(StopEarly, match=r"3 of the questions are in batches under way.*--cancel " + CONTEXT):
            world.online(asks(5))

    def test_others_may_be_asked(self, world: World):
        with pytest.raises(StopEarly):
            world.call(asks(3))
        assert world.online(asks(5, first=3)).tokens == 0

    def test_what_is_done_is_collected(self, world: World):
        with pytest.raises(StopEarly):
            world.call(asks(3))
        with pytest.raises(StopEarly):
            world.online(asks(3))
        assert world.online(asks(3)).tokens == 12
        assert len(world.found(asks(3))) == 3
        assert world.paid_once(asks(3))

    def test_a_refused_batch_is_no_reason_to_stop(
        self, world: World, server: BatchServer, capsys: pytest.CaptureFixture
    ):
        server.fate = lambda number: failing("model_not_found", "no such model")
        with pytest.raises(StopEarly):
            world.call(asks(3))
        world.online(asks(3))
        assert "batch_0 was refused (model_not_found: no such model)" in capsys.readouterr().err

    def test_what_is_cancelled_keeps_its_finished_part(
        self, world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ):
        server.steps = 2
        for _ in range(2):
            with pytest.raises(StopEarly):
                world.call(asks(4))
        monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(world.root))
        monkeypatch.setattr("sys.argv", ["batches", "--cancel", CONTEXT])
        main()
        assert capsys.readouterr().out == f"{CONTEXT}  batch_0  judge  4  cancelling\n"
        world.online(asks(4))
        assert len(world.found(asks(4))) == 2
        assert sum(server.paid.values()) == 2


class TestCommand:
    @pytest.fixture(autouse=True)
    def _ledger(self, world: World, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(world.root))

    def test_lists(self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
        with pytest.raises(StopEarly):
            world.call(asks(4))
        monkeypatch.setattr("sys.argv", ["batches"])
        main()
        with pytest.raises(StopEarly):
            world.call(asks(4))
        main()
        said = capsys.readouterr().out.splitlines()
        assert said == [f"{CONTEXT}  batch_0  judge  4  {status}" for status in ("validating", "finalizing")]

    def test_a_context_that_there_is_not(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
        monkeypatch.setattr("sys.argv", ["batches", "--cancel", "abc"])
        with pytest.raises(SystemExit):
            main()
        assert "no batches of the context 'abc'" in capsys.readouterr().err

    def test_a_mistake_is_one_line(
        self, world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ):
        with pytest.raises(StopEarly):
            world.call(asks(4))
        server.batches.clear()
        monkeypatch.setattr("sys.argv", ["batches", "--cancel", CONTEXT])
        with pytest.raises(SystemExit):
            main()
        assert re.fullmatch(r"the server knows no batch batch_0: .*\n", capsys.readouterr().err)

    def test_forgets(self, world: World, server: BatchServer, monkeypatch: pytest.MonkeyPatch):
        with pytest.raises(StopEarly):
            world.call(asks(4))
        server.batches.clear()
        monkeypatch.setattr("sys.argv", ["batches", "--forget", CONTEXT])
        main()
        assert Parts(world.root, CONTEXT).all == []
        world.until_done(asks(4))
        assert len(world.found(asks(4))) == 4


class Killed(BaseException):
    """The end of the process, as far as this module can tell."""


@pytest.mark.parametrize("save", range(6))
@pytest.mark.parametrize("before", [True, False])
def test_an_end_at_any_turn(world: World, monkeypatch: pytest.MonkeyPatch, save: int, before: bool):
    """The process ends just before or after it notes something: what has been asked for is found."""
    saved, true = [], Parts.save

    def dying(parts: Parts, part) -> None:
        saved.append(part)
        if len(saved) == save + 1 and before:
            raise Killed
        true(parts, part)
        if len(saved) == save + 1:
            raise Killed

    monkeypatch.setattr(Parts, "save", dying)
    questions = asks(6)
    for _ in range(20):
        try:
            world.call(questions)
        except (StopEarly, Killed):
            continue
        break
    assert world.paid_once(questions)
    assert len(world.found(questions)) == 6
