"""`predictions`: one row per sample, the final answer that it states. No gold answer is read.

Extraction is streamed in the order of sample_id, in several processes where that pays; a text that an earlier sample of
the same batch has is not read again.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from builders.checkers import Checker, Stated, checker_for, extract_all, get_checker
from builders.parallel import by_range
from builders.streams import ProblemStream, lookup
from schemas import Prediction, arrow_schema
from schemas.slots import NONE
from stores.progress import Progress, progress
from stores.stage import Stage, partitioned, run_stage

SAMPLE_COLUMNS = ["sample_id", "prompt_id", "problem_id", "text"]
Answer = tuple[str | None, str | None]
"""What a text states: as written, and its canonical form."""


def predict(samples: pa.Table, prompts: pa.Table | None, problems: pa.Table, checker: str) -> pa.Table:
    """`predictions` rows of samples (`sample_id`, `prompt_id`, `problem_id`, `text`), in the order of sample_id.

    `prompts` (None: there is no prefill) needs `prompt_id`, `prefill`; `problems` needs `problem_id`, `answer_kind`
    and `choices`; both in the order of their ids.

    Raises ValueError as `Extractor` does.
    """
    with Extractor([prompts] if prompts is not None else None, [problems], checker) as extractor:
        rows = extractor.rows([samples.sort_by("sample_id")])
        return pa.concat_tables([arrow_schema(Prediction).empty_table(), *rows])


class Extractor:
    """Finds answers, with the prefills of a prompts run, and the answer kinds and options of a problems run.

    Both are streams that are read along with the samples, so that only those of one batch are in memory. A context
    manager: leaving it ends the processes of its checkers.
    """

    def __init__(self, prompts: Iterable[pa.Table] | None, problems: Iterable[pa.Table], checker: str):
        self.prompts = None if prompts is None else ProblemStream(prompts, "prompt_id")
        self.problems, self.configured = ProblemStream(problems, "problem_id"), checker
        self.checkers: dict[str, Checker] = {}
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def rows(self, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """`predictions` rows, a table for each batch that has some; all samples are in the order of `sample_id`.

        Raises ValueError for a sample whose problem or prompt is not in the runs that were given.
        """
        for batch in batches:
            if len(batch):
                yield self._rows(batch)

    def _rows(self, batch: pa.Table) -> pa.Table:
        ends = pc.min_max(batch["problem_id"]).as_py()
        problems = lookup(self.problems, ends, "problem_id", "answer_kind", "choices")
        prefills = None if self.prompts is None else lookup(self.prompts, ends, "prompt_id", "prefill")
        asked: list[tuple[Checker, Stated]] = []
        for sample, prompt, problem, text in zip(*(batch[c].to_pylist() for c in SAMPLE_COLUMNS), strict=True):
            if problem not in problems:
                lacking = "its problem is not in `problems`; name the run that its prompts are of"
                raise ValueError(f"sample {sample}: {lacking}")
            kind, choices = problems[problem]
            prefill = _prefill(prefills, sample, prompt)
            asked.append((self._checker(kind), (prefill, text, choices and tuple(choices))))
        answers = _answers(asked)
        found = [(*answers[c.name][s], f"{c.name}:{c.rule}", c.rule_version) for c, s in asked]
        columns = [batch["sample_id"], *zip(*found, strict=True)]
        return pa.table(dict(zip(Prediction.model_fields, columns, strict=True)), schema=arrow_schema(Prediction))

    def _checker(self, kind: str) -> Checker:
        if kind not in self.checkers:
            self.checkers[kind] = self.stack.enter_context(get_checker(checker_for(kind, self.configured)))
        return self.checkers[kind]


def _answers(asked: Iterable[tuple[Checker, Stated]]) -> dict[str, dict[Stated, Answer]]:
    """What each checker found in each distinct text."""
    checkers: dict[str, Checker] = {}
    distinct: dict[str, dict[Stated, None]] = {}
    for checker, stated in asked:
        checkers[checker.name] = checker
        distinct.setdefault(checker.name, {})[stated] = None
    answers: dict[str, dict[Stated, Answer]] = {}
    for name, texts in distinct.items():
        normalise = checkers[name].normalise
        extracted = extract_all(checkers[name], list(texts))
        answers[name] = {
            text: (answer, None if answer is None else normalise(answer))
            for text, answer in zip(texts, extracted, strict=True)
        }
    return answers


def _prefill(prefills: dict[str, tuple] | None, sample: str, prompt: str | None) -> str:
    if prefills is None or prompt is None:
        return ""
    if prompt not in prefills:
        raise ValueError(f"sample {sample}: its prompt is not in `prompts`; name the run that it answers")
    return prefills[prompt][0]


def extracted(stage: Stage) -> Iterator[pa.Table]:
    """The predictions of a stage's scope, a batch of samples at a time."""
    config = stage.config
    prompts = None if config.prompts == NONE else stage.scan("prompts", config.prompts, ["prompt_id", "prefill"])
    problems = stage.scan("problems", config.problems, ["problem_id", "answer_kind", "choices"])
    with Extractor(prompts, problems, config.checker) as extractor:
        yield from extractor.rows(stage.scan("samples", config.samples, SAMPLE_COLUMNS))


@partitioned()
def run(stage: Stage) -> None:
    """Streams the samples, and prompts and problems beside them.

    Raises ValueError for a kind of answer that no checker compares, before any sample is read.
    """
    for batch in stage.scan("problems", stage.config.problems, ["answer_kind"]):
        for kind in batch["answer_kind"].unique().to_pylist():
            checker_for(kind, stage.config.checker)
    total = stage.rows("samples", stage.config.samples)
    with progress("predictions", total, "samples") as bar:
        stage.write(Prediction, _shown(by_range(extracted, stage, total), bar))


def _shown(batches: Iterable[pa.Table], bar: Progress) -> Iterator[pa.Table]:
    for batch in batches:
        yield batch
        bar.advance(len(batch))


if __name__ == "__main__":
    run_stage("predictions", run)
