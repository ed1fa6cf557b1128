"""The page's section on what voting and reranking make of sampled completions."""

from collections.abc import Iterator
from typing import Any

from builders.reporting.markup import Markup, fragment, table, tag
from builders.reporting.tables import EMPTY, percent, share

_HEADER = ["model", "k", "greedy", "pass@1", "maj@k", "rerank@k", "weighted@k", "pass@k", "reward model"]


def voting_table(models: dict[str, dict[str, Any]]) -> Markup:
    """One row per evaluated model with sampled completions, and reward model that scored them."""
    rows = [row for name, model in models.items() if model["k"] for row in _rows(name, model)]
    if not rows:
        return EMPTY
    note = "The same k sampled completions of each problem, by what is made of them. No choice passes pass@k."
    return fragment(table(_HEADER, rows), tag("p", note, class_="note"))


def _rows(name: str, model: dict[str, Any]) -> Iterator[list[object]]:
    k = model["k"]
    before = [name, k, share(model, "accuracy"), percent(model["pass_1"]), _share(model, f"maj_{k}")]
    passed = _share(model, f"pass_{k}") if k > 1 else percent(model["pass_1"])
    reranked = model.get("reranking", {})
    for scores, row in reranked.items():
        by = row["model"] if row["model"] == scores else f"{row['model']} ({scores})"
        yield [*before, _share(row, "rerank"), _share(row, "weighted"), passed, by]
    if not reranked:
        yield [*before, None, None, passed, None]


def _share(row: dict[str, Any], name: str) -> Markup | None:
    return share({"share": row[name], "ci95": row[f"{name}_ci95"]})
