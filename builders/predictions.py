"""`predictions`: one row per sample, the final answer that it states. No gold answer is read.

Extraction is streamed in the order of sample_id; a text that an earlier sample of the same batch has is not read again.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from builders.checkers import Checker, checker_for, get_checker
from schemas import Prediction, Sample, arrow_schema
from schemas.slots import NONE
from stores.parquet import open_part, part_files
from stores.progress import Progress, progress
from stores.stage import Stage, run_stage

SAMPLE_COLUMNS = ["sample_id", "prompt_id", "problem_id", "text"]
Answer = tuple[str | None, str | None]
"""What a text states: as written, and its canonical form."""


def predict(samples: pa.Table, prompts: pa.Table | None, problems: pa.Table, checker: str) -> pa.Table:
    """`predictions` rows of samples (`sample_id`, `prompt_id`, `problem_id`, `text`), in the order of sample_id.

    `prompts` (None: there is no prefill) needs `prompt_id`, `prefill`; `problems` needs `problem_id`, `answer_kind`.

    Raises ValueError as `Extractor` does.
    """
    extractor = Extractor(prompts, problems, checker)
    return pa.Table.from_batches([*extractor.rows([samples])], arrow_schema(Prediction)).sort_by("sample_id")


class Extractor:
    """Finds answers, with the prefills of a prompts run and the answer kinds of a problems run at hand."""

    def __init__(self, prompts: pa.Table | None, problems: pa.Table, checker: str):
        self.prefills = _column(prompts, "prompt_id", "prefill") if prompts is not None else None
        kinds = _column(problems, "problem_id", "answer_kind")
        names = {kind: checker_for(kind, checker) for kind in set(kinds.values())}
        checkers = {name: get_checker(name) for name in set(names.values())}
        self.checkers: dict[str, Checker] = {problem: checkers[names[kind]] for problem, kind in kinds.items()}

    def rows(self, batches: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        """`predictions` rows, a batch for a batch.

        Raises ValueError for a sample whose problem or prompt is not in the runs that were given.
        """
        schema = arrow_schema(Prediction)
        for batch in batches:
            seen: dict[tuple[str, str, str], Answer] = {}
            samples = zip(*(batch[column].to_pylist() for column in SAMPLE_COLUMNS), strict=True)
            rows = [dict(zip(schema.names, self._row(*sample, seen=seen), strict=True)) for sample in samples]
            yield pa.RecordBatch.from_pylist(rows, schema)

    def _row(
        self, sample: str, prompt: str | None, problem: str, text: str, seen: dict[tuple[str, str, str], Answer]
    ) -> tuple[str, str | None, str | None, str, str]:
        checker = self.checkers.get(problem)
        if checker is None:
            raise ValueError(f"sample {sample}: its problem is not in `problems`; name the run that its prompts are of")
        prefill = self._prefill(sample, prompt)
        key = (checker.name, prefill, text)
        if key not in seen:
            extracted = checker.extract(prefill, text)
            seen[key] = extracted, None if extracted is None else checker.normalise(extracted)
        return sample, *seen[key], f"{checker.name}:{checker.rule}", checker.rule_version

    def _prefill(self, sample: str, prompt: str | None) -> str:
        if self.prefills is None or prompt is None:
            return ""
        if prompt not in self.prefills:
            raise ValueError(f"sample {sample}: its prompt is not in `prompts`; name the run that it answers")
        return self.prefills[prompt]


def _column(table: pa.Table, key: str, value: str) -> dict[str, str]:
    return dict(zip(table[key].to_pylist(), table[value].to_pylist(), strict=True))


def run(stage: Stage) -> None:
    """Streams the samples; of prompts and problems only a narrow column is held."""
    config = stage.config
    prompts = None if config.prompts == NONE else stage.read("prompts", config.prompts, ["prompt_id", "prefill"])
    problems = stage.read("problems", config.problems, ["problem_id", "answer_kind"])
    extractor = Extractor(prompts, problems, config.checker)
    parts = part_files(stage.dir("samples", config.samples))
    total = sum(open_part(part, Sample).metadata.num_rows for part in parts)
    with progress("predictions", total, "samples") as bar:
        batches = stage.scan("samples", config.samples, SAMPLE_COLUMNS)
        stage.write(Prediction, _shown(extractor.rows(batches), bar))


def _shown(batches: Iterable[pa.RecordBatch], bar: Progress) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        bar.advance(len(batch))


if __name__ == "__main__":
    run_stage("predictions", run)
