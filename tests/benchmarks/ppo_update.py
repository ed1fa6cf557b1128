"""PPO's update phase on synthetic rollouts: packed rows against padded ones.

    python -m tests.benchmarks.ppo_update --json

The phase is what follows a step's rollouts: log-probs and values of the policy and log-probs of the reference, without
gradients; advantages; and `--passes` updates (AdamW included). `packed` is `train.ppo`, `padded` is what one writes
first (`tests.padded_ppo`): right-padded rows in the order of the rollouts, the model's own attention, logits of all
places, and the same tokens per forward, padding included. `sorted` is that with rows sorted by length first. All start
from the same weights and the same rollouts: prompts and completions of lengths like GSM8K's in a model of `--layers`
and `--width`.
They take turns in this process, `--repeat` times; the least CPU-seconds of each count. FLOPs are those of matrix
products and attention, as `FlopCounterMode` counts them. Afterwards, the gradients of the first update are compared:
the largest difference of any weight's, relative to the largest gradient of its tensor.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from schemas.sections_reinforcement import PpoRun
from tests import padded_ppo
from tests.benchmarks.measuring import show
from tests.ppo_world import PPO
from train import losses
from train.experience import Experience, Reference, experience, look
from train.packing import Tokens
from train.policy import Policy
from train.ppo import rollout_losses
from train.value import Value

BETA = 0.05
ATTENTION = "sdpa"


def rollouts(count: int, vocabulary: int, seed: int = 0) -> list[Tokens]:
    """Prompts of about 60 tokens and completions of about 120, both log-normal: GSM8K's spread."""
    random = np.random.default_rng(seed)

    def some(mean: float, least: int, most: int) -> list[int]:
        drawn = random.lognormal(np.log(mean), 0.5, count)
        return np.clip(drawn, least, most).astype(int).tolist()

    def ids(n: int) -> np.ndarray:
        return random.integers(0, vocabulary, n).astype(np.int32)

    return [Tokens(ids(p), ids(c)) for p, c in zip(some(60, 10, 250), some(120, 10, 400), strict=True)]


class Setup:
    """A model, its reference, a head that says something, and a step's rollouts with their scores."""

    def __init__(self, arguments: argparse.Namespace):
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=arguments.width,
            intermediate_size=4 * arguments.width,
            num_hidden_layers=arguments.layers,
            num_attention_heads=arguments.width // 64,
            num_key_value_heads=arguments.width // 64,
            vocab_size=arguments.vocabulary,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
        self.model = AutoModelForCausalLM.from_config(config).eval()
        self.given = rollouts(arguments.rollouts, arguments.vocabulary)
        self.scores = [float(score) for score in np.random.default_rng(1).choice([0.0, 0.1, 1.0], arguments.rollouts)]
        optimizer = {"lr": 1e-6, "batch_size": arguments.rollouts, "steps": 1, "micro_tokens": arguments.micro_tokens}
        self.config = PpoRun.model_validate(PPO | {"optimizer": optimizer, "ppo_epochs": arguments.passes})
        self.start = copy.deepcopy(self.model.state_dict())
        self.head = nn.Linear(arguments.width, 1)

    def reset(self) -> None:
        self.model.load_state_dict(self.start)
        self.model.zero_grad()
        self.head.zero_grad()

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters()) | {f"head.{n}": p for n, p in self.head.named_parameters()}

    def optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.parameters().values(), lr=self.config.optimizer.lr, fused=True)


class Packed:
    """The phase as `train.ppo` has it."""

    def __init__(self, setup: Setup):
        self.setup = setup
        tokenizer: Any = None  # nothing is rendered here
        self.policy = Policy(setup.model, tokenizer, setup.given)
        assert self.policy.path == "packed"
        self.value = Value(self.policy)
        self.value.head = setup.head
        self.reference = Reference(self.policy)

    def begin(self) -> None:
        self.policy._ready()

    def learn(self) -> Experience:
        setup, everything = self.setup, list(range(len(self.setup.given)))
        seen = look(self.policy, self.value, self.reference, setup.given, setup.config.optimizer.micro_tokens)
        return experience(setup.config, setup.given, everything, seen, setup.scores, everything, BETA)  # pyrefly: ignore

    def backward(self, learnt: Experience) -> None:
        setup, count = self.setup, len(self.setup.given)
        for numbers in self.policy.micro_batches([[s] for s in setup.given], setup.config.optimizer.micro_tokens):
            columns = rollout_losses(self.policy, self.value, learnt, numbers, setup.config)
            losses.share_of_mean(columns["loss"], count).backward()


class Padded:
    """The phase on padded rows."""

    def __init__(self, setup: Setup, by_length: bool = False):
        self.setup = setup
        self.reference = copy.deepcopy(setup.model).requires_grad_(False)
        order = list(range(len(setup.given)))
        if by_length:
            order.sort(key=lambda i: -setup.given[i].length)
        self.micro: list[list[int]] = [[]]
        for i in order:
            longest = max(setup.given[j].length for j in [*self.micro[-1], i])
            if self.micro[-1] and longest * (len(self.micro[-1]) + 1) > setup.config.optimizer.micro_tokens:
                self.micro.append([])
            self.micro[-1].append(i)

    def begin(self) -> None:
        for model in (self.setup.model, self.reference):
            model.set_attn_implementation(ATTENTION)

    def learn(self) -> list[tuple[padded_ppo.Rows, padded_ppo.Learnt]]:
        rows = [self._rows(numbers) for numbers in self.micro]
        with torch.no_grad():
            own = [padded_ppo.forward(self.setup.model, self.setup.head, r, ATTENTION) for r in rows]
            other = [padded_ppo.forward(self.reference, None, r, ATTENTION)[0] for r in rows]
        whole = self._rows([i for numbers in self.micro for i in numbers])
        logprobs, values, reference = (_joined(parts, whole) for parts in (*zip(*own, strict=True), other))
        scores = [self.setup.scores[i] for numbers in self.micro for i in numbers]
        config = self.setup.config
        learnt = padded_ppo.learn(whole, logprobs, reference, values, scores, BETA, config.gamma, config.lam)
        return list(zip(rows, _parts(learnt, rows), strict=True))

    def backward(self, learnt: list[tuple[padded_ppo.Rows, padded_ppo.Learnt]]) -> None:
        config = self.setup.config
        for rows, given in learnt:
            logprobs, values = padded_ppo.forward(self.setup.model, self.setup.head, rows, ATTENTION)
            assert values is not None
            limits = config.clip, config.value_clip, config.value_coefficient
            loss = padded_ppo.loss(rows, given, logprobs, values, *limits)
            (loss / len(self.setup.given)).backward()

    def _rows(self, numbers: Sequence[int]) -> padded_ppo.Rows:
        some = [self.setup.given[i] for i in numbers]
        return padded_ppo.pad([s.prompt for s in some], [s.completion for s in some])


def _joined(parts: Sequence[Tensor], whole: padded_ppo.Rows) -> Tensor:
    """Parts of different widths as one tensor: (n, L − 1)."""
    out = torch.zeros(whole.actions.shape)
    at = 0
    for part in parts:
        out[at : at + len(part), : part.shape[1]] = part
        at += len(part)
    return out


def _parts(learnt: padded_ppo.Learnt, rows: Sequence[padded_ppo.Rows]) -> list[padded_ppo.Learnt]:
    at, found = 0, []
    for some in rows:
        n, width = some.actions.shape
        found.append(padded_ppo.Learnt(*(column[at : at + n, :width] for column in learnt)))
        at += n
    return found


def phase(way: "Packed | Padded") -> None:
    optimizer = way.setup.optimizer()
    learnt: Any = way.learn()
    for _ in range(way.setup.config.ppo_epochs):
        way.backward(learnt)
        nn.utils.clip_grad_norm_(way.setup.parameters().values(), way.setup.config.optimizer.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def gradients(way: "Packed | Padded") -> dict[str, Tensor]:
    """Of the first update."""
    way.setup.reset()
    way.begin()
    learnt: Any = way.learn()
    way.backward(learnt)
    return {name: p.grad.clone() for name, p in way.setup.parameters().items() if p.grad is not None}


def timed(way: "Packed | Padded", run: Callable[["Packed | Padded"], None] = phase) -> float:
    """CPU-seconds of one phase from the same start."""
    way.setup.reset()
    way.begin()
    began = time.process_time()
    run(way)
    return time.process_time() - began


def flops(way: "Packed | Padded") -> int:
    with FlopCounterMode(display=False) as counter:
        timed(way)
    return counter.get_total_flops()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    setup = Setup(arguments)
    ways: dict[str, Packed | Padded] = {
        "packed": Packed(setup),
        "padded": Padded(setup),
        "sorted": Padded(setup, by_length=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeat):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    least = {name: min(values) for name, values in seconds.items()}
    counted = {name: flops(way) / 1e9 for name, way in ways.items()}
    tokens = sum(s.length for s in setup.given)
    found: dict[str, Any] = {"rollouts": len(setup.given), "tokens": tokens, "passes": arguments.passes}
    found |= {f"{name}_tokens_per_s": tokens / least[name] for name in ways}
    found |= {f"{name}_gflop": count for name, count in counted.items()}
    for name in ("padded", "sorted"):
        found[f"{name}_ratio"] = least[name] / least["packed"]
        found[f"{name}_flop_ratio"] = counted[name] / counted["packed"]
    return found | {"gradient_gap": f"{_gap(*(gradients(ways[name]) for name in ('packed', 'padded'))):.1e}"}


def _gap(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of any weight's gradient, relative to the largest gradient of its tensor."""
    return max(float((ours[name] - grad).abs().max() / grad.abs().max()) for name, grad in theirs.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--micro-tokens", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    show(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
