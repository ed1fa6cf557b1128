"""A run's rollouts as rows: `samples`, `predictions`, `rewards` and `rollouts`, for SQL to see every step.

Texts are read from the ledger in the order of prompts, some at a time; the rest, which is small, from the journal.
`model` of the samples is the run, whose weights changed from step to step; `rollouts.step` says when each was drawn.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from schemas import Prediction, Reward, Rollout, Row, Sample, arrow_schema
from schemas.ids import text_hash
from stores.stage import Stage
from train.journal import Journal
from train.optimizer import Schedule
from train.rewarding import Rewarder
from train.rollouts import Drawn, Rollouts

_AT_ONCE = 4096
"""Completions whose texts are in memory together."""

Visits = list[tuple[int, int, int, int]]
"""(number of a task, visit, step, place in the step), in the order of sample ids."""


def write_tables(stage: Stage, schedule: Schedule, rollouts: Rollouts, rewarder: Rewarder, journal: Journal) -> None:
    """Stages the four tables."""
    steps = range(schedule.steps)
    visits = sorted((i, v, step, place) for step in steps for place, (i, v) in enumerate(schedule.visits(step)))
    found = [_step(journal, "judged", step) for step in steps]
    stage.write(Sample, _samples(stage, rollouts, visits))
    stage.write(Prediction, [_predictions(rollouts, rewarder, visits, found)])
    stage.write(Reward, [_rewards(rollouts, rewarder, visits, found)])
    seen = [_step(journal, "seen", step) for step in steps]
    rows = [[rollouts.sample_id(i, v), step, *seen[step][place]] for i, v, step, place in visits]
    stage.write(Rollout, [_table(Rollout, rows)])


def _step(journal: Journal, kind: str, step: int) -> list[Any]:
    rows = journal.read(kind, step)
    if rows is None:
        raise ValueError(f"{journal.path}: step {step} is gone; remove {journal.path.parent} to train from the start")
    return rows


def _table(row_class: type[Row], rows: list[list[Any]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, arrow_schema(row_class), strict=True)],
                    schema=arrow_schema(row_class))  # fmt: skip


def _samples(stage: Stage, rollouts: Rollouts, visits: Visits) -> Iterator[pa.Table]:
    name = stage.config.sampling
    kept = stage.params.sampling[name].logprobs
    for start in range(0, len(visits), _AT_ONCE):
        drawn = rollouts.read([(i, v) for i, v, *_ in visits[start : start + _AT_ONCE]])
        yield _table(Sample, [_sample(stage, rollouts, one, kept) for one in drawn])


def _sample(stage: Stage, rollouts: Rollouts, one: Drawn, logprobs: bool) -> list[Any]:
    c = one.completion
    row = {
        "sample_id": one.sample_id,
        "prompt_id": one.task.prompt_id,
        "problem_id": one.task.problem_id,
        "model": stage.name,
        "model_fingerprint": rollouts.context,
        "index": one.index,
        "seed": stage.params.seed,
        "temperature": 1.0,
        "top_p": 1.0,
        "text": c.text,
        "text_hash": text_hash(c.text),
        "n_chars": len(c.text),
        "n_tokens": c.n_tokens,
        "n_prompt_tokens": c.n_prompt_tokens,
        "token_ids": None,
        "finish_reason": c.finish_reason,
        "logprobs": c.logprobs if logprobs else None,
    }
    return [row[name] for name in Sample.model_fields]


def _predictions(rollouts: Rollouts, rewarder: Rewarder, visits: Visits, judged: list[Any]) -> pa.Table:
    rows = []
    for i, v, step, place in visits:
        checker = rewarder.checkers[rollouts.tasks[i].checker]
        extracted, normalised, *_ = judged[step][place]
        extractor = f"{checker.name}:{checker.rule}"
        rows.append([rollouts.sample_id(i, v), extracted, normalised, extractor, checker.rule_version])
    return _table(Prediction, rows)


def _rewards(rollouts: Rollouts, rewarder: Rewarder, visits: Visits, judged: list[Any]) -> pa.Table:
    rows = []
    for i, v, step, place in visits:
        checker = rewarder.checkers[rollouts.tasks[i].checker]
        _, _, verdict, reward, _ = judged[step][place]
        rows.append([rollouts.sample_id(i, v), verdict, reward, checker.name, checker.version])
    return _table(Reward, rows)
