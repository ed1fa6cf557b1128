"""The tables of the page, from the metrics. Each function returns empty markup where there is nothing to show."""

from typing import Any

from builders.reporting.markup import Markup, fragment, table, tag
from schemas.params import Params

EMPTY = Markup()


def percent(share: float | None) -> str | None:
    """A share in percent."""
    return None if share is None else f"{100 * share:.1f} %"


def points(value: float, interval: list[float]) -> Markup:
    """A difference in points with its interval."""
    ends = f" [{interval[0]:+.1f}, {interval[1]:+.1f}]"
    return fragment(tag("strong", f"{value:+.1f}"), tag("span", ends, class_="range"))


def iteration_table(params: Params, metrics: dict[str, Any]) -> Markup:
    """Each iteration's gain over the one before, and whether it has saturated."""
    if not metrics["iterations"]:
        return EMPTY
    rows = [
        (name, row["from"], points(row["gain_points"], row["ci95"]), "yes" if row["saturated"] else "no")
        for name, row in metrics["iterations"].items()
    ]
    limit = f"An iteration has saturated when it gains less than {params.report.saturated_below:g} points."
    return fragment(
        table(["iteration", "from", "gain in points", "saturated"], rows, 2), tag("p", limit, class_="note")
    )


def comparison_table(comparisons: dict[str, dict[str, Any]]) -> Markup:
    """Does each expected order hold: is the candidate better than the baseline, problem by problem?"""
    header = ["expected", "verdict", "difference in points", "fixed", "broken", "both right", "both wrong", "p"]
    rows = [_comparison(row) for row in comparisons.values()]
    return fragment(_orders(comparisons), table(header, rows, 2)) if rows else EMPTY


def _orders(comparisons: dict[str, dict[str, Any]]) -> Markup:
    """One sentence: how many of the expected orders hold, and which do not."""
    found: dict[str, list[str]] = {}
    for row in comparisons.values():
        found.setdefault(row["verdict"], []).append(_expected(row))
    holding = f"{len(found.pop('holds', []))} of {len(comparisons)} expected orders hold"
    rest = "".join(f"; {verdict}: {', '.join(orders)}" for verdict, orders in found.items())
    return tag("p", holding + rest + ".")


def _expected(row: dict[str, Any]) -> str:
    return f"{row['candidate']} > {row['baseline']}"


def _comparison(row: dict[str, Any]) -> list[object]:
    kind = {"holds": "yes", "does not hold": "no"}.get(row["verdict"], "range")
    start: list[object] = [_expected(row), tag("span", row["verdict"], class_=kind)]
    if "points" not in row:
        return [*start, *[None] * 6]
    counts = [f"{row[name]:,}" for name in ("fixed", "broken", "both_right", "both_wrong")]
    return [*start, points(row["points"], row["ci95"]), *counts, f"{row['p']:.2g}"]


def level_table(models: dict[str, dict[str, Any]]) -> Markup:
    """Accuracy by level, one column per model."""
    levels = sorted({level for m in models.values() for level in m["by_level"]}, key=lambda level: (len(level), level))
    if not levels:
        return EMPTY
    first = next(iter(models.values()))["by_level"]
    rows = [
        [
            level,
            f"{first[level]['n']:,}" if level in first else None,
            *(percent(m["by_level"].get(level, {}).get("accuracy")) for m in models.values()),
        ]
        for level in levels
    ]
    return table(["level", "problems", *models], rows)


def likelihood_table(likelihood: dict[str, dict[str, Any]]) -> Markup:
    """How well the reference model's log-probs separate chosen from rejected."""
    if not likelihood:
        return EMPTY
    header = ["reference run", "pairs", "AUROC: sum", "per token", "pairs ordered: sum", "per token",
              "mean log-prob: chosen", "rejected"]  # fmt: skip
    rows = [
        [run, f"{r['n_pairs']:,}", f"{r['auroc']:.3f}", f"{r['auroc_per_token']:.3f}", percent(r["pairs_ordered"]),
         percent(r["pairs_ordered_per_token"]), f"{r['chosen_logprob']:.2f}", f"{r['rejected_logprob']:.2f}"]
        for run, r in likelihood.items()
    ]  # fmt: skip
    return table(header, rows)


def funnel_table(funnel: list[dict[str, Any]]) -> Markup:
    """Rows that each run wrote, and what it dropped, by reason."""
    rows = [
        (entry["stage"], entry["run"], _counts(entry["rows"]), _counts(entry.get("verdicts", {})),
         _counts(entry.get("rejects", {})))
        for entry in funnel
        if entry["rows"]
    ]  # fmt: skip
    return table(["stage", "run", "rows", "verdicts", "dropped"], rows, 5) if rows else EMPTY


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items())


def cost_table(costs: dict[str, Any]) -> Markup:
    """What each run's last execution took, then what the ledger holds for each sampling setting."""
    return fragment(_execution_table(costs), _generation_table(costs["generation"]))


def _execution_table(costs: dict[str, Any]) -> Markup:
    if not costs["runs"]:
        return EMPTY
    rows = [_cost(s, name, cost) for s, runs in costs["runs"].items() for name, cost in runs.items()]
    rows.append(_cost("total", "", costs["total"]))
    text = (
        "The last execution of each run in this workspace. Device time and tokens are of what that execution generated "
        "or trained on: none where the ledger had all completions."
    )
    return fragment(table(["stage", "run", "wall", "CPU", "device", "tokens"], rows, 2), tag("p", text, class_="note"))


def _cost(section: str, run: str, cost: dict[str, Any]) -> list[object]:
    seconds = [_seconds(cost[name]) for name in ("wall_s", "cpu_s", "device_s")]
    return [section, run, *seconds, _tokens(cost["tokens"])]


def _generation_table(generation: dict[str, Any]) -> Markup:
    settings = generation["settings"]
    if not settings:
        return EMPTY
    rows = [_generated(start, ", ".join(cost["runs"]), cost) for start, cost in settings.items()]
    rows.append(_generated("total", "", generation["total"]))
    header = ["setting", "runs", "completions", "wall", "device", "tokens"]
    text = (
        "All batches that the ledger holds for each setting, whenever and for whichever run they were made. The table "
        "above counts some of them again, as the execution that made them."
    )
    return fragment(table(header, rows, 2), tag("p", text, class_="note"))


def _generated(setting: str, runs: str, cost: dict[str, Any]) -> list[object]:
    seconds = [_seconds(cost[name]) for name in ("wall_s", "device_s")]
    return [setting, runs, _tokens(cost["completions"]), *seconds, _tokens(cost["tokens"])]


def _seconds(value: float | None) -> str | None:
    return f"{value:,.1f} s" if value else None


def _tokens(value: int | None) -> str | None:
    return f"{value:,}" if value else None
