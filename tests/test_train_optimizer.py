"""Learning rates, the order of data, and AdamW's groups."""

import numpy as np
import pytest
import torch

from schemas.sections_training import Optimizer
from train.optimizer import Schedule, adamw, update


def config(**changes) -> Optimizer:
    length = {} if "epochs" in changes else {"steps": 10}
    return Optimizer.model_validate({"lr": 1.0, "batch_size": 4} | length | changes)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"steps": 4}, [1, 1, 1, 1]),
        ({"steps": 4, "warmup": 0.5}, [0.5, 1, 1, 1]),
        ({"steps": 4, "schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"steps": 6, "schedule": "linear", "warmup": 1 / 3}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"steps": 4, "schedule": "cosine"}, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ({"steps": 1, "schedule": "cosine", "warmup": 0.9}, [1]),
    ],
)
def test_learning_rates_by_hand(changes, rates):
    schedule = Schedule(config(**changes), 100, 0)
    assert [schedule.lr(step) for step in range(schedule.steps)] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("changes", "n", "sizes"),
    [
        ({"epochs": 1}, 8, [4, 4]),
        ({"epochs": 1}, 9, [4, 4, 1]),
        ({"epochs": 0.5}, 8, [4]),
        ({"epochs": 1.5}, 5, [4, 4]),  # 7.5 examples, rounded to 8
        ({"epochs": 0.01}, 5, [1]),
        ({"epochs": 2}, 1, [2]),
        ({"steps": 3}, 5, [4, 4, 4]),
    ],
)
def test_batches(changes, n, sizes):
    schedule = Schedule(config(**changes), n, 0)
    assert [len(schedule.batch(step)) for step in range(schedule.steps)] == sizes


def test_every_epoch_is_another_permutation_of_all_examples():
    schedule = Schedule(config(epochs=3, batch_size=4), 10, 0)
    drawn = [i for step in range(schedule.steps) for i in schedule.batch(step)]
    epochs = [drawn[start : start + 10] for start in (0, 10, 20)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [round(schedule.epoch(step), 1) for step in (0, 1, 5, 8)] == [0.0, 0.4, 2.0, 3.0]


def test_the_order_depends_on_the_seed_alone():
    orders = [[Schedule(config(), 50, seed).batch(step) for step in (7, 2, 7)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][0] == orders[0][2]


def holder(held: dict[str, torch.nn.Parameter]) -> torch.nn.Module:
    """A model of these parameters, the first that of an embedding whose name does not say so."""
    module = torch.nn.Module()
    for name, p in held.items():
        child = torch.nn.Module() if len(module._modules) else torch.nn.Embedding(1, 1)
        child.register_parameter("weight", p)
        module.add_module(name.replace(".", "_"), child)
    return module


def parameters() -> dict[str, torch.nn.Parameter]:
    shapes = {"wte.weight": (5, 3), "layer.weight": (3, 3), "layer.bias": (3,), "norm.weight": (3,)}
    return {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


def test_only_matrices_decay_and_decay_is_decoupled():
    held = parameters()
    optimizer = adamw(holder(held), config(lr=0.5, weight_decay=0.1))
    for p in held.values():
        p.grad = torch.zeros_like(p)
    update(optimizer, held, 0.5, 1.0)
    means = {name: p.mean().item() for name, p in held.items()}
    assert means.pop("layer.weight") == pytest.approx(1 - 0.5 * 0.1)
    assert set(means.values()) == {1.0}


def test_an_update_equals_the_papers_formula():
    weight, gradient = torch.nn.Parameter(torch.tensor([[1.0, -2.0]])), np.array([[0.3, -0.4]])
    settings = config(lr=0.1, weight_decay=0.01, betas=(0.9, 0.999), grad_clip=0.25)
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight = weight
    optimizer = adamw(layer, settings)
    expected, m, v = np.array([[1.0, -2.0]]), np.zeros((1, 2)), np.zeros((1, 2))
    for step, lr in enumerate((0.1, 0.05), start=1):
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        norm = update(optimizer, {"w": weight}, lr, settings.grad_clip)
        g = gradient * 0.25 / 0.5  # its norm is 0.5
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        expected -= lr * (m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8) + 0.01 * expected)
        assert norm.item() == pytest.approx(0.5)
        assert weight.grad is None
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-5)


def test_a_gradient_that_is_not_finite_updates_nothing():
    held = parameters()
    optimizer = adamw(holder(held), config())
    for p in held.values():
        p.grad = torch.full_like(p, torch.nan)
    assert not torch.isfinite(update(optimizer, held, 1.0, 1.0))
    assert all(torch.equal(p, torch.ones_like(p)) for p in held.values())
