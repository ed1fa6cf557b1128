"""A workspace of samples with given answers, in which votes and what is made of them are built."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from builders import pairs_contrast, rewards_votes, votes
from schemas import Prediction, Prompt, Sample
from schemas.ids import sample_id
from stores.stage import execute
from tests import stage_world as world

VOTES = {"samples": "drawn", "predictions": "p"}
CONTRAST = {"samples": "drawn", "predictions": "p", "votes": "v", "weak": "weak", "weak_predictions": "weak"}
WEAK_MODEL = "fedcba9876543210"
OF_SAMPLES = {"samples": "drawn", "prompts": "train", "problems": "train"}


class Answered(NamedTuple):
    """A sample and the answer that it states."""

    sample: Sample
    answer: str | None


def drawn(asked: Prompt, answers: Sequence[str | None], texts: Sequence[str] | None = None) -> list[Answered]:
    """Samples of a prompt that state these answers, by index; without `texts`, no two are the same."""
    said = texts or [f"sample {i} says {a}" for i, a in enumerate(answers)]
    return [Answered(world.sample(asked, i, said[i]), answer) for i, answer in enumerate(answers)]


def weak(asked: Prompt, answer: str | None, index: int = 0, **changes: Any) -> Answered:
    """The weak model's sample of a prompt."""
    identity = sample_id(asked.prompt_id, WEAK_MODEL, index)
    made = world.sample(asked, index, f"weakly {answer}")
    return Answered(made.model_copy(update={"sample_id": identity, "model_fingerprint": WEAK_MODEL} | changes), answer)


def prediction(one: Answered) -> Prediction:
    return Prediction(
        sample_id=one.sample.sample_id, extracted=one.answer, normalised=one.answer, extractor="number:last",
        extractor_version="1",
    )  # fmt: skip


def write_answered(run: str, predictions: str, rows: Sequence[Answered]) -> None:
    """Writes a run of samples, and the run of their predictions."""
    ordered = sorted(rows, key=lambda one: one.sample.sample_id)
    world.write("samples", run, [one.sample for one in ordered])
    world.write("predictions", predictions, [prediction(one) for one in ordered])


def write_params(
    contrast: Mapping[str, Any] | None = None, voting: Mapping[str, Any] | None = None, **sections: Any
) -> None:
    """Params of all stages that vote; `contrast` and `voting` are changes to pairs_contrast and votes."""
    given: dict[str, Any] = {
        "samples": {"drawn": world.SAMPLES, "weak": world.SAMPLES},
        "predictions": {"p": OF_SAMPLES, "weak": OF_SAMPLES | {"samples": "weak"}},
        "votes": {"v": VOTES | dict(voting or {})},
        "rewards_votes": {"rv": {"predictions": "p", "votes": "v"}},
        "pairs_contrast": {"c": CONTRAST | dict(contrast or {})},
    }
    world.write_params(**given | sections)


def vote(rows: Sequence[Answered], **settings: Any) -> list[dict[str, Any]]:
    """The votes on these samples."""
    write_params(voting=settings)
    write_answered("drawn", "p", rows)
    execute("votes", "v", votes.run)
    return world.read("votes", "v")


def verdicts(rows: Sequence[Answered], threshold: float = 0.6, **settings: Any) -> dict[str, tuple[str, float | None]]:
    """Sample -> (verdict, reward) by the votes on these samples."""
    vote(rows, **settings)
    write_params(voting=settings, rewards_votes={"rv": {"predictions": "p", "votes": "v", "threshold": threshold}})
    execute("rewards_votes", "rv", rewards_votes.run)
    return {row["sample_id"]: (row["verdict"], row["reward"]) for row in world.read("rewards", "rv")}


class Made(NamedTuple):
    """What `pairs_contrast` made: (prompt, rank, chosen sample, rejected sample), and its rejects."""

    pairs: list[tuple[str, int, str, str]]
    rejects: list[tuple[str | None, str | None, str, str]]

    @property
    def reasons(self) -> dict[str | None, str]:
        """Problem -> reason."""
        return {problem: reason for problem, _, reason, _ in self.rejects}


def contrast(rows: Sequence[Answered], weak_rows: Sequence[Answered] | None, seed: int = 0, **settings: Any) -> Made:
    """The pairs of these samples; without weak ones (None), both sides are the strong model's."""
    vote(rows)
    none = {"weak": "none", "weak_predictions": "none"} if weak_rows is None else {}
    write_params(contrast=none | settings, seed=seed)
    write_answered("none", "none", [])
    write_answered("weak", "weak", weak_rows or [])
    execute("pairs_contrast", "c", pairs_contrast.run)
    found = [
        (row["prompt_id"], row["rank"], row["chosen_sample_id"], row["rejected_sample_id"])
        for row in world.read("pairs", "c")
    ]
    return Made(found, world.rejects("pairs_contrast", "c"))
