r"""MetaMathQA (Yu et al. 2023, arXiv 2309.12284) and MMIQC (Liu et al. 2024, arXiv 2401.09003).

MetaMathQA: `query`, `response`, `type`, `original_question`. MMIQC: `instruction`, `output`, `source`; its instructions
begin with the wish for an ending, which is no part of the question. Responses end in `The answer is: …`; where they do
not, MMIQC's may state a last `\boxed{…}`, and those of forum threads state no answer at all.

Many rows repeat a question with another response: `all_solutions` keeps them.
"""

import re

from builders.sources.base import Fields, Record, Source, plain_text, text
from builders.sources.math import last_boxed

_ENDING = "The answer is:"
_WISH = re.compile(r"Please solve the following problem and put your answer at the end with \"The answer is: ?\"\.\s*")
_GSM8K_ENDING = re.compile(r"\n####[^\n]*$")


def parse(row: Fields, where: str) -> Record:
    """A row of MetaMathQA: the type, such as `GSM_SV`, is the subject, and says whether the answer is a number."""
    solution, answer = _parted(text(row, "response", where))
    kind = text(row, "type", where)
    number = kind.startswith("GSM")
    question = text(row, "query", where)
    return Record(where, question, answer, solution, subject=kind, answer_kind="number" if number else "latex")


def parse_mmiqc(row: Fields, where: str) -> Record:
    """A row of MMIQC: its source is the subject; a boxed answer counts where no ending states one."""
    output = text(row, "output", where)
    solution, answer = _parted(output)
    return Record(
        where,
        _WISH.sub("", text(row, "instruction", where), count=1).strip(),
        answer or last_boxed(output),
        solution,
        subject=plain_text(row.get("source"), "source", where),
    )


def _parted(response: str) -> tuple[str | None, str | None]:
    """The chain without its endings, and what the last ending states."""
    chain, ending, answer = response.rpartition(_ENDING)
    solution = _GSM8K_ENDING.sub("", (chain if ending else answer).strip())
    return solution.strip() or None, (answer.strip() or None) if ending else None


SOURCE = Source("metamath", "MIT", "latex", hub="meta-math/MetaMathQA", files="MetaMathQA-395K.json", parse=parse)
MMIQC = Source("mmiqc", "Apache-2.0", "latex", hub="Vivacem/MMIQC", files="*.json*", parse=parse_mmiqc)
