"""Step pairs to train on: the small store of `training_world` with wrong solutions, their labels and continuations."""

from pathlib import Path
from typing import Any

from builders import pairs_step, prompts_step
from builders.model_files import write_record
from builders.models import initialise
from schemas import Prompt, Reward, Sample, StepLabels
from schemas.ids import sample_id, text_hash
from stores.stage import execute
from tests import training_world as world
from tests.step_world import label, reward
from tests.training_world import rows

COUNT = 6
SAMPLED = {"prompts": "train", "model": "tiny", "engine": "hf", "sampling": "explore", "n": 1}
LABELS = {"samples": "drawn", "prompts": "train", "problems": "train", "rewards": "none", "labeler": "rule",
          "model": "none", "path": "data/none", "neutral_is_error": False}  # fmt: skip
PAIRS = {"rejected": "drawn", "rejected_prompts": "train", "step_labels": "labels", "prompts": "steps",
         "chosen": "continued", "rewards": "continued", "judged": "none"}  # fmt: skip
CHANGES: dict[str, Any] = {
    "samples.continued": SAMPLED | {"prompts": "steps"},
    "predictions.continued": {"samples": "continued", "prompts": "steps", "problems": "train"},
    "rewards.continued": {"predictions": "continued", "problems": "train"},
    "step_labels.labels": LABELS,
    "prompts_step.steps": {"samples": "drawn", "prompts": "train", "step_labels": "labels"},
    "pairs_step": {"steps": PAIRS, "whole": PAIRS | {"span": "completion"}},
    "reference.steps": {"pairs": "steps", "model": "tiny"},
    "preference.dpo.pairs": "steps",
    "preference.dpo.reference": "steps",
    "preference.dpo.loss": "dpo",
}


def start(i: int) -> str:
    """The correct step of sum `i`, and the marker of the next."""
    return f" Step 1: {i} plus {i + 3}.\nStep 2:"


def ending(i: int, off: int) -> str:
    return f" That is {2 * i + 3 + off}.\nStep 3: Final answer: {2 * i + 3 + off}"


def sample(asked: Prompt, text: str) -> Sample:
    like = world.drawn(0)[0].model_dump()
    row = {"sample_id": sample_id(asked.prompt_id, "0" * 8, 0), "prompt_id": asked.prompt_id, "text": text,
           "problem_id": asked.problem_id, "text_hash": text_hash(text), "n_chars": len(text)}  # fmt: skip
    return Sample.model_validate(like | row)


def build(workspace: Path, changes: dict[str, Any] | None = None) -> None:
    """The small store with step pairs `steps`, and the same ones as whole solutions, `whole`."""
    world.build(workspace, COUNT, CHANGES | (changes or {}))
    texts = [text for i in range(COUNT) for text in (world.question(i), start(i) + ending(i, 0), ending(i, 1))]
    model = workspace / "data/models/tiny"
    write_record(model, initialise(world.LLAMA, texts, 0, model, "config"))
    drawn = [sample(world.ask(i), start(i) + ending(i, 1)) for i in range(COUNT)]
    world.write(workspace, "drawn", drawn)
    labels: list[StepLabels] = [label(s, 1, prefill="") for s in drawn]
    world.write(workspace, "labels", labels)
    execute("prompts_step", "steps", prompts_step.run, workspace)
    continued = [sample(asked, ending(i, 0)) for i, asked in enumerate(step_prompts(workspace))]
    verdicts: list[Reward] = [reward(s, "+") for s in continued]
    world.write(workspace, "continued", continued)
    world.write(workspace, "continued", verdicts)
    for name in ("steps", "whole"):
        execute("pairs_step", name, pairs_step.run, workspace)


def step_prompts(root: Path) -> list[Prompt]:
    """In the order of their sums."""
    found = {row["problem_id"]: Prompt.model_validate(row) for row in rows(root, "prompts", "steps")}
    return [found[world.ask(i).problem_id] for i in range(COUNT)]
