"""What recipes cost, by formula from their rows: `python -m tests.recipe_costs` prints the table of recipes/README.md.

Completions are counted (what an earlier row draws, the ledger has); tokens and GPU-hours follow from the assumptions
below, which the README states. Steps are upper bounds: those of `steps`, for training anew too.
"""

from pathlib import Path
from typing import NamedTuple

import yaml

from schemas.params import Params, load_params
from schemas.sections_training import PreferenceRun, TrainingRun
from schemas.slots import NONE

RECIPES = Path(__file__).parent.parent / "recipes"
SIZES: dict[tuple[str, str, str | None], int] = {
    ("gsm8k", "train", None): 7_473, ("gsm8k", "test", None): 1_319,
    ("math", "train", None): 7_500, ("math", "test", None): 5_000,
    ("arc", "train", None): 3_370, ("arc", "validation", "ARC-Challenge"): 299, ("arc", "test", "ARC-Challenge"): 1_172,
}  # fmt: skip
"""Published problems by (source, split, subset)."""
LENGTHS = {"gsm8k": (120, 200), "math": (150, 400), "arc": (150, 150)}
"""Assumed tokens of a prompt and of a completion, by source."""
PARAMETERS = {"meta-llama/Llama-2-70b-chat-hf": 70e9, "Qwen/Qwen2.5-1.5B-Instruct": 1.5e9}
PEAK, GENERATING, TRAINING = 312e12, 0.1, 0.35
"""An A100's dense bf16 FLOP/s, and the assumed shares of it in batched generation and in training."""


class Cost(NamedTuple):
    """One row of the README's table; tokens are generated ones, in millions."""

    stages: int
    completions: int
    tokens_m: int
    steps: int
    generation_h: float
    training_h: float


def n_problems(params: Params, name: str) -> int:
    run = params.problems[name]
    left = SIZES[run.source, run.split, run.subset] - run.skip
    return min(left, run.limit or left)


def completions(params: Params) -> int:
    """Samples, evaluations and validations; the prompts of a part of some problems are among those of all of them."""
    drawn: dict[tuple[str, ...], int] = {}
    runs = [(r.model, r.prompts, r.sampling, r.n) for r in params.samples.values()]
    for e in params.evaluate.values():
        runs += [(e.model, e.prompts, e.greedy, 1), (e.model, e.prompts, e.explore, e.k)]
    for model, prompts, sampling, n in runs:
        problems = params.prompts[prompts].problems
        key = model, params.problems[problems].split, sampling
        drawn[key] = max(drawn.get(key, 0), n * n_problems(params, problems))
    return sum(drawn.values()) + sum(_validated(params, run) for run in trainings(params))


def trainings(params: Params) -> list[TrainingRun]:
    return [*params.sft.values(), *params.preference.values()]


def steps(params: Params, run: TrainingRun) -> int:
    """At most: those of the run that selects them."""
    if run.steps_from != NONE:
        section = params.preference if isinstance(run, PreferenceRun) else params.sft
        return steps(params, section[run.steps_from])
    assert run.optimizer.steps is not None
    return run.optimizer.steps


def _validated(params: Params, run: TrainingRun) -> int:
    if run.validation.prompts == NONE:
        return 0
    return -(-steps(params, run) // run.validation.every) * n_problems(params, run.validation.problems)


def cost(params: Params, stages: int) -> Cost:
    """Generation is 2 FLOPs per parameter and token; training 6, and 2 more where layers are computed again."""
    (source,) = {run.source for run in params.problems.values()}
    prompt, completion = LENGTHS[source]
    size = PARAMETERS[next(iter(params.models.values())).hub or ""]
    count = completions(params)
    updates = sum(steps(params, run) for run in trainings(params))
    trained = sum(
        steps(params, run) * run.optimizer.batch_size * (2 if isinstance(run, PreferenceRun) else 1)
        for run in trainings(params)
    ) * (prompt + completion)
    hours = [2 * size * count * (prompt + completion) / GENERATING, 8 * size * trained / TRAINING]
    generating, training = (flops / PEAK / 3600 for flops in hours)
    return Cost(stages, count, round(count * completion / 1e6), updates, generating, training)


def table() -> list[str]:
    """The lines of the README's table."""
    lines = []
    for path in sorted(RECIPES.glob("*.yaml")):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        stages = 1 + sum(len(runs) for name, runs in raw.items() if name not in ("seed", "sampling", "report"))
        c = cost(load_params(path), stages)
        cells = [f"{c.stages}", f"{c.completions:,}", f"{c.tokens_m:,}", f"{c.steps:,}"]
        cells += [f"{hours:,.0f}" for hours in (c.generation_h, c.training_h)]
        lines.append(f"| `{path.name}` | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
