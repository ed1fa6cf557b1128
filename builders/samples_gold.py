"""`samples_gold`: one row per human solution, as a sample: the solution, and an ending that states the gold answer.

They answer no prompt, so `prompt_id` is null; `demos_gold` and `pairs_outcome` put them under the prompts of their
problem. With `numbered`, their steps are marked as `Step 2:` and so on, for prompts that end in `Step 1:`; `bare` ones
are the ending alone; `body` leaves out the head of a program, for prompts that end in it (`reft_program_start`).

A problem without a solution of the style is a reject (`no_solution`; with `body`, also where a program has no head),
and so is a solution whose ending needs a gold answer that is not known (`no_answer`).
"""

import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from builders.given_samples import TokenCounter, given_samples
from builders.steps import split_steps
from schemas import Reject, Sample
from schemas.ids import digest, sample_id
from schemas.sections import GoldSamplesRun
from schemas.slots import NONE
from stores.duck import Duck, sql_file
from stores.stage import Stage, partitioned, run_stage

MODEL = "gold"
_MARKER = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]+)?(?:\*\*|__)?Step[ \t]+[0-9]+(?:\*\*|__)?:(?:\*\*|__)?[ \t]*", re.MULTILINE
)
_FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_ABBREVIATED = r"\b(?:[A-Z]|e\.g|i\.e|Mr|Mrs|Ms|Dr|St|No|Nos|vs|cf|approx|Fig|Eq|Eqs|etc|resp)"
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(\s+)(?=[\"'(\[$\\]*[A-Z0-9$\\])")
_NO_END = re.compile(rf"(?:{_ABBREVIATED}|(?:^|[.!?]\s+)\d+)\.\Z")


def number_steps(solution: str) -> str:
    """A solution with `Step 2:`, `Step 3:`, … before its steps after the first.

    Steps are its lines, or the sentences of a single line. What stands in code, figures or mathematics is never cut,
    nor is a number with a decimal point. Blank lines go, and so do markers that are there already.
    """
    plain = _MARKER.sub("", solution)
    steps = _lines(plain, _FIGURE.sub(lambda figure: figure[0].replace("\n", " "), plain))
    if len(steps) == 1 and "\n" not in steps[0]:
        steps = _lines(steps[0], _SENTENCE_END.sub(_broken, steps[0]))
    return "\n".join(step if i == 1 else f"Step {i}: {step}" for i, step in enumerate(steps, 1))


def _lines(text: str, broken: str) -> list[str]:
    """The parts of a text that are lines of `broken`, the same text with other white space."""
    return [text[step.start : step.end].strip() for step in split_steps("", broken)]


def _broken(end: re.Match[str]) -> str:
    """A sentence's end with line breaks for its spaces; as it is where the period ends no sentence."""
    if _NO_END.search(end.string, max(0, end.start() - 12), end.start() + 1):
        return end[0]
    return end[0][: end.start(1) - end.start()] + "\n" * len(end[1])


def build(solved: pa.Table, config: GoldSamplesRun, counter: TokenCounter | None) -> pa.Table:
    """`samples` rows from `problem_id`, `index`, `text` and `ending` in the order of the first two.

    Ids carry the style, the ending and whether steps are numbered, or what is left out.
    """
    forms = [form for form in ("numbered", "bare", "body") if getattr(config, form)]
    fingerprint = digest([MODEL, config.style, config.ending, *forms])
    keys = zip(solved["problem_id"].to_pylist(), solved["index"].to_pylist(), strict=True)
    ids = [sample_id(problem, fingerprint, index) for problem, index in keys]
    texts, size = solved["text"], len(solved)
    if config.bare:
        texts = pa.chunked_array([pa.repeat("", size)])
    if config.numbered:
        texts = pa.chunked_array([pa.array(map(number_steps, texts.to_pylist()), pa.string())])
    rows = pa.table(
        {
            "sample_id": pa.array(ids, pa.string()),
            "prompt_id": pa.nulls(size, pa.string()),
            "problem_id": solved["problem_id"],
            "model": pa.repeat(MODEL, size),
            "model_fingerprint": pa.repeat(MODEL, size),
            "index": solved["index"],
            "text": pc.binary_join_element_wise(texts, solved["ending"], ""),
            "finish_reason": pa.repeat("stop", size),
        }
    )
    return given_samples(rows, counter)


@partitioned()
def run(stage: Stage) -> None:
    """Writes one run of gold samples."""
    config: GoldSamplesRun = stage.config
    counter = None if config.model == NONE else TokenCounter(stage.dir("models", config.model))
    with Duck() as duck:
        for table in ("problems", "solutions", "answers"):
            duck.view(table, table, [stage.dir(table, config.problems)], stage.scope)
        query = sql_file(__file__, "samples_gold")
        batches = duck.batches(query, {"style": config.style, "ending": config.ending, "body": config.body})
        stage.write(Sample, _kept(stage, batches, counter))


def _kept(stage: Stage, batches: Iterator[pa.Table], counter: TokenCounter | None) -> Iterator[pa.Table]:
    for batch in batches:
        missing = batch.filter(batch["reason"].is_valid()).to_pylist()
        stage.reject(Reject(problem_id=row["problem_id"], reason=row["reason"]) for row in missing)
        yield build(batch.filter(batch["reason"].is_null()), stage.config, counter)


if __name__ == "__main__":
    run_stage("samples_gold", run)
