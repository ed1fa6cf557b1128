"""One prompt per problem: a template's messages, after fixed demonstrations where the run asks for shots.

Demonstrations are drawn once per run, by a seeded hash of the samples: at most one sample per problem, completed and
not empty. A problem that is itself among the demonstrations is asked with the next one of that order in its place, so
no prompt shows its own solution.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from builders.template_files import fill, format_choices, load
from schemas import Chat, Prompt
from schemas.ids import digest, prompt_id
from schemas.sections import PromptsRun
from schemas.slots import NONE
from stores.parquet import rows_to_table
from stores.stage import Stage, partitioned, run_stage

TEMPLATES = Path(__file__).parent / "templates"


class Template(BaseModel):
    """A file of `builders/templates`, whose README says what each key means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: Literal["natural", "program"]
    system: str | None = None
    user: str
    prefill: str = ""
    demo: str = "{completion}"
    separator: str = "\n\n"


class Demonstration(NamedTuple):
    """A sample that prompts show, with the problem that it answers."""

    sample_id: str
    problem_id: str
    question: str
    choices: list[str] | None
    completion: str


def load_template(name: str, directory: Path = TEMPLATES) -> tuple[Template, str]:
    """A template, and the name and hash of its file, as the `template` column has them.

    Raises ValueError as `read_file` does, and for a file that is no template.
    """
    template, label, file = load(Template, name, directory)
    if "{question}" not in template.user:
        raise ValueError(f"template: {file} asks nothing: `user` needs {{question}}")
    return template, label


def messages_of(
    template: Template, question: str, choices: list[str] | None, demos: Sequence[Demonstration], rendering: str
) -> list[dict[str, str]]:
    """The conversation up to the model's turn.

    For `text`, whose contents are joined, the template's separator ends the system message and each demonstration.

    Raises ValueError where the template shows options and the problem has none, or the other way around.
    """
    between = template.separator if rendering == "text" else ""
    messages = [{"role": "system", "content": template.system + between}] if template.system else []
    for demo in demos:
        answer = _prefill(template, demo.question, demo.choices) + fill(template.demo, completion=demo.completion)
        messages.append({"role": "user", "content": _asked(template, demo.question, demo.choices)})
        messages.append({"role": "assistant", "content": answer + between})
    return [*messages, {"role": "user", "content": _asked(template, question, choices)}]


def _asked(template: Template, question: str, choices: list[str] | None) -> str:
    shows = "{choices}" in template.user
    if shows != (choices is not None):
        mismatch = "shows {choices}, which the problem has not" if shows else "leaves out the problem's options"
        raise ValueError(f"template: it {mismatch}; use another template for: {question[:60]!r}")
    return fill(template.user, question=question, choices=format_choices(choices) if choices else "")


def _prefill(template: Template, question: str, choices: list[str] | None) -> str:
    return fill(template.prefill, question=question, choices=format_choices(choices) if choices else "")


def draw(candidates: Sequence[Demonstration], shots: int, seed: int) -> list[Demonstration]:
    """The demonstrations of a run and a spare one: the first of each problem, in the order of a seeded hash.

    Raises ValueError where fewer than `shots` problems have a sample.
    """
    drawn: dict[str, Demonstration] = {}
    for demo in sorted(candidates, key=lambda demo: (digest([seed, demo.sample_id]), demo.sample_id)):
        drawn.setdefault(demo.problem_id, demo)
    if len(drawn) < shots:
        raise ValueError(f"shots: {shots} wanted, but `demo_samples` has completed samples of {len(drawn)} problems")
    return list(islice(drawn.values(), shots + 1))


def shown(demos: Sequence[Demonstration], shots: int, problem: str) -> list[Demonstration]:
    """The demonstrations that a prompt shows: the first `shots` that are of other problems.

    Raises ValueError where the problem is among them and there is no spare one.
    """
    others = [demo for demo in demos if demo.problem_id != problem][:shots]
    if len(others) < shots:
        raise ValueError(f"shots: problem {problem} is itself a demonstration and no other is left; lower `shots`")
    return others


def build(
    problems: Iterable[dict[str, Any]],
    template: tuple[Template, str],
    rendering: Literal["chat", "text"],
    demos: Sequence[Demonstration] = (),
    shots: int = 0,
) -> Iterator[Prompt]:
    """One prompt per problem (`problem_id`, `question`, `choices`), in the order given."""
    layout, label = template
    for problem in problems:
        seen = shown(demos, shots, problem["problem_id"])
        messages = messages_of(layout, problem["question"], problem["choices"], seen, rendering)
        prefill = _prefill(layout, problem["question"], problem["choices"])
        yield Prompt(
            prompt_id=prompt_id(problem["problem_id"], messages, prefill, rendering),
            problem_id=problem["problem_id"],
            messages=[Chat.model_validate(message) for message in messages],
            prefill=prefill,
            rendering=rendering,
            style=layout.style,
            template=label,
            demo_sample_ids=[demo.sample_id for demo in seen] if shots else None,
        )


def _candidates(stage: Stage, config: PromptsRun) -> Iterator[Demonstration]:
    """Completed samples of `demo_samples` which are not empty, with their questions.

    Raises ValueError for shots without runs to draw from, and for samples of problems that are not in `demo_problems`.
    """
    if NONE in (config.demo_samples, config.demo_problems):
        raise ValueError(f"shots: {config.shots} need `demo_samples` and `demo_problems` to draw from")
    columns = ["problem_id", "question", "choices"]
    problems = stage.read("problems", config.demo_problems, columns, whole=True)
    asked = {row["problem_id"]: row for row in problems.to_pylist()}
    wanted = ["sample_id", "problem_id", "text", "finish_reason"]
    for row in stage.read("samples", config.demo_samples, wanted, whole=True).to_pylist():
        problem = asked.get(row["problem_id"])
        if problem is None:
            raise ValueError(f"demo_problems: '{config.demo_problems}' lacks the problem of sample {row['sample_id']}")
        if row["finish_reason"] == "stop" and row["text"].strip():
            text = row["text"]
            yield Demonstration(row["sample_id"], row["problem_id"], problem["question"], problem["choices"], text)


def _tables(stage: Stage, config: PromptsRun) -> Iterator[pa.Table]:
    template = load_template(config.template)
    demos = draw(list(_candidates(stage, config)), config.shots, config.seed) if config.shots else []
    for batch in stage.scan("problems", config.problems, ["problem_id", "question", "choices"]):
        yield rows_to_table(Prompt, build(batch.to_pylist(), template, config.rendering, demos, config.shots))


@partitioned()
def run(stage: Stage) -> None:
    config: PromptsRun = stage.config
    written = stage.write(Prompt, _tables(stage, config))
    asked = sum(len(batch) for batch in stage.scan("problems", config.problems, ["problem_id"]))
    assert written == asked, "one prompt per problem"


if __name__ == "__main__":
    run_stage("prompts", run)
