"""A worker process that reads (LaTeX, display) as JSON lines, and answers a tree of MathML or null.

Each formula has a budget of CPU time that kills this process, and memory is bounded: the converter is native code,
which a formula that is nested deep enough crashes.
"""

import json
import os
import re
import resource
import signal
import sys
from html.entities import html5
from xml.etree import ElementTree

from math_core import LatexError, LatexToMathML

MEMORY = 1 << 30
MAX_DEPTH = 60
MAX_NODES = 5_000
MACROS = {
    "dotsb": r"\cdots", "dotsm": r"\cdots", "dotsi": r"\cdots", "dotsc": r"\ldots", "dotso": r"\ldots",
    "textnormal": r"\text{#1}", "mbox": r"\text{#1}", "allowbreak": "",
}  # fmt: skip
ELEMENTS = frozenset({
    "math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mprescripts", "mroot", "mrow",
    "ms", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder",
    "munderover", "b", "em", "i", "span", "strong",
})  # fmt: skip
"""Without `mphantom` and colours, which hide what a text says, links, and everything that loads or runs."""
WORDS = {
    "stretchy": "true|false", "fence": "true|false", "separator": "true|false", "symmetric": "true|false",
    "movablelimits": "true|false", "largeop": "true|false", "accent": "true|false", "accentunder": "true|false",
    "displaystyle": "true|false", "display": "block|inline", "form": "prefix|infix|postfix", "mathvariant": "normal",
    "scriptlevel": "[+-]?[0-3]", "columnalign": "(?:left|center|right| )+", "columnspan": "[0-9]{1,2}",
    "notation": "(?:box|updiagonalstrike|downdiagonalstrike|horizontalstrike|top|bottom|left|right| )+",
}  # fmt: skip
LENGTHS = frozenset({
    "width", "height", "depth", "voffset", "lspace", "rspace", "minsize", "maxsize", "linethickness",
})  # fmt: skip
DROPPED = frozenset({"class", "xmlns", "style"})
_ENTITY = re.compile("&(?!(?:lt|gt|amp|quot|apos);)([A-Za-z]+;)")
_LENGTH = re.compile(r"(-?[0-9]*\.?[0-9]+)(em|rem|ex|px|pt|%)?")
_STYLE = re.compile(r"\s*(text-align|border-(?:top|right|bottom|left))\s*:\s*([a-z0-9. ]{1,40})\s*")

Tree = list
"""[element, attributes, children]; a child is a tree or a text."""


def main() -> None:
    """Serves until standard input ends; what the converter prints does not reach the answers."""
    timeout_s = float(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    converter = LatexToMathML(fancy_error=False, allow_unreliable_rendering=True, macros=MACROS, max_expansions=200)
    answers.write('"ready"\n')
    answers.flush()
    for line in sys.stdin:
        latex, display = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        tree = typeset(converter, latex, display)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(tree) + "\n")
        answers.flush()


def typeset(converter: LatexToMathML, latex: str, display: bool) -> Tree | None:
    """The MathML of a formula; None if it cannot be read, or holds what is on no list."""
    try:
        root = ElementTree.fromstring(as_xml(converter.convert_with_local_state(latex, displaystyle=display)))
    except (LatexError, UnicodeEncodeError, ElementTree.ParseError):
        return None
    if sum(1 for _ in root.iter()) > MAX_NODES:
        return None
    return listed(root)


def as_xml(markup: str) -> str:
    """MathML without the entities that HTML knows and XML does not, such as that of a function's application."""
    return _ENTITY.sub(lambda match: html5.get(match[1], match[0]), markup)


def listed(element: ElementTree.Element, depth: int = 0) -> Tree | None:
    """An element with its content, if all of it is on the lists."""
    attributes = _attributes(element)
    if element.tag not in ELEMENTS or attributes is None or depth > MAX_DEPTH:
        return None
    children: list = [element.text] if element.text else []
    for child in element:
        tree = listed(child, depth + 1)
        if tree is None:
            return None
        children += [tree, child.tail] if child.tail else [tree]
    return [element.tag, attributes, children]


def _attributes(element: ElementTree.Element) -> dict[str, str] | None:
    """The attributes, with the alignment and the lines of a cell out of its style; None if one is on no list."""
    kept = dict(_styles(element.get("style", "")))
    for name, value in element.attrib.items():
        if name in DROPPED:
            continue
        if not (_is_short(value) if name in LENGTHS else re.fullmatch(WORDS.get(name, "(?!)"), value)):
            return None
        kept[name] = value
    return None if "color" in element.get("style", "").replace("currentcolor", "") else kept


def _styles(style: str) -> list[tuple[str, str]]:
    """`align` and `lines` (the sides that have one) of a cell."""
    found = [match.groups() for match in map(_STYLE.fullmatch, style.split(";")) if match]
    align = [("align", value) for name, value in found if name == "text-align" and value in ("left", "right", "center")]
    sides = [name.removeprefix("border-") for name, _ in found if name.startswith("border-")]
    return [*align, *([("lines", " ".join(sorted(set(sides))))] if sides else [])]


def _is_short(length: str) -> bool:
    """Whether a length can neither push text out of sight nor lay it over other text."""
    match = _LENGTH.fullmatch(length)
    if match is None:
        return False
    value, unit = float(match[1]), match[2]
    return -0.5 <= value <= 6 if unit in ("em", "rem", "ex", None) else -5 <= value <= 100


if __name__ == "__main__":
    main()
