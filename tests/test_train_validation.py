"""Accuracy during training: which checkpoint is kept, and what may not be validated on."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import torch

from builders.checkers import Pairs, get_checker
from builders.model_files import read_record
from schemas import Prediction
from stores.ledger import Completion
from stores.stage import Stage
from tests import training_world as world
from tests.training_world import BY_GENERATION, BY_LABELS, assert_same_weights, completion, label, rows, run, weights
from train import validation
from train.policy import Policy


class FakeEngine:
    """Completes the held-out sums as `accuracies` say, one per validation."""

    accuracies: list[int]
    models: list[dict[str, torch.Tensor]]

    def __init__(self, model: Any, tokenizer: Any):
        self.device_s = 0.0
        self.models.append({name: p.detach().clone() for name, p in model.named_parameters()})

    def stream(self, requests, sampling, batch_size):
        right = self.accuracies[len(self.models) - 1]
        by_key = {world.ask(i).prompt_id: 2 * i + 3 for i in range(4)}
        for n, request in enumerate(requests):
            text = f"Final answer: {by_key[request.key]}" if n < right else "no idea"
            yield [(request, Completion(text, "stop", 3, 3))]


class FakeChecker:
    """Equal strings agree; `undecided` answers do not."""

    name, version, rule, rule_version = "fake", "1", "last", "1"
    undecided: frozenset[str] = frozenset()

    def __init__(self, name: str):
        assert name == "number"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def extract(self, prefill: str, text: str) -> str | None:
        return text.split()[-1] if "answer" in text else None

    def normalise(self, extracted: str) -> str | None:
        return extracted

    def matches(self, pairs: Pairs, advance=None) -> list[bool | None]:
        return [None if answer in self.undecided else answer == gold for answer, gold in pairs]


@pytest.mark.parametrize(
    ("right", "selected"),
    [([0, 3, 1], 4), ([2, 2, 1], 2), ([1, 2, 4], 6), ([0, 0, 0], 2)],  # ties: the earliest
)
def test_the_best_checkpoint_by_validation_is_saved(workspace, monkeypatch, right, selected):
    world.build(workspace, changes={"sft.warm.validation": BY_GENERATION})
    monkeypatch.setattr(FakeEngine, "accuracies", right, raising=False)
    monkeypatch.setattr(FakeEngine, "models", [], raising=False)
    monkeypatch.setattr(validation.Validator.__init__, "__defaults__", (FakeEngine, FakeChecker, False))
    run(workspace, "sft.warm")
    measured = {r["step"]: r["validation_accuracy"] for r in rows(workspace, "training", "warm")}
    assert measured == {0: None, 2: right[0] / 4, 4: right[1] / 4, 5: None, 6: right[2] / 4}
    assert read_record(workspace / "data/models/warm")["provenance"]["selected_step"] == selected
    assert_same_weights(weights(workspace, "warm"), FakeEngine.models[selected // 2 - 1], 0)
    assert not torch.equal(*(FakeEngine.models[i]["model.norm.weight"] for i in (0, 1)))


def test_without_validation_the_last_step_is_saved(workspace):
    world.build(workspace)
    run(workspace, "sft.warm")
    assert read_record(workspace / "data/models/warm")["provenance"]["selected_step"] == 6


def test_undecided_answers_count_as_unsolved_and_the_model_is_left_as_it_was(workspace, monkeypatch):
    world.build(workspace, changes={"sft.warm.validation": BY_GENERATION})
    found = validation.load_validator(Stage("sft", "warm", workspace))
    assert found is not None
    monkeypatch.setattr(FakeEngine, "accuracies", [4, 4], raising=False)
    monkeypatch.setattr(FakeEngine, "models", [], raising=False)
    monkeypatch.setattr(FakeChecker, "undecided", frozenset({"3"}))
    judged = validation.Validator(found.questions, found.sampling, FakeEngine, FakeChecker)
    pairs = world.load(workspace)
    policy = Policy.load(workspace / "data/models/tiny", pairs[0].sequences, gradient_checkpointing=True)
    before, drawn = policy.logprobs(pairs[0].sequences), torch.get_rng_state()
    assert judged.accuracy(policy) == 0.75
    assert 0 <= found.accuracy(policy) <= 1  # the real engine and checker
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(policy.logprobs(pairs[0].sequences), before)
    assert policy.model.generation_config.max_new_tokens is None


def test_a_real_model_that_knows_the_answer_is_measured_as_right(workspace):
    """The real engine and checker: a model trained on four sums until it has learnt them by heart."""
    learn = {"lr": 5e-3, "batch_size": 4, "steps": 150}
    validate = BY_GENERATION | {"every": 50}
    world.build(workspace, 4, {"sft.warm.optimizer": learn, "sft.warm.validation": validate, "sft.warm.log_every": 50})
    run(workspace, "sft.warm")
    assert [row["validation_accuracy"] for row in rows(workspace, "training", "warm")][-1] == 1.0


def write_labels(root: Path, *labels: Prediction) -> None:
    world.write(root, "held_out", sorted(labels, key=lambda label: label.sample_id))


def test_by_labels_completions_are_right_where_they_agree_and_no_answer_is_read(workspace, monkeypatch):
    """The labels of sums 0 and 1 are right, that of 2 is wrong, and 3 has none; 2 of 3 completions agree at last."""
    world.build(workspace, changes={"sft.warm.validation": BY_LABELS})
    write_labels(workspace, label(0, "3"), label(1, "5"), label(2, "8"), label(3, None))
    shutil.rmtree(workspace / "data/answers")
    monkeypatch.setattr(FakeEngine, "accuracies", [0, 1, 4], raising=False)
    monkeypatch.setattr(FakeEngine, "models", [], raising=False)
    monkeypatch.setattr(validation.Validator.__init__, "__defaults__", (FakeEngine, FakeChecker, False))
    run(workspace, "sft.warm")
    measured = {r["step"]: r["validation_accuracy"] for r in rows(workspace, "training", "warm")}
    assert (measured[2], measured[6]) == (0.0, pytest.approx(2 / 3))
    assert read_record(workspace / "data/models/warm")["provenance"]["selected_step"] == 6


def test_the_label_is_the_first_answer_and_its_checker_the_one_that_found_it(workspace):
    world.build(workspace, changes={"sft.warm.validation": BY_LABELS})
    answers = label(0, None), label(0, "7", 1, "latex:last"), label(1, "5"), label(1, "6", 1)
    write_labels(workspace, *answers, label(2, "a", 0, "my.own:Exact@2:all"))
    found = validation.load_validator(Stage("sft", "warm", workspace))
    assert found is not None
    assert found.by_label
    assert {q.request.key: (q.gold, q.checker) for q in found.questions} == {
        world.ask(0).prompt_id: ("7", "latex"),
        world.ask(1).prompt_id: ("5", "number"),
        world.ask(2).prompt_id: ("a", "my.own:Exact@2"),
    }


def test_a_real_model_agrees_with_labels_in_their_normal_form(workspace):
    learn = {"lr": 5e-3, "batch_size": 4, "steps": 150}
    settings = {"optimizer": learn, "validation": BY_LABELS | {"every": 150}, "log_every": 50}
    world.build(workspace, 4, {f"sft.warm.{key}": value for key, value in settings.items()})
    texts = [completion(i, 0) for i in range(4)]
    with get_checker("number") as checker:
        answers = [checker.normalise(checker.extract("", text) or "") for text in texts]
    write_labels(workspace, *(label(i, answer) for i, answer in enumerate([*answers[:3], "9.5"])))
    run(workspace, "sft.warm")
    assert [row["validation_accuracy"] for row in rows(workspace, "training", "warm")][-1] == 0.75


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": "test"}, r"warm.validation.questions: 'test' holds test problems, .*cut a validation part"),
        ({"labels": "drawn"}, r"no prompt of 'held_out' asks a problem of 'held_out' that 'drawn' answers; name the"),
        ({"sampling": "explore"}, r"warm.validation.sampling: 'explore' is not greedy; use an entry"),
    ],
)
def test_mistakes_of_labels_are_one_line(workspace, changes, message):
    world.build(workspace, changes={"sft.warm.validation": BY_LABELS | changes})
    write_labels(workspace, label(0, "3"))
    world.write(workspace, "drawn", [label(9, "3")])
    with pytest.raises(ValueError, match=message) as error:
        run(workspace, "sft.warm")
    assert "\n" not in str(error.value)


def test_labels_that_are_not_built_are_named(workspace):
    world.build(workspace, changes={"sft.warm.validation": BY_LABELS})
    with pytest.raises(
        ValueError, match=r"data/predictions/run=held_out is not there; restore it with `dvc pull data/"
    ):
        run(workspace, "sft.warm")


def test_prompts_of_other_problems_are_no_validation(workspace):
    world.build(
        workspace, changes={"sft.warm.validation": BY_GENERATION | {"problems": "train", "prompts": "held_out"}}
    )
    world.write_problems(workspace, "train", "train", 1)
    world.write(workspace, "held_out", [world.ask(3)])
    with pytest.raises(ValueError, match="no prompt of 'held_out' asks a problem of 'train' with a known answer"):
        validation.load_validator(Stage("sft", "warm", workspace))
