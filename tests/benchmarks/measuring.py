"""What the benchmarks share: medians over repeated processes, and how a result is shown."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def medians(measure: Callable[[], dict[str, float]], repeat: int) -> dict[str, float]:
    """The median of every number over `repeat` measurements."""
    runs = [measure() for _ in range(repeat)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def show(results: Sequence[Mapping[str, Any]] | Mapping[str, Any], as_json: bool) -> None:
    """One JSON object, or a line per number."""
    if as_json:
        print(json.dumps(results))
        return
    for result in [results] if isinstance(results, Mapping) else results:
        print("  ".join(f"{name} {_short(value)}" for name, value in result.items()))


def _short(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
