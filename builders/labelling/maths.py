"""Texts as pieces: strings, and mathematics as MathML trees that hold nothing but what is on a list.

Texts come from models and data sets: they are data that may be made to mislead. So LaTeX is converted by a worker
process that may crash or hang without harm (`maths_worker.py`), of its MathML only listed elements, attributes and
lengths are kept, and a formula with anything else is shown as it was written. Nothing here is HTML: the page builds
elements from the trees. Control and text-direction characters are written out.
"""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from builders.checkers.workers import WorkerPool
from stores.plain import printable

MAX_FORMULA = 4_000
"""Code points of a formula that is typeset; longer ones are shown as they are written."""
MAX_FORMULAS = 1_000
"""Formulas of one task."""
TIMEOUT_S = 1.0
"""CPU time of one formula, which normally takes some microseconds."""

Piece = str | dict[str, Any]
"""Text, or `{"tree": [element, attributes, children], "tex": what was written}`."""


class Formula(NamedTuple):
    """A formula's place in a text, with its delimiters, and what is between them."""

    start: int
    end: int
    latex: str
    display: bool


_INLINE = re.compile(  # neither a blank line nor another `$` within; no space beside either `$`, no digit after
    r"\$(?![\s$])((?:[^$\\\n]|\\.|\n(?![ \t\r]*\n))*+)(?<!\s)\$(?!\d)", re.DOTALL
)
_PROSE = re.compile(r"[A-Za-z]{2,}[,;]?\s+[A-Za-z]{2,}")
_ENVIRONMENTS = (
    "align", "align*", "aligned", "alignat", "alignat*", "array", "bmatrix", "cases", "eqnarray", "eqnarray*",
    "equation", "equation*", "gather", "gather*", "gathered", "matrix", "multline", "multline*", "pmatrix", "vmatrix",
)  # fmt: skip
_OPENER = re.compile(r"\\[\[(]|\\begin\{([a-zA-Z]+\*?)\}|\\.|\$\$?", re.DOTALL)
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u115f\u1160\u180e\u200b\u2028\u2029\u2060-\u2064\u3164\ufeff\uffa0\U000e0000-\U000e0fff]"
)


def shown(text: str) -> str:
    """Text whose invisible characters, and those that reorder it, are written out as `\\u202e`."""
    text = printable(text.replace("\r\n", "\n"))
    return _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], text)


def formulas(text: str) -> Iterator[Formula]:
    """The mathematics of a text, in order and disjoint; a dollar sign that is money opens nothing."""
    at, closers = 0, _Closers(text)
    while (opener := _OPENER.search(text, at)) is not None:
        formula = _formula(text, opener, closers)
        if formula is not None:
            yield formula
        at = opener.end() if formula is None else formula.end


class _Closers:
    """Finds delimiters; one that is not there any more is not looked for again, so that a text is read in one pass."""

    def __init__(self, text: str):
        self.text, self.gone = text, set[str]()

    def find(self, closer: str, at: int) -> int:
        found = -1 if closer in self.gone else self.text.find(closer, at)
        if found < 0:
            self.gone.add(closer)
        return found


def _formula(text: str, opener: re.Match[str], closers: _Closers) -> Formula | None:
    start, mark, name = opener.start(), opener[0], opener[1]
    if mark == "$":
        found = _INLINE.match(text, start)
        if found is None or ("\\" not in found[1] and _PROSE.search(found[1])):
            return None
        return Formula(start, found.end(), found[1], display=False)
    if name is not None and name not in _ENVIRONMENTS:
        return None
    closer = f"\\end{{{name}}}" if name else {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}.get(mark)
    end = closers.find(closer, opener.end()) if closer else -1
    if closer is None or end < 0:
        return None
    inner = text[start : end + len(closer)] if name else text[opener.end() : end]
    return Formula(start, end + len(closer), inner, display=mark != "\\(")


class Typesetter:
    """Turns texts into pieces, with one worker process. Several threads may use it."""

    def __init__(self) -> None:
        self.pool = WorkerPool(Path(__file__).with_name("maths_worker.py"), 1, TIMEOUT_S)
        self.lock = threading.Lock()

    def pieces(self, texts: list[str]) -> list[list[Piece]]:
        """The pieces of each text; together they hold all of it."""
        found = [list(formulas(text)) for text in texts]
        wanted = [f for places in found for f in places if _may_be_typeset(f)][:MAX_FORMULAS]
        with self.lock:
            trees = self.pool.run([[f.latex, f.display] for f in wanted], lambda _: None) if wanted else []
        typeset = dict(zip(map(id, wanted), trees, strict=True))
        return [
            _cut(text, [(f, typeset.get(id(f))) for f in places]) for text, places in zip(texts, found, strict=True)
        ]

    def close(self) -> None:
        """Ends the worker."""
        with self.lock:
            self.pool.close()


def _may_be_typeset(formula: Formula) -> bool:
    return len(formula.latex) <= MAX_FORMULA and shown(formula.latex) == formula.latex


def _cut(text: str, places: list[tuple[Formula, Any]]) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for formula, tree in places:
        if tree is not None:
            pieces += [shown(text[at : formula.start])] if formula.start > at else []
            pieces.append({"tree": tree, "tex": shown(text[formula.start : formula.end])})
            at = formula.end
    return [*pieces, shown(text[at:])] if at < len(text) else pieces
