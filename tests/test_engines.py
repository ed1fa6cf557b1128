"""Engines: requests in, completions out, by key and setting."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from builders.engines import Finished, Request, load_engine
from builders.engines.decoding import Encoded
from builders.engines.hf import HfEngine, _draw, _invert, _nucleus
from builders.engines.scripted import ScriptedEngine
from builders.generation import Setting, Spent, answer, requests, sample_rows
from builders.model_files import write_record
from builders.models import initialise, write_script
from schemas import Chat
from schemas.sections import Sampling
from stores.ledger import Completion, Ledger

CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip
WORDS = ["Anna has 3 apples and buys 4 more.", "Final answer: 7", "user assistant system:\n"]
GREEDY, EXPLORE = (Sampling(temperature=t, max_new_tokens=24) for t in (0.0, 1.0))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    initialise(CONFIG, WORDS, 0, directory, "models.base")
    write_record(directory, {"source": "config"})
    return directory


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> HfEngine:
    return HfEngine.load(model_dir)


def ask(key: str, text: str = "Anna has 3 apples", prefill: str = "", rendering: str = "text") -> Request:
    return Request(key, (Chat(role="user", content=text),), prefill, rendering)


def texts(engine: HfEngine, asked: Sequence[Request], sampling: Sampling, batch_size: int = 64) -> dict[str, str]:
    finished = [pair for batch in engine.stream(asked, sampling, batch_size) for pair in batch]
    return {request.key: completion.text for request, completion in finished}


def test_a_completion_depends_on_its_key_and_not_on_its_batch(engine: HfEngine) -> None:
    asked = [ask(f"k{i}", text) for i, text in enumerate(["Anna", "Anna has 3 apples and", "buys 4 more."] * 4)]
    together = texts(engine, asked, EXPLORE)
    assert texts(engine, asked, EXPLORE, batch_size=1) == together
    assert texts(engine, asked[::-1], EXPLORE, batch_size=5) == together
    assert len({together[f"k{i}"] for i in (0, 3, 6, 9)}) > 1, "keys seed different samples of one prompt"
    assert texts(engine, [ask("k1", "Anna")], EXPLORE) != {"k1": together["k0"]}


def test_greedy_is_the_same_for_every_key(engine: HfEngine) -> None:
    assert len(set(texts(engine, [ask(f"k{i}") for i in range(4)], GREEDY).values())) == 1


def test_batches_are_by_prompt_length_then_key(engine: HfEngine) -> None:
    asked = [ask("b", "Anna"), ask("a", "Anna"), ask("c", "Anna has 3 apples")]
    order = [[request.key for request, _ in batch] for batch in engine.stream(asked, GREEDY, 2)]
    assert order == [["c", "a"], ["b"]]


def test_a_limit_gives_length_and_counts_tokens(engine: HfEngine) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=5)
    completions = [c for batch in engine.stream([ask(f"k{i}") for i in range(20)], sampling, 8) for _, c in batch]
    cut = [c for c in completions if c.finish_reason == "length"]
    assert cut
    for completion in completions:
        assert completion.token_ids is not None
        assert completion.n_tokens == len(completion.token_ids) <= 5
        assert (completion.finish_reason == "stop") == (completion.token_ids[-1] in engine.eos_ids)
        assert completion.n_prompt_tokens == len(engine.tokenizer.encode("Anna has 3 apples"))
    assert all(c.n_tokens == 5 for c in cut)


def test_stop_strings_are_cut_off(engine: HfEngine) -> None:
    asked = [ask(f"k{i}") for i in range(12)]
    free = texts(engine, asked, EXPLORE)
    stop = Counter(word for text in free.values() for word in text.split()).most_common(1)[0][0]
    stopped = EXPLORE.model_copy(update={"stop": [stop]})
    for key, text in texts(engine, asked, stopped).items():
        assert text == free[key].split(stop)[0], "the same completion up to the stop string"


def test_rounds_do_not_change_a_completion(engine: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [ask(f"k{i}") for i in range(6)]
    whole = texts(engine, asked, EXPLORE)
    monkeypatch.setattr("builders.engines.hf.FIRST_ROUND", 3)
    assert texts(engine, asked, EXPLORE) == whole


@pytest.mark.parametrize("sampling", [GREEDY, EXPLORE])
def test_a_models_own_generation_settings_are_not_used(engine: HfEngine, model_dir: Path, sampling: Sampling) -> None:
    asked = [ask(f"k{i}") for i in range(6)]
    its_own = HfEngine.load(model_dir)
    its_own.model.generation_config.top_k = 1
    its_own.model.generation_config.repetition_penalty = 9.0
    assert texts(its_own, asked, sampling) == texts(engine, asked, sampling)


def test_a_prompt_that_leaves_no_room_is_answered_by_why(engine: HfEngine) -> None:
    asked = [ask("short"), ask("long", "Anna " * 100)]
    length = len(engine.tokenizer.encode("Anna " * 100))
    fits = Sampling(temperature=0.0, max_new_tokens=128 - length)
    too_long = fits.model_copy(update={"max_new_tokens": fits.max_new_tokens + 1})
    reasons = {
        sampling.max_new_tokens: {r.key: c for batch in engine.stream(asked, sampling, 8) for r, c in batch}
        for sampling in (fits, too_long)
    }
    assert reasons[fits.max_new_tokens]["long"].finish_reason == "length"
    answered = reasons[too_long.max_new_tokens]
    assert answered["short"].finish_reason == "length"
    assert answered["long"].finish_reason == "over_long"
    assert f"prompt of {length} tokens" in answered["long"].text
    assert "limit 128" in answered["long"].text


def test_what_got_no_answer_is_a_reject_and_in_an_evaluation_an_empty_sample(tmp_path: Path) -> None:
    class Short(ScriptedEngine):
        """Has no room for the prompt `long`."""

        def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
            for batch in super().stream(requests, sampling, batch_size):
                long = Completion("prompt of 9 tokens", "over_long", 0, 9)
                yield [(r, long if r.messages[0].content == "long" else c) for r, c in batch]

    ledger, table, rejects = Ledger(tmp_path), prompts("a", "long"), []
    answer(ledger, setting(), lambda: [table], 3, lambda: Short(["x"]), 2)
    rows = pa.concat_tables(sample_rows(ledger, setting(), [table], 3, rejects.extend)).to_pylist()
    assert [row["prompt_id"] for row in rows] == [table["prompt_id"][0].as_py()] * 3
    assert [(r.prompt_id, r.reason, r.detail) for r in rejects] == [
        (table["prompt_id"][1].as_py(), "over_long", "prompt of 9 tokens")
    ]
    kept = pa.concat_tables(sample_rows(ledger, setting(), [table], 3, rejects.extend, keep_unanswered=True))
    assert [(row["text"], row["finish_reason"], row["n_prompt_tokens"]) for row in kept.to_pylist()[3:]] == [
        ("", "length", 9)
    ] * 3
    ledger.close()


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("sampling", [GREEDY, EXPLORE.model_copy(update={"temperature": 0.7, "top_p": 0.8})])
def test_logprobs_are_the_models_own(
    engine: HfEngine, sampling: Sampling, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before temperature and nucleus, and across rounds: those of a plain forward over prompt and completion."""
    monkeypatch.setattr("builders.engines.hf.FIRST_ROUND", 5)
    asked = [ask(f"k{i}", text) for i, text in enumerate(["Anna", "Anna has 3 apples and", "buys 4 more."] * 3)]
    watched = sampling.model_copy(update={"logprobs": True})
    found = [pair for batch in engine.stream(asked, watched, batch_size) for pair in batch]
    assert {r.key: c.text for r, c in found} == texts(engine, asked, sampling, batch_size)
    for request, completion in found:
        prompt = engine.tokenizer.encode(request.messages[0].content)
        tokens = list(completion.token_ids or ())
        with torch.no_grad():
            plain = engine.model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        expected = [float(plain[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        assert len(completion.logprobs or ()) == completion.n_tokens


def test_logprobs_end_where_a_stop_string_is_written(engine: HfEngine) -> None:
    asked = [ask(f"k{i}") for i in range(12)]
    stop = Counter(word for text in texts(engine, asked, EXPLORE).values() for word in text.split()).most_common(1)[0]
    watched = EXPLORE.model_copy(update={"logprobs": True, "stop": [stop[0]]})
    for _, completion in (pair for batch in engine.stream(asked, watched, 12) for pair in batch):
        assert len(completion.logprobs or ()) == len(completion.token_ids or ()) == completion.n_tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_number_draws_no_impossible_token(dtype: torch.dtype) -> None:
    cdf = torch.tensor([[0.25, 0.5, 1.0, 1.0], [0.2, 0.3, 0.9, 0.9]], dtype=dtype)
    largest = torch.full((2,), 1 - 2.0**-53, dtype=torch.float64)
    assert _invert(cdf, largest).tolist() == [[2], [2]]


def test_chat_and_prefill_reach_the_model(engine: HfEngine) -> None:
    chat = engine.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Anna"}], tokenize=False, add_generation_prompt=True
    )
    rendered = texts(engine, [ask("k", "Anna", "3 apples", "chat")], GREEDY)
    assert rendered == texts(engine, [ask("k", f"{chat}3 apples")], GREEDY)


def test_draws_follow_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.0, 0.3]]))
    sampling = Sampling(temperature=1.0, max_new_tokens=4000)
    draw = _draw([Encoded(ask("k"), [0], "")], sampling, 0)
    drawn = [int(draw(torch.zeros(1, step, dtype=torch.long), logits).argmax()) for step in range(4000)]
    share = np.bincount(drawn, minlength=4) / len(drawn)
    assert share[2] == 0
    assert np.allclose(share, [0.5, 0.2, 0, 0.3], atol=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.5, [0.5, 0, 0, 0]), (0.6, [0.5, 0, 0, 0.3]), (0.81, [0.5, 0.2, 0, 0.3])]
)
def test_a_nucleus_is_the_fewest_tokens_that_reach_the_mass(top_p: float, kept: list[float]) -> None:
    found = _nucleus(torch.tensor([[0.5, 0.2, 0.0, 0.3]], dtype=torch.float64), top_p)
    assert torch.allclose(found, torch.tensor([kept], dtype=torch.float64))


def test_engines_refuse_a_directory_of_the_other_kind(tmp_path: Path, model_dir: Path) -> None:
    script = tmp_path / "script"
    script.mkdir()
    write_script(script, ["a"])
    write_record(script, {"source": "script"})
    with pytest.raises(ValueError, match="made from `script`; use engine 'scripted'"):
        load_engine("hf", script)
    with pytest.raises(ValueError, match="use engine 'hf'"):
        load_engine("scripted", model_dir)


# Requests, keys and the ledger


def prompts(*contents: str) -> pa.Table:
    return pa.table({
        "prompt_id": [f"{i:016x}-00000000" for i in range(len(contents))],
        "problem_id": [f"{i:016x}" for i in range(len(contents))],
        "messages": [[{"role": "user", "content": text}] for text in contents],
        "prefill": ["" for _ in contents],
        "rendering": ["text" for _ in contents],
    })  # fmt: skip


def setting(seed: int = 0, model: str = "fp", precision: str = "fp32", **sampling: object) -> Setting:
    settings = {"temperature": 1.0, "max_new_tokens": 8} | sampling
    return Setting("m", model, Sampling.model_validate(settings), seed, precision)


def test_whatever_determines_an_answer_changes_its_key() -> None:
    contexts = [
        setting(), setting(seed=1), setting(model="other"), setting(precision="bf16"), setting(temperature=0.5),
        setting(top_p=0.9), setting(max_new_tokens=9), setting(stop=["."]), setting(temperature=0.0),
    ]  # fmt: skip
    assert len({s.context for s in contexts}) == len(contexts)
    same = setting(temperature=0.0, seed=7, top_p=0.5)
    assert same.context == setting(temperature=0.0).context, "greedy answers depend on neither seed nor nucleus"
    keys = [r.key for r in requests(prompts("a", "b"), setting(), 3)]
    assert len(set(keys)) == 6
    assert [key[-4:] for key in keys] == ["0000", "0001", "0002"] * 2


class Counting(ScriptedEngine):
    """A scripted engine that remembers what it was asked."""

    asked: list[str]

    def stream(self, requests: Iterable[Request], sampling: Sampling, batch_size: int) -> Iterator[Finished]:
        requests = list(requests)
        self.asked = [request.key for request in requests]
        return super().stream(requests, sampling, batch_size)


def test_only_what_the_ledger_lacks_is_generated(tmp_path: Path) -> None:
    ledger, table, engine = Ledger(tmp_path), prompts("a", "b", "a"), Counting(["x", "yy"])
    spent = answer(ledger, setting(), lambda: [table], 2, lambda: engine, 2)
    assert spent.tokens == 8, "each of the four is one word and an ending"
    assert len(engine.asked) == 4, "two problems that ask the same share their answers"
    assert answer(ledger, setting(), lambda: [table], 2, pytest.fail, 2) == Spent()
    in_two = [table.slice(0, 2), table.slice(2)]
    assert answer(ledger, setting(), lambda: in_two, 3, lambda: engine, 2).tokens == 4
    assert {key[-4:] for key in engine.asked} == {"0002"}
    rows = pa.concat_tables(sample_rows(ledger, setting(), in_two, 3, lambda rejects: None)).to_pylist()
    assert [row["sample_id"] for row in rows] == sorted(row["sample_id"] for row in rows)
    assert [row["text"] for row in rows[:3]] == [row["text"] for row in rows[6:]]
    assert all(row["n_chars"] == len(row["text"]) for row in rows)
    ledger.close()
