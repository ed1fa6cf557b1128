"""Greedy accuracy on held-out problems during training, with the checkers that the pipeline uses.

Accuracy is the share of *all* problems with a known answer: one without an extracted answer, or whose check is
undecided, does not count as solved. Problems of a split named `test` are refused: a checkpoint is never chosen on
test data.

With `labels` no gold is read, and accuracy is agreement: of the problems whose label states an answer, the share where
the completion's normalised answer is the label's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from builders.checkers import Checker, checker_for, extract_all, get_checker
from builders.engines import COMPLETED, Engine, Request
from builders.engines.hf import HfEngine
from schemas import Chat
from schemas.ids import digest
from schemas.sections import Sampling
from schemas.sections_training import TrainingRun, Validation
from schemas.slots import NONE
from stores.paths import run_dir
from stores.stage import Stage
from train import parallel
from train.policy import Policy

_BATCH = 128
"""Prompts of one forward while generating."""

MakeEngine = Callable[[PreTrainedModel, PreTrainedTokenizerBase], Engine]


class Question(NamedTuple):
    """A prompt, its problem's gold answer (or its label's, normalised), the name of the checker that compares, and the
    problem's options.
    """

    request: Request
    gold: str
    checker: str
    choices: tuple[str, ...] | None = None


class Validator:
    """Measures a policy's greedy accuracy on some questions; `by_label`: answers are compared in their normal forms."""

    def __init__(
        self,
        questions: Sequence[Question],
        sampling: Sampling,
        make_engine: MakeEngine = HfEngine,
        make_checker: Callable[[str], Checker] = get_checker,
        by_label: bool = False,
    ):
        self.questions, self.sampling, self.by_label = questions, sampling, by_label
        self.make_engine, self.make_checker = make_engine, make_checker

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides an accuracy, except the policy."""
        asked = [[*q.request, q.gold, q.checker] for q in self.questions]
        rows = [[[m.model_dump() for m in part] if isinstance(part, tuple) else part for part in row] for row in asked]
        used = [self.make_checker(name) for name in sorted({q.checker for q in self.questions})]
        versions = [[c.name, c.version, c.rule_version] for c in used]
        return digest([rows, self.sampling.model_dump(), versions, self.by_label])

    def accuracy(self, policy: Policy) -> float:
        """Share of the questions that the policy's greedy completion solves."""
        mine = self.questions[parallel.rank() :: parallel.count()]
        with policy.generating() as model:
            found = parallel.everyones(dict(self._completions(self.make_engine(model, policy.tokenizer), mine)))
        texts = {key: text for part in found for key, text in part.items()}
        return parallel.agreed(sum(self._solved(texts)) if parallel.leads() else 0) / len(self.questions)

    def _completions(self, engine: Engine, questions: Sequence[Question]) -> Iterator[tuple[str, str]]:
        for batch in engine.stream([q.request for q in questions], self.sampling, _BATCH):
            yield from ((request.key, c.text if c.finish_reason in COMPLETED else "") for request, c in batch)

    def _solved(self, texts: dict[str, str]) -> Iterator[int]:
        """The number of solved questions, per checker."""
        for name in sorted({q.checker for q in self.questions}):
            with self.make_checker(name) as checker:
                mine = [q for q in self.questions if q.checker == name]
                found = extract_all(checker, [(q.request.prefill, texts[q.request.key], q.choices) for q in mine])
                pairs = [(answer, q.gold) for answer, q in zip(found, mine, strict=True) if answer is not None]
                yield sum(self._right(checker, pairs))

    def _right(self, checker: Checker, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether each extracted answer is the gold one, or in its normal form the label's."""
        if self.by_label:
            return [checker.normalise(answer) == label for answer, label in pairs]
        return [verdict is True for verdict in checker.matches(pairs)]


def load_validator(stage: Stage) -> Validator | None:
    """The validator that a training run asks for; None where `validation.prompts` is `none`.

    Raises ValueError for test problems, sampling that is not greedy, and prompts without any known answer.
    """
    config: TrainingRun = stage.config
    wanted, place = config.validation, f"{stage.section}.{stage.name}.validation"
    if wanted.prompts == NONE:
        return None
    sampling = stage.params.sampling[wanted.sampling]
    if sampling.temperature > 0:
        raise ValueError(f"{place}.sampling: '{wanted.sampling}' is not greedy; use an entry with temperature 0")
    _require_built(stage, place)
    by_label = wanted.labels != NONE
    questions = list(_questions(stage, place, _labels(stage, wanted) if by_label else _gold(stage, wanted)))
    if not questions:
        known = f"that '{wanted.labels}' answers" if by_label else "with a known answer"
        raise ValueError(
            f"{place}: no prompt of '{wanted.prompts}' asks a problem of '{wanted.asked}' {known}; name the problems"
            " run that the prompts were made from"
        )
    return Validator(questions, sampling, by_label=by_label)


def _require_built(stage: Stage, place: str) -> None:
    """Raises ValueError where the tables to validate on are not there: a release does not bring them."""
    wanted: Validation = stage.config.validation
    answers = ("answers", wanted.problems) if wanted.labels == NONE else ("predictions", wanted.labels)
    needed = ("prompts", wanted.prompts), ("problems", wanted.asked), answers
    paths = [run_dir(table, run, stage.root) for table, run in needed]
    if missing := [path.relative_to(stage.root).as_posix() for path in paths if not path.is_dir()]:
        raise ValueError(
            f"{place}.prompts: {missing[0]} is not there; restore it with `dvc pull {' '.join(missing)}` (or build it"
            " with `dvc repro`), or set validation.prompts to none to train without validation"
        )


Known = Callable[[str, str], tuple[str, str] | None]
"""Problem and its answer kind -> the answer that is right, and the checker's name; None: it is not known."""


def _gold(stage: Stage, wanted: Validation) -> Known:
    answers = {row["problem_id"]: row["answer"] for row in _rows(stage, "answers", wanted.problems, "answer")}
    return lambda problem, kind: (answers[problem], checker_for(kind, wanted.checker)) if problem in answers else None


def _labels(stage: Stage, wanted: Validation) -> Known:
    """Of several samples of a problem, the first that states an answer is its label."""
    labels: dict[str, tuple[str, str]] = {}
    for row in stage.read("predictions", wanted.labels, ["sample_id", "normalised", "extractor"]).to_pylist():
        if row["normalised"] is not None:
            checker = row["extractor"].rpartition(":")[0]
            labels.setdefault(row["sample_id"].partition("-")[0], (row["normalised"], checker))
    return lambda problem, _: labels.get(problem)


def _questions(stage: Stage, place: str, known: Known) -> Iterable[Question]:
    wanted: Validation = stage.config.validation
    asked = {r["problem_id"]: r for r in _rows(stage, "problems", wanted.asked, "split", "answer_kind", "choices")}
    if any(row["split"] == "test" for row in asked.values()):
        slot = "problems" if wanted.labels == NONE else "questions"
        raise ValueError(
            f"{place}.{slot}: '{wanted.asked}' holds test problems, and a checkpoint chosen on them would make every"
            " test figure too good; cut a validation part out of the training problems (shuffle, skip, limit)"
        )
    for prompt in stage.read("prompts", wanted.prompts).to_pylist():
        problem = asked.get(prompt["problem_id"])
        if problem and (found := known(problem["problem_id"], problem["answer_kind"])):
            messages, choices = tuple(Chat(**m) for m in prompt["messages"]), problem["choices"]
            request = Request(prompt["prompt_id"], messages, prompt["prefill"], prompt["rendering"])
            yield Question(request, *found, choices and tuple(choices))


def _rows(stage: Stage, table: str, run: str, *columns: str) -> list[dict[str, Any]]:
    return stage.read(table, run, ["problem_id", *columns]).to_pylist()
