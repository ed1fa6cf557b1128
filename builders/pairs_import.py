"""`pairs_import`: one pair per row of a file in the columns of the published Math-Step-DPO-10K, with all that it needs.

`dataset` and `prompt` make a problem, `answer` its gold answer, the problem and `initial_reason_steps` a step prompt
(the template's messages; the columns' start of the answer is the prefill), the full texts samples of that prompt, and
the steps the spans at their beginning. Rows that share a prompt and a rejected text share its sample.

`pairwright export-steps` writes the file's rows again, code point for code point and in its order. So what the tables
cannot say is kept in samples of the problem, which answer no prompt; the model's name is `imported:<column>:<block>`:

* `full_chosen`, `full_rejected`: a full text that does not begin with the step (`builders.step_pair_rows.side` says
  what the pair's own sample is then);
* `answer`: that of a row whose problem has another gold answer (its first one that is not blank).

A row like an earlier one is a pair like an earlier one. Rejects, whose detail says which row, counted from 1 over all
files: `empty` (no question, no step, or a null), `no_answer` (null). The rows are held in memory.
"""

from itertools import islice
from typing import Any

import pyarrow as pa

from builders.given_samples import given_samples
from builders.prompts import load_template, messages_of
from builders.sources.base import Fields, Record, Source
from builders.sources.files import read_rows
from builders.sources.reading import source_files
from builders.step_pair_rows import Dropped, Origin, Side, StepPair, read_row, side
from schemas import Answer, Chat, Pair, Problem, Prompt, Reject, Sample, arrow_schema
from schemas.ids import problem_id, prompt_id, sample_id, text_hash
from schemas.sections_steps import ImportedPairsRun
from stores.parquet import sort_table
from stores.stage import Stage, run_stage

HUB = "xinlai/Math-Step-DPO-10K"
DIGEST = ("chosen_text_hash", "rejected_text_hash")
_SAMPLES = ("sample_id", "prompt_id", "problem_id", "model", "model_fingerprint", "index", "text", "finish_reason")
_GIVEN = pa.schema([field for field in arrow_schema(Sample) if field.name in _SAMPLES])
_PAIRS = pa.schema([*arrow_schema(Pair), *(pa.field(name, pa.string()) for name in DIGEST)])


class Builder:
    """The rows of all tables. `add` takes one row of the file after the other, `finish` comes once at the end."""

    def __init__(self, config: ImportedPairsRun):
        self.config = config
        self.template, self.label = load_template(config.template)
        self.problems: dict[str, Problem] = {}
        self.answers: dict[str, Answer] = {}
        self.prompts: dict[str, Prompt] = {}
        self.samples: dict[str, dict[str, Any]] = {}
        self.pairs: list[dict[str, Any]] = []
        self.rejects: list[Reject] = []
        self._given_answers: list[tuple[str, str]] = []
        self._ranks: dict[str, int] = {}
        self._rejected: dict[tuple[str, str, bool], str] = {}

    def add(self, row: Fields, place: str, number: int) -> None:
        """One row of the file; `number` is counted from 1. Raises ValueError as `read_row` does."""
        pair = read_row(row, place)
        if isinstance(pair, Dropped):
            self.rejects.append(Reject(reason=pair.reason, detail=f"row {number}: {pair.detail}"))
            return
        problem = self._problem(pair)
        prompt = self._prompt(pair, problem)
        self._given_answers.append((problem, pair.answer))
        self._pair(pair, problem, prompt)

    def finish(self) -> None:
        """Keeps the answers that are not their problem's gold one."""
        for number, (problem, answer) in enumerate(self._given_answers):
            gold = self.answers.get(problem)
            if answer != (gold.answer if gold else ""):
                self._sample(Origin("answer", number), problem, None, answer)

    def _problem(self, pair: StepPair) -> str:
        identity = problem_id(pair.dataset, pair.prompt, None)
        given = {
            "problem_id": identity, "source": pair.dataset, "split": self.config.split, "question": pair.prompt,
            "choices": None, "answer_kind": "latex", "level": None, "subject": None, "licence": self.config.licence,
        }  # fmt: skip
        self.problems.setdefault(identity, Problem.model_validate(given))
        if pair.answer.strip():
            self.answers.setdefault(identity, Answer(problem_id=identity, answer=pair.answer))
        return identity

    def _prompt(self, pair: StepPair, problem: str) -> str:
        messages = messages_of(self.template, pair.prompt, None, (), self.config.rendering)
        identity = prompt_id(problem, messages, pair.initial_reason_steps, self.config.rendering)
        if identity not in self.prompts:
            self.prompts[identity] = Prompt(
                prompt_id=identity,
                problem_id=problem,
                messages=[Chat.model_validate(message) for message in messages],
                prefill=pair.initial_reason_steps,
                rendering=self.config.rendering,
                style=self.template.style,
                template=self.label,
                demo_sample_ids=None,
            )
        return identity

    def _pair(self, pair: StepPair, problem: str, prompt: str) -> None:
        """One pair, both its samples, and its full texts where they are others than the samples'."""
        number, rank = len(self.pairs), self._ranks.get(prompt, 0)
        self._ranks[prompt] = rank + 1
        chosen = side(pair.initial_reason_steps, pair.chosen, pair.full_chosen)
        rejected = side(pair.initial_reason_steps, pair.rejected, pair.full_rejected)
        chosen_id = self._sample(Origin("chosen", number), problem, prompt, chosen.text, chosen.ended)
        key = prompt, rejected.text, rejected.ended
        if key not in self._rejected:
            self._rejected[key] = self._sample(Origin("rejected", number), problem, prompt, *key[1:])
        for column, full in (("full_chosen", chosen.full), ("full_rejected", rejected.full)):
            if full is not None:
                self._sample(Origin(column, number), problem, None, full)
        row = {"prompt_id": prompt, "rank": rank, "problem_id": problem}
        self.pairs.append(
            row | self._span("chosen", chosen_id, chosen) | self._span("rejected", self._rejected[key], rejected)
        )

    def _span(self, name: str, sample: str, its: Side) -> dict[str, Any]:
        whole = self.config.span == "completion"
        return {
            f"{name}_sample_id": sample,
            f"{name}_start": 0,
            f"{name}_end": len(its.text) if whole else its.step,
            f"{name}_eos": whole and its.ended,
            f"{name}_text_hash": text_hash(its.text),
        }

    def _sample(self, origin: Origin, problem: str, prompt: str | None, text: str, ended: bool = True) -> str:
        identity = sample_id(prompt or problem, origin.fingerprint, origin.place)
        finish_reason = "stop" if ended else "length"
        values = identity, prompt, problem, origin.model, origin.fingerprint, origin.place, text, finish_reason
        self.samples[identity] = dict(zip(_SAMPLES, values, strict=True))
        return identity


def _no_record(row: Fields, where: str) -> Record:
    raise AssertionError("rows of pairs are read by read_row")


def build(config: ImportedPairsRun, stage: Stage) -> Builder:
    """The rows of all tables of a run.

    Raises ValueError for a file that is missing or damaged, a row in no known shape, and a window without rows.
    """
    source = Source("pairs_import", config.licence, "latex", config.hub or HUB, config.files, _no_record)
    files = source_files(config, source, stage.root)
    located = ((place, row) for label, path in files for place, row in read_rows(path, label))
    stop = config.skip + config.limit if config.limit else None
    builder, number = Builder(config), config.skip
    for number, (place, row) in enumerate(islice(located, config.skip, stop), config.skip + 1):
        builder.add(row, place, number)
    if number == config.skip:
        raise ValueError(f"skip: {config.skip:,} leaves no row of the file; lower it")
    builder.finish()
    return builder


def run(stage: Stage) -> None:
    """Writes one run of imported pairs."""
    built = build(stage.config, stage)
    stage.write_rows(Problem, built.problems.values())
    stage.write_rows(Answer, built.answers.values())
    stage.write_rows(Prompt, built.prompts.values())
    samples = given_samples(pa.Table.from_pylist(list(built.samples.values()), _GIVEN), None)
    stage.write(Sample, [sort_table(Sample, samples)])
    stage.write(Pair, [sort_table(Pair, pa.Table.from_pylist(built.pairs, _PAIRS))], digest=DIGEST)
    stage.reject(built.rejects)


if __name__ == "__main__":
    run_stage("pairs_import", run)
