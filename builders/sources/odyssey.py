r"""Odyssey-MATH (protagolabs/odyssey-math on GitHub): 389 problems from high-school competitions and university.

Shape of its `final-odyssey-math-with-levels.jsonl`: one mapping per line, `{"Problem_1": {question, answer, reasoning,
label, level}}`; rows without the outer name are read too. Texts are cut out of a LaTeX document, whose remains
(`\end{problem}`, `\noindent`, a line break) are taken off their ends.
"""

import re

from builders.sources.base import Fields, Record, Source, plain_text, text

_REMAINS = re.compile(r"(?:\s|\\\\|\\noindent|\\end\{problem\})+$")


def parse(row: Fields, where: str) -> Record:
    """The answer is LaTeX, without the full stop that ends its sentence."""
    (inner, *others) = row.values() if row else [None]
    fields = inner if isinstance(inner, dict) and not others else row
    answer = _REMAINS.sub("", plain_text(fields.get("answer"), "answer", where) or "").removesuffix(".").strip()
    return Record(
        where,
        _REMAINS.sub("", text(fields, "question", where)),
        answer or None,
        plain_text(fields.get("reasoning"), "reasoning", where),
        level=plain_text(fields.get("level"), "level", where),
        subject=plain_text(fields.get("label"), "label", where),
    )


SOURCE = Source("odyssey", "MIT", "latex", hub=None, files="", parse=parse)
