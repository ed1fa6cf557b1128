"""`steps_from`: a run trains for as many steps as the best checkpoint of another that held problems out."""

from pathlib import Path
from typing import Any

import pytest

from builders.model_files import read_record
from schemas import TrainingStep
from stores.stage import Stage
from tests import training_world as world
from tests.training_world import BY_GENERATION, assert_same_weights, rows, run, weights
from train.policy import Policy
from train.session import Session
from train.validation import Validator

AGAIN = {
    "model": "tiny", "pairs": "sums", "reference": "sums", "loss": "dpo_nll", "steps_from": "dpo",
    "optimizer": {"lr": 1e-3, "batch_size": 4}, "validation": world.VALIDATION,
}  # fmt: skip
"""`preference.dpo` once more, for the steps that it selected."""
NO_STEP: dict[str, Any] = dict.fromkeys(TrainingStep.model_fields) | {"epoch": 0.0, "n_sequences": 0, "n_tokens": 0}


@pytest.fixture
def store(workspace: Path) -> Path:
    world.build(workspace, changes={"preference.dpo.validation": BY_GENERATION, "preference.again": AGAIN})
    run(workspace, "reference.sums")
    return workspace


@pytest.mark.parametrize(("accuracies", "best"), [((0.2, 0.5, 0.5), 4), ((0.5, 0.2, 0.5), 2), ((0.0, 0.1, 0.4), 6)])
def test_the_steps_are_those_of_the_best_checkpoint_the_first_of_equal_ones(store, monkeypatch, accuracies, best):
    given = iter(accuracies)
    monkeypatch.setattr(Validator, "accuracy", lambda self, policy: next(given))
    run(store, "preference.dpo", "preference.again")
    selection, again = (read_record(store / "data/models" / key)["provenance"] for key in ("dpo", "again"))
    assert selection["selected_step"] == best
    assert (again["steps"], again["selected_step"], again["steps_from"]) == (best, best, "dpo")
    assert rows(store, "training", "again")[-1]["step"] == best
    assert_same_weights(weights(store, "again"), weights(store, "dpo"), 0)


def test_another_selected_step_finds_no_checkpoint_of_the_former(store):
    """`steps_from` is only a name: what decides a run is the number of steps that it gives."""
    stage, directory = Stage("preference", "again", store), store / "data/models/tiny"
    pairs = world.load(store, "preference.again")
    policy, found = Policy.load(directory, [s for pair in pairs for s in pair.sequences]), {}
    for best in (2, 4):
        validated = [NO_STEP | {"step": step, "validation_accuracy": float(step == best)} for step in (2, 4)]
        world.write(store, "dpo", [TrainingStep(**row) for row in validated])
        session = Session(stage, policy, 10, "data")
        assert session.schedule.steps == best
        found[best] = session.checkpoints.directory
    assert found[2] != found[4]


def test_a_run_that_was_never_validated_selects_no_step(store):
    world.write(store, "dpo", [TrainingStep(**NO_STEP | {"step": 1})])
    with pytest.raises(ValueError, match=r"preference.again.steps_from: .* 'dpo' was never validated; .*dvc repro"):
        run(store, "preference.again")
