"""The report's plots as SVG, and the numbers behind them as CSV for `dvc plots`. The same numbers give the same bytes.

Text stays text and takes the page's colour, so that the plots read in light and dark.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from schemas.params import Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the colour of text; `_svg` replaces it by `currentColor`."""
CHOSEN, REJECTED, GREEDY, MAJORITY = "#2f7fc1", "#d0632f", "#2f7fc1", "#3f9b62"
COLOURS = ("#2f7fc1", "#d0632f", "#3f9b62", "#9467bd", "#b58900", "#17a2b8", "#c2508d", "#7f7f7f")
ITERATION_COLUMNS = ("iteration", "model", "accuracy", "ci95_low", "ci95_high", "k", "maj_k", "pass_k")
LOGPROB_COLUMNS = (
    "step", "epoch", "loss", "preference_loss", "nll_loss", "chosen_logprob", "rejected_logprob", "margin", "accuracy",
    "validation_accuracy",
)  # fmt: skip
ROLLOUT_COLUMNS = {"correct": "correct rollouts (%)", "kl": "KL of a rollout (nats)", "entropy": "entropy (nats)"}
"""Column -> what it shows, of `ppo`."""

Steps = dict[str, list[dict[str, Any]]]
"""Training run -> its logged steps, in order."""


def iteration_rows(params: Params, models: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per iteration that is evaluated: greedy accuracy with its interval, maj@k and pass@k."""
    rows = []
    for number, name in enumerate(params.report.iterations):
        if name in models:
            m, k = models[name], models[name]["k"]
            row = {"iteration": number, "model": name, "accuracy": m["accuracy"]}
            row |= {"ci95_low": m["ci95"][0], "ci95_high": m["ci95"][1], "k": k}
            rows.append(row | {"maj_k": m.get(f"maj_{k}"), "pass_k": m.get(f"pass_{k}")})
    return rows


def csv_text(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV; None is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def draw(iterations: list[dict[str, Any]], steps: Steps) -> dict[str, str]:
    """Plot name -> SVG, for the plots that there are numbers for."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        return dict(_draw(iterations, steps))


def _draw(iterations: list[dict[str, Any]], steps: Steps) -> Iterator[tuple[str, str]]:
    if iterations:
        yield "accuracy_by_iteration", _accuracy_by_iteration(iterations)
    validated = {run: rows for run, rows in steps.items() if _known(rows, "validation_accuracy")}
    if validated:
        yield "validation", _validation(validated)
    scored = {run: rows for run, rows in steps.items() if _known(rows, "chosen_logprob")}
    if scored:
        yield "logprobs", _logprobs(scored)
    drawn = {run: rows for run, rows in steps.items() if _known(rows, "correct")}
    if drawn:
        yield "rollouts", _rollouts(drawn)


def _known(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return [row for row in rows if row[column] is not None]


def _accuracy_by_iteration(rows: list[dict[str, Any]]) -> str:
    figure, (axes,) = _figure(1)
    x = [row["iteration"] for row in rows]
    y = [100 * row["accuracy"] for row in rows]
    below = [100 * (row["accuracy"] - row["ci95_low"]) for row in rows]
    above = [100 * (row["ci95_high"] - row["accuracy"]) for row in rows]
    axes.errorbar(x, y, (below, above), color=GREEDY, marker="o", capsize=4, label="greedy, 95 % interval")
    voted = [row for row in rows if row["maj_k"] is not None]
    if voted:
        k = " / ".join(str(k) for k in sorted({row["k"] for row in voted}))
        values = [100 * row["maj_k"] for row in voted]
        axes.plot([row["iteration"] for row in voted], values, "s--", color=MAJORITY, label=f"majority of {k}")
    axes.set_xticks(x, [row["model"] for row in rows])
    axes.margins(x=0.1)
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="best")
    return _svg(figure, "accuracy_by_iteration")


def _logprobs(steps: Steps) -> str:
    """One panel per run, on one scale: does the chosen log-prob rise, or fall with the rejected one?"""
    figure, panels = _figure(len(steps), sharey=True)
    for axes, (run, rows) in zip(panels, steps.items(), strict=True):
        for column, colour, label in (
            ("chosen_logprob", CHOSEN, "chosen"),
            ("rejected_logprob", REJECTED, "rejected"),
        ):
            known = _known(rows, column)
            axes.plot([r["step"] for r in known], [r[column] for r in known], color=colour, label=label)
        axes.set_title(run)
        axes.set_xlabel("step")
    panels[0].set_ylabel("summed log-prob (nats)")
    panels[0].legend(loc="best")
    return _svg(figure, "logprobs")


def _validation(steps: Steps) -> str:
    figure, (axes,) = _figure(1)
    for number, (run, rows) in enumerate(steps.items()):
        known, colour = _known(rows, "validation_accuracy"), COLOURS[number % len(COLOURS)]
        values = [100 * row["validation_accuracy"] for row in known]
        axes.plot([row["step"] for row in known], values, color=colour, marker="o", markersize=3, label=run)
    axes.set_xlabel("step")
    axes.set_ylabel("validation accuracy (%)")
    axes.legend(loc="best")
    return _svg(figure, "validation")


def _rollouts(steps: Steps) -> str:
    figure, panels = _figure(len(ROLLOUT_COLUMNS))
    for axes, (column, label) in zip(panels, ROLLOUT_COLUMNS.items(), strict=True):
        for number, (run, rows) in enumerate(steps.items()):
            known, scale = _known(rows, column), 100 if column == "correct" else 1
            colour = COLOURS[number % len(COLOURS)]
            axes.plot([r["step"] for r in known], [scale * r[column] for r in known], color=colour, label=run)
        axes.set_title(label)
        axes.set_xlabel("step")
    panels[0].legend(loc="best")
    return _svg(figure, "rollouts")


def _figure(n: int, sharey: bool = False) -> "tuple[Figure, list[Axes]]":
    """A figure of `n` panels, at most three in a row; no window system is needed."""
    from matplotlib.figure import Figure

    columns = min(n, 3)
    rows = -(-n // columns)
    figure = Figure(figsize=(5.6 if n == 1 else 3.2 * columns, 3.2 if n == 1 else 2.8 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for unused in panels[n:]:
        unused.remove()
    for axes in panels[:n]:
        axes.grid(True, color=INK, alpha=0.15, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[:n]


def _svg(figure: "Figure", name: str) -> str:
    import matplotlib

    for axes in figure.axes:
        _ink(axes)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue().replace(INK, "currentColor")


def _ink(axes: "Axes") -> None:
    """Colours text, ticks and spines with the page's ink."""
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    legend = axes.get_legend()
    if legend:
        legend.get_frame().set(alpha=0, linewidth=0)
        for text in legend.get_texts():
            text.set_color(INK)
