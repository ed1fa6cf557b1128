"""Completions with wrong steps, labels of them, and continuations: what the stages of step pairs are tested on."""

from collections.abc import Sequence
from typing import Any

from builders import pairs_step, prompts_step, samples_corrections
from builders.steps import split_steps
from schemas import Prompt, Reward, Sample, StepLabels
from stores.stage import execute
from tests import stage_world as world

PREFILL = "Let's see.\nStep 1: "
CATS, SUM = world.problem("Legs of 2 cats?"), world.problem("What is 3 + 4?")
ASKED = world.prompt(CATS, PREFILL)
RIGHT = "A cat has 4 legs.\nStep 2: 2 * 4 = 8.\nStep 3: The answer is 8."
WRONG = "A cat has 4 legs.\nStep 2: 2 * 4 = 6.\nStep 3: The answer is 6."
LABELS = {"samples": "drawn", "prompts": "train", "problems": "train", "rewards": "none", "labeler": "rule",
          "model": "none", "path": "data/none", "neutral_is_error": False}  # fmt: skip
SECTIONS: dict[str, dict[str, Any]] = {
    "samples": {"drawn": world.SAMPLES, "continued": world.SAMPLES | {"prompts": "steps"}},
    "predictions": {"p": {"samples": "continued", "prompts": "steps", "problems": "train"}},
    "rewards": {"continued": {"predictions": "p", "problems": "train"}},
    "step_labels": {"labels": LABELS, "judged": LABELS | {"samples": "continued", "prompts": "steps"}},
    "prompts_step": {"steps": {"samples": "drawn", "prompts": "train", "step_labels": "labels"}},
    "samples_corrections": {"corrected": {"samples": "drawn", "prompts": "train", "step_labels": "labels",
                                          "step_prompts": "steps", "model": "none"}},
    "pairs_step": {"step": {"rejected": "drawn", "rejected_prompts": "train", "step_labels": "labels",
                            "prompts": "steps", "chosen": "continued", "rewards": "continued", "judged": "none"}},
}  # fmt: skip
STAGES = {
    "prompts_step": prompts_step.run,
    "samples_corrections": samples_corrections.run,
    "pairs_step": pairs_step.run,
}


def write_params(**changes: dict[str, Any]) -> None:
    """Params of all runs; `changes` are to the only run of a section."""
    sections = {
        section: {name: run | changes.get(section, {}) for name, run in runs.items()}
        for section, runs in SECTIONS.items()
    }
    world.write_params(**sections)


def write(samples: Sequence[Sample], labels: Sequence[StepLabels], prompts: Sequence[Prompt] = (ASKED,)) -> None:
    """What lies before the stages: problems, prompts, samples and their labels."""
    world.write("problems", "train", [CATS, SUM])
    world.write("prompts", "train", prompts)
    world.write("samples", "drawn", samples)
    world.write("step_labels", "labels", labels)
    write_params()


def run(section: str) -> None:
    (name,) = SECTIONS[section]
    execute(section, name, STAGES[section])


def label(
    of: Sample, first_error: int | None, labeler: str = "rule", prefill: str = PREFILL, repeat: int = 0, **more: Any
) -> StepLabels:
    """A label of a sample: the 0-based first wrong step, None for none; -1: an invalid answer."""
    steps = split_steps(prefill, of.text)
    verdict = "no_error" if first_error is None else "invalid" if first_error < 0 else "error"
    error = first_error if verdict == "error" else None
    right = len(steps) if error is None else error
    labels = [] if verdict == "invalid" else ["correct"] * right + ["incorrect"] * (error is not None)
    row = dict.fromkeys(StepLabels.model_fields) | {
        "sample_id": of.sample_id, "labeler": labeler, "repeat": repeat, "kind": "rule", "steps": steps,
        "labels": labels, "first_error": error, "verdict": verdict, "labeler_version": "1",
    }  # fmt: skip
    return StepLabels.model_validate(row | more)


def reward(of: Sample, sign: str) -> Reward:
    """A verdict: + correct, - wrong, 0 no answer, ? undecided."""
    verdict = {"+": "correct", "-": "wrong", "0": "no_answer", "?": "undecided"}[sign]
    value = {"+": 1.0, "?": None}.get(sign, 0.0)
    return Reward.model_validate(
        {"sample_id": of.sample_id, "verdict": verdict, "reward": value, "checker": "number", "checker_version": "1"}
    )


def step_prompts() -> list[Prompt]:
    return [Prompt.model_validate(row) for row in world.read("prompts", "steps")]


def rejects(section: str) -> list[tuple[str | None, str, str]]:
    """(sample_id, reason, detail) of a stage's only run."""
    (name,) = SECTIONS[section]
    return sorted((sample, reason, detail) for _, sample, reason, detail in world.rejects(section, name))
