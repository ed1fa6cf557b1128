"""A reward model: says how sure it is that a completion is correct, from samples with verdicts (ReFT, arXiv 2401.08967,
§4.3, and its published `train_reward_model.py`).

Two classes are told apart on the last token of prompt and completion (`train.classifier`) by cross-entropy: correct
samples, and those that are wrong or state no answer. A sample whose text an earlier one of its prompt has is left out,
as is one whose checker could not tell. Deliberately absent: balancing the classes, truncating long samples (they are
left out), and validation. (The authors' code selects by the accuracy of reranking on the test problems.)

Everything is divided by the samples of the whole batch, so `micro_tokens` changes no result.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from schemas import Reject
from schemas.ids import digest
from schemas.sections_reinforcement import RewardModelRun
from stores.stage import Stage, run_stage
from train import losses, memory
from train.classifier import Classifier
from train.data import Reader, hash_tokens
from train.labelled_samples import Drawn, read_samples
from train.packing import Tokens
from train.parallel import require_one
from train.session import Session, start
from train.texts import spread

_WATCHED = 128
"""Samples on which the last weights are measured: no batch follows them."""
_CLASSES = {"correct": 1, "wrong": 0, "no_answer": 0}


class Example(NamedTuple):
    """A sample, and its class: an index of `train.classifier.LABELS`."""

    sample_id: str
    tokens: Tokens
    label: int


def train(session: Session, examples: list[Example]) -> None:
    """Trains the session's classifier in place."""
    classifier = session.policy
    assert isinstance(classifier, Classifier)
    watched = [examples[i] for i in spread(len(examples), _WATCHED)]
    for step in session.steps(watch_end=partial(watch, classifier, watched)):
        batch = [examples[i] for i in session.schedule.batch(step)]
        loss, right, names = session.within_memory(step, partial(gradients, classifier, batch))
        taken = session.update(step, loss, names, sum(e.tokens.length for e in batch))
        counts = {"n_sequences": len(batch), "n_tokens": sum(len(e.tokens.completion) for e in batch)}
        session.log(step, {"loss": float(loss.mean()), "accuracy": float(right.mean())} | taken | counts)


def gradients(classifier: Classifier, batch: list[Example], budget: int) -> tuple[Tensor, Tensor, list[str]]:
    """Adds up a batch's gradients; returns each loss, whether its class was the likelier one (1 or 0), and the samples'
    names, in the order of computation: (n,) each.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    names: list[str] = []
    for numbers in classifier.micro_batches([[e.tokens] for e in batch], budget):
        micro = [batch[i] for i in numbers]
        with memory.of(micro_names := _names(micro), (e.tokens for e in micro)):
            loss, right = example_losses(classifier, micro)
            losses.share_of_mean(loss, len(batch)).backward()
        parts.append((loss.detach(), right))
        names += micro_names
    loss, right = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return loss, right, names


def watch(classifier: Classifier, examples: list[Example], budget: int) -> dict[str, float]:
    """The share of some samples that are classified right, as a column of the training table."""
    right: list[Tensor] = []
    for numbers in classifier.micro_batches([[e.tokens] for e in examples], budget):
        micro = [examples[i] for i in numbers]
        with memory.of(_names(micro), (e.tokens for e in micro)):
            right.append(example_losses(classifier, micro)[1])
    return {"accuracy": float(torch.cat(right).mean())}


def _names(examples: list[Example]) -> list[str]:
    return [f"sample {example.sample_id}" for example in examples]


def example_losses(classifier: Classifier, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each sample's class, in nats, and whether that class is the likelier one (1 or 0): (n,) each."""
    logprobs = classifier.class_logprobs([e.tokens for e in examples])
    labels = torch.tensor([e.label for e in examples], device=logprobs.device)
    own, other = (logprobs.gather(1, which[:, None]).squeeze(1) for which in (labels, 1 - labels))
    return -own, losses.accuracy(own - other)


def load_examples(stage: Stage) -> list[Example]:
    """The samples of a run with what they are taken for; those left out are rejects.

    Raises ValueError for a sample without a verdict, and where only one class is left.
    """
    config: RewardModelRun = stage.config
    examples = list(_examples(stage, read_samples(stage, config.samples, Reader.of(stage))))
    counts = Counter(example.label for example in examples)
    if len(counts) < 2:
        found = "correct" if counts[1] else "wrong" if counts[0] else "left"
        raise ValueError(
            f"reward_model.{stage.name}: {'no sample is' if not counts else 'all samples are'} {found}, so there is"
            f" nothing to tell apart; draw more samples than those of '{config.samples}', or of other problems"
        )
    return examples


def _examples(stage: Stage, samples: Iterator[Drawn]) -> Iterator[Example]:
    config: RewardModelRun = stage.config
    table = stage.read("rewards", config.rewards, ["sample_id", "verdict"])
    verdicts = dict(zip(table["sample_id"].to_pylist(), table["verdict"].to_pylist(), strict=True))
    seen: set[tuple[str, str]] = set()
    rejects: list[Reject] = []
    for sample in samples:
        verdict, text = verdicts.get(sample.sample_id), (sample.prompt_id, sample.text_hash)
        if verdict is None:
            raise ValueError(
                f"reward_model.{stage.name}.rewards: '{config.rewards}' has no verdict on sample {sample.sample_id} of"
                f" '{config.samples}'; name the rewards of these samples"
            )
        if verdict == "undecided":
            rejects.append(_reject(sample, "undecided", "the checker could not tell"))
        elif config.deduplicate and text in seen:
            rejects.append(_reject(sample, "duplicate", "an earlier sample of the prompt has the same text"))
        else:
            seen.add(text)
            yield Example(sample.sample_id, sample.tokens, _CLASSES[verdict])
    stage.reject(rejects)


def _reject(sample: Drawn, reason: str, detail: str) -> Reject:
    ids = {"problem_id": sample.prompt_id[:16], "prompt_id": sample.prompt_id, "sample_id": sample.sample_id}
    return Reject.model_validate(ids | {"reason": reason, "detail": detail})


def run(stage: Stage) -> None:
    config: RewardModelRun = stage.config
    examples = load_examples(stage)
    sequences, labels = [example.tokens for example in examples], [example.label for example in examples]
    classifier = start(stage, sequences, Classifier)
    session = Session(stage, classifier, len(examples), digest([hash_tokens(sequences), labels]))
    train(session, examples)
    counts = {"n_correct": sum(labels), "n_wrong": len(labels) - sum(labels)}
    session.save({"table": "samples", "run": config.samples, "rewards": config.rewards, **counts})


if __name__ == "__main__":
    require_one("reward_model")
    run_stage("reward_model", run)
