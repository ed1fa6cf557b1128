"""What cannot be computed is named: examples beyond the budget, and micro-batches that memory has no room for."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train.ppo
import train.reward_model
import train.scores
from builders.engines.hf import HfEngine
from stores.stage import Stage, execute
from tests import ppo_world, reward_world
from tests import training_world as world
from tests.conftest import REPOSITORY
from tests.training_world import rows, run
from train import parallel, preference, sft
from train.data import Reader, load_pairs
from train.policy import Policy
from train.rollouts_vllm import VllmSampler
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


COUNTS = ("n_useful_tokens", "n_computed_tokens", "sharing", "padding")
"""What a table says of a step whatever has room: what params make it compute."""


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
        assert {name: row[name] for name in COUNTS} == {name: expected[name] for name in COUNTS}
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
        ValueError,
        match=r"step 1: memory is full, at pair \(.*\), \d\d tokens alone; leave it out, or set gradi",
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


def no_room(*_, **__):
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


DEVICES = r", or use more devices \(torchrun\)$"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            "train.session.update",
            "step 0: memory is full, in the optimizer's update; set lora, or use a device with more memory",
        ),
        (
            "train.validation.Validator.accuracy",
            "step 2: memory is full, in validation; lower max_new_tokens of 'greedy', or set lora",
        ),
        (
            "train.policy.Policy._difference",
            "memory is full, where 'tiny' is loaded and tried; leave out the longest sequences, or use a device with"
            " more memory",
        ),
    ],
)
def test_what_cannot_be_done_in_smaller_pieces_is_one_line(workspace, monkeypatch, place, said):
    world.build(workspace, changes={"preference.dpo.validation": world.BY_GENERATION})
    run(workspace, "reference.sums")
    monkeypatch.setattr(place, no_room)
    with pytest.raises(ValueError, match=f"^{said}{DEVICES}"):
        run(workspace, "preference.dpo")


def test_a_reference_that_has_no_room_to_be_loaded_is_one_line(workspace, monkeypatch):
    world.build(workspace)
    monkeypatch.setattr(Policy, "_difference", no_room)
    with pytest.raises(ValueError, match=f"^memory is full, where 'tiny' is loaded and tried; .*{DEVICES}"):
        run(workspace, "reference.sums")


SHORTER = "lower max_new_tokens of its sampling"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("builders.engines.hf.HfEngine._batch", f"step 0: memory is full, in a rollout alone; {SHORTER}"),
        ("train.policy.Policy.frozen", "memory is full, where the reference is made; set lora, which needs no copy"),
        (
            "train.session.update",
            "step 0: memory is full, in the optimizer's update; set lora, or use a device with more memory",
        ),
        (
            "train.policy.Policy._difference",
            "memory is full, where 'tiny' is loaded and tried; leave out the longest sequences, or use a device with"
            " more memory",
        ),
        (
            "train.experience.score",
            rf"step 0: memory is full, at rollout \d, \d+ tokens alone; {SHORTER}, or set lora",
        ),
        (
            "train.losses_ppo.policy_losses",
            rf"step 0: memory is full, at \S+, \d+ tokens alone; {SHORTER}, or set gradient_checkpointing, or set lora",
        ),
    ],
)
def test_a_stage_of_one_process_is_not_told_to_use_several(workspace, monkeypatch, place, said):
    ppo_world.build(workspace)
    monkeypatch.setattr(place, no_room)
    with pytest.raises(ValueError, match=f"^{said}$") as error:
        execute("ppo", "reft", train.ppo.run, workspace)
    assert "torchrun" not in str(error.value)


def test_what_is_set_already_is_no_remedy(workspace, monkeypatch):
    lighter = {"preference.dpo.lora": {"rank": 4}, "preference.dpo.gradient_checkpointing": True}
    world.build(workspace, changes=lighter)
    run(workspace, "reference.sums")
    cramp(monkeypatch, 0)
    with pytest.raises(ValueError, match=f"tokens alone; leave it out{DEVICES}"):
        run(workspace, "preference.dpo")


def test_rollouts_without_room_are_drawn_fewer_at_a_time_and_none_twice(workspace, monkeypatch, capsys):
    ppo_world.build(workspace, {"rollout_batch": 4, "optimizer.batch_size": 8, "optimizer.steps": 3})
    batch, drawn = HfEngine._batch, []

    def limited(self, given, sampling):
        if len(given) > 1 and len(drawn) >= 12:  # the second half of the second step
            no_room()
        drawn.extend(one.request.key for one in given)
        return batch(self, given, sampling)

    monkeypatch.setattr(HfEngine, "_batch", limited)
    execute("ppo", "reft", train.ppo.run, workspace)
    assert len(drawn) == len(set(drawn)) == 3 * 8
    said = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert said == [f"ppo reft: memory is full, in rollouts; {n} at a time from now on" for n in (2, 1)]
    assert len(rows(workspace, "rollouts", "reft")) == 3 * 8


def test_what_online_self_training_imitates_is_drawn_or_a_demo(workspace, monkeypatch):
    ppo_world.build(workspace, {"algorithm": "online_st", "demos": "good"})
    monkeypatch.setattr("train.losses.nll", no_room)
    said = "lower max_new_tokens of its sampling if it was drawn, leave it out if it is a demo, or set gradient_checkp"
    with pytest.raises(ValueError, match=rf"^step 0: memory is full, at .*, \d+ tokens alone; {said}"):
        execute("ppo", "reft", train.ppo.run, workspace)


def test_vllm_that_has_no_room_for_the_weights_is_one_line(monkeypatch):
    sampler: Any = object.__new__(VllmSampler)
    sampler.policy, sampler.engine = SimpleNamespace(model=None), SimpleNamespace(synchronise=no_room)
    with pytest.raises(
        ValueError, match=r"^memory is full, where vLLM is given the weights; use a device with more mem"
    ):
        list(sampler.stream([]))


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (1, r"memory is full, at sample \S+ and \d+ more, \d+ tokens; lower scores\.rm\.micro_tokens"),
        (0, r"memory is full, at sample \S+, \d+ tokens alone; leave it out"),
    ],
)
def test_scores_without_room_are_one_line(workspace, monkeypatch, room, said):
    reward_world.build(workspace, changes={} if room else {"scores.rm.micro_tokens": 1})
    execute("reward_model", "rm", train.reward_model.run, workspace)
    monkeypatch.setattr(train.scores.Classifier, "class_logprobs", no_room)
    with pytest.raises(ValueError, match=f"^{said}$"):
        execute("scores", "rm", train.scores.run, workspace)


def test_a_model_of_scores_that_has_no_room_is_one_line(workspace, monkeypatch):
    reward_world.build(workspace)
    execute("reward_model", "rm", train.reward_model.run, workspace)
    monkeypatch.setattr(Policy, "_difference", no_room)
    with pytest.raises(ValueError, match=r"^memory is full, where 'rm' is loaded and tried; leave .* more memory$"):
        execute("scores", "rm", train.scores.run, workspace)


def test_a_sample_that_alone_has_no_room_is_not_answered_by_a_smaller_budget(workspace, monkeypatch):
    world.build(workspace, changes={"reference.sums.micro_tokens": 24})
    monkeypatch.setattr(Policy, "logprobs", no_room)
    with pytest.raises(
        ValueError,
        match=r"^memory is full, at sample \S+, 24 tokens alone; leave it out, or .*; what is computed is kept$",
    ):
        run(workspace, "reference.sums")


def test_who_computes_along_without_room_is_one_line_too(workspace, monkeypatch):
    """Of several processes one may have no sequence of its own in a round."""
    world.build(workspace)
    monkeypatch.setattr("train.parallel.share", lambda groups, _: [[], *groups])
    monkeypatch.setattr(Policy, "logprobs", no_room)
    with pytest.raises(ValueError, match=r"^memory is full, at \d\d tokens alone; use more devices \(torchrun\)$"):
        run(workspace, "reference.sums")


def test_the_stages_that_may_use_more_devices_are_those_that_start_several_processes():
    starts = {path.stem for path in (REPOSITORY / "train").glob("*.py") if "    train_stage(" in path.read_text()}
    assert starts == parallel.SECTIONS


def test_what_is_done_again_draws_the_same_dropout(workspace, monkeypatch):
    """A run that goes on with the halved budget at once ends as one that found memory full, and went on."""
    lora = {"rank": 4, "dropout": 0.3}
    world.build(workspace, changes={"preference.dpo.lora": lora, "preference.dpo.checkpoint_every": 1})
    run(workspace, "reference.sums")
    pair_losses, update, steps = preference.pair_losses, Session.update, []

    def limited(policy, pairs, *rest):
        found = pair_losses(policy, pairs, *rest)  # which has drawn its dropout
        return no_room() if steps and len(pairs) > 2 and torch.is_grad_enabled() else found

    def counted(self, step, *rest):
        steps.append(step)
        return update(self, step, *rest)

    monkeypatch.setattr(preference, "pair_losses", limited)
    monkeypatch.setattr(Session, "update", counted)
    run(workspace, "preference.dpo")
    curve, model = rows(workspace, "training", "dpo"), world.weights(workspace, "dpo")
    steps.clear()
    monkeypatch.setattr(Session, "update", lambda self, step, *rest: counted(self, step, *rest) if step < 1 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(workspace, "preference.dpo")
    monkeypatch.setattr(Session, "update", counted)
    run(workspace, "preference.dpo")
    assert steps == [0, 1, 2, 3, 4, 5]
    assert rows(workspace, "training", "dpo") == curve
    world.assert_same_weights(world.weights(workspace, "dpo"), model, 0)
