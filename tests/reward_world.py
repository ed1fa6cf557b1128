"""The training store with verdicts on its samples, a reward model, and scores to be made with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import train.reward_model
import train.scores
from schemas import Reward, Sample
from schemas.ids import sample_id, text_hash
from stores.stage import Stage, execute
from tests import training_world as world
from train.classifier import Classifier
from train.data import Reader
from train.labelled_samples import Drawn, read_samples

OPTIMIZER = {"lr": 3e-3, "batch_size": 4, "steps": 6}
RUNS: dict[str, Any] = {
    "reward_model.rm": {
        "model": "tiny",
        "samples": "drawn",
        "rewards": "drawn",
        "optimizer": OPTIMIZER,
        "log_every": 1,
    },
    "scores.rm": {"samples": "drawn", "model": "rm"},
}


def verdict(sample: Sample, given: str) -> Reward:
    value = None if given == "undecided" else float(given == "correct")
    row = {"sample_id": sample.sample_id, "verdict": given, "reward": value}
    return Reward.model_validate(row | {"checker": "number", "checker_version": "1"})


def build(
    root: Path, count: int = 10, changes: Mapping[str, Any] | None = None, verdicts: Mapping[str, str] | None = None
) -> None:
    """The training world with a verdict on each sample: index 0 is right, 1 is wrong; `verdicts` changes some."""
    world.build(root, count, RUNS | dict(changes or {}))
    given = {s.sample_id: "wrong" if s.index else "correct" for i in range(count) for s in world.drawn(i)}
    given |= verdicts or {}
    rows = [verdict(s, given[s.sample_id]) for i in range(count) for s in world.drawn(i)]
    world.write(root, "drawn", sorted(rows, key=lambda row: row.sample_id))


def redraw(root: Path, samples: Sequence[tuple[Sample, str]]) -> None:
    """Replaces samples and verdicts."""
    ordered = sorted(samples, key=lambda one: one[0].sample_id)
    world.write(root, "drawn", [sample for sample, _ in ordered])
    world.write(root, "drawn", [verdict(*one) for one in ordered])


def drawn(i: int, index: int, text: str, **changes: Any) -> Sample:
    """A sample of sum `i` with some text."""
    asked = world.ask(i)
    new = {"sample_id": sample_id(asked.prompt_id, "0" * 8, index), "index": index, "text": text}
    new |= {"text_hash": text_hash(text), "n_chars": len(text)}
    return world.drawn(i)[0].model_copy(update=new | changes)


def train_model(root: Path) -> None:
    execute("reward_model", "rm", train.reward_model.run, root)


def score(root: Path) -> dict[str, float]:
    """Sample -> P(correct), by the stage."""
    execute("scores", "rm", train.scores.run, root)
    return {row["sample_id"]: row["score"] for row in world.rows(root, "scores", "rm")}


def samples_of(root: Path, section: str = "scores") -> list[Drawn]:
    stage = Stage(section, "rm", root)
    return list(read_samples(stage, "drawn", Reader.of(stage)))


def classifier(root: Path, name: str = "rm", **settings: Any) -> Classifier:
    return Classifier.load(root / "data/models" / name, [s.tokens for s in samples_of(root)], **settings)
