"""What recipes cost, by formula from their rows: `python -m tests.recipe_costs` prints the table of recipes/README.md.

Completions are counted (what an earlier row draws, the ledger has); tokens and GPU-hours follow from the assumptions
below, which the README states. Steps are upper bounds: those of `steps`, for training anew too; where a run gives
epochs, those of the pairs or demos that the assumed shares lead to. Judges' calls are counted from the same shares.
"""

import math
from pathlib import Path
from typing import NamedTuple

import yaml

from schemas.params import Params, load_params
from schemas.sections_agreement import ConsistentDemosRun
from schemas.sections_reinforcement import PpoRun, RewardModelRun
from schemas.sections_steps import StepLabelsRun
from schemas.sections_training import PreferenceRun, SftRun
from schemas.slots import NONE

RECIPES = Path(__file__).parent.parent / "recipes"
SIZES: dict[tuple[str, str, str | None], int] = {
    ("gsm8k", "train", None): 7_473, ("gsm8k", "test", None): 1_319,
    ("math", "train", None): 7_500, ("math", "test", None): 5_000,
    ("arc", "train", None): 3_370, ("arc", "validation", "ARC-Challenge"): 299, ("arc", "test", "ARC-Challenge"): 1_172,
    ("olympicarena", "train", None): 6_020, ("olympicarena", "test", None): 313,
    ("metamath", "train", None): 395_000, ("mmiqc", "train", None): 2_290_000, ("aqua", "train", None): 97_467,
}  # fmt: skip
"""Published rows by (source, split, subset); of OlympicArena those that weak-to-strong reasoning takes."""
FILES = {
    "data/w2s/gsm8k_train_1.jsonl": 7_000, "data/w2s/gsm8k_train_2.jsonl": 7_000, "data/w2s/math_train.jsonl": 12_000,
    "HuggingFaceH4/MATH-500": 500,
    "data/reft/gsm8k_nl.json": 7_465, "data/reft/gsm8k_python_sdp.json": 7_356, "data/reft/gsm8k_test_set.json": 1_319,
    "data/reft/svamp_nl.json": 3_076, "data/reft/svamp_python_sdp.json": 3_043, "data/reft/svamp_test_set.json": 1_000,
    "data/reft/mathqa_nl.json": 14_862, "data/reft/mathqa_python_sdp.json": 15_250,
    "data/reft/mathqa_test_set.json": 1_605, "data/reft/mathqa-numeric_nl.json": 8_955,
    "data/reft/mathqa-numeric_test_set.json": 1_605, "data/reft/examples.jsonl": 8,
}  # fmt: skip
"""Rows of what takes the place of a source's usual files."""
PROBLEMS = {"metamath": 0.7, "mmiqc": 0.17, "olympicarena": 0.9}
"""Assumed problems per row where rows repeat a question, or state no answer that a checker compares; elsewhere 1."""
LENGTHS = {
    "gsm8k": (120, 200), "math": (150, 400), "arc": (150, 150), "metamath": (130, 300), "mmiqc": (130, 300),
    "aqua": (180, 300), "olympicarena": (250, 500), "reft": (150, 150),
}  # fmt: skip
"""Assumed tokens of a prompt and of a completion, by source."""
PARAMETERS = {
    "meta-llama/Llama-2-70b-chat-hf": 70e9, "Qwen/Qwen2.5-1.5B-Instruct": 1.5e9, "Qwen/Qwen2-7B": 7.6e9,
    "Qwen/Qwen2-7B-Instruct": 7.6e9, "Qwen/Qwen2-72B": 72.7e9, "meta-llama/Meta-Llama-3-70B": 70.6e9,
    "meta-llama/Llama-2-70b-hf": 70e9, "meta-llama/Llama-2-7b-hf": 6.7e9, "google/gemma-2b": 2.5e9,
    "mistralai/Mistral-7B-v0.1": 7.2e9, "meta-llama/Meta-Llama-3-8B-Instruct": 8e9,
    "deepseek-ai/deepseek-math-7b-base": 6.9e9, "deepseek-ai/deepseek-math-7b-rl": 6.9e9,
    "facebook/galactica-6.7b": 6.7e9, "codellama/CodeLlama-7b-hf": 6.7e9, "facebook/galactica-125m": 1.25e8,
}  # fmt: skip
PEAK, GENERATING, TRAINING = 312e12, 0.1, 0.35
"""An A100's dense bf16 FLOP/s, and the assumed shares of it in batched generation and in training."""
TAUGHT, RIGHT, FOUND, CONTINUED, DISTINCT = 0.9, 0.7, 0.8, 0.4, 0.6
"""Assumed shares: right answers of a teacher, and of the model itself; wrong ones whose first wrong step is found;
right continuations of the steps before it; of those, distinct steps that are right."""
AGREED = {"gsm8k": 0.5, "math": 0.15, "olympicarena": 0.2}
PAIRED = {"gsm8k": 0.35, "math": 0.25, "olympicarena": 0.25}
"""Assumed by source, about as in the published files: the share of questions whose weak and in-context answers agree,
and pairs by contrast per question (of up to three on MATH and OlympicArena)."""
MIXED = 0.6
"""Assumed share of questions with samples that the majority calls right, and others."""
UNEQUAL = 0.5
"""Assumed share of a question's 100 samples whose text no earlier one has."""
Training = SftRun | PreferenceRun | PpoRun | RewardModelRun
IMPORTED = 10_795
"""Rows of the published Math-Step-DPO-10K."""


class Cost(NamedTuple):
    """One row of the README's table; tokens are generated ones, in millions."""

    stages: int
    completions: int
    tokens_m: int
    judge_calls: int
    steps: int
    generation_h: float
    training_h: float


class Drawn(NamedTuple):
    """Completions of one model for some problems."""

    model: str
    source: str
    count: int


def n_problems(params: Params, name: str) -> int:
    run = params.problems[name]
    rows = FILES.get(run.path) or FILES.get(run.hub or "") or SIZES[run.source, run.split, run.subset]
    left = rows - run.skip
    return round(min(left, run.limit or left) * PROBLEMS.get(run.source, 1))


def origin(params: Params, prompts: str) -> tuple[str, int]:
    """The problems run that prompts ask, and their number."""
    if prompts in params.prompts:
        problems = params.prompts[prompts].problems
        return problems, n_problems(params, problems)
    step = params.prompts_step[prompts]
    problems, _ = origin(params, step.prompts)
    return problems, round(labelled(params, params.step_labels[step.step_labels]) * FOUND)


def labelled(params: Params, run: StepLabelsRun) -> int:
    """Samples that a run of step_labels labels."""
    samples = params.samples[run.samples]
    right = CONTINUED if samples.prompts in params.prompts_step else RIGHT
    share = {"all": 1.0, "correct": right, "wrong": 1 - right}[run.select]
    _, asked = origin(params, samples.prompts)
    count = round(asked * samples.n * share)
    return min(count, run.limit or count)


def judge_calls(params: Params) -> int:
    judged = [run for run in params.step_labels.values() if run.labeler == "judge"]
    return sum(labelled(params, run) * (run.judge.repeats if run.judge else 1) for run in judged)


def drawn(params: Params) -> list[Drawn]:
    """Samples, evaluations and validations; the prompts of a part of some problems are among those of all of them."""
    most: dict[tuple[object, ...], Drawn] = {}
    runs = [(r.model, r.prompts, r.sampling, r.n) for r in params.samples.values()]
    for e in params.evaluate.values():
        runs += [(e.model, e.prompts, e.greedy, 1), (e.model, e.prompts, e.explore, e.k)]
    for model, prompts, sampling, n in runs:
        problems, asked = origin(params, prompts)
        run = params.problems[problems]
        template = params.prompts[prompts].template if prompts in params.prompts else None
        key = model, run.source, run.split, run.skip, sampling, template
        if key not in most or most[key].count < n * asked:
            most[key] = Drawn(model, run.source, n * asked)
    rollouts = [_rolled_out(params, run) for run in params.ppo.values()]
    return [*most.values(), *rollouts, *(_validated(params, name, run) for name, run in trainings(params).items())]


def _rolled_out(params: Params, run: PpoRun) -> Drawn:
    """One completion of every prompt in each epoch."""
    problems, asked = origin(params, run.prompts)
    return Drawn(run.model, params.problems[problems].source, round(asked * (run.optimizer.epochs or 0)))


def completions(params: Params) -> int:
    return sum(one.count for one in drawn(params))


def trainings(params: Params) -> dict[str, Training]:
    return {**params.sft, **params.preference, **params.ppo, **params.reward_model}


def steps(params: Params, run: Training) -> int:
    """At most: those of the run that selects them. Of PPO, steps of rollouts."""
    if isinstance(run, SftRun | PreferenceRun) and run.steps_from != NONE:
        section = params.preference if isinstance(run, PreferenceRun) else params.sft
        return steps(params, section[run.steps_from])
    if run.optimizer.steps is not None:
        return run.optimizer.steps
    assert run.optimizer.epochs is not None
    return math.ceil(_examples(params, run) * run.optimizer.epochs / run.optimizer.batch_size)


def _examples(params: Params, run: Training) -> int:
    """What one epoch goes over."""
    if isinstance(run, PpoRun):
        return origin(params, run.prompts)[1]
    if isinstance(run, RewardModelRun):
        samples = params.samples[run.samples]
        return round(origin(params, samples.prompts)[1] * samples.n * UNEQUAL)
    return n_pairs(params, run.pairs) if isinstance(run, PreferenceRun) else n_demos(params, run.demos)


def n_demos(params: Params, name: str) -> int:
    """Right answers of a teacher, gold solutions, or answers that agree (two of each question in a hybrid)."""
    if name in params.demos_gold:
        return origin(params, params.demos_gold[name].prompts)[1]
    if name in params.demos_consistent:
        return _agreed(params, params.demos_consistent[name])
    if name in params.demos_union:
        return sum(n_demos(params, member) for member in params.demos_union[name].members)
    run = params.demos_correct[name]
    samples = params.samples[run.samples]
    kept = min(samples.n * TAUGHT, run.max_per_problem or samples.n)
    return round(origin(params, samples.prompts)[1] * kept)


def _agreed(params: Params, run: ConsistentDemosRun) -> int:
    problems, asked = origin(params, run.prompts)
    sides = 1 if run.other == NONE else 2
    if run.agreements == NONE:
        return asked * sides
    agreed = round(asked * AGREED[params.problems[problems].source])
    return max(agreed, params.consistency[run.agreements].top_up or 0) * sides


def n_pairs(params: Params, name: str) -> int:
    """Pairs of a run of steps, of a union of them (the problems' share where it is restricted), or of a file."""
    if name in params.pairs_import:
        return params.pairs_import[name].limit or IMPORTED
    if name in params.pairs_union:
        union = params.pairs_union[name]
        return round(sum(n_pairs(params, member) * _share(params, member, union.problems) for member in union.members))
    if name in params.pairs_contrast:
        problems, asked = origin(params, params.samples[params.pairs_contrast[name].samples].prompts)
        return round(asked * PAIRED[params.problems[problems].source])
    if name in params.pairs_outcome:
        outcome = params.pairs_outcome[name]
        _, asked = origin(params, params.samples[outcome.samples].prompts)
        return min(round(asked * MIXED) * outcome.k, outcome.max_pairs or asked * outcome.k)
    run = params.pairs_step[name]
    _, prefixes = origin(params, run.prompts)
    if run.chosen not in params.samples:  # one correction of each
        return prefixes
    return round(prefixes * params.samples[run.chosen].n * CONTINUED * DISTINCT)


def _share(params: Params, pairs: str, problems: str) -> float:
    """How much of a run's problems a union keeps."""
    if problems == NONE:
        return 1.0
    whole, _ = origin(params, params.pairs_step[pairs].rejected_prompts)
    return n_problems(params, problems) / n_problems(params, whole)


def _validated(params: Params, name: str, run: Training) -> Drawn:
    if isinstance(run, RewardModelRun) or run.validation.prompts == NONE:
        return Drawn(name, "none", 0)
    count = -(-steps(params, run) // run.validation.every) * n_problems(params, run.validation.asked)
    return Drawn(name, params.problems[run.validation.asked].source, count)


def size(params: Params, model: str) -> float:
    """Parameters of a model, or of what it was trained from; a hosted one takes none of our GPUs."""
    if model in params.models:
        made = params.models[model]
        return 0.0 if made.hosted else PARAMETERS[made.hub or ""]
    return size(params, trainings(params)[model].model)


def cost(params: Params, stages: int) -> Cost:
    """Generation is 2 FLOPs per parameter and token; training 6, and 2 more where layers are computed again."""
    made = [one for one in drawn(params) if one.count]
    generating = sum(2 * size(params, one.model) * one.count * sum(LENGTHS[one.source]) for one in made)
    length = sum(LENGTHS[next(iter(params.problems.values())).source])
    training, updates = 0.0, 0
    for run in trainings(params).values():
        sides = 2 if isinstance(run, PreferenceRun) else run.ppo_epochs if isinstance(run, PpoRun) else 1
        sequences = steps(params, run) * run.optimizer.batch_size
        forwards = 4 * isinstance(run, PpoRun)  # old log-probs and values, and the reference's
        training += (8 * sides + forwards) * size(params, run.model) * sequences * length
        updates += steps(params, run)
    hours = [flops / PEAK / 3600 for flops in (generating / GENERATING, training / TRAINING)]
    tokens_m = round(sum(one.count * LENGTHS[one.source][1] for one in made) / 1e6)
    return Cost(stages, completions(params), tokens_m, judge_calls(params), updates, *hours)


def table() -> list[str]:
    """The lines of the README's table."""
    lines = []
    for path in sorted(RECIPES.glob("*.yaml")):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        stages = 1 + sum(len(runs) for name, runs in raw.items() if name not in ("seed", "sampling", "report"))
        c = cost(load_params(path), stages)
        cells = [f"{c.stages}", f"{c.completions:,}", f"{c.tokens_m:,}", f"{c.judge_calls:,}", f"{c.steps:,}"]
        cells += [f"{hours:,.0f}" for hours in (c.generation_h, c.training_h)]
        lines.append(f"| `{path.name}` | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
