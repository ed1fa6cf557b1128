"""How models are asked: hosted ones in the API's terms, our own ones by token ids; and what is kept of the answers."""

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from builders import evaluate, models, samples
from builders.engines import load_engine
from builders.engines.answers import seed_of
from builders.engines.faults import Failed
from builders.engines.openai import OpenaiEngine
from builders.engines.pump import answered
from builders.engines.servers import limits, servers
from builders.engines.transport import Question, Transport
from builders.model_files import load_tokenizer, write_record
from builders.models import initialise
from builders.rendering import render_ids
from schemas.sections import Sampling
from stores.ledger import Ledger
from stores.paths import ledger_dir, run_dir
from stores.run_log import RunLog
from stores.stage import execute, run_stage
from tests import stage_world as world
from tests.fault_server import MODEL, Act, Asked, FaultServer
from tests.hosted_world import EXPLORE, GREEDY, KEY, ask, asks, complete, connect, engine

CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip
WORDS = ["Anna has 3 apples and buys 4 more.", "Final answer: 7", "user assistant system:\n"]
VLLM = [{"id": MODEL, "owned_by": "vllm", "max_model_len": 128}]


def bodies(tmp_path: Path, request, sampling: Sampling, models: list[dict[str, Any]] | None = None) -> Asked:
    """What the server is asked for one request."""
    with FaultServer().running() as server, pytest.MonkeyPatch.context() as patch:
        server.models = models
        connect(patch, server)
        complete(engine(tmp_path), [request], sampling)
        return server.asked[-1]


def test_a_chat_is_asked_as_messages(tmp_path: Path) -> None:
    asked = bodies(tmp_path, ask("k", "Hi?"), EXPLORE.model_copy(update={"stop": ["\n"], "top_p": 0.9}))
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {
        "model": MODEL, "messages": [{"role": "user", "content": "Hi?"}], "max_tokens": 16, "temperature": 1.0,
        "top_p": 0.9, "seed": seed_of("k") >> 32, "stop": ["\n"],
    }  # fmt: skip
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_a_text_is_asked_as_a_prompt_that_ends_with_the_prefill(tmp_path: Path) -> None:
    asked = bodies(tmp_path, ask("k", "Q: Hi?\nA:", " Let", "text"), GREEDY)
    assert asked.path == "/v1/completions"
    assert asked.body == {"model": MODEL, "prompt": "Q: Hi?\nA: Let", "max_tokens": 16, "temperature": 0.0}


def test_vllm_is_told_to_use_nothing_but_our_settings(tmp_path: Path) -> None:
    body = bodies(tmp_path, ask("k"), EXPLORE, VLLM).body
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)


def test_seeds_belong_to_requests() -> None:
    assert len({seed_of(f"k{i}") >> 32 for i in range(1000)}) == 1000
    assert all(0 <= seed_of(f"k{i}") < 2**63 for i in range(1000))


PREFILLS = {
    "continue_final_message": ({"role": "assistant", "content": "So"}, True),
    "prefix": ({"role": "assistant", "content": "So", "prefix": True}, None),
    "assistant": ({"role": "assistant", "content": "So"}, None),
}


@pytest.mark.parametrize("way", PREFILLS)
def test_a_prefill_is_continued_in_the_servers_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("PAIRWRIGHT_PREFILL", way)
    body = bodies(tmp_path, ask("k", "Hi?", "So"), EXPLORE).body
    last, continued = PREFILLS[way]
    assert body["messages"] == [{"role": "user", "content": "Hi?"}, last]
    assert body.get("continue_final_message") == continued
    assert body.get("add_generation_prompt") == (False if continued else None)


def test_vllm_says_itself_how_it_continues(tmp_path: Path) -> None:
    body = bodies(tmp_path, ask("k", "Hi?", "So"), EXPLORE, VLLM).body
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_a_prefill_that_no_server_continues_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer().running() as server:
        connect(monkeypatch, server)
        with pytest.raises(ValueError, match="set PAIRWRIGHT_PREFILL to the way of"):
            complete(engine(tmp_path), [ask("k", prefill="So")])
        assert server.asked == []


def test_a_server_of_the_other_dialect_is_asked_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    old = Act(400, content=json.dumps({"error": {"message": said, "code": "unsupported_parameter"}}))
    with FaultServer(lambda asked: old if "max_tokens" in asked.body else Act()).running() as server:
        connect(monkeypatch, server)
        found = complete(engine(tmp_path), asks(60))
        assert {c.finish_reason for c in found.values()} == {"stop"}
        assert sum("max_tokens" in asked.body for asked in server.asked) <= 16


def test_log_probs_are_kept_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = EXPLORE.model_copy(update={"logprobs": True})
    content = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}
    choice = {"message": {"content": "ab"}, "finish_reason": "stop", "logprobs": content}
    with FaultServer(lambda asked: Act(fields={"choices": [choice]})).running() as server:
        connect(monkeypatch, server)
        assert complete(engine(tmp_path), [ask("k")], asked_for)["k"].logprobs == (-0.5, -1.5)
        assert server.asked[-1].body["logprobs"] is True
    with FaultServer().running() as server:
        connect(monkeypatch, server)
        with pytest.raises(ValueError, match="returns no log-probs; set `logprobs: false`"):
            complete(engine(tmp_path), [ask("k")], asked_for)


def test_usage_price_and_version_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer().running() as server:
        connect(monkeypatch, server)
        known, unknown = (complete(engine(tmp_path / m, m), [ask("k", "one two")])["k"] for m in (MODEL, "our-own"))
    assert (known.n_prompt_tokens, known.n_tokens, known.served_by) == (2, 4, f"{MODEL} fp_1")
    assert known.price_usd == pytest.approx((2 * 0.15 + 4 * 0.6) / 1e6)
    assert unknown.price_usd is None


# Our own models


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    initialise(CONFIG, WORDS, 0, directory, "models.base")
    write_record(directory, {"source": "config"})
    return directory


def served(directory: Path, **card: Any) -> list[dict[str, Any]]:
    from builders.model_files import fingerprint

    return [{"id": fingerprint(directory), "owned_by": "vllm", "max_model_len": 128} | card]


def test_a_stale_server_is_an_error_with_the_command_that_starts_the_right_one(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer().running() as server:
        server.models = [{"id": "0123", "owned_by": "vllm"}]
        connect(monkeypatch, server)
        (card,) = served(model_dir)
        with pytest.raises(ValueError, match="the server has '0123', not") as error:
            complete(OpenaiEngine.load(model_dir, "bf16"), [ask("k")])
        command = f"vllm serve {model_dir} --dtype bfloat16 --served-model-name {card['id']} --port {server.port}"
        assert str(error.value).endswith(command)
        assert server.asked == []


@pytest.mark.parametrize("rendering", ["text", "chat"])
def test_our_own_model_is_asked_for_tokens_and_its_answer_is_decoded_here(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, rendering: str
) -> None:
    tokenizer = load_tokenizer(model_dir)
    ids = [*tokenizer.encode("buys 4 more.", add_special_tokens=False), tokenizer.eos_token_id]
    choice = {"text": "ignored", "finish_reason": "stop", "token_ids": ids}
    with FaultServer(lambda asked: Act(fields={"choices": [choice]})).running() as server:
        server.models = served(model_dir)
        connect(monkeypatch, server)
        loaded = load_engine("openai", model_dir)
        found = complete(loaded, [ask("k", "Anna has", "3 apples", rendering)])["k"]  # pyrefly: ignore
    body, prompt = server.asked[0].body, [{"role": "user", "content": "Anna has"}]
    assert body["prompt"] == render_ids(tokenizer, prompt, "3 apples", rendering)
    assert (body["seed"], body["stop_token_ids"], body["return_token_ids"]) == (
        seed_of("k"), [tokenizer.eos_token_id], True,
    )  # fmt: skip
    assert found.text.split() == ["buys", "4", "more."]
    assert (found.n_tokens, found.token_ids, found.price_usd) == (len(ids), tuple(ids), None)
    assert found.n_prompt_tokens == len(body["prompt"])


def test_a_prompt_that_leaves_no_room_is_answered_here_and_a_small_server_is_a_mistake(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer().running() as server:
        connect(monkeypatch, server)
        server.models = served(model_dir)
        loaded = OpenaiEngine.load(model_dir)
        assert complete(loaded, [ask("k", "Anna " * 120, rendering="text")])["k"].finish_reason == "over_long"
        assert server.asked == []
        server.models = served(model_dir, max_model_len=32)
        with pytest.raises(ValueError, match="exceeds the server's limit 32, which is not the model's"):
            complete(loaded, [ask("k", "Anna " * 30, rendering="text")])


# Stages


@pytest.fixture
def hosted(workspace: Path) -> None:
    asked = [world.problem(f"Legs of {i} cats?") for i in range(20)]
    world.write("problems", "train", asked)
    world.write("answers", "train", [world.answer(p, "8") for p in asked])
    world.write("prompts", "train", [world.prompt(p) for p in asked])
    sampling = {
        "explore": {"temperature": 1.0, "max_new_tokens": 32},
        "greedy": {"temperature": 0.0, "max_new_tokens": 32},
    }
    row = {"model": "base", "prompts": "train", "problems": "train", "engine": "openai", "greedy": "greedy",
           "explore": "explore", "k": 0}  # fmt: skip
    world.write_params(
        models={"base": {"path": "data/none", "vocabulary": "none", "hosted": MODEL}},
        samples={"drawn": world.SAMPLES | {"engine": "openai", "n": 2}}, sampling=sampling, evaluate={"base": row},
    )  # fmt: skip
    execute("models", "base", models.run)


def test_a_hosted_model_is_sampled_and_evaluated_and_its_price_is_known(
    hosted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer().running() as server:
        connect(monkeypatch, server)
        execute("samples", "drawn", samples.run)
        execute("evaluate", "base", evaluate.run)
        assert len(server.asked) == 20 * 2 + 20
    cost = RunLog().latest(Path())["samples", "drawn"]
    ledger = Ledger()
    paid = ledger.sql("select sum(price_usd) from completions where key like '%-0001'")[1][0][0]
    ledger.close()
    assert cost.price_usd == pytest.approx(2 * paid)
    assert cost.price_usd > 0
    assert cost.price_table.startswith("genai-prices ")
    assert {row["verdict"] for row in world.read("rewards", "base")} == {"correct"}


def test_a_second_run_asks_nothing_and_a_new_prompt_asks_its_own_requests(
    hosted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer().running() as server:
        connect(monkeypatch, server)
        execute("samples", "drawn", samples.run)
        execute("samples", "drawn", samples.run)
        assert len(server.asked) == 40
        rows = [world.problem(f"Legs of {i} cats?") for i in range(21)]
        world.write("prompts", "train", [world.prompt(p) for p in rows])
        execute("samples", "drawn", samples.run)
        assert len(server.asked) == 42


def test_failed_requests_stop_the_stage_early_and_the_same_command_continues(
    hosted: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [True]
    with FaultServer(lambda a: Act(500) if out[0] and "7 cats" in a.question else Act()).running() as server:
        connect(monkeypatch, server, max_attempts=2)
        with pytest.raises(SystemExit, match="75"):
            run_stage("samples", samples.run, ["drawn"])
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith("samples.drawn: 4 requests failed (2 times each"), said
        assert not run_dir("samples", "drawn").exists()
        failed, out[0] = len(server.asked), False
        execute("samples", "drawn", samples.run)
        assert len(server.asked) - failed == 4
    assert len(world.read("samples", "drawn")) == 40


def test_a_ledger_on_a_full_disk_stops_before_the_next_request(hosted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(delay_s=0.02).running() as server:
        connect(monkeypatch, server, max_concurrency=4)
        whole = Ledger.append

        def full(self: Ledger, *arguments: Any, **named: Any) -> None:
            if len(server.asked) >= 12:
                raise OSError(28, "database or disk is full")
            whole(self, *arguments, **named)

        monkeypatch.setattr(Ledger, "append", full)
        with pytest.raises(OSError, match="disk is full"):
            execute("samples", "drawn", samples.run)
        sent = len(server.asked)
        assert sent <= 12 + 4
        time.sleep(0.1)
        assert len(server.asked) == sent


ECHO = f"no. Your header was: Authorization: Bearer {KEY}"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_keys_and_urls_are_written_nowhere(
    hosted: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, status: int
) -> None:
    echo = Act(status, content=json.dumps({"error": {"message": ECHO, "type": ECHO}}))
    with FaultServer(lambda a: echo if "7 cats" in a.question else Act()).running() as server:
        connect(monkeypatch, server, max_attempts=2)
        with pytest.raises(SystemExit) if status != 400 else nullcontext():
            run_stage("samples", samples.run, ["drawn"])
        secrets = (KEY, server.url, f"127.0.0.1:{server.port}")
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.is_relative_to(ledger_dir()) for path in written)
    printed = "".join(capfd.readouterr())
    for secret in secrets:
        assert secret not in printed
        assert [path for path, content in written.items() if secret.encode() in content] == []


def test_any_other_question_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge's structured verdict: one that does not fit its schema is a failed attempt."""

    def verdict(body: Mapping[str, Any]) -> int:
        content = body["choices"][0]["message"]["content"]
        if not content.startswith("{"):
            raise Failed("server", "no JSON object")
        return json.loads(content)["first_error"]

    def question(text: str) -> Question[int]:
        body = {"model": "judge", "messages": [{"role": "user", "content": text}], "response_format": {}}
        return Question("/chat/completions", lambda facts: body, verdict)

    half = Act(text='"first_error":')
    plan = lambda a: half if a.before == 0 and a.number % 3 == 0 else Act(text='{"first_error": 2}')  # noqa: E731
    with FaultServer(plan).running() as s:
        connect(monkeypatch, s)
        transport = Transport(servers(), limits())
        batches = answered(transport, map(str, range(30)), lambda text: transport.ask(question(text)), 8)
        replies = dict(pair for batch in batches for pair in batch)
        assert {reply.value for reply in replies.values()} == {2}
        assert sum(reply.n_attempts for reply in replies.values()) == len(s.asked) > 30


def test_a_hosted_model_has_no_weights(tmp_path: Path) -> None:
    from tests.hosted_world import hosted_dir

    with pytest.raises(ValueError, match="made from `hosted`; use engine 'openai'"):
        load_engine("hf", hosted_dir(tmp_path))
    shutil.rmtree(tmp_path)
