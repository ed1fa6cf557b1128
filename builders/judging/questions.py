"""From a solution to the question that a judge is asked, its key, and from the server's answer to a completion.

A key is `<context>-<hash of the messages>-<index>`: the context hashes what all questions of a setting share, the index
is 100 × attempt + repeat. How questions travel (`mode`), and what they may cost, is no part of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from builders.engines.answers import NEUTRAL, Answer, decoding, read_completion, seed_of
from builders.engines.faults import Unanswerable
from builders.engines.lanes import Facts
from builders.engines.prices import price_table, price_usd
from builders.judging.verdicts import response_format
from builders.step_label_rows import Candidate
from builders.template_files import fill, format_choices, load
from schemas.ids import digest, text_hash
from schemas.sections import Sampling
from schemas.sections_steps import MAX_REPEATS, Judge
from stores.ledger import Completion
from stores.model_record import read_record
from stores.stage import Stage

TEMPLATES = Path(__file__).parent / "templates"
PATH = "/chat/completions"
SETTINGS = "`judge` (such as `temperature`, or `answer: text`)"
"""What of params a user may change if a server takes no such questions."""
Messages = list[dict[str, str]]
_HARMLESS = "Problem: 1 + 1 = ? Solution: Step 1: It is 2. Label the steps."


class JudgeTemplate(BaseModel):
    """A file of `builders/judging/templates`, whose README says what each key means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str | None = None
    user: str
    problem: str
    options: str
    solution: str
    answer: str
    nothing: str
    given_solution: str
    given_answer: str
    given_nothing: str
    step: str
    structured: str
    structured_correction: str
    plain: str
    plain_correction: str

    @model_validator(mode="after")
    def _asks(self) -> "JudgeTemplate":
        lacking = [name for name in ("problem", "reference", "steps", "task") if f"{{{name}}}" not in self.user]
        if lacking:
            raise ValueError(f"`user` needs {', '.join(f'{{{name}}}' for name in lacking)}")
        return self


class Setting:
    """What all questions of a run share."""

    def __init__(self, model: str, fingerprint: str, hosted: str, judge: Judge, seed: int):
        self.model, self.fingerprint, self.hosted, self.judge, self.seed = model, fingerprint, hosted, judge, seed
        self.template, self.label, _ = load(JudgeTemplate, judge.template, TEMPLATES)
        self.sampling = Sampling(temperature=judge.temperature, top_p=judge.top_p, max_new_tokens=judge.max_new_tokens)

    @cached_property
    def format(self) -> dict[str, Any]:
        """The fields of a request that ask for a structured answer; none for `answer: text`."""
        asked = self.judge.answer == "schema"
        return {"response_format": response_format(self.judge.corrections)} if asked else {}

    @cached_property
    def context(self) -> str:
        """Hash of everything here that determines an answer, beside the messages.

        Greedy answers depend on no nucleus, and not on the project's seed: repeats differ by their key, whose hash is
        the request's own seed.
        """
        greedy = self.judge.temperature == 0
        sampling = {"temperature": self.judge.temperature, "max_new_tokens": self.judge.max_new_tokens}
        sampling |= {} if greedy else {"top_p": self.judge.top_p}
        return digest(["judge", self.fingerprint, sampling, None if greedy else self.seed, self.format])

    @property
    def noted(self) -> dict[str, Any]:
        """What the ledger notes of a context, beside the model; of its last use, where it differs between uses."""
        judge = {"answer": self.judge.answer, "corrections": self.judge.corrections, "template": self.label}
        asked = {"seed": self.seed, "judge": judge, "hosted": self.hosted, "prices": price_table()}
        return {"sampling": self.sampling.model_dump()} | asked


class Asked(NamedTuple):
    """One question on its way."""

    key: str
    messages: Messages


def setting_of(stage: Stage) -> Setting:
    """How a run's judge is asked.

    Raises ValueError for a model that is not `hosted`, and for a template that is none.
    """
    directory = stage.dir("models", stage.config.model)
    record = read_record(directory)
    hosted = record["provenance"].get("hosted")
    if not hosted:
        raise ValueError(f"model: a judge is asked by name; give models.{stage.config.model} a `hosted` model")
    judge = stage.config.judge or Judge()
    return Setting(stage.config.model, record["fingerprint"], hosted, judge, stage.params.seed)


def messages_of(setting: Setting, candidate: Candidate) -> Messages:
    """The conversation that asks about one solution. Its texts are data: see `mark_of`."""
    layout, steps = setting.template, candidate.step_texts
    mark = mark_of(candidate, steps)
    choices = format_choices(candidate.choices) if candidate.choices else ""
    which = "solution" if candidate.solution else "answer" if candidate.answer else "nothing"
    reference = {"solution": candidate.solution or "", "answer": candidate.answer or ""}
    user = fill(
        layout.user,
        problem=fill(
            layout.options if candidate.choices else layout.problem,
            question=candidate.question,
            choices=choices,
            mark=mark,
        ),
        reference=fill(getattr(layout, which), mark=mark, **reference),
        steps="\n".join(fill(layout.step, number=str(n), step=step, mark=mark) for n, step in enumerate(steps, 1)),
        task=_task(setting),
        given=getattr(layout, f"given_{which}"),
        count=str(len(steps)),
        mark=mark,
    )
    system = [{"role": "system", "content": layout.system}] if layout.system else []
    return [*system, {"role": "user", "content": user}]


def _task(setting: Setting) -> str:
    layout, kind = setting.template, "structured" if setting.judge.answer == "schema" else "plain"
    parts = [getattr(layout, kind), *([getattr(layout, f"{kind}_correction")] if setting.judge.corrections else [])]
    return "\n".join(parts)


def mark_of(candidate: Candidate, steps: list[str]) -> str:
    """Eight hex digits that occur nowhere in the texts, so that none can pretend to end its part of the question."""
    texts = [candidate.question, *(candidate.choices or ()), candidate.answer or "", candidate.solution or "", *steps]
    everything = "\n".join(texts)
    mark = text_hash(everything)[:8]
    while mark in everything:
        mark = text_hash(mark + everything)[:8]
    return mark


def hash_of(messages: Messages) -> str:
    """The part of a key that stands for what is asked."""
    return digest(messages)


def key_of(setting: Setting, asked: str, repeat: int = 0, attempt: int = 0) -> str:
    """The ledger's key of one answer; `asked` is the hash of the messages."""
    return f"{setting.context}-{asked}-{attempt * MAX_REPEATS + repeat:04d}"


def body(setting: Setting, question: Asked, facts: Facts) -> dict[str, Any]:
    """The body of a `/chat/completions` request. Seeds have 31 bits: some APIs take no larger ones."""
    seed = {"seed": seed_of(question.key) >> 32}
    return _body(setting, question.messages, facts) | seed


def harmless(setting: Setting, facts: Facts) -> dict[str, Any]:
    """The same settings with a question that nobody refuses."""
    return _body(setting, [{"role": "user", "content": _HARMLESS}], facts) | {"seed": 0}


def _body(setting: Setting, messages: Messages, facts: Facts) -> dict[str, Any]:
    asked = {"model": setting.hosted, "messages": messages, facts.max_tokens: setting.judge.max_new_tokens}
    return asked | decoding(setting.sampling) | setting.format | (NEUTRAL if facts.is_vllm else {})


def read(setting: Setting, answer: Mapping[str, Any]) -> Answer:
    """(completion, usage) of a response's body.

    Raises Failed for a body without a completion.
    """
    return read_completion(answer, setting.sampling)


def completion_of(
    setting: Setting, answer: Answer | Unanswerable, url: str, n_attempts: int = 1, batch: bool = False
) -> Completion:
    """What the ledger keeps of an answer from the server at `url`, with its price."""
    if isinstance(answer, Unanswerable):
        return Completion(answer.detail, answer.reason, 0, 0, n_attempts=n_attempts)
    completion, usage = answer
    model = (completion.served_by or setting.hosted).split()[0]
    price = price_usd(model, url, usage, batch, asked=setting.hosted)
    return completion._replace(price_usd=price, n_attempts=n_attempts)


def questions(setting: Setting, candidates: Iterable[Candidate], repeat: int = 0, attempt: int = 0) -> Iterator[Asked]:
    """The questions about some solutions, in their order."""
    for candidate in candidates:
        messages = messages_of(setting, candidate)
        yield Asked(key_of(setting, hash_of(messages), repeat, attempt), messages)
