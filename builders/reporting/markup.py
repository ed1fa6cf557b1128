"""HTML from Python values, escaped by default: only text that this package made is `Markup`.

Model output, params and names are data; whatever is not `Markup` is escaped.
"""

import html
import re
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is HTML already."""


def escape(value: object) -> Markup:
    """A value as HTML text: `Markup` as it is, None as a dash, anything else escaped."""
    if isinstance(value, Markup):
        return value
    return Markup("–" if value is None else html.escape(str(value)))


def fragment(*content: object) -> Markup:
    """Several values one after the other. (`+` would make a plain string, which is escaped.)"""
    return Markup("".join(map(escape, content)))


def tag(name: str, *content: object, **attributes: str) -> Markup:
    """An element. Attribute names take `_` for `-` and a trailing `_` where Python reserves the word."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>{fragment(*content)}</{name}>")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers_from: int = 1) -> Markup:
    """A table; the columns from `numbers_from` on are aligned as numbers."""

    def line(cell: str, values: Sequence[object]) -> Markup:
        kinds = ["number" if i >= numbers_from else "name" for i in range(len(values))]
        return tag("tr", *(tag(cell, value, class_=kind) for value, kind in zip(values, kinds, strict=True)))

    body = [line("td", row) for row in rows]
    head = tag("thead", line("th", header))
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll")


def inline_svg(name: str, svg: str) -> Markup:
    """A plot for use inside a page: no prologue, no metadata, no name spaces, and ids that other plots do not have."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)
    return Markup(body.strip())


def interval_bar(value: float, low: float, high: float, scale: tuple[float, float]) -> Markup:
    """A share as a dot on its interval, drawn on `scale` (the shares at the left and the right edge)."""
    left, right = scale

    def x(share: float) -> str:
        return f"{4 + 112 * (share - left) / max(right - left, 1e-9):.1f}"

    line = tag("line", x1=x(low), x2=x(high), y1="8", y2="8")
    return tag("svg", line, tag("circle", cx=x(value), cy="8", r="3.5"), class_="bar", viewBox="0 0 120 16")
