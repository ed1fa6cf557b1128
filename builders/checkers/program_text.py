r"""Where in a completion its Python program is.

It is the last fenced block of Python (`extract_program` of ToRA), else the first run of lines that look like code and
give a value. A run is what ReFT's code and Program of Thoughts have: it starts with a statement or a comment, goes on
over indented lines and statements, and ends with the first blank line after which no indented code follows, once there
is something that gives the value. One pass over the lines; nothing is parsed or executed.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_PROGRAM = 20_000
"""Characters of a program; a longer one is none."""

_FENCE = re.compile(r"[ \t]{0,4}```[ \t]{0,4}(\w*)")
_LANGUAGES = ("", "python", "py", "python3")
_OPENING = re.compile(r"(?:def|class|import|from|for|while|if|try|with|print)\b|[A-Za-z_]\w{0,80}[ ]{0,4}=(?!=)|\#")
_STATEMENT = re.compile(
    r"""
    (?:def|class|import|from|for|while|if|elif|else|try|except|finally|with|assert|raise|pass|print)\b
    | \# | [)\]}@]
    | [A-Za-z_][\w.,:\[\] '"]{0,200}?[-+*/%|&]{0,2}=(?!=)
    | [A-Za-z_][\w.]{0,80}\(
    """,
    re.VERBOSE,
)
_QUOTES = re.compile(r'"""|\'\'\'')
_VALUE = re.compile(r"def[ ]+(?:solution|solver)\([ ]*\)|[ ]*ans[ ]*=(?!=)|[ ]*print\(")
_ENTRIES = tuple(
    (re.compile(pattern, re.MULTILINE), value)
    for pattern, value in (
        (r"^def[ ]+solution\([ ]*\)", "solution()"),
        (r"^ans[ ]*=(?!=)", "ans"),
        (r"^def[ ]+solver\([ ]*\)", "solver()"),
        (r"^[ ]+ans[ ]*=(?!=)", "ans"),
    )
)


class _Program(NamedTuple):
    text: str
    end: int


def program_text(prefill: str, text: str) -> str | None:
    """The program that `prefill + text` holds; None if there is none, or if the prefill holds all of it."""
    full = prefill + text
    blocks = list(_blocks(full))
    programs = blocks[-1:] or (program for program in _runs(full) if _VALUE.search(program.text))
    found = next((program for program in programs if program.end > len(prefill)), None)
    return found.text if found and found.text.strip() and len(found.text) <= MAX_PROGRAM else None


def entry(program: str) -> str:
    """The expression whose value is the program's answer: `solution()`, `ans` or `solver()`; `None` if it prints it."""
    return next((value for pattern, value in _ENTRIES if pattern.search(program)), "None")


def _blocks(full: str) -> Iterator[_Program]:
    """The fenced blocks of Python; one that is never closed runs to the end."""
    lines: list[str] = []
    language, at = None, 0
    for line in full.splitlines(keepends=True):
        at += len(line)
        fence = _FENCE.match(line)
        if fence and language is None:
            language, lines = fence[1].lower(), []
        elif fence:
            if language in _LANGUAGES:
                yield _Program("".join(lines), at)
            language = None
        else:
            lines.append(line)
    if language in _LANGUAGES:
        yield _Program("".join(lines), at)


def _runs(full: str) -> Iterator[_Program]:
    """The runs of lines that look like code; what stands in triple quotes is code too."""
    lines: list[str] = []
    quote, valued, at, end = "", False, 0, 0
    for line in full.splitlines(keepends=True):
        at += len(line)
        bare = line.rstrip()
        if lines and not quote and _ends(lines, bare, valued):
            yield _Program("".join(lines), end)
            lines, valued = [], False
        if lines or _OPENING.match(bare):
            lines.append(line)
            valued, end = valued or bool(_VALUE.match(bare)), at if bare else end
            for token in _QUOTES.findall(bare):
                quote = "" if token == quote else quote or token
    if lines:
        yield _Program("".join(lines), end)


def _ends(lines: list[str], bare: str, valued: bool) -> bool:
    """Whether a line is no part of the program before it."""
    if not bare or bare[0].isspace():
        return False
    return not _STATEMENT.match(bare) or (valued and not lines[-1].strip())
