"""Pictures of a release's card, as PNG, which the Hub shows. The same counts give the same bytes."""

import io
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from builders.exporting.tally import BINS, Tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = "pictures"
_COLOURS = {"chosen": "#2f7fc1", "rejected": "#d0632f"}
_RUN_COLOURS = ("#2f7fc1", "#d0632f", "#3f9b62", "#9467bd", "#b58900", "#7f7f7f")
_WIDE = 1000
"""From this ratio on, an axis has room for powers of ten alone."""
_STYLES = [(colour, line) for line, colour in product(("solid", "dashed", "dotted"), _RUN_COLOURS)]
_SHARES = 20
"""Bars of a histogram of shares."""


class Picture(NamedTuple):
    """A file below the release, and what it shows."""

    path: str
    caption: str


def draw_pictures(directory: Path, tallies: dict[str, Tally]) -> list[Picture]:
    """Draws what the tallies have counted."""
    drawn = []
    for config, tally in tallies.items():
        if any(counts.any() for counts in tally.lengths.values()):
            caption = f"Lengths in `{config}`, in characters"
            drawn.append((Picture(f"{FOLDER}/lengths_{config}.png", caption), _png(_lengths, tally.lengths)))
        if rates := {run: counts for run, counts in tally.pass_rates().items() if any(n for _, n in counts)}:
            caption = f"Share of correct samples of each prompt in `{config}`"
            drawn.append((Picture(f"{FOLDER}/pass_rates_{config}.png", caption), _png(_rates, rates)))
    for picture, content in drawn:
        (directory / FOLDER).mkdir(exist_ok=True)
        (directory / picture.path).write_bytes(content)
    return [picture for picture, _ in drawn]


def _png(draw: Callable[["Axes", Any], None], given: Any) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    out = io.BytesIO()
    with matplotlib.rc_context({"font.size": 9, "font.family": "DejaVu Sans", "axes.spines.top": False,
                                "axes.spines.right": False}):  # fmt: skip
        figure = Figure(figsize=(6.4, 2.6), dpi=110)
        figure.subplots_adjust(left=0.12, right=0.98, bottom=0.19, top=0.95)
        draw(figure.subplots(), given)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # once; `savefig` draws twice, and says in the file which version drew it
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(out, format="png")
    return out.getvalue()


def _lengths(axes: "Axes", lengths: dict[str, np.ndarray]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    used = np.flatnonzero(sum(lengths.values()))
    low, high = max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, len(BINS) - 1)
    for side, counts in lengths.items():
        edges = np.maximum(BINS[low : high + 1], 0.8)
        axes.stairs(counts[low:high], edges, label=side, color=_COLOURS.get(side, _RUN_COLOURS[2]), linewidth=1.6)
    axes.set(xscale="log", xlabel="characters", ylabel="rows", ylim=(0, None))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if BINS[high] < _WIDE * max(BINS[low], 1) else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    if len(lengths) > 1:
        axes.legend(frameon=False)


def _rates(axes: "Axes", rates: dict[str, Counter[tuple[int, int]]]) -> None:
    edges = np.linspace(0, 1, _SHARES + 1)
    for number, (run, counts) in enumerate(rates.items()):
        colour, line = _STYLES[number % len(_STYLES)]
        shares = [(right / n, prompts) for (right, n), prompts in counts.items() if n]
        values, weights = zip(*shares, strict=True)
        found, _ = np.histogram(values, edges, weights=weights)
        axes.stairs(found, edges, label=run, color=colour, linestyle=line, linewidth=1.6)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="share of correct samples", ylabel="prompts", xlim=(0, 1), ylim=(0, None))
    axes.legend(frameon=False)
