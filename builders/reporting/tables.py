"""The tables of the page, from the metrics. Each function returns empty markup where there is nothing to show."""

from collections.abc import Iterator
from typing import Any

from builders.reporting.domains import model_labels
from builders.reporting.markup import Markup, fragment, table, tag
from schemas.params import Params

EMPTY = Markup()


def percent(share: float | None) -> str | None:
    """A share in percent."""
    return None if share is None else f"{100 * share:.1f} %"


def share(row: dict[str, Any] | None, name: str = "share") -> Markup | None:
    """A share of `row` in percent, with its interval; None where there is none."""
    if row is None or row.get(name) is None:
        return None
    low, high = row["ci95"]
    ends = f" [{100 * low:.1f}, {100 * high:.1f}]"
    return fragment(tag("strong", percent(row[name])), tag("span", ends, class_="range"))


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


def group_table(models: dict[str, dict[str, Any]], kind: str) -> Markup:
    """Accuracy by level, subject or steps (`kind`): one row per group of a problem set, one column per model."""
    sets: dict[str, dict[str, dict[str, Any]]] = {}
    labels = model_labels(models)
    for run, model in models.items():
        sets.setdefault(model["problems"], {})[labels[run]] = model[f"by_{kind}"]
    names = list(dict.fromkeys(labels.values()))
    rows = [row for problems, columns in sets.items() for row in _group_rows(problems, columns, names)]
    return table(["problem set", kind, "problems", *names], rows, 2) if rows else EMPTY


def _group_rows(problems: str, columns: dict[str, dict[str, Any]], names: list[str]) -> Iterator[list[object]]:
    groups = sorted({group for shares in columns.values() for group in shares}, key=lambda group: (len(group), group))
    for group in groups:
        shares = {model: found[group] for model, found in columns.items() if group in found}
        n = max(share["n"] for share in shares.values())
        yield [problems, group, f"{n:,}", *(percent(shares.get(name, {}).get("accuracy")) for name in names)]


def domain_table(domains: dict[str, dict[str, dict[str, Any]]]) -> Markup:
    """Greedy accuracy of every model on every problem set; sets that it was not trained on are marked."""
    sets = list(dict.fromkeys(name for row in domains.values() for name in row))
    if len(sets) < 2:
        return EMPTY
    rows = [[model, *(_domain_cell(row.get(name)) for name in sets)] for model, row in domains.items()]
    note = "Out of domain: a problem set of another kind than the model was trained on."
    return fragment(table(["model", *sets], rows), tag("p", note, class_="note"))


def _domain_cell(cell: dict[str, Any] | None) -> Markup | None:
    if cell is None:
        return None
    low, high = cell["ci95"]
    where = ", out of domain" if cell["domain"] == "out" else ""
    return fragment(
        tag("strong", percent(cell["accuracy"])),
        tag("span", f" [{100 * low:.1f}, {100 * high:.1f}]{where}", class_="range"),
    )


def length_table(lengths: dict[str, dict[str, Any]]) -> Markup:
    """Tokens of the prompts and completions of each samples run."""
    rows = [
        [
            run,
            f"{row['n']:,}",
            percent(row["n_truncated"] / row["n"]),
            *(_quantiles(row[k]) for k in ("prompt", "completion", "both")),
        ]
        for run, row in lengths.items()
    ]
    header = ["samples run", "completions", "cut off", "prompt", "completion", "both"]
    note = "Tokens: median, 90 %, 99 %, longest. Limits of later stages (max_tokens) are set on prompt and completion."
    return fragment(table(header, rows), tag("p", note, class_="note")) if rows else EMPTY


def _quantiles(values: dict[str, int] | None) -> str | None:
    return " · ".join(f"{value:,}" for value in values.values()) if values else None


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
    """What each run's last execution took, then what the ledger holds for each sampling or judging setting."""
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
    header = ["stage", "run", "wall", "CPU", "device", "tokens", "price"]
    return fragment(table(header, rows, 2), tag("p", text, class_="note"))


def _cost(section: str, run: str, cost: dict[str, Any]) -> list[object]:
    seconds = [_seconds(cost[name]) for name in ("wall_s", "cpu_s", "device_s")]
    return [section, run, *seconds, _tokens(cost["tokens"]), _price(cost["price_usd"])]


def _generation_table(generation: dict[str, Any]) -> Markup:
    settings = generation["settings"]
    if not settings:
        return EMPTY
    rows = [_generated(start, ", ".join(cost["runs"]), cost) for start, cost in settings.items()]
    rows.append(_generated("total", "", generation["total"]))
    header = ["setting", "runs", "completions", "wall", "device", "tokens", "price"]
    text = (
        "All batches that the ledger holds for each setting, whenever and for whichever run they were made. The table "
        "above counts some of them again, as the execution that made them."
    )
    return fragment(table(header, rows, 2), tag("p", text, class_="note"))


def _generated(setting: str, runs: str, cost: dict[str, Any]) -> list[object]:
    seconds = [_seconds(cost[name]) for name in ("wall_s", "device_s")]
    return [
        setting,
        runs,
        _tokens(cost["completions"]),
        *seconds,
        _tokens(cost["tokens"]),
        _price(cost.get("price_usd")),
    ]


def _seconds(value: float | None) -> str | None:
    return f"{value:,.1f} s" if value else None


def _price(value: float | None) -> str | None:
    return f"${value:,.4f}" if value else None


def _tokens(value: int | None) -> str | None:
    return f"{value:,}" if value else None
