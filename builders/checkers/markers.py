"""Where in a completion the final answer is stated: boxes, marker phrases, math environments.

Every scan here is one pass, or is bounded per start: no text makes it slow, so that extraction needs no time-out.
"""

import re
from collections import deque
from collections.abc import Iterator
from heapq import merge
from typing import NamedTuple

MAX_BOX = 2_000
"""A box that holds more characters than that is taken as never closed, and a line as ended."""
MAX_MARKERS = 50
"""Only so many of the last markers are looked at."""


class Span(NamedTuple):
    """A half-open stretch of a text."""

    start: int
    end: int


class Marker(NamedTuple):
    """A phrase that announces the answer. A `slot` (`Final answer:`) promises one; `the answer is` may just go on."""

    end: int
    slot: bool


_MARKER = re.compile(
    r"""
    (?P<slot>
      \#\#\#\# [ \t]{0,4} (?!\d{1,2}[.)][ \t]) (?=[^A-Za-z\s\#*] \S{0,80} (?:[ \t]{1,4}\S{1,12})? [ \t]{0,8} $)
    | (?i: (?:^[ \t*\#]{0,8} | \bfinal[ \t]{1,4}) answer (?:[ \t]{1,4}is)? [ \t*]{0,4} : )
    | ^[ \t]{0,4} A [ \t]{0,4} :
    )
    | (?i: \banswer (?: [ \t*]{0,4} : | (?:[ \t]{1,4}to[^.\n]{0,120}?)? [ \t]{1,4}is\b ) )
    """,
    re.MULTILINE | re.VERBOSE,
)
_LITERALS = tuple(re.compile(literal) for literal in ("nswer", "NSWER", "#(?=###)", r"A[ \t]{0,4}:"))
_BEFORE = 10
"""Characters that a marker may have before its literal: `final    a`, or eight marks and `a`."""
_NEXT_QUESTION = re.compile(r"^[ \t#*]{0,4}(?:Question|Problem|Q)[ \t]{0,2}\d{0,3}[ \t*]{0,4}:", re.MULTILINE)
_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]{0,4}(?=[{\w])")
_BRACE = re.compile(r"\\[{}\\]|[{}]")
_AND = r"(?:\\q?quad\s{0,4})?(?:and|or|\\text\{ ?(?:and|or) ?\})?(?:\s{0,4}\\q?quad)?"
_BETWEEN = re.compile(rf"[\s$]{{0,4}}(?:\\[)\]])?[\s,;]{{0,4}}{_AND}[\s$]{{0,4}}(?:\\[(\[])?\s{{0,4}}")
_MATH = re.compile(r"\$\$|\$|\\.|\n\s*\n|\n", re.DOTALL)
_CLOSING = {"$$": "$$", "$": "$", "\\[": "\\]", "\\(": "\\)"}


def answering_part(prefill: str, text: str) -> str:
    """`prefill + text` up to where the model, having answered, goes on to ask itself another question."""
    full = prefill + text
    answered = next((m.end() for m in _matches(full) if m["slot"] is not None), len(full))
    box = _BOX.search(full)
    answered = min(answered, box.end()) if box else answered
    question = _NEXT_QUESTION.search(full, max(answered, len(prefill)))
    return full[: question.start()] if question else full


def markers(full: str) -> list[Marker]:
    """The last marker phrases, in order: `Final answer:`, `The answer is`, `####`, `A:` or `Answer:` opening a line.

    `####` counts only before one value: four hashes are a heading in Markdown too.
    """
    last = deque(_matches(full), MAX_MARKERS)
    return [Marker(m.end(), m["slot"] is not None) for m in last]


def _matches(full: str) -> Iterator[re.Match[str]]:
    """The matches of `_MARKER` in order, looked for only where one of its literals stands: five times as fast."""
    end = 0
    for literal in merge(*(pattern.finditer(full) for pattern in _LITERALS), key=re.Match.start):
        for start in range(max(end, literal.start() - _BEFORE), literal.start() + 1):
            found = _MARKER.match(full, start)
            if found:
                end = found.end()
                yield found
                break


def line_after(full: str, start: int) -> Span:
    """The first line with content from `start` on; a display environment that opens there is taken whole."""
    while start < len(full) and (full[start].isspace() or full[start] in ":*"):
        start += 1
    for opening in ("$$", "\\["):
        if full.startswith(opening, start):
            end = full.find(_CLOSING[opening], start + 2, start + MAX_BOX)
            if end >= 0:
                return Span(start, end + 2)
    end = full.find("\n", start, start + MAX_BOX)
    return Span(start, end if end >= 0 else min(len(full), start + MAX_BOX))


def last_boxed(full: str) -> tuple[str, Span] | None:
    r"""Content and place of the last `\boxed{…}` or `\fbox{…}`, braces matched; None if there is none.

    Boxes with no more than a comma or `and` between them are one answer, joined by commas. A box that never closes
    runs to the end of its line.
    """
    boxes = list(_boxes(full))
    if not boxes:
        return None
    first = len(boxes) - 1
    while first and _BETWEEN.fullmatch(full, boxes[first - 1][1].end, boxes[first][1].start):
        first -= 1
    contents = dict.fromkeys(content for content, _ in boxes[first:] if content)
    return ", ".join(contents), Span(boxes[first][1].start, boxes[-1][1].end)


def _boxes(full: str) -> Iterator[tuple[str, Span]]:
    end = 0
    for match in _BOX.finditer(full):
        start = match.end()
        if match.start() < end:
            continue
        if full[start] != "{":
            end = start + 1
            yield full[start:end], Span(match.start(), end)
            continue
        closing = _closing_brace(full, start)
        line = full.find("\n", start)
        inside_end = closing if closing is not None else line if line >= 0 else len(full)
        end = inside_end + 1 if closing is not None else inside_end
        yield full[start + 1 : inside_end].strip(), Span(match.start(), end)


def _closing_brace(full: str, opening: int) -> int | None:
    depth = 0
    for match in _BRACE.finditer(full, opening, opening + MAX_BOX):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def math_spans(full: str, start: int = 0, end: int | None = None) -> list[tuple[str, Span]]:
    """Content and place of every math environment in `full[start:end]`, in order.

    An inline one ends with its line, and a display one with its paragraph, even if it was never closed.
    """
    found: list[tuple[str, Span]] = []
    opening, at = "", 0
    for match in _MATH.finditer(full, start, len(full) if end is None else end):
        token = match[0]
        if not opening:
            opening, at = (token, match.start()) if token in _CLOSING else ("", 0)
        elif token == _CLOSING[opening]:
            content = full[at + len(opening) : match.start()].strip()
            found.append((content, Span(at, match.end())))
            opening = ""
        elif token.startswith("\n") and (opening == "$" or token != "\n"):
            opening = ""
    return found


def joined_by_and(full: str, spans: list[tuple[str, Span]]) -> str:
    """The first of these environments and those that follow it with no more than a comma or `and` between."""
    last = 0
    while last + 1 < len(spans) and _BETWEEN.fullmatch(full, spans[last][1].end, spans[last + 1][1].start):
        last += 1
    return ", ".join(content for content, _ in spans[: last + 1])
