"""What an unfinished run keeps: never less than it had, and never what another attempt left."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.model_files import read_record
from tests import training_world as world
from tests.training_world import run
from train.checkpoints import Checkpoints
from train.session import Session
from train.validation import Validator


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
    """Else a kill in the middle would lose it, and no other is kept."""
    changes = {"preference.dpo.checkpoint_every": 2, "preference.dpo.validation": world.BY_GENERATION}
    world.build(workspace, changes=changes)
    run(workspace, "reference.sums")
    update, accuracies = Session.update, iter([0.5, 1.0])
    monkeypatch.setattr(Validator, "accuracy", lambda *_: next(accuracies))
    seen: list[dict[str, int]] = []

    def keeping(self, step, *rest):
        if step < 4:
            return update(self, step, *rest)
        directory = self.checkpoints.directory
        seen.append({path.name: path.stat().st_ino for path in directory.glob("*-0*")})
        self.keep()
        seen.append({path.name: path.stat().st_ino for path in directory.glob("*-0*")})
        raise ZeroDivisionError

    monkeypatch.setattr(Session, "update", keeping)
    with pytest.raises(ZeroDivisionError):
        run(workspace, "preference.dpo")
    before, after = seen
    assert before == after
    assert sorted(before) == ["best-00000002", "best-00000004", "step-00000004"], "its state names the first of these"
    monkeypatch.setattr(Session, "update", update)
    accuracies = iter([0.25, 0.25])  # other processes may find another accuracy
    run(workspace, "preference.dpo")
    assert read_record(workspace / "data/models/dpo")["provenance"]["selected_step"] == 2


def test_the_best_weights_of_an_abandoned_attempt_are_replaced(workspace, monkeypatch):
    """Killed after a validation and before the next checkpoint, a run may validate other weights at the same step: with
    another number of processes, say.
    """
    changes = {"preference.dpo.validation": world.BY_GENERATION, "preference.dpo.checkpoint_every": 4}
    world.build(workspace, changes=changes)
    run(workspace, "reference.sums")
    update, accuracies = Session.update, iter([1.0, 0.5, 0.25])
    monkeypatch.setattr(Validator, "accuracy", lambda *_: next(accuracies))
    run(workspace, "preference.dpo")
    expected = world.weights(workspace, "dpo")
    assert read_record(workspace / "data/models/dpo")["provenance"]["selected_step"] == 2

    monkeypatch.setattr(Session, "update", lambda self, step, *rest: update(self, step, *rest) if step < 2 else 1 / 0)
    accuracies = iter([1.0])
    with pytest.raises(ZeroDivisionError):
        run(workspace, "preference.dpo")
    (stale,) = (workspace.parent / "ledger/checkpoints").glob("*/best-00000002/weights.safetensors")
    save_file({name: tensor + 1 for name, tensor in load_file(stale).items()}, stale)
    monkeypatch.setattr(Session, "update", update)
    accuracies = iter([1.0, 0.5, 0.25])
    run(workspace, "preference.dpo")
    world.assert_same_weights(world.weights(workspace, "dpo"), expected, 0)


def test_a_run_that_ends_with_an_error_keeps_the_best_weights_that_it_goes_on_with(workspace, monkeypatch):
    changes = {"preference.dpo.validation": world.BY_GENERATION, "preference.dpo.checkpoint_every": 3}
    world.build(workspace, changes=changes)
    run(workspace, "reference.sums")
    update, accuracies = Session.update, iter([0.5, 1.0])
    monkeypatch.setattr(Validator, "accuracy", lambda *_: next(accuracies))

    def keeping(self, step, *rest):
        if step == 5:
            self.keep()
            raise ZeroDivisionError
        return update(self, step, *rest)

    monkeypatch.setattr(Session, "update", keeping)
    with pytest.raises(ZeroDivisionError):
        run(workspace, "preference.dpo")
    (directory,) = (workspace.parent / "ledger/checkpoints").glob("*")
    assert sorted(path.name for path in directory.iterdir()) == ["best-00000004", "lock", "step-00000005"]
    best = load_file(directory / "best-00000004/weights.safetensors")
    monkeypatch.setattr(Session, "update", update)
    accuracies = iter([0.5])
    run(workspace, "preference.dpo")
    assert read_record(workspace / "data/models/dpo")["provenance"]["selected_step"] == 4
    found = world.weights(workspace, "dpo")
    assert all(torch.equal(found[name], tensor) for name, tensor in best.items())


@pytest.mark.parametrize("place", ["Path.rename", "shutil.rmtree"])
def test_checkpoints_that_cannot_be_removed_fail_no_run(workspace, monkeypatch, capsys, place):
    world.build(workspace)
    run(workspace, "reference.sums")
    remove = Checkpoints.remove

    def refuse(*_, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(13, "Permission denied")

    def removing(self):
        with monkeypatch.context() as within:
            within.setattr(f"train.checkpoints.{place}", refuse)
            remove(self)

    monkeypatch.setattr(Checkpoints, "remove", removing)
    run(workspace, "preference.dpo")
    assert read_record(workspace / "data/models/dpo")["provenance"]["run"] == "dpo"
    (directory,) = (workspace.parent / "ledger/checkpoints").glob("*")
    assert f"{directory}: cannot be removed; do it yourself\n" in capsys.readouterr().err
