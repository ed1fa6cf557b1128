"""A small workspace for the tests of the report: random answers, pairs with log-probs, two training runs."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas import (
    Answer,
    Pair,
    Prediction,
    Problem,
    Prompt,
    ReferenceLogprob,
    Reject,
    Reward,
    Row,
    Sample,
    Solution,
    TrainingStep,
)
from schemas.ids import text_hash
from stores.parquet import rows_to_table, write_table
from stores.paths import rejects_dir, run_dir

K = 3
PROBLEMS = [f"{number:016x}" for number in range(30)]
HOSTILE = "<script>alert('x')</script> & <img src=//evil.example/x onerror=alert(1)>"

PARAMS = """
seed: 0
sampling:
  greedy: {temperature: 0, max_new_tokens: 8}
  explore: {temperature: 0.8, max_new_tokens: 8}
problems:
  test: {source: arithmetic, path: data/none, split: test, limit: 30, steps: [2, 4]}
models:
  base: {path: data/none, script: ["1"], vocabulary: none}
prompts:
  test: {problems: test, template: plain, rendering: text, demo_samples: none, demo_problems: none}
samples:
  own: {prompts: test, model: base, engine: scripted, sampling: explore, n: 2}
samples_gold: {}
samples_import: {}
predictions:
  own: {samples: own, prompts: test, problems: test}
rewards:
  own: {predictions: own, problems: test}
step_labels: {}
prompts_step: {}
samples_corrections: {}
demos_gold: {}
demos_correct: {}
demos_consistent: {}
demos_union: {}
pairs_contrast: {}
predictions_import: {}
consistency: {}
votes: {}
rewards_votes: {}
pairs_outcome:
  own: {samples: own, rewards: own, step_labels: none, gold: none, k: 1}
pairs_union: {}
quality: {}
ppo: {}
reward_model: {}
scores: {}
export: {}
pairs_step: {}
pairs_import: {}
reference:
  own: {pairs: own, model: base}
sft: {}
preference:
  irpo: &training
    model: base
    pairs: own
    reference: own
    loss: dpo_nll
    steps_from: none
    optimizer: {lr: 1.0e-5, batch_size: 4, steps: 20}
    validation: {prompts: none, problems: none, questions: none, labels: none, sampling: greedy}
  plain: {<<: *training, loss: dpo}
evaluate:
  dpo: &evaluation
    {model: base, prompts: test, problems: test, engine: scripted, greedy: greedy, explore: explore, k: 3}
  m0: *evaluation
  m1: *evaluation
  m2: *evaluation
report:
  iterations: [m0, m1, m2]
  comparisons: [{baseline: dpo, candidate: m1}]
  training: [irpo, plain]
"""


def prompt_of(problem: str) -> str:
    return f"{problem}-{text_hash(problem)[:8]}"


def sample(problem: str, setting: str, index: int, text: str, temperature: float, model: str = "base") -> Sample:
    return Sample(
        sample_id=f"{prompt_of(problem)}-{setting}-{index:04d}",
        prompt_id=prompt_of(problem),
        problem_id=problem,
        model=model,
        model_fingerprint="f" * 16,
        index=index,
        seed=0,
        temperature=temperature,
        top_p=1.0,
        text=text,
        text_hash=text_hash(text),
        n_chars=len(text),
        n_tokens=len(text) + 1,
        n_prompt_tokens=5,
        token_ids=None,
        finish_reason="stop",
    )


def put(root: Path, run: str, row_class: type[Row], rows: list[Any]) -> None:
    write_table(run_dir(row_class.table, run, root), row_class, [rows_to_table(row_class, rows)])


def judged(root: Path, run: str, answers: Sequence[tuple[Sample, str | None, str]]) -> None:
    """Writes samples, predictions and rewards of a run from (sample, answer, verdict)."""
    reward: dict[str, float | None] = {"correct": 1.0, "undecided": None}
    put(root, run, Sample, [s for s, _, _ in answers])
    predictions = [
        Prediction(sample_id=s.sample_id, extracted=a, normalised=a, extractor="number", extractor_version="1")
        for s, a, _ in answers
    ]
    put(root, run, Prediction, predictions)
    rewards = [
        Reward(sample_id=s.sample_id, verdict=v, reward=reward.get(v, 0.0), checker="number", checker_version="1")  # type: ignore[arg-type]
        for s, _, v in answers
    ]
    put(root, run, Reward, rewards)


def verdict_of(answer: str | None) -> str:
    return "no_answer" if answer is None else {"7": "correct", "t": "undecided"}.get(answer, "wrong")


def evaluation(root: Path, run: str, seed: int, skill: int) -> dict[str, list[str | None]]:
    """Writes an evaluate run with random answers (7 is right); returns problem -> greedy and sampled answers."""
    draw = random.Random(seed)
    pool: list[str | None] = ["7"] * skill + ["1", "2", None, "t"]
    given = {problem: [draw.choice(pool) for _ in range(1 + K)] for problem in PROBLEMS}
    rows = []
    for problem, (greedy, *sampled) in given.items():
        rows.append((sample(problem, "aaaaaaaa", 0, "g", 0.0), greedy, verdict_of(greedy)))
        rows += [
            (sample(problem, "bbbbbbbb", i, f"s{i}", 0.8), answer, verdict_of(answer))
            for i, answer in enumerate(sampled)
        ]
    judged(root, run, rows)
    return given


def pairs_world(root: Path) -> list[tuple[str, float, int, float, int]]:
    """Samples, pairs and reference log-probs; returns (problem, chosen log-prob, tokens, rejected log-prob, tokens)."""
    draw, rows, pairs, scores, found = random.Random(9), [], [], [], []
    for problem in PROBLEMS[:12]:
        chosen = sample(problem, "cccccccc", 0, f"so {HOSTILE}", 0.8)
        rejected = sample(problem, "cccccccc", 1, "so 8", 0.8)
        rows += [(chosen, "7", "correct"), (rejected, "8", "wrong")]
        spans = {}
        for side, s in (("chosen", chosen), ("rejected", rejected)):
            spans |= {
                f"{side}_sample_id": s.sample_id,
                f"{side}_start": 3,
                f"{side}_end": s.n_chars,
                f"{side}_eos": True,
            }
        pairs.append(Pair(prompt_id=prompt_of(problem), rank=0, problem_id=problem, **spans))
        numbers = []
        for s in (chosen, rejected):
            tokens, logprob = draw.randint(1, 4), -float(draw.randint(1, 6))
            scores.append(
                ReferenceLogprob(
                    prompt_id=prompt_of(problem),
                    sample_id=s.sample_id,
                    start=3,
                    end=s.n_chars,
                    eos=True,
                    logprob=logprob,
                    n_tokens=tokens,
                    fingerprint="f",
                )
            )
            numbers += [logprob, tokens]
        found.append((problem, *numbers))
    judged(root, "own", rows)
    put(root, "own", Pair, pairs)
    put(root, "own", ReferenceLogprob, scores)
    return found


def training(root: Path, run: str, slope: float) -> None:
    nothing = dict.fromkeys(("preference_loss", "nll_loss", "margin", "accuracy", "lr", "grad_norm"))
    steps = [
        TrainingStep(
            step=step,
            epoch=step / 20,
            loss=0.7,
            chosen_logprob=slope * step - 5,
            rejected_logprob=-6.0 - step,
            validation_accuracy=0.5 + step / 100 if step == 20 else None,
            n_sequences=8,
            n_tokens=80,
            **nothing,
        )
        for step in (0, 10, 20)
    ]
    put(root, run, TrainingStep, steps)
    run_dir("models", run, root).mkdir(parents=True)


def build_world(root: Path) -> dict[str, Any]:
    """Builds everything but `evaluate.m2` under `root`; returns the answers given and the scores of the pairs."""
    (root / "params.yaml").write_text(PARAMS)
    problems = [
        Problem(
            problem_id=p,
            source="arithmetic",
            split="test",
            question=f"q{p}",
            choices=None,
            answer_kind="number",
            level=str(2 + i % 3),
            subject=None,
            licence="Apache-2.0",
        )
        for i, p in enumerate(PROBLEMS)
    ]
    put(root, "test", Problem, problems)
    put(root, "test", Answer, [Answer(problem_id=p, answer="7") for p in PROBLEMS])
    put(root, "test", Solution, [])
    prompts = [
        Prompt(
            prompt_id=prompt_of(p),
            problem_id=p,
            messages=[{"role": "user", "content": f"q{p} <b>"}],
            prefill="so ",  # type: ignore[list-item]
            rendering="text",
            style="natural",
            template="plain",
            demo_sample_ids=None,
        )
        for p in PROBLEMS
    ]
    put(root, "test", Prompt, prompts)
    run_dir("models", "base", root).mkdir(parents=True)
    given = {n: evaluation(root, n, seed, skill) for n, seed, skill in (("m0", 1, 2), ("m1", 2, 12), ("dpo", 3, 1))}
    scores = pairs_world(root)
    training(root, "irpo", 0.1)
    training(root, "plain", -0.5)
    rejects = [Reject(problem_id=p, reason="no_chosen") for p in PROBLEMS[12:]]
    write_table(rejects_dir("pairs_outcome", "own", root), Reject, [rows_to_table(Reject, rejects)])
    # A run that params does not name, left behind by an older revision.
    evaluation(root, "old", 4, 1)
    return {"given": given, "scores": scores}
