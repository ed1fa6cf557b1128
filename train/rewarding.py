"""What rollouts are worth: extracted, compared with gold and rewarded, by the checkers and rules of the pipeline.

What a checker cannot decide (time-out, crash, a worker that was killed) has no reward and must give no gradient.
Nothing that a model wrote runs in this process: checkers have processes of their own, and replace those that die.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Literal, NamedTuple, Self

from builders import rule_labels
from builders.checkers import Checker, extract_all, get_checker
from builders.checkers.partial import are_numbers, reward
from builders.checkers.verdicts import VERDICTS
from builders.steps import split_steps
from schemas.rewards import Verdict
from schemas.sections_reinforcement import PpoRun
from train.rollouts import Drawn
from train.tasks import Task


class Judged(NamedTuple):
    """What is found of a rollout. `reward` is as the stage `rewards` has it; null where it is undecided.

    `wrong_step`: whether a step is wrong by rule, of right answers of which it was asked; None of the others.
    """

    extracted: str | None
    normalised: str | None
    verdict: Verdict
    reward: float | None
    wrong_step: bool | None


class Rewarder:
    """Judges rollouts with the checkers of some tasks, which stay open: a context manager, like a checker."""

    def __init__(self, config: PpoRun, tasks: Sequence[Task]):
        self.config, self.stack = config, ExitStack()
        names = sorted({task.checker for task in tasks})
        self.checkers: dict[str, Checker] = {name: self.stack.enter_context(get_checker(name)) for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @property
    def versions(self) -> list[list[str]]:
        """Of the checkers, for a hash of what decides a run."""
        return [[name, c.version, c.rule, c.rule_version] for name, c in self.checkers.items()]

    def judge(self, drawn: Sequence[Drawn]) -> list[Judged]:
        """What is found of each rollout, in order; each checker compares all of its answers at once."""
        stated: dict[int, tuple[str | None, Verdict]] = {}
        for name, checker in self.checkers.items():
            mine = [i for i, one in enumerate(drawn) if one.task.checker == name]
            stated.update(zip(mine, _verdicts(checker, [drawn[i] for i in mine]), strict=True))
        return [self._judged(one, *stated[i]) for i, one in enumerate(drawn)]

    def _judged(self, one: Drawn, extracted: str | None, verdict: Verdict) -> Judged:
        normalised = None if extracted is None else self.checkers[one.task.checker].normalise(extracted)
        numbers, options = are_numbers(extracted, one.task.gold), one.task.kind == "choice"
        worth = reward(verdict, numbers, options, self.config.partial, self.config.partial_reward)
        asked = verdict == "correct" and steps_mode(self.config, one.task) != "ignore"
        wrong = has_wrong_step(one.task.prefill, one.completion.text) if asked else None
        return Judged(extracted, normalised, verdict, worth, wrong)

    def score(self, one: Drawn, judged: Judged) -> float | None:
        """The reward that is trained on; None: undecided."""
        zeroed = judged.wrong_step and steps_mode(self.config, one.task) == "zero"
        return 0.0 if zeroed else judged.reward


def _verdicts(checker: Checker, drawn: Sequence[Drawn]) -> Iterable[tuple[str | None, Verdict]]:
    """(extracted answer, verdict) of rollouts that one checker judges."""
    answers = extract_all(checker, [(d.task.prefill, d.completion.text, d.task.choices) for d in drawn])
    stated = [(answer, d.task.gold) for answer, d in zip(answers, drawn, strict=True) if answer is not None]
    found = iter(checker.matches(stated))
    return [(answer, "no_answer" if answer is None else VERDICTS[next(found)]) for answer in answers]


def steps_mode(config: PpoRun, task: Task) -> Literal["ignore", "log", "zero"]:
    """What is done about right answers with a wrong step: `auto` looks for them where questions have options, since
    there a wrong solution is right by luck.
    """
    if config.wrong_steps == "auto":
        return "log" if task.choices is not None else "ignore"
    return config.wrong_steps


def has_wrong_step(prefill: str, text: str) -> bool:
    """Whether an equation in one of the steps does not hold."""
    steps = [text[step.start : step.end].strip() for step in split_steps(prefill, text)]
    return rule_labels.label(steps)[1] is not None
