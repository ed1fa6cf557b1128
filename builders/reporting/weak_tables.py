"""The page's tables of weak supervision. Each function returns empty markup where there is nothing to show."""

from collections.abc import Iterator
from typing import Any

from builders.reporting.markup import Markup, fragment, table, tag
from builders.reporting.tables import EMPTY, percent, share
from builders.reporting.weak_to_strong import NOT_MEASURED

_CASES = {"weak_chosen": "weak chosen", "weak_rejected": "weak rejected", "own": "own"}


def weak_tables(blocks: dict[str, dict[str, Any]]) -> Markup:
    """Each block: the gap recovered, then its filters, votes and pairs."""
    return fragment(*(_block(block) for block in blocks.values()))


def _block(block: dict[str, Any]) -> Markup:
    return fragment(
        tag("h3", f"{block['floor']} → {block['ceiling']}"),
        gap_table(block["models"]),
        filter_table(block["filters"]),
        vote_table(block["votes"]),
        noise_table(block["pairs"]),
    )


def gap_table(models: dict[str, dict[str, Any]]) -> Markup:
    """How much of the gap between floor and ceiling each model recovers."""
    rows = [[name, *_gap(row)] for name, row in models.items()]
    header = ["model", "gap recovered (PGR)", "accuracy", "floor", "ceiling", "problems"]
    note = "Greedy accuracy on the problems that all three answered; the PGR has its 95 % interval."
    return fragment(table(header, rows), tag("p", note, class_="note")) if rows else EMPTY


def _gap(row: dict[str, Any]) -> list[object]:
    if "n" not in row:
        return [_soft(row["reason"]), *[None] * 4]
    pgr = share(row, "pgr") if row["ci95"] else percent(row["pgr"])
    shown = [part for part in (pgr, row["reason"] and _soft(" ", row["reason"])) if part]
    return [fragment(*shown), *(percent(row[name]) for name in ("model", "floor", "ceiling")), f"{row['n']:,}"]


def filter_table(filters: dict[str, dict[str, Any]]) -> Markup:
    """Filters by agreement: how many problems they keep, and how right the samples of either side are."""
    rows = [row for name, entry in filters.items() for row in _filter(name, entry)]
    header = ["filter", "samples of", "compared", "agreeing", "kept", "right before", "precision", "recall",
              "topped up: right", "gold"]  # fmt: skip
    return fragment(tag("h4", "Filters by agreement"), table(header, rows, 2)) if rows else EMPTY


def _filter(name: str, entry: dict[str, Any]) -> Iterator[list[object]]:
    if "verdict" in entry:
        yield [name, _soft(entry["verdict"]), *[None] * 8]
        return
    for key, side in entry["sides"].items():
        counts = [f"{entry[count]:,}" for count in ("n", "n_agreeing", "n_kept")]
        shares = [share(side[figure]) for figure in ("before", "precision", "recall", "topped_up")]
        yield [name, entry[key], *counts, *shares, _gold(side["gold"])]


def vote_table(votes: dict[str, dict[str, Any]]) -> Markup:
    """Majorities: what each threshold of confidence keeps, and how much of it is right."""
    rows = [row for name, entry in votes.items() for row in _votes(name, entry)]
    header = ["votes", "confidence at least", "kept", "of all prompts", "majority right", "gold"]
    return fragment(tag("h4", "Majority votes"), table(header, rows)) if rows else EMPTY


def _votes(name: str, entry: dict[str, Any]) -> Iterator[list[object]]:
    if "verdict" in entry:
        yield [name, _soft(entry["verdict"]), *[None] * 4]
        return
    for row in entry["thresholds"]:
        kept = [f"{row['n_kept']:,}", percent(row["n_kept"] / entry["n"])]
        yield [name, f"{row['threshold']:.1f}", *kept, share(row["right"]), _gold(entry["gold"])]


def noise_table(pairs: dict[str, dict[str, Any]]) -> Markup:
    """Label noise: how many chosen and how many rejected sides are right."""
    rows = [row for name, entry in pairs.items() for row in _noise(name, entry)]
    header = ["pairs run", "case", "pairs", "chosen right", "rejected right", "gold"]
    return fragment(tag("h4", "Label noise of pairs"), table(header, rows, 2)) if rows else EMPTY


def _noise(name: str, entry: dict[str, Any]) -> Iterator[list[object]]:
    if "verdict" in entry:
        yield [name, _soft(entry["verdict"]), *[None] * 4]
        return
    golds = [f"{side}: {gold or NOT_MEASURED}" for side, gold in entry["gold"].items()]
    by_case = {_CASES[case]: row for case, row in entry["by_case"].items()}
    for case, row in {"all": entry["total"], **by_case}.items():
        yield [name, case, f"{row['n']:,}", share(row["chosen"]), share(row["rejected"]), ", ".join(golds)]


def _gold(run: str | None) -> object:
    return run or _soft(NOT_MEASURED)


def _soft(*content: object) -> Markup:
    return tag("span", *content, class_="range")
