"""The steps of a completion: spans between its `Step i:` markers, as Step-DPO cuts them (arXiv 2406.18629).

A marker is `Step <number>:` at the start of a line, also in bold (`**Step 2:**`, `**Step 2**:`) or as a heading
(`### Step 2:`). What it says in code or in mathematics is part of a step, never the start of one: fenced code, `$…$`,
`$$…$$`, `\\(…\\)`, `\\[…\\]` and environments are blocks that no step begins in. Only a block that is closed counts,
but for fences, which an unfinished completion may leave open; a dollar sign that is money opens nothing.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from schemas.step_labels import StepSpan

_LEAD = r"[ \t]*(?:\#{1,6}[ \t]+)?(?:\*\*|__)?"
_STEP = r"Step[ \t]+[0-9]+(?:\*\*|__)?:"
_BEFORE_MARKER, _MARKER = re.compile(_LEAD), re.compile(_STEP)
_LAST = re.compile(rf"(?<!\w){_STEP}(?:\*\*|__)?\Z")
_LINE_BREAK = re.compile(r"\r?\n")
_OPENER = re.compile(
    rf"""
    (?P<environment> \\begin\{{ [^{{}}\n]{{1,40}} \}} )
    | (?P<bracket> \\[\[(] )
    | \\.                                                    # any other escape: `\$` and `\\` open nothing
    | (?P<display> \$\$ )
    | (?P<inline> \$ )
    | ^ (?: {_LEAD}{_STEP} (?:\*\*|__)? )? [ \t]* (?P<fence> `{{3,}} (?= [^`\n]* $ ) | ~{{3,}} )
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_ENVIRONMENT = re.compile(r"\\(begin|end)(\{[^{}\n]{1,40}\})")
_BRACKETS = {
    r"\[": re.compile(r"(?<!\\)(?:\\\\)*\\([\[\]])"),
    r"\(": re.compile(r"(?<!\\)(?:\\\\)*\\([()])"),
}
_FENCE_END = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*\r?$", re.MULTILINE)
_INLINE = re.compile(  # neither a blank line nor another `$` within; no space beside either `$`, no digit after
    r"\$(?![\s$])(?:[^$\\\n]|\\.|\n(?![ \t\r]*\n))*+(?<!\s)\$(?!\d)", re.DOTALL
)
_MONEY = re.compile(r"\$\d[\d,]*(?:\.\d+)?(?:[.,;:!?)]\s|\s+[A-Za-z]{2}|\s*\n)")
_MAY_OPEN = re.compile(r"[$\\]|```|~~~")


def split_steps(prefill: str, text: str) -> list[StepSpan]:
    """The steps of a completion `text` that continues `prefill`, as half-open ranges of code points of `text`.

    A step begins directly after its marker's colon and ends at the line break before the next marker, the last one at
    the end of the text; what comes before the first marker is no step. If the prefill ends in a marker, the first
    step begins at 0. Numbers are not read: mis-numbered and repeated markers open steps too. Without any marker every
    line is a step, where a block of code or mathematics stays together. Blank steps are left out.
    """
    blocks = list(_blocks(text)) if _MAY_OPEN.search(text) else []
    begun = ends_in_marker(prefill)
    markers = _outside(blocks, [span for span in _markers(text) if span[0] or not begun])
    if not markers and not begun:
        breaks = _outside(blocks, [m.span() for m in _LINE_BREAK.finditer(text)])
        spans = list(pairwise([0, *(edge for span in breaks for edge in span), len(text)]))[::2]
    else:
        bounds = [(0, 0)] * begun + markers
        ends = [_line_end(text, line) for line, _ in bounds[1:]] + [len(text)]
        spans = [(start, end) for (_, start), end in zip(bounds, ends, strict=True)]
    return [StepSpan(start=start, end=end) for start, end in spans if text[start:end].strip()]


def _markers(text: str) -> list[tuple[int, int]]:
    """(start of its line, end of its colon) of every marker, in code and mathematics too."""
    found = []
    for marker in _MARKER.finditer(text):
        at = marker.start()
        line = text.rfind("\n", 0, at) + 1
        if line == at or _BEFORE_MARKER.fullmatch(text, line, at):
            found.append((line, marker.end()))
    return found


def ends_in_marker(prefill: str) -> bool:
    """Whether a prefill stops after a marker, so that its continuation begins with a step.

    Here a marker need not begin a line: some rows of the published data have `step by step. Step 1:`.
    """
    return _LAST.search(prefill.rstrip()[-40:]) is not None


def _line_end(text: str, line_start: int) -> int:
    """The end of the line before, without its line break (0 before the first line)."""
    end = max(line_start - 1, 0)
    return end - 1 if end and text[end - 1] == "\r" else end


def _outside(blocks: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans that begin in no block; both are in order."""
    if not blocks:
        return spans
    kept, left = [], iter(blocks)
    block = next(left, None)
    for span in spans:
        while block is not None and block[1] <= span[0]:
            block = next(left, None)
        if block is None or span[0] < block[0]:
            kept.append(span)
    return kept


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Ranges of code and mathematics, in order and disjoint."""
    environments = _environments(text) if r"\begin" in text else {}
    at = 0
    while (opener := _OPENER.search(text, at)) is not None:
        end = _closed(text, opener, environments)
        if end is not None and opener.lastgroup is not None:
            yield opener.start(opener.lastgroup), end
        at = opener.end() if end is None else end


def _closed(text: str, opener: re.Match[str], environments: dict[int, int]) -> int | None:
    """Where the block that is opened ends; None if it is not closed."""
    start = opener.start()
    match opener.lastgroup:
        case "environment":
            return environments.get(start)
        case "bracket":  # nothing nests here, so a second opening one means that the first is a slip
            found = _BRACKETS[opener[0]].search(text, opener.end())
            return found.end() if found and found[1] in "])" else None
        case "display":
            end = text.find("$$", opener.end())
            return end + 2 if end >= 0 else None
        case "inline":
            found = _INLINE.match(text, start)
            return found.end() if found and not ("\n" in found[0] and _MONEY.match(found[0])) else None
        case "fence":
            fence = opener["fence"]
            ends = (m for m in _FENCE_END.finditer(text, opener.end()) if m[1].startswith(fence))
            return next((m.end() for m in ends), len(text))
    return None


def _environments(text: str) -> dict[int, int]:
    """Start of every closed `\\begin{name}` -> end of its `\\end{name}`; environments of one name may nest."""
    opened: dict[str, list[int]] = {}
    closed: dict[int, int] = {}
    for mark in _ENVIRONMENT.finditer(text):
        if mark[1] == "begin":
            opened.setdefault(mark[2], []).append(mark.start())
        elif opened.get(mark[2]):
            closed[opened[mark[2]].pop()] = mark.end()
    return closed
