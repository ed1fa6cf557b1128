"""What cannot be computed is named: examples beyond the budget, and micro-batches that memory has no room for."""

import shutil

import pytest
import torch

from stores.stage import Stage
from tests import training_world as world
from tests.training_world import rows, run
from train import preference, sft
from train.checkpoints import Checkpoints
from train.data import Reader, load_pairs
from train.policy import Policy
from train.session import Session
from train.tables import Tables


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


def test_what_is_watched_halves_too(workspace, monkeypatch, capsys):
    """Of the last weights no batch is measured, but pairs that are watched: more than a batch has."""
    world.build(workspace)
    run(workspace, "reference.sums", "preference.dpo")
    expected = rows(workspace, "training", "dpo")[-1]
    pair_losses = preference.pair_losses

    def limited(policy, pairs, *rest):
        if len(pairs) > 4:
            raise torch.OutOfMemoryError("no room")
        return pair_losses(policy, pairs, *rest)

    monkeypatch.setattr(preference, "pair_losses", limited)
    run(workspace, "preference.dpo")
    assert "preference dpo: step 6: memory is full, at pair" in capsys.readouterr().err
    last = rows(workspace, "training", "dpo")[-1]
    assert last["margin"] == pytest.approx(expected["margin"], rel=1e-4)


def no_room(*_):
    raise torch.OutOfMemoryError("no room")


def test_kto_halves_in_its_reference_point_too(workspace, monkeypatch, capsys):
    world.build(workspace, changes={"preference.dpo.loss": "kto", "reference.sums.mismatched": True})
    run(workspace, "reference.sums", "preference.dpo")
    curve = rows(workspace, "training", "dpo")
    logprobs = Policy.logprobs

    def limited(self, sequences):
        if not torch.is_grad_enabled() and len(sequences) > 3:
            raise torch.OutOfMemoryError("no room")
        return logprobs(self, sequences)

    monkeypatch.setattr(Policy, "logprobs", limited)
    run(workspace, "preference.dpo")
    assert "preference dpo: step 0: memory is full, at sample" in capsys.readouterr().err
    for row, expected in zip(rows(workspace, "training", "dpo")[:-1], curve[:-1], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_mismatched_completion_longer_than_the_budget_is_named(workspace, monkeypatch):
    world.build(workspace, changes={"preference.dpo.loss": "kto", "reference.sums.mismatched": True})
    run(workspace, "reference.sums")
    given: list[tuple[str, list]] = []
    monkeypatch.setattr(Session, "require_fit", lambda self, examples: given.extend(examples))
    run(workspace, "preference.dpo")
    stage = Stage("preference", "dpo", workspace)
    pairs = load_pairs(Tables(stage, "pairs", "sums"), Reader.of(stage), mismatched=True)
    seen = {(name, s.ids.tobytes()) for name, sequences in given for s in sequences}
    assert seen == {(pair.name, s.ids.tobytes()) for pair in pairs for _, s in pair.scored}
    assert all(pair.mismatched for pair in pairs)


def test_reference_names_what_has_no_room_and_keeps_what_it_has(workspace, monkeypatch):
    world.build(workspace, changes={"reference.sums.micro_tokens": 60})
    logprobs, calls = Policy.logprobs, []

    def limited(self, sequences):
        calls.append(len(sequences))
        return no_room() if len(calls) == 3 else logprobs(self, sequences)

    monkeypatch.setattr(Policy, "logprobs", limited)
    with pytest.raises(ValueError, match=r"memory is full, at sample \S+ .*lower reference.sums.micro_tokens"):
        run(workspace, "reference.sums")
    run(workspace, "reference.sums")
    assert sum(calls[3:]) == 20 - sum(calls[:2])


@pytest.mark.parametrize(
    ("place", "said"),
    [("train.session.update", "in the optimizer's update"), ("train.validation.Validator.accuracy", "in validation")],
)
def test_what_cannot_be_done_in_smaller_pieces_is_one_line(workspace, monkeypatch, place, said):
    world.build(workspace, changes={"preference.dpo.validation": world.BY_GENERATION})
    run(workspace, "reference.sums")
    monkeypatch.setattr(place, no_room)
    with pytest.raises(ValueError, match=rf"step \d: memory is full, .*{said}; set gradient_checkpointing or lora, or"):
        run(workspace, "preference.dpo")


def test_each_process_keeps_the_limit_that_it_met(workspace, monkeypatch):
    world.build(workspace)
    run(workspace, "reference.sums")
    found: list[Checkpoints] = []
    monkeypatch.setattr(Session, "steps", lambda self, *_, **__: found.append(self.checkpoints) or [])
    monkeypatch.setattr(Session, "save", lambda *_: None)
    run(workspace, "preference.dpo")
    (checkpoints,) = found
    checkpoints.directory.mkdir(parents=True)
    assert checkpoints.micro_tokens() is None
    for rank, tokens in ((1, 40), (0, 70), (2, 50)):
        monkeypatch.setattr("train.parallel.rank", lambda rank=rank: rank)
        checkpoints.keep_micro_tokens(tokens)
    assert checkpoints.micro_tokens() == 40
    checkpoints.remove()
    assert not any(checkpoints.directory.parent.iterdir())


def test_a_checkpoint_that_is_there_is_not_taken_away_to_be_written_again(workspace, monkeypatch):
    world.build(workspace, changes={"preference.dpo.checkpoint_every": 2})
    run(workspace, "reference.sums")
    update, removed, rmtree = Session.update, [], shutil.rmtree

    def keeping(self, step, *rest):
        if step == 4:
            self.keep()
            raise ZeroDivisionError
        return update(self, step, *rest)

    def removing(path, *rest, **more):
        removed.append(path.name)
        return rmtree(path, *rest, **more)

    monkeypatch.setattr(Session, "update", keeping)
    monkeypatch.setattr(shutil, "rmtree", removing)
    with pytest.raises(ZeroDivisionError):
        run(workspace, "preference.dpo")
    assert "step-00000002" in removed
    assert "step-00000004" not in removed
    assert list((workspace.parent / "ledger/checkpoints").glob("*/step-00000004/state.json"))
