"""One prompt per problem: a template's messages, after demonstrations where the run asks for shots.

Demonstrations are samples of any run (gold solutions, or what a model wrote, asked in whatever way), completed and not
empty. Whether they are right is never looked at. There are three ways to choose them:

* drawn once per run, by a seeded hash of the samples, at most one sample per problem;
* `redraw`: for every prompt anew, by a seeded hash of its problem, at most one sample per problem;
* `named`: these samples (or these problems' first samples), in this order.

No prompt shows its own solution: a problem that is itself among the fixed demonstrations is asked with the next one of
the order in its place. Where named ones leave no other, its prompt shows fewer.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from builders.template_files import fill, format_choices, load
from schemas import Chat, Prompt
from schemas.ids import digest, prompt_id
from schemas.sections_prompts import PromptsRun
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

    Raises ValueError where the template shows options and the problem has none, or the other way around, and for a
    demonstration that is part of a program.
    """
    between = template.separator if rendering == "text" else ""
    messages = [{"role": "system", "content": template.system + between}] if template.system else []
    for demo in demos:
        messages.append({"role": "user", "content": _asked(template, demo.question, demo.choices)})
        messages.append({"role": "assistant", "content": _answer(template, demo) + between})
    return [*messages, {"role": "user", "content": _asked(template, question, choices)}]


def _asked(template: Template, question: str, choices: list[str] | None) -> str:
    shows = "{choices}" in template.user
    if shows != (choices is not None):
        mismatch = "shows {choices}, which the problem has not" if shows else "leaves out the problem's options"
        raise ValueError(f"template: it {mismatch}; use another template for: {question[:60]!r}")
    return fill(template.user, question=question, choices=format_choices(choices) if choices else "")


def _prefill(template: Template, question: str, choices: list[str] | None) -> str:
    return fill(template.prefill, question=question, choices=format_choices(choices) if choices else "")


def _answer(template: Template, demo: Demonstration) -> str:
    """A demonstration's whole answer. Where the completion has the start that prompts give, it is not given again."""
    begun, shown = _prefill(template, demo.question, demo.choices), fill(template.demo, completion=demo.completion)
    if template.style == "program" and not begun and demo.completion[:1].isspace():
        raise ValueError(
            f"demo_samples: sample {demo.sample_id} is the body of a function without its head; use a template whose"
            " prefill is the head (reft_program_start), or samples_gold without `body`"
        )
    is_whole = demo.completion.startswith(begun) or (template.style == "program" and demo.completion.startswith("def "))
    return shown if is_whole else begun + shown


def draw(candidates: Sequence[Demonstration], shots: int, seed: int) -> list[Demonstration]:
    """The demonstrations of a run and a spare one: the first of each problem, in the order of a seeded hash.

    Raises ValueError where fewer than `shots` problems have a sample.
    """
    drawn: dict[str, Demonstration] = {}
    for demo in sorted(candidates, key=lambda demo: (digest([seed, demo.sample_id]), demo.sample_id)):
        drawn.setdefault(demo.problem_id, demo)
    _check_enough(len(drawn), shots)
    return list(islice(drawn.values(), shots + 1))


def _check_enough(problems: int, shots: int) -> None:
    if problems < shots:
        raise ValueError(f"shots: {shots} wanted, but `demo_samples` has completed samples of {problems} problems")


def shown(demos: Sequence[Demonstration], shots: int, problem: str, fewer: bool = False) -> list[Demonstration]:
    """The demonstrations that a prompt shows: the first `shots` that are of other problems.

    Raises ValueError where the problem is among them and there is no spare one, unless `fewer` will do.
    """
    others = [demo for demo in demos if demo.problem_id != problem][:shots]
    if len(others) < shots and not fewer:
        raise _none_left(problem)
    return others


def _none_left(problem: str) -> ValueError:
    return ValueError(f"shots: problem {problem} is itself a demonstration and no other is left; lower `shots`")


def named_demos(candidates: Iterable[Demonstration], named: Sequence[str]) -> list[Demonstration]:
    """The demonstrations that a run names, in its order; of a problem the first sample.

    Raises ValueError for a name that neither a completed sample nor its problem has, and for a sample named twice.
    """
    found: dict[str, Demonstration] = {}
    for demo in sorted(candidates, key=lambda demo: demo.sample_id):
        found.setdefault(demo.problem_id, demo)
        found[demo.sample_id] = demo
    if unknown := next((name for name in named if name not in found), None):
        raise ValueError(
            f"named: '{unknown}' is neither a sample of `demo_samples` that is completed and not empty, nor the problem"
            " of one; take ids from `pairwright sql`, or leave `named` out for a draw"
        )
    chosen = {found[name].sample_id: name for name in reversed(named)}
    if twice := next((name for name in named if chosen[found[name].sample_id] != name), None):
        sample = found[twice].sample_id
        raise ValueError(f"named: '{twice}' and '{chosen[sample]}' are both sample '{sample}'; name it once")
    return [found[name] for name in named]


class Redraw:
    """Draws other demonstrations for every problem, in time that does not grow with the number of candidates.

    Raises ValueError where fewer than `shots` problems have a sample, and for a problem besides which fewer have one.
    """

    def __init__(self, candidates: Iterable[Demonstration], shots: int, seed: int):
        by_problem: dict[str, list[Demonstration]] = defaultdict(list)
        for demo in sorted(candidates, key=lambda demo: demo.sample_id):
            by_problem[demo.problem_id].append(demo)
        _check_enough(len(by_problem), shots)
        self.pool, self.shots, self.seed = list(by_problem.values()), shots, seed
        self.places = {problem: place for place, problem in enumerate(by_problem)}

    def __call__(self, problem: str) -> list[Demonstration]:
        """The first `shots` of a shuffle of the other problems, each with one of its samples."""
        own = self.places.get(problem, len(self.pool))
        size = len(self.pool) - (own < len(self.pool))
        if size < self.shots:
            raise _none_left(problem)
        moved: dict[int, int] = {}  # what a shuffle in place would have moved there
        drawn = []
        for i in range(self.shots):
            number = int(digest([self.seed, problem, i], 32), 16)
            number, ahead = divmod(number, size - i)
            place = moved.get(i + ahead, i + ahead)
            moved[i + ahead] = moved.get(i, i)
            samples = self.pool[place + (place >= own)]
            drawn.append(samples[number % len(samples)])
        return drawn


Shown = Callable[[str], list[Demonstration]]
"""The demonstrations that the prompt of a problem shows, by the problem's id."""


def build(
    problems: Iterable[Mapping[str, Any]],
    template: tuple[Template, str],
    rendering: Literal["chat", "text"],
    demos: Shown | None = None,
) -> Iterator[Prompt]:
    """One prompt per problem (`problem_id`, `question`, `choices`), in the order given."""
    layout, label = template
    for problem in problems:
        seen = demos(problem["problem_id"]) if demos else []
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
            demo_sample_ids=[demo.sample_id for demo in seen] if demos else None,
        )


def choose(candidates: Iterable[Demonstration], config: PromptsRun) -> Shown:
    """What the run's prompts show. Raises ValueError as the ways to choose do."""
    if config.redraw:
        return Redraw(candidates, config.shots, config.seed)
    if config.named:
        return partial(shown, named_demos(candidates, config.named), config.shots, fewer=True)
    return partial(shown, draw(list(candidates), config.shots, config.seed), config.shots)


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
    demos = choose(_candidates(stage, config), config) if config.shots else None
    for batch in stage.scan("problems", config.problems, ["problem_id", "question", "choices"]):
        yield rows_to_table(Prompt, build(batch.to_pylist(), template, config.rendering, demos))


@partitioned()
def run(stage: Stage) -> None:
    config: PromptsRun = stage.config
    written = stage.write(Prompt, _tables(stage, config))
    asked = sum(len(batch) for batch in stage.scan("problems", config.problems, ["problem_id"]))
    assert written == asked, "one prompt per problem"


if __name__ == "__main__":
    run_stage("prompts", run)
