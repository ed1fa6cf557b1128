"""Replacing the weights of a running vLLM: the real one on the CPU, beside the `hf` engine with the same weights.

Log-probs of what is said are compared with those of the new weights and of the old ones, which are far from it.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from builders import arithmetic
from builders.arithmetic_words import vocabulary
from builders.engines import Request
from builders.engines.hf import HfEngine
from builders.engines.vllm import VllmEngine
from builders.engines.vllm_weights import Entry, Sender, chunks, copied, layout, opened
from builders.model_files import load_model, load_tokenizer, write_record
from builders.models import initialise
from schemas import Chat
from schemas.sections import Sampling
from tests.vllm_world import CONFIG, environment, real

__all__ = ["environment"]  # a fixture

GREEDY, EXPLORE = (Sampling(temperature=t, max_new_tokens=24, logprobs=True) for t in (0.0, 1.0))
MODELS = {
    "untied": (CONFIG, "fp32", 2**20),
    "tied": (CONFIG | {"model_type": "qwen2", "tie_word_embeddings": True}, "fp32", 6000),
    "rounded": (CONFIG, "bf16", 2**20),
}
"""Configuration, precision of vLLM and bytes sent together: so few that a layer's parts come in several chunks."""
HOW_NEAR = {"fp32": 1e-4, "bf16": 0.1}
"""Nats by which log-probs of a token may differ."""


class World:
    """A running vLLM and, in this process, the model whose weights it follows."""

    def __init__(self, directory: Path, precision: str, limit: int):
        self.engine = VllmEngine.load(directory, precision, synchronised=True)
        self.engine._sender = Sender(self.engine.vllm, limit)
        self.model, self.tokenizer = load_model(directory), load_tokenizer(directory)
        self.first = copy.deepcopy(self.model.state_dict())
        self.precision, self.changes = precision, 0

    def change(self) -> None:
        """Other weights, by which everything is said differently."""
        import torch

        self.changes += 1
        noise = torch.Generator().manual_seed(self.changes)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(self.first[name] + 0.1 * torch.randn(weight.shape, generator=noise))

    def said(self) -> Any:
        """The model as it is now, in vLLM's precision."""
        model = copy.deepcopy(self.model)
        return model.bfloat16() if self.precision == "bf16" else model

    def gap(self, found: dict, model: Any) -> float:
        """The greatest distance of a token's log-prob from that of a plain forward of the model, in nats."""
        import torch

        gaps = []
        for asked in questions():
            prompt, tokens = self.engine.codec.encode(asked).ids, list(found[asked.key].token_ids or ())
            with torch.no_grad():
                plain = model(torch.tensor([prompt + tokens])).logits[0].float().log_softmax(-1)
            own = [float(plain[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)]
            gaps += [abs(a - b) for a, b in zip(own, found[asked.key].logprobs or (), strict=True)]
        return max(gaps)


def answers(engine: HfEngine | VllmEngine, sampling: Sampling = GREEDY) -> dict:
    return {request.key: done for batch in engine.stream(questions(), sampling, 8) for request, done in batch}


def questions() -> list[Request]:
    """16 questions, and one prompt of several cache blocks four times."""
    texts = [problem.question for problem in arithmetic.generate(5, (2, 4), 16)] + ["Anna buys 4 more. " * 20] * 4
    return [Request(f"k{i}", (Chat(role="user", content=text),), "", "text") for i, text in enumerate(texts)]


@pytest.fixture(scope="module", params=MODELS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch
) -> Iterator[World]:
    config, precision, limit = MODELS[request.param]
    directory = tmp_path_factory.mktemp("model")
    initialise(config, vocabulary(), 0, directory, "models.base")
    write_record(directory, {"source": "config"})
    started = World(directory, precision, limit)
    yield started
    started.engine.close()


@real
@pytest.mark.parametrize("sampling", [GREEDY, EXPLORE], ids=["greedy", "drawn"])
def test_what_is_said_follows_the_weights_that_are_sent(world: World, sampling: Sampling) -> None:
    """The old ones until then; a prompt's cached blocks are not used with others. In float32 greedy completions are
    those of `hf`, token by token; bfloat16 has ties.
    """
    near = HOW_NEAR[world.precision]
    world.engine.synchronise(world.model.named_parameters())
    for _ in range(3):
        old = world.said()
        world.change()
        assert world.gap(answers(world.engine, sampling), old) < near
        world.engine.synchronise(world.model.named_parameters())
        found, new = answers(world.engine, sampling), world.said()
        assert world.gap(found, new) < near
        assert world.gap(found, old) > 10 * near
        if world.precision == "fp32" and sampling is GREEDY:
            expected = answers(HfEngine(new, world.tokenizer))
            assert {key: c.token_ids for key, c in found.items()} == {k: c.token_ids for k, c in expected.items()}


@real
def test_no_memory_and_no_file_stays_behind(world: World) -> None:
    [core] = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in " ".join(p.cmdline())]
    world.engine.synchronise(world.model.named_parameters())
    before = [process.memory_info().rss for process in (core, psutil.Process())]
    files = core.num_fds(), psutil.Process().num_fds()
    sent = sum(weight.nbytes for weight in world.model.parameters())
    for _ in range(100):
        world.engine.synchronise(world.model.named_parameters())
    after = [process.memory_info().rss for process in (core, psutil.Process())]
    assert max(b - a for a, b in zip(before, after, strict=True)) < 10 * sent, "100 times as much was sent"
    assert (core.num_fds(), psutil.Process().num_fds()) == files


@real
def test_weights_that_are_missing_are_named_and_can_come_later(world: World) -> None:
    some = [(name, weight) for name, weight in world.model.named_parameters() if "layers.1" not in name]
    with pytest.raises(ValueError, match=r"not sent: model\.layers\.1\.input_layernorm\.weight, .* and \d+ more"):
        world.engine.synchronise(some)
    world.engine.synchronise(world.model.named_parameters())
    assert world.gap(answers(world.engine), world.said()) < HOW_NEAR[world.precision]


@real
def test_a_vllm_that_is_killed_while_weights_come_is_one_line_and_no_wait(world: World) -> None:
    """The last test of this engine: nothing can be asked of it any more."""
    [core] = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in " ".join(p.cmdline())]

    def sending() -> Iterator[tuple[str, Any]]:
        yield from world.model.named_parameters()
        core.suspend()  # whatever is asked of it now is not answered before it is dead
        core.kill()

    with pytest.raises(OSError, match="vLLM died"):
        world.engine.synchronise(sending())
    with pytest.raises(OSError, match="vLLM died"):
        world.engine.synchronise(world.model.named_parameters())


@pytest.mark.gpu
@real
def test_on_cuda_it_sleeps_between_and_holds_no_memory(
    tmp_path: Path, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setenv("PAIRWRIGHT_VLLM_MEMORY", "0.3")
    initialise(CONFIG, vocabulary(), 0, tmp_path, "models.base")
    write_record(tmp_path, {"source": "config"})
    world = World(tmp_path, "fp32", 6000)
    world.model.cuda()
    for _ in range(3):
        world.change()
        free, _ = torch.cuda.mem_get_info()
        world.engine.sleep()
        asleep, total = torch.cuda.mem_get_info()
        assert asleep - free > 0.2 * total, "its cache is given back"
        world.engine.synchronise(world.model.named_parameters())
        assert world.gap(answers(world.engine), world.said().cpu()) < 1e-3
    world.engine.close()


# What is sent, without vLLM


class Workers:
    """What a vLLM would be told: its one worker reads the buffer, and loads into a dict."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.loaded: dict[str, Any] = {}

    def collective_rpc(self, method: str, args: tuple = ()) -> list[Any]:
        self.told.append(method)
        if method == "open_weights":
            self.buffer = opened(*args)
        if method == "take_weights":
            self.loaded |= dict(copied(self.buffer, args[0]))
        return [[]]


def tensors() -> dict[str, Any]:
    """Of several types and shapes: one number, a view that is not contiguous, a large one."""
    import torch

    draw = torch.Generator().manual_seed(0)
    return {
        "one": torch.tensor(3.5),
        "matrix": torch.randn(7, 5, generator=draw).T,
        "half": torch.randn(3, 3, generator=draw).bfloat16(),
        "ints": torch.arange(9),
        "large": torch.randn(40, 100, generator=draw),
        "last": torch.nn.Parameter(torch.randn(2, generator=draw)),
    }


@pytest.mark.parametrize("limit", [1, 200, 2**30])
def test_every_tensor_arrives_as_it_is(limit: int) -> None:
    workers, weights = Workers(), tensors()
    sender = Sender(workers, limit)  # pyrefly: ignore
    for _ in range(2):
        workers.loaded.clear()
        sender.send(weights.items())
        assert list(workers.loaded) == list(weights)
        for name, weight in weights.items():
            assert workers.loaded[name].dtype == weight.dtype
            assert workers.loaded[name].equal(weight), name
    assert workers.told.count("take_weights") == 2 * len(list(chunks(weights.items(), limit)))
    assert workers.told.count("begin_weights") == workers.told.count("end_weights") == 2


def open_files() -> int:
    return psutil.Process().num_fds()


def test_one_buffer_serves_all_chunks_and_grows_to_the_largest() -> None:
    before, workers = open_files(), Workers()
    sender = Sender(workers, 200)  # pyrefly: ignore
    for _ in range(20):
        sender.send(tensors().items())
    assert workers.told.count("open_weights") == 2, "for the first chunk, and for the large one"
    assert workers.buffer.numel() == 40 * 100 * 4
    del sender
    assert open_files() <= before + 2, "but for what the workers hold"


def test_chunks_are_in_order_and_below_the_limit() -> None:
    sizes = {name: tensor.nbytes for name, tensor in tensors().items()}
    assert sizes == {"one": 4, "matrix": 140, "half": 18, "ints": 72, "large": 16000, "last": 8}
    cut = [[name for name, _ in chunk] for chunk in chunks(iter(tensors().items()), 4 + 140 + 18)]
    assert cut == [["one", "matrix", "half"], ["ints"], ["large"], ["last"]]


def test_places_do_not_overlap_and_are_aligned() -> None:
    chunk = list(tensors().items())
    entries, size = layout(chunk)
    ends = [place + tensor.nbytes for (*_, place), (_, tensor) in zip(entries, chunk, strict=True)]
    starts: list[int] = [entry[3] for entry in entries]
    assert all(end <= start for end, start in zip(ends, [*starts[1:], size], strict=True))
    assert all(start % 64 == 0 for start in starts)
    named: Entry = entries[1]
    assert named[:3] == ("matrix", "float32", [5, 7])
