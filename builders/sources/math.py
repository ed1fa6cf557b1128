r"""MATH (Hendrycks et al. 2021, arXiv 2103.03874): competition problems with LaTeX answers.

Published shape: `problem`, `level`, `type`, `solution` with the answer in its last `\boxed{}`; some copies state it
in a column `answer` too. On the Hub: `EleutherAI/hendrycks_math`, whose seven subjects are read in alphabetical order.

The split of PRM800K (`math_splits` of openai/prm800k on GitHub: 12,000 training problems and the 500 of `MATH-500`) is
read too. Its `level` is a number, and its `subject` what `type` is elsewhere.
"""

import re

from builders.sources.base import Fields, Record, Source, optional_text, plain_text, text

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\f?boxed(?![A-Za-z])|\\fbox(?![A-Za-z])")


def parse(row: Fields, where: str) -> Record:
    """The solution is kept whole; the answer is the stated one, else the content of the last box."""
    solution = text(row, "solution", where)
    answer = (optional_text(row, "answer", where) or "").strip() or last_boxed(solution)
    return Record(
        where,
        text(row, "problem", where),
        answer,
        solution or None,
        level=plain_text(row.get("level"), "level", where),
        subject=optional_text(row, "type" if "type" in row else "subject", where),
    )


def last_boxed(solution: str) -> str | None:
    r"""The content of the last `\boxed{…}` or `\fbox{…}` (braces matched), or of `\boxed 7`; None without one.

    A box whose braces never close has no content, so the one before it counts.
    """
    for box in reversed(list(_BOX.finditer(solution))):
        rest = solution[box.end() :].lstrip()
        content = _braced(rest) if rest.startswith("{") else re.split(r"[\s$]", rest, maxsplit=1)[0].rstrip(".,;")
        if content:
            return content
    return None


def _braced(text: str) -> str | None:
    """What stands between the brace that `text` starts with and the one that closes it; escaped braces do not count."""
    depth = 0
    for mark in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return text[1 : mark.start()].strip()
    return None


SOURCE = Source("math", "MIT", "latex", hub="EleutherAI/hendrycks_math", files="*/{split}-*.parquet", parse=parse)
