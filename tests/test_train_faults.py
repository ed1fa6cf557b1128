"""What cannot be computed is named: examples beyond the budget, and micro-batches that memory has no room for."""

import pytest
import torch

from tests import training_world as world
from tests.training_world import rows, run
from train import preference, sft
from train.session import Session


@pytest.mark.parametrize(
    ("setting", "tokens", "said"),
    [
        (
            "preference.dpo.optimizer.micro_tokens",
            23,
            r"pair \(.*\): \d\d tokens with its prompt, .* set preference.dpo",
        ),
        (
            "sft.warm.optimizer.micro_tokens",
            17,
            r"demo \(.*\): 18 tokens .* at most 17; set sft.warm.*_tokens to 18 or",
        ),
        ("reference.sums.micro_tokens", 23, r"sample \S+: 24 tokens .* set reference.sums.micro_tokens to 24 or more"),
    ],
)
def test_an_example_longer_than_the_budget_is_named(workspace, setting, tokens, said):
    world.build(workspace, changes={setting: tokens})
    section, key = setting.split(".")[:2]
    if section == "preference":
        run(workspace, "reference.sums")
    with pytest.raises(ValueError, match=said):
        run(workspace, f"{section}.{key}")


def cramp(monkeypatch, room: int) -> list[int]:
    """From step 1 on no more than so many pairs have room; returns the sizes of the micro-batches that are computed."""
    pair_losses, update, steps, seen = preference.pair_losses, Session.update, [], []

    def limited(policy, pairs, *rest):
        if steps and len(pairs) > room and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no room")
        seen.append(len(pairs))
        return pair_losses(policy, pairs, *rest)

    def counted(self, step, *rest):
        steps.append(step)
        return update(self, step, *rest)

    monkeypatch.setattr(preference, "pair_losses", limited)
    monkeypatch.setattr(Session, "update", counted)
    return seen


def test_a_micro_batch_without_room_is_halved_and_changes_no_result(workspace, monkeypatch, capsys):
    world.build(workspace)
    run(workspace, "reference.sums", "preference.dpo")
    curve = rows(workspace, "training", "dpo")
    seen = cramp(monkeypatch, 2)
    run(workspace, "preference.dpo")
    assert seen[0] == 4
    assert max(seen[1:-1]) <= 2
    for row, expected in zip(rows(workspace, "training", "dpo"), curve, strict=True):
        assert row["loss"] == (expected["loss"] and pytest.approx(expected["loss"], rel=1e-5))
    said = [line for line in capsys.readouterr().err.splitlines() if "memory is full" in line]
    assert "preference dpo: step 1: memory is full, at pair" in said[0]
    assert "and 1 more, 16" in said[0]
    assert said[0].endswith(" tokens; a forward is of at most 80 tokens from now on")


def test_a_killed_run_goes_on_with_the_budget_that_had_room(workspace, monkeypatch):
    world.build(workspace, changes={"preference.dpo.checkpoint_every": 2})
    run(workspace, "reference.sums")
    seen = cramp(monkeypatch, 2)
    update = Session.update
    monkeypatch.setattr(Session, "update", lambda self, step, *rest: update(self, step, *rest) if step < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(workspace, "preference.dpo")
    monkeypatch.setattr(Session, "update", update)
    seen.clear()
    run(workspace, "preference.dpo")
    assert max(seen[:-1]) <= 2


def test_a_pair_that_alone_has_no_room_is_named(workspace, monkeypatch):
    world.build(workspace)
    run(workspace, "reference.sums")
    cramp(monkeypatch, 0)
    with pytest.raises(
        ValueError, match=r"step 1: memory is full, at pair \(.*\), \d\d tokens alone; set gradient_che"
    ):
        run(workspace, "preference.dpo")


def test_fine_tuning_halves_too(workspace, monkeypatch, capsys):
    world.build(workspace)
    nll = sft.losses.sft

    def limited(logprob, *rest):
        if len(logprob) > 1:
            raise torch.OutOfMemoryError("no room")
        return nll(logprob, *rest)

    monkeypatch.setattr(sft.losses, "sft", limited)
    run(workspace, "sft.warm")
    assert "sft warm: step 0: memory is full, at demo" in capsys.readouterr().err
