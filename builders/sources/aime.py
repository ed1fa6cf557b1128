r"""AIME: competition problems whose answers are whole numbers from 0 to 999.

Shape: `problem` or `question`, `answer` and `solution`, of which one may be missing, in lower case or capitalised
(2024: `Maxwell-Jia/AIME_2024`, one split; 2025: `hub: math-ai/aime25`, `files: test.jsonl`). Where no answer is stated
it is the content of the solution's last box. The licence differs by copy: `unknown` unless the run states it.
"""

import re

from builders.sources.base import Fields, Record, Source, plain_text, present, text
from builders.sources.math import last_boxed

_ANSWER = re.compile(r"\$?0*(\d{1,3})(?:\.0)?\s*(?:\^\\circ|\^\{\\circ\}|°)?\$?")


def parse(row: Fields, where: str) -> Record:
    """The answer is the number without leading zeros or a degree sign."""
    question = text(row, present(row, where, "problem", "Problem", "question", "Question"), where)
    given = present(row, where, "answer", "Answer", "solution", "Solution")
    solution = next((plain_text(row[name], name, where) for name in ("solution", "Solution") if name in row), None)
    stated = plain_text(row[given], given, where) if given.lower() == "answer" else last_boxed(solution or "")
    found = _ANSWER.fullmatch(stated or "")
    note = "" if found or not stated else f"'{stated}' is no whole number from 0 to 999"
    return Record(where, question, found.group(1) if found else None, solution, note=note)


SOURCE = Source(
    "aime", "unknown", "number", hub="Maxwell-Jia/AIME_2024", files="aime_2024_problems.parquet", parse=parse
)
