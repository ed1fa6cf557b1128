"""Log-probs that are measured beside training: on what, and that measuring changes nothing."""

import numpy as np
import pytest

import train.preference
from tests import training_world as world
from tests.training_world import assert_same_weights, evenly_spaced, independent_logprob, rows, run, weights


def test_sft_lowers_the_loss_and_watches_pairs(workspace):
    world.build(workspace, changes={"sft.warm.watch": "sums", "sft.warm.watch_limit": 3, "sft.warm.log_every": 4})
    run(workspace, "sft.warm")
    table = rows(workspace, "training", "warm")
    assert [row["step"] for row in table] == [0, 4, 5, 6]
    assert table[0]["chosen_logprob"] == pytest.approx(
        np.mean([independent_logprob(workspace, i, 0) for i in evenly_spaced(3)]), abs=1e-4
    )
    assert table[0]["rejected_logprob"] == pytest.approx(
        np.mean([independent_logprob(workspace, i, 1) for i in evenly_spaced(3)]), abs=1e-4
    )
    assert table[2]["loss"] < table[0]["loss"]
    assert table[3]["chosen_logprob"] > table[0]["chosen_logprob"]
    assert (table[3]["loss"], table[3]["lr"]) == (None, None)  # only watched: no batch follows the last update


def test_the_last_row_measures_the_saved_policy_on_some_training_pairs(workspace, monkeypatch):
    world.build(workspace)
    monkeypatch.setattr(train.preference, "_WATCHED", 3)
    run(workspace, "reference.sums", "preference.dpo")
    last = rows(workspace, "training", "dpo")[-1]
    assert (last["step"], last["n_sequences"], last["loss"]) == (6, 0, None)
    for index, column in enumerate(("chosen_logprob", "rejected_logprob")):
        each = [independent_logprob(workspace, i, index, "dpo") for i in evenly_spaced(3)]
        assert last[column] == pytest.approx(np.mean(each), abs=1e-4)


def test_watching_under_adapter_dropout_changes_no_weight(workspace):
    changes = {"sft.warm.lora": {"rank": 4, "dropout": 0.5}, "sft.warm.log_every": 1}
    world.build(workspace, changes=changes)
    saved, watched = [], []
    for watch in ("none", "sums"):
        world.set_params(workspace, changes | {"sft.warm.watch": watch})
        run(workspace, "sft.warm")
        saved.append(weights(workspace, "warm"))
        watched.append(rows(workspace, "training", "warm"))
    assert_same_weights(saved[0], saved[1], 0)
    expected = np.mean([independent_logprob(workspace, i, 0, "warm") for i in range(10)])
    assert watched[1][-1]["chosen_logprob"] == pytest.approx(expected, abs=1e-4), "measured without dropout"
