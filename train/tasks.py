"""The prompts that a run rolls out on, each with its gold answer and how it is compared; what cannot be used is
rejected with the reason.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from builders.checkers import checker_for
from builders.model_files import load_limits
from builders.rendering import render_ids
from schemas import Chat, Reject
from schemas.ids import MAX_INDEX, digest
from schemas.rejects import Reason
from schemas.sections import Sampling
from schemas.sections_reinforcement import PpoRun
from schemas.slots import NONE
from stores.stage import Stage
from train.data import Demo, Reader, load_demos
from train.packing import Tokens
from train.tables import Tables


class Task(NamedTuple):
    """A prompt with its tokens (int32), its problem's gold answer and options, and the checker that compares."""

    prompt_id: str
    problem_id: str
    messages: tuple[Chat, ...]
    prefill: str
    rendering: str
    ids: np.ndarray
    gold: str
    checker: str
    choices: tuple[str, ...] | None
    kind: str
    """The problem's answer kind."""
    demos: tuple[Demo, ...] = ()
    """Gold chains of this very prompt, where they are imitated."""

    @property
    def decided(self) -> list[Any]:
        """What decides the run of it, for a hash."""
        demos = [[part.tolist() for part in demo.tokens] for demo in self.demos]
        return [
            self.prompt_id,
            self.prefill,
            self.ids.tolist(),
            self.gold,
            self.checker,
            self.choices,
            self.kind,
            demos,
        ]


def rollout_sampling(stage: Stage) -> Sampling:
    """How the run samples, with log-probs kept. Params refuse sampling that is not from the policy itself."""
    return stage.params.sampling[stage.config.sampling].model_copy(update={"logprobs": True})


def load_tasks(stage: Stage, sampling: Sampling, tokenizer: PreTrainedTokenizerBase) -> list[Task]:
    """The run's prompts in the order of `prompt_id`.

    A prompt of a problem that is not in `problems`, without a gold answer, without room for `max_new_tokens` within
    `max_tokens` and the model's positions, or (where chains are imitated) without a chain is a reject. Raises
    ValueError if none is left.
    """
    config: PpoRun = stage.config
    asked = {row["problem_id"]: row for row in _rows(stage, "problems", "answer_kind", "choices")}
    answers = {row["problem_id"]: row["answer"] for row in _rows(stage, "answers", "answer")}
    demos, limit = _demos(stage), _limit(stage)
    tasks, rejects = [], []
    for row in stage.read("prompts", config.prompts).to_pylist():
        problem, prompt = row["problem_id"], row["prompt_id"]
        ids = render_ids(tokenizer, row["messages"], row["prefill"], row["rendering"])
        why = _unusable(problem in asked, problem in answers, len(ids) + sampling.max_new_tokens <= limit)
        if not why and config.demos != NONE and prompt not in demos:
            why = "no_solution", f"demos run '{config.demos}' has no chain of this prompt"
        if why:
            detail = f"prompt of {len(ids)} tokens, max_new_tokens {sampling.max_new_tokens}, limit {limit}"
            rejects.append(Reject(problem_id=problem, prompt_id=prompt, reason=why[0], detail=why[1] or detail))
            continue
        tasks.append(_task(row, ids, answers[problem], asked[problem], config.checker, demos.get(prompt, ())))
    stage.reject(rejects)
    _check(stage, tasks, rejects)
    return tasks


def _unusable(known: bool, answered: bool, fits: bool) -> tuple[Reason, str] | None:
    if not known:
        return "unknown_problem", "its problem is not in `problems`"
    if not answered:
        return "no_answer", "the problem has no gold answer"
    return None if fits else ("over_long", "")


def _task(
    row: dict[str, Any], ids: list[int], gold: str, problem: dict[str, Any], checker: str, demos: Sequence[Demo]
) -> Task:
    choices = problem["choices"]
    return Task(
        row["prompt_id"],
        row["problem_id"],
        tuple(Chat(**message) for message in row["messages"]),
        row["prefill"],
        row["rendering"],
        np.array(ids, dtype=np.int32),
        gold,
        checker_for(problem["answer_kind"], checker),
        choices and tuple(choices),
        problem["answer_kind"],
        tuple(demos),
    )


def _demos(stage: Stage) -> dict[str, list[Demo]]:
    """Prompt -> its gold chains; none where none are imitated."""
    found: dict[str, list[Demo]] = defaultdict(list)
    if stage.config.demos != NONE:
        source = Tables(stage, "demos", stage.config.demos)
        demos = load_demos(source, Reader.of(stage))
        for text, demo in zip(source.demos(), demos, strict=True):
            found[text.span.prompt_id].append(demo)
    return found


def _limit(stage: Stage) -> int:
    positions = load_limits(stage.dir("models", stage.config.model)).positions
    return min(stage.config.max_tokens, positions or stage.config.max_tokens)


def _check(stage: Stage, tasks: list[Task], rejects: list[Reject]) -> None:
    config: PpoRun = stage.config
    place = f"{stage.section}.{stage.name}"
    if not tasks:
        why = f"; the first: {rejects[0].reason}, {rejects[0].detail}" if rejects else " (it is empty)"
        raise ValueError(f"{place}.prompts: no prompt of '{config.prompts}' can be rolled out on{why}")
    if empty := next((task for task in tasks if not len(task.ids)), None):
        raise ValueError(
            f"{place}.prompts: prompt {empty.prompt_id} renders to no tokens, so nothing predicts the first token of"
            " its completions; give its template a text, or use a tokenizer that starts texts with a BOS token"
        )


def check_visits(stage: Stage, visits: int) -> None:
    """Raises ValueError where a prompt is drawn so often that sample ids cannot number its completions."""
    if visits > MAX_INDEX:
        raise ValueError(
            f"{stage.section}.{stage.name}.optimizer: each prompt is rolled out on {visits:,} times, and sample ids"
            f" number {MAX_INDEX:,}; train for fewer steps or epochs, or on more prompts"
        )


def tasks_hash(tasks: Sequence[Task]) -> str:
    """A hash over what decides a run of these tasks, in order."""
    return digest([task.decided for task in tasks])


def probes(tasks: Sequence[Task], max_new_tokens: int) -> list[Tokens]:
    """Sequences as long as those to come, on which a policy tries its code path: the longest prompt and the shortest,
    and their own tokens again as a completion.
    """
    prompts = sorted((task.ids for task in tasks), key=len)
    return [Tokens(ids, np.resize(ids, max_new_tokens)) for ids in (prompts[0], prompts[-1])]


def _rows(stage: Stage, table: str, *columns: str) -> list[dict[str, Any]]:
    return stage.read(table, stage.config.problems, ["problem_id", *columns]).to_pylist()
