"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems with chains and whole-number answers.

Published shape: `question`, and `answer` = the chain with calculator marks `<<48/2=24>>`, then a line `#### 24`.
"""

import re

from builders.sources.base import Fields, Record, Source, text

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_ENDING = "####"


def parse(row: Fields, where: str) -> Record:
    """The answer is what follows the last `####`, as it stands; the solution is the chain before it, without marks."""
    chain, ending, answer = text(row, "answer", where).rpartition(_ENDING)
    solution = chain if ending else answer
    return Record(
        where,
        text(row, "question", where),
        answer.strip() or None if ending else None,
        _CALCULATOR.sub("", solution).strip() or None,
    )


SOURCE = Source("gsm8k", "MIT", "number", hub="openai/gsm8k", files="main/{split}-*.parquet", parse=parse)
