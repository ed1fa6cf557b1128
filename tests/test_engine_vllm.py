"""Engine `vllm`: against the real vLLM on the CPU, beside the `hf` engine on the same requests."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from builders import arithmetic
from builders.engines import Request
from builders.engines.hf import HfEngine
from builders.engines.vllm import VllmEngine
from builders.model_files import ADAPTER
from schemas import Chat
from schemas.sections import Sampling
from stores.ledger import Completion
from tests.vllm_world import environment, model_dir, real, write_adapted

__all__ = ["environment", "model_dir"]  # fixtures

GREEDY, EXPLORE = (Sampling(temperature=t, max_new_tokens=24) for t in (0.0, 1.0))


@pytest.fixture(scope="module")
def engine(model_dir: Path, environment: pytest.MonkeyPatch) -> Iterator[VllmEngine]:
    loaded = VllmEngine.load(model_dir)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def hf(model_dir: Path) -> HfEngine:
    return HfEngine.load(model_dir)


def ask(key: str, text: str, prefill: str = "", rendering: str = "text") -> Request:
    return Request(key, (Chat(role="user", content=text),), prefill, rendering)


def questions(count: int, prefill: str = "", rendering: str = "text") -> list[Request]:
    made = arithmetic.generate(5, (2, 4), count)
    return [ask(f"q{i:03d}", problem.question, prefill, rendering) for i, problem in enumerate(made)]


def answers(engine: HfEngine | VllmEngine, asked: list[Request], sampling: Sampling, n: int = 16) -> dict:
    return {request.key: completion for batch in engine.stream(asked, sampling, n) for request, completion in batch}


def same_but_for_ties(ours: dict[str, Completion], theirs: dict[str, Completion], sampling: Sampling) -> int:
    """How many completions are equal; one that is not may differ only where two tokens are equally likely."""
    for key, mine in ours.items():
        if mine.token_ids != theirs[key].token_ids:
            pairs = zip(mine.token_ids or (), theirs[key].token_ids or (), strict=False)
            at = next(i for i, (a, b) in enumerate(pairs) if a != b)
            assert (mine.logprobs or ())[at] == pytest.approx((theirs[key].logprobs or ())[at], abs=1e-4), key
    return sum(mine.token_ids == theirs[key].token_ids for key, mine in ours.items())


@real
def test_greedy_completions_and_logprobs_are_those_of_hf(engine: VllmEngine, hf: HfEngine) -> None:
    sampling = GREEDY.model_copy(update={"logprobs": True})
    asked = questions(60) + questions(20, "First, Anna", "chat")
    asked = [request._replace(key=f"{i}") for i, request in enumerate(asked)]
    ours, theirs = answers(engine, asked, sampling), answers(hf, asked, sampling)
    assert ours.keys() == theirs.keys()
    assert same_but_for_ties(ours, theirs, sampling) >= 0.95 * len(asked)
    for key in (key for key in ours if ours[key].token_ids == theirs[key].token_ids):
        assert ours[key]._replace(logprobs=None) == theirs[key]._replace(logprobs=None)
        assert ours[key].logprobs == pytest.approx(theirs[key].logprobs, abs=1e-3)
    assert engine.device_s > 0


@real
def test_logprobs_of_draws_are_the_models_own(engine: VllmEngine, hf: HfEngine) -> None:
    """Under temperature and nucleus: the drawn tokens, scored by a plain forward of the same weights."""
    import torch

    sampling = Sampling(temperature=0.7, top_p=0.8, max_new_tokens=24, logprobs=True)
    for request in questions(8):
        completion = answers(engine, [request], sampling)[request.key]
        prompt = hf.codec.encode(request).ids
        tokens = list(completion.token_ids or ())
        with torch.no_grad():
            plain = hf.model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        expected = [float(plain[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-3)


@real
def test_a_key_draws_the_same_whatever_runs_beside_it(engine: VllmEngine) -> None:
    """On the CPU in float32; where a draw falls on the last bits of the logits, a batch's shape may change it."""
    asked = [request._replace(key=f"{request.key}-{i}") for request in questions(20) for i in range(4)]
    together = answers(engine, asked, EXPLORE)
    assert len({c.text for c in together.values()}) > 70, "keys seed different samples"
    backwards, alone = answers(engine, asked[::-1], EXPLORE, 5), answers(engine, asked[:1], EXPLORE)
    same = sum(backwards[key] == completion for key, completion in together.items())
    assert same >= 0.95 * len(asked)
    assert alone[asked[0].key].text == together[asked[0].key].text


@real
def test_stop_strings_are_cut_off(engine: VllmEngine, hf: HfEngine) -> None:
    asked = questions(24)
    free = answers(engine, asked, EXPLORE)
    words = Counter(word for c in free.values() for word in c.text.split()).most_common(3)
    stops = [word for word, _ in words]
    stopped = answers(engine, asked, EXPLORE.model_copy(update={"stop": stops, "logprobs": True}))
    assert any(c.text != free[key].text for key, c in stopped.items())
    for key, completion in stopped.items():
        before = min((free[key].text.split(stop)[0] for stop in stops), key=len)
        assert completion.text == before
        assert completion.n_tokens == len(completion.token_ids or ()) == len(completion.logprobs or ())
        cut = before != free[key].text
        assert not cut or completion.finish_reason == "stop"
        assert (completion.token_ids or ()) == (free[key].token_ids or ())[: completion.n_tokens]
        assert not cut or any(stop in hf.codec.decode(list(completion.token_ids or ())) for stop in stops)


@real
def test_the_limit_counts_and_an_ending_is_a_token(engine: VllmEngine) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=150)
    found = answers(engine, questions(24), sampling)
    assert {c.finish_reason for c in found.values()} == {"stop", "length"}
    for completion in found.values():
        ended = (completion.token_ids or (0,))[-1] in engine.codec.eos_ids
        assert (completion.finish_reason == "stop") == ended
        assert ended or completion.n_tokens == 150


@real
def test_a_prompt_that_leaves_no_room_is_answered_by_why(engine: VllmEngine, hf: HfEngine) -> None:
    asked = [ask("short", "Anna has 3 apples."), ask("long", "Anna buys 4 more. " * 40)]
    fits = Sampling(temperature=0.0, max_new_tokens=256 - len(hf.codec.encode(asked[1]).ids))
    too_long = fits.model_copy(update={"max_new_tokens": fits.max_new_tokens + 1})
    found = answers(engine, asked, too_long)
    assert found == answers(hf, asked, too_long)
    assert {key: c.finish_reason for key, c in found.items()} == {"short": "length", "long": "over_long"}
    assert answers(engine, asked, fits)["long"].finish_reason == "length"


@real
def test_requests_are_read_as_places_come_free(engine: VllmEngine) -> None:
    """Never more than the window ahead of what was given back, nor drained between lists; over-long ones neither."""
    asked, read = [request._replace(key=str(i)) for i, request in enumerate(questions(60) * 2)], 0
    asked[40:80] = [ask(f"long-{i}", "Anna " * 250) for i in range(40)]

    def reading() -> Iterator[Request]:
        nonlocal read
        for request in asked:
            read += 1
            yield request

    given, ahead = 0, []
    for batch in engine.stream(reading(), EXPLORE, 10):
        given += len(batch)
        assert len(batch) <= 10
        ahead.append(read - given)
    assert given == len(asked)
    assert max(ahead) <= engine.window + 10
    assert min(ahead[:3]) >= engine.vllm.vllm_config.scheduler_config.max_num_seqs


@real
def test_a_stream_that_is_left_disturbs_no_other(engine: VllmEngine) -> None:
    asked = questions(40)
    whole = answers(engine, asked, EXPLORE)
    for _ in engine.stream(asked, EXPLORE, 4):
        break
    assert not engine.vllm.has_unfinished_requests()
    assert answers(engine, asked, EXPLORE) == whole


@real
def test_samples_of_a_prompt_share_its_prefill(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    step, cached = engine.vllm.step, Counter()

    def counting() -> list:
        outputs = step()
        cached.update(output.num_cached_tokens for output in outputs if output.finished)
        return outputs

    engine.vllm.reset_prefix_cache()
    monkeypatch.setattr(engine.vllm, "step", counting)
    asked = [ask(f"k{i}", "Anna buys 4 more. " * 24) for i in range(8)]
    found = answers(engine, asked, EXPLORE)
    tokens = found["k0"].n_prompt_tokens
    assert cached == {0: 1, tokens // 32 * 32: 7}, "all whole blocks but those of the first"


@real
def test_what_the_device_cannot_hold_is_an_error_and_no_answer(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.vllm.model_config, "max_model_len", 40)
    with pytest.raises(ValueError, match=r"exceeds the 40 that vLLM holds here; give it memory \(PAIRWRIGHT_VLLM"):
        answers(engine, [ask("short", "Anna"), ask("k", "Anna " * 30)], EXPLORE)
    assert not engine.vllm.has_unfinished_requests()


@real
def test_an_adapter_is_applied_to_every_request_on_two_devices(
    tmp_path: Path,
    environment: pytest.MonkeyPatch,
    hf: HfEngine,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    """Served unmerged, by two processes that share the heads (a core is a device here), against `hf`'s merged model."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    monkeypatch.setenv("PAIRWRIGHT_TENSOR_PARALLEL", str(len(cores)))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "|".join(map(str, cores)))
    sampling = GREEDY.model_copy(update={"logprobs": True})
    asked = questions(40)
    targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    adapted_dir = write_adapted(tmp_path / "model", tmp_path / "adapter", r=12, target_modules=targets)
    adapted = VllmEngine.load(adapted_dir)
    assert adapted.vllm.vllm_config.parallel_config.tensor_parallel_size == len(cores)
    assert [request.lora_path for request in [adapted._adapter] if request] == [str(adapted_dir / ADAPTER)]
    ours, theirs = answers(adapted, asked, sampling), answers(HfEngine.load(adapted_dir), asked, sampling)
    adapted.close()
    assert "merged copy" not in capfd.readouterr().err
    assert same_but_for_ties(ours, theirs, sampling) >= 0.95 * len(asked)
    base = answers(hf, asked, sampling)
    assert sum(ours[key].token_ids == base[key].token_ids for key in ours) < 4, "the adapter changes what is said"


@real
def test_an_engine_core_that_was_killed_is_one_line_and_no_wait(engine: VllmEngine) -> None:
    """The last test of this engine: nothing can be asked of it any more."""
    alive = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    [core] = [p for p in alive if "EngineCore" in " ".join(p.cmdline())]
    asked = [request._replace(key=f"{request.key}-{i}") for i in range(20) for request in questions(40)]
    stream = engine.stream(asked, EXPLORE, 8)
    next(stream)
    core.kill()
    with pytest.raises(OSError, match=r"vLLM died .* run it again to continue"):
        list(stream)
    with pytest.raises(OSError, match="vLLM died"):
        answers(engine, asked[:1], EXPLORE)
