"""A small consistent store, written table by table: two problems, prompts, samples, verdicts, pairs and demos.

`build(root)` writes `params.yaml` and the tables, and returns the rows by (table, run). Everything fits together, so
that a test changes one thing and expects one finding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from schemas import (
    TABLES,
    Agreement,
    Answer,
    Chat,
    Demo,
    Finding,
    Pair,
    Prediction,
    Problem,
    Prompt,
    ReferenceLogprob,
    Reject,
    Reward,
    Rollout,
    Row,
    Sample,
    Score,
    Solution,
    StepLabels,
    TextStatistics,
    TrainingStep,
    Vote,
)
from schemas.ids import digest, problem_id, prompt_id, sample_id, text_hash
from schemas.params import parse_params, stage_runs
from stores.parquet import rows_to_table, write_table
from stores.paths import rejects_dir, run_dir
from tests.stage_world import UNMOVED

Tables = dict[tuple[str, str], Sequence[Row]]

QUESTIONS = {"How many legs have 2 cats?": "8", "What is 3 + 4?": "7"}
TEXTS = [
    ("Each cat has 4 legs, so 2 × 4 = 8 🐈‍⬛🐈.\n#### 8", "8", "correct"),
    ("Cats have e\u0301lan: 4 legs.\n#### 4", "4", "wrong"),
    ("I \x1b[31mdo not\x1b[0m know [bold]at all[/bold].", None, "no_answer"),
]

PARAMS: dict[str, Any] = {
    "seed": 0,
    "sampling": {"explore": {"temperature": 1.0, "max_new_tokens": 32}},
    "problems": {"train": {"source": "arithmetic", "path": "data/none", "split": "train", "limit": 2, "steps": [1, 2]}},
    "quality": {},
    "models": {"base": {"path": "data/none", "vocabulary": "none", "script": ["8"]}},
    "prompts": {
        "train": {
            "problems": "train",
            "template": "question_answer",
            "rendering": "text",
            "demo_samples": "none",
            "demo_problems": "none",
        }
    },
    "samples": {
        "irpo_0": {"prompts": "train", "model": "base", "engine": "scripted", "sampling": "explore", "n": 3},
        "irpo_1": {"prompts": "train", "model": "base", "engine": "scripted", "sampling": "explore", "n": 3},
    },
    "samples_gold": {"gold": {"problems": "train", "ending": "\n#### {answer}", "model": "none"}},
    "samples_import": {},
    "predictions": {"irpo_0": {"samples": "irpo_0", "prompts": "train", "problems": "train"}},
    "rewards": {"irpo_0": {"predictions": "irpo_0", "problems": "train"}},
    "demos_gold": {"gold": {"samples": "gold", "prompts": "train"}},
    "demos_correct": {
        "star": {"samples": "irpo_0", "rewards": "irpo_0"} | UNMOVED,
    },
    "pairs_outcome": {
        "irpo_0": {"samples": "irpo_0", "rewards": "irpo_0", "step_labels": "none", "gold": "gold", "k": 2}
    },
    "step_labels": {
        "checked": {
            "samples": "irpo_0",
            "prompts": "train",
            "problems": "train",
            "rewards": "irpo_0",
            "labeler": "rule",
            "model": "none",
            "path": "data/none",
            "select": "wrong",
            "neutral_is_error": False,
        }
    },
    "prompts_step": {},
    "samples_corrections": {},
    "demos_consistent": {},
    "demos_union": {},
    "pairs_contrast": {},
    "predictions_import": {},
    "consistency": {},
    "votes": {},
    "rewards_votes": {},
    "pairs_union": {},
    "pairs_step": {},
    "pairs_import": {},
    "reference": {"irpo_0": {"pairs": "irpo_0", "model": "base"}},
    "sft": {},
    "preference": {},
    "ppo": {},
    "reward_model": {},
    "evaluate": {},
    "scores": {},
    "export": {},
    "report": {},
}
"""`samples.irpo_1` is never built."""


def build(root: Path) -> Tables:
    """Writes the store below `root`."""
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
    params = parse_params(yaml.safe_dump(PARAMS))
    tables = rows()
    for (table, run), content in tables.items():
        write(root, table, run, content)
    for section, run, _ in stage_runs(params):
        if run != "irpo_1":
            dropped = REJECTS.get((section, run), [])
            write_table(rejects_dir(section, run, root), Reject, [rows_to_table(Reject, dropped)])
    return tables


def write(root: Path, table: str, run: str, content: Sequence[Row]) -> None:
    """Writes (or replaces) one run of a table."""
    write_table(run_dir(table, run, root), TABLES[table], [rows_to_table(TABLES[table], content)])


def problems() -> list[Problem]:
    return [
        Problem(
            problem_id=problem_id("arithmetic", question, None), source="arithmetic", split="train", question=question,
            choices=None, answer_kind="number", level="1", subject=None, licence="Apache-2.0",
        )
        for question in QUESTIONS
    ]  # fmt: skip


def prompts() -> list[Prompt]:
    found = []
    for problem in problems():
        message = Chat(role="user", content=f"Question: {problem.question}\nAnswer:")
        found.append(
            Prompt(
                prompt_id=prompt_id(problem.problem_id, [message.model_dump()], " Let us see.", "text"),
                problem_id=problem.problem_id, messages=[message], prefill=" Let us see.", rendering="text",
                style="natural", template="question_answer-1234", demo_sample_ids=None,
            )
        )  # fmt: skip
    return found


def sample(asked: Prompt | Problem, index: int, text: str, fingerprint: str = "abcdef0123456789") -> Sample:
    """A sample of a prompt, or a gold one of a problem."""
    gold = isinstance(asked, Problem)
    return Sample(
        sample_id=sample_id(asked.problem_id if gold else asked.prompt_id, fingerprint, index),
        prompt_id=None if gold else asked.prompt_id, problem_id=asked.problem_id, model="gold" if gold else "base",
        model_fingerprint=fingerprint, index=index, seed=None if gold else 0, temperature=None if gold else 1.0,
        top_p=None if gold else 1.0, text=text, text_hash=text_hash(text), n_chars=len(text), n_tokens=None,
        n_prompt_tokens=None, token_ids=None if gold else [1, 2, index], finish_reason="stop",
    )  # fmt: skip


def pair(asked: Prompt, rank: int, chosen: Sample, rejected: Sample, chosen_start: int = 0) -> Pair:
    """A pair of two samples, whole but for `chosen_start`."""
    return Pair(
        prompt_id=asked.prompt_id, rank=rank, problem_id=asked.problem_id,
        chosen_sample_id=chosen.sample_id, chosen_start=chosen_start, chosen_end=chosen.n_chars, chosen_eos=True,
        rejected_sample_id=rejected.sample_id, rejected_start=0, rejected_end=rejected.n_chars, rejected_eos=True,
    )  # fmt: skip


def pair_id(p: Pair) -> str:
    """The id that the view computes."""
    chosen = [p.chosen_sample_id, p.chosen_start, p.chosen_end]
    return digest([p.prompt_id, *chosen, p.rejected_sample_id, p.rejected_start, p.rejected_end])


def rows() -> Tables:
    """All rows, by (table, run)."""
    asked, drawn = (
        prompts(),
        {p.prompt_id: [sample(p, i, text) for i, (text, *_) in enumerate(TEXTS)] for p in prompts()},
    )
    gold = [sample(p, 0, f"It is {QUESTIONS[p.question]}.\n#### {QUESTIONS[p.question]}", "9" * 16) for p in problems()]
    samples = [s for group in drawn.values() for s in group]
    pairs = [pair(p, 0, drawn[p.prompt_id][0], drawn[p.prompt_id][1], chosen_start=2) for p in asked]
    pairs += [pair(p, 1, g, drawn[p.prompt_id][2]) for p, g in zip(asked, gold, strict=True)]
    scored = {(p.prompt_id, p.rejected_sample_id, p.rejected_start, p.rejected_end) for p in pairs}
    return {
        ("problems", "train"): problems(),
        ("answers", "train"): [Answer(problem_id=p.problem_id, answer=QUESTIONS[p.question]) for p in problems()],
        ("solutions", "train"): [
            Solution(problem_id=p.problem_id, style="natural", index=0, text="It is so.") for p in problems()
        ],
        ("prompts", "train"): asked,
        ("samples", "irpo_0"): samples,
        ("samples", "gold"): gold,
        ("predictions", "irpo_0"): [_prediction(s) for s in samples],
        ("rewards", "irpo_0"): [_reward(s) for s in samples],
        ("pairs", "irpo_0"): pairs,
        ("demos", "gold"): [
            Demo(prompt_id=p.prompt_id, sample_id=g.sample_id) for p, g in zip(asked, gold, strict=True)
        ],
        ("demos", "star"): [Demo(prompt_id=p.prompt_id, sample_id=drawn[p.prompt_id][0].sample_id) for p in asked],
        ("step_labels", "checked"): [labels(s) for s in samples if s.index],
        ("reference_logprobs", "irpo_0"): [
            ReferenceLogprob(
                prompt_id=prompt, sample_id=s, start=start, end=end, eos=True, logprob=-1.5, n_tokens=3, fingerprint="f"
            )
            for prompt, s, start, end in scored
        ],
    }


def labels(s: Sample) -> StepLabels:
    """A judge's invalid answer, or what a person says of a sample's only step."""
    judge = s.index == 2
    return StepLabels.model_validate(
        {
            "sample_id": s.sample_id, "labeler": "judge-1" if judge else "ada", "repeat": s.index - 1,
            "kind": "judge" if judge else "human", "steps": [{"start": 0, "end": s.n_chars}],
            "labels": [] if judge else ["incorrect"], "first_error": None if judge else 0,
            "verdict": "invalid" if judge else "error", "model": "judge-1-2025" if judge else None,
            "labeler_version": "1", "template": "step_judge@12345678" if judge else None,
            "ledger_key": "0" * 16 if judge else None, "rationale": "é 🐈", "correction": None if judge else " 8",
            "labeled_at": "2025-11-25T03:00:00Z",
        }
    )  # fmt: skip


def _prediction(s: Sample) -> Prediction:
    answer = TEXTS[s.index][1]
    return Prediction(
        sample_id=s.sample_id, extracted=answer, normalised=answer, extractor="number", extractor_version="1"
    )


def _reward(s: Sample) -> Reward:
    verdict = TEXTS[s.index][2]
    return Reward.model_validate(
        {
            "sample_id": s.sample_id, "verdict": verdict, "reward": float(verdict == "correct"),
            "checker": "number", "checker_version": "1",
        }
    )  # fmt: skip


REJECTS: dict[tuple[str, str], list[Reject]] = {
    ("problems", "train"): [
        Reject(problem_id="0" * 16, reason="duplicate", detail="line 3"),
        Reject(reason="empty", detail="line 4"),
    ],
    ("pairs_outcome", "irpo_0"): [
        Reject(problem_id="f" * 16, prompt_id="f" * 16 + "-12345678", reason="no_rejected", detail=""),
    ],
}


def training() -> list[TrainingStep]:
    """Two logged steps, for tests of a table with nulls in float columns."""
    return [
        TrainingStep.model_validate(
            dict.fromkeys(TrainingStep.model_fields)
            | {"step": step, "epoch": step / 2, "loss": 1 / (step + 1), "n_sequences": 4, "n_tokens": 100}
        )
        for step in (0, 1)
    ]


def findings() -> list[Finding]:
    """One finding of each sort, for tests of a table with nulls among its texts."""
    train, other = problems()
    shared = {"problem_id": train.problem_id, "other_problem_id": other.problem_id, "similarity": 0.75}
    kinds = [
        {"kind": "near_duplicate", "reason": "near_duplicate", "other_run": "train", "passage": None, "dropped": False},
        {"kind": "shared_ngram", "reason": "contaminated", "other_run": "test", "passage": "2 cats", "dropped": True},
    ]
    return [Finding.model_validate(shared | kind) for kind in kinds]


def text_statistics() -> list[TextStatistics]:
    """Lengths and languages of two runs."""
    counts = dict.fromkeys(TextStatistics.model_fields, 3)
    return [
        TextStatistics.model_validate(counts | {"problems_run": run, "source": "arithmetic", "language": "en"})
        for run in ("train", "test")
    ]


def agreements() -> list[Agreement]:
    """A problem on which two samples agree, and one that is kept though one of them states nothing."""
    found = []
    for prompt, other in zip(prompts(), ("8", None), strict=True):
        a, b = (sample(prompt, index, "8").sample_id for index in (0, 1))
        found.append(
            Agreement(
                problem_id=prompt.problem_id, a_sample_id=a, b_sample_id=b, a_answer="8", b_answer=other,
                agrees=other is not None, kept=True,
            )
        )  # fmt: skip
    return sorted(found, key=lambda row: row.problem_id)


def votes() -> list[Vote]:
    """A majority, and one for no answer."""
    found = [
        Vote(
            prompt_id=prompt.prompt_id, problem_id=prompt.problem_id, sample_id=sample(prompt, 0, "8").sample_id,
            answer=answer, count=2, n=3, confidence=2 / 3,
        )
        for prompt, answer in zip(prompts(), ("8", None), strict=True)
    ]  # fmt: skip
    return sorted(found, key=lambda row: row.prompt_id)


def scores() -> list[Score]:
    """How sure a reward model is of each prompt's first sample."""
    found = [
        Score(sample_id=sample(prompt, 0, "8").sample_id, score=score, fingerprint="f")
        for prompt, score in zip(prompts(), (0.75, 0.25), strict=True)
    ]
    return sorted(found, key=lambda row: row.sample_id)


def rollouts() -> list[Rollout]:
    """A rewarded rollout, and one whose checker could not tell."""
    found = [
        Rollout(
            sample_id=sample(prompt, 0, "8").sample_id, step=step, score=score, n_tokens=9, logprob=-3.5,
            reference_logprob=-4.0, sampler_gap=None, value=0.25, reward_to_go=score,
        )
        for step, (prompt, score) in enumerate(zip(prompts(), (1.0, None), strict=True))
    ]  # fmt: skip
    return sorted(found, key=lambda row: row.sample_id)


OUTSIDE = {
    "training": training,
    "findings": findings,
    "text_statistics": text_statistics,
    "agreements": agreements,
    "votes": votes,
    "scores": scores,
    "rollouts": rollouts,
}
"""Table -> rows of it, which the store itself has none of."""
