r"""OlympicArena (Huang et al. 2024, arXiv 2406.12753): problems of olympiads in seven subjects, English and Chinese.

Published shape: `id`, `problem`, `prompt`, `figure_urls`, `answer` (a list), `solution`, `answer_type`, `unit`,
`answer_sequence`, `type_sequence`, `test_cases`, `subject`, `language`, `modality`. Subsets are the subjects. Of split
`test` the answers are withheld: `unanswered: true` keeps its questions; `val` has answers.

The question is the `prompt`, which says the answer's form and shows the options, with `Question: ` before the problem
as weak-to-strong reasoning asks it (arXiv 2407.13647). As there, only English problems are read; figures are the marks
`[figure1]` that the text has, and are not shown.

What the answer types become:

* `SC` (one option) is the option's letter, answer kind `choice`; the options stand in the question, not in `choices`.
* `TF`, `NV` (a number), `EX`, `EQ`, `IN` (an interval) and `TUP` are `latex`.
* `SET` and `MA` (several answers) are a set, `MPV` (several quantities) a tuple of its parts, `latex` too. Parts must
  be numbers or expressions.
* `MC` (several options, written as `AC`, `A, C` or `[A, C]`), `CODE` and `OT` (for people to judge) are rejects, as is
  an `MA` or `MPV` of other parts: no checker compares them.
"""

from collections.abc import Sequence
from string import ascii_uppercase

from builders.sources.base import Fields, Record, Source, checked_text, plain_text, present, text

_SINGLE = ("SC", "TF", "NV", "EX", "EQ", "IN", "TUP")
_SEVERAL = {"SET": r"\{%s\}", "MA": r"\{%s\}", "MPV": "(%s)"}
"""How several answers are written as one."""
_PARTS = {"NV", "EX"}
_LETTERS = set(ascii_uppercase)
_BEFORE = "\n\nproblem:\n"


def parse(row: Fields, where: str) -> Record:
    """The answer as one text; what is no problem here has a reason and says the type, or the language."""
    kind, language = text(row, "answer_type", where), text(row, "language", where)
    record = Record(
        where,
        text(row, "prompt", where).replace(_BEFORE, "\n\nQuestion: ", 1),
        None,
        plain_text(row.get("solution"), "solution", where),
        subject=plain_text(row.get("subject"), "subject", where),
        answer_kind="choice" if kind == "SC" else "latex",
    )
    if language != "EN":
        return record._replace(reason="other_language", note=f"language {language}")
    if unsupported := _unsupported(kind, _listed(row, "type_sequence", where)):
        return record._replace(reason="unsupported_answer", note=f"answer type {unsupported}")
    answers = _listed(row, "answer", where)
    answer = _joined(kind, answers)
    note = f"{kind} is answered by {', '.join(answers)}" if answers and answer is None else ""
    return record._replace(answer=answer, note=note)


def _listed(row: Fields, column: str, where: str) -> list[str]:
    """The texts of a column, of which copies may hold a single text instead; none where it is null."""
    value = row[present(row, where, column)]
    items: Sequence[object] = [] if value is None else [value] if isinstance(value, str) else value
    return [stripped for item in items if (stripped := checked_text(item, column, where).strip())]


def _unsupported(kind: str, parts: list[str]) -> str | None:
    """The type, with its parts, if no checker compares it."""
    if kind in ("MA", "MPV"):
        return (
            None if parts and set(parts) <= _PARTS else f"{kind} of {', '.join(parts) or 'parts that are not stated'}"
        )
    return None if kind in (*_SINGLE, *_SEVERAL) else kind


def _joined(kind: str, answers: list[str]) -> str | None:
    """One text; None where there is no answer, or several where there is one, or no letter where one is wanted."""
    if kind in _SEVERAL:
        return _SEVERAL[kind] % ", ".join(answer.strip("$") for answer in answers) if answers else None
    if len(answers) != 1 or (kind == "SC" and answers[0] not in _LETTERS):
        return None
    return answers[0]


SOURCE = Source(
    "olympicarena", "CC-BY-NC-SA-4.0", "latex", hub="GAIR/OlympicArena", files="{subset}/{split}-*.parquet", parse=parse
)
