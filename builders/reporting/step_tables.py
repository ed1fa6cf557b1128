"""The page's tables of single steps. Each function returns empty markup where there is nothing to show."""

from collections.abc import Iterator
from typing import Any

from builders.reporting.markup import Markup, fragment, table, tag
from builders.reporting.tables import EMPTY, percent, share

MOST_PAIRS = 10
"""Pairs of labelers of one calibration that the page shows."""

_LEFT_OUT = {
    "n_invalid": "invalid",
    "n_disputed": "disputed",
    "n_without_human": "no human",
    "n_unlabelled": "not labelled",
}


def label_table(labelled: dict[str, dict[str, dict[str, int]]]) -> Markup:
    """What the labelers of each run said: verdicts, labels of steps, and where the first wrong step is."""
    rows = [
        [
            run,
            _names(counts["labelers"]),
            *(f"{counts['verdicts'].get(name, 0):,}" for name in ("error", "no_error", "invalid")),
            *(f"{counts['labels'].get(name, 0):,}" for name in ("correct", "neutral", "incorrect")),
            " · ".join(f"{step}: {n:,}" for step, n in counts["first_wrong_step"].items()) or None,
        ]
        for run, counts in labelled.items()
    ]
    header = ["step_labels run", "labelers", "error", "no error", "invalid", "steps correct", "neutral", "incorrect",
              "first wrong step"]  # fmt: skip
    note = "Labellings by verdict, steps by label; first wrong step: its number, and in how many labellings it is it."
    return fragment(table(header, rows, 2), tag("p", note, class_="note")) if rows else EMPTY


def _names(labelers: dict[str, int]) -> str:
    """The labelers, or how many there are."""
    return ", ".join(labelers) if len(labelers) <= 3 else f"{len(labelers)} labelers"


def calibration_table(calibrations: dict[str, dict[str, Any]]) -> Markup:
    """Labelers against humans, one row per labeler and source, then who agrees with whom."""
    rows = [row for entry in calibrations.values() for row in _calibration(entry)]
    if not rows:
        return EMPTY
    header = ["labels", "humans", "labeler", "source", "erroneous", "found exactly", "correct", "none found", "F1",
              "F1 of valid", "not answered or not scored"]  # fmt: skip
    note = (
        "As ProcessBench scores: invalid answers count as not right, but for F1 of valid. Disputed: humans do not agree"
        " whether there is an error; no human: labelled by no human; not labelled: by humans alone. None of the three"
        " is scored."
    )
    scores = fragment(table(header, rows, 4), tag("p", note, class_="note"))
    return fragment(scores, _agreements(calibrations), _reliabilities(calibrations))


def _calibration(entry: dict[str, Any]) -> Iterator[list[object]]:
    names = [entry["labels"], entry["humans"]]
    if "verdict" in entry:
        yield [*names, tag("span", entry["verdict"], class_="range"), *[None] * 8]
        return
    for labeler, scores in entry["labelers"].items():
        for source, score in {"all": scores["total"], **scores["by_source"]}.items():
            yield [*names, labeler, source, *_score(score)]


def _score(score: dict[str, Any]) -> list[object]:
    shares = [
        cell for kind in ("error", "correct") for cell in (f"{score[kind]['n']:,}", share(score[kind], "accuracy"))
    ]
    counts = [f"{name} {score[key]:,}" for key, name in _LEFT_OUT.items() if score[key]]
    return [*shares, percent(score["f1"]), percent(score["valid"]["f1"]), ", ".join(counts) or None]


def _agreements(calibrations: dict[str, dict[str, Any]]) -> Markup:
    """Of many labelers, the pairs with most samples in common: there are as many pairs as labelers squared."""
    shown, hidden = [], 0
    for key, entry in calibrations.items():
        pairs = sorted(entry.get("agreements", []), key=lambda row: -row["n"])
        hidden += len(pairs[MOST_PAIRS:])
        shown += [
            [key, row["a"], row["b"], f"{row['n']:,}", share(row, "share"), _decimals(row["kappa"])]
            for row in pairs[:MOST_PAIRS]
        ]
    header = ["calibration", "labeler", "other", "samples", "same first wrong step", "kappa"]
    rest = tag("p", f"{hidden:,} more pairs are in metrics.json.", class_="note") if hidden else EMPTY
    return fragment(tag("h3", "Two labelers"), table(header, shown, 3), rest) if shown else EMPTY


def _reliabilities(calibrations: dict[str, dict[str, Any]]) -> Markup:
    """A run's labels stand once, in however many calibrations it is."""
    runs = {run: found for entry in calibrations.values() for run, found in entry.get("reliabilities", {}).items()}
    rows = [
        [
            run,
            "all labelers" if row["labeler"] is None else f"repeats of {row['labeler']}",
            f"{row['n_samples']:,}",
            f"{row['n_pairs']:,}",
            share(row, "share"),
            _decimals(row["alpha"]),
        ]
        for run, found in runs.items()
        for row in found
    ]
    header = ["step_labels run", "labels of one sample", "samples", "pairs of labels", "same first wrong step", "alpha"]
    return fragment(tag("h3", "Repeats, and all labelers of a run"), table(header, rows, 2)) if rows else EMPTY


def _decimals(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def audit_table(audits: dict[str, dict[str, Any]]) -> Markup:
    """Of right answers: the share whose process is right."""
    rows = [row for run, entry in audits.items() for row in _audit(run, entry)]
    header = ["step_labels run", "source", "process right", "judged", "right", "wrong", "disputed", "invalid"]
    return table(header, rows, 2) if rows else EMPTY


def _audit(run: str, entry: dict[str, Any]) -> Iterator[list[object]]:
    if "verdict" in entry:
        yield [run, tag("span", entry["verdict"], class_="range"), *[None] * 6]
        return
    for source, row in {"all": entry["total"], **entry["by_source"]}.items():
        yield [run, source, share(row), *_counts(row)]


def wrong_step_table(guards: dict[str, dict[str, Any]], logged: dict[str, list[dict[str, Any]]]) -> Markup:
    """Of right answers: the share with a wrong step, of all, of each source, and of rollouts by steps of training."""
    rows = [
        [run, entry["samples"], part, share(row), *_counts(row)]
        for run, entry in guards.items()
        for part, row in _parts(entry)
    ]
    header = ["step_labels run", "samples", "of", "wrong step", "judged", "right", "wrong", "disputed", "invalid"]
    note = "Right by the answer alone. A wrong step is one that most valid labels of the sample name."
    labelled = fragment(table(header, rows, 3), tag("p", note, class_="note")) if rows else EMPTY
    return fragment(labelled, _logged(logged))


def _logged(logged: dict[str, list[dict[str, Any]]]) -> Markup:
    """What training itself logged, by rule, in tenths of its steps."""
    rows = [[run, _steps(row), percent(row["share"]), f"{row['n_steps']:,}"] for run in logged for row in logged[run]]
    header = ["training run", "of", "wrong step", "steps that were looked at"]
    return fragment(tag("h3", "While training, by rule"), table(header, rows, 2)) if rows else EMPTY


def _steps(row: dict[str, Any]) -> str:
    return f"steps {row['first_step']:,} to {row['last_step']:,}"


def _parts(entry: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "all", entry["total"]
    if len(entry["by_source"]) > 1:
        yield from entry["by_source"].items()
    for row in entry.get("by_step", []):
        yield _steps(row), row


def _counts(row: dict[str, Any]) -> list[str]:
    return [f"{row[name]:,}" for name in ("n", "n_right", "n_wrong", "n_disputed", "n_invalid")]


def judging_table(judging: dict[str, dict[str, Any]]) -> Markup:
    """How well trained models tell chosen from rejected in pairs that they were not trained on."""
    rows = [[name, row["pairs"], f"{row['beta']:g}", *_judged(row)] for name, row in judging.items()]
    header = ["model", "pairs", "beta", "judging accuracy", "scored", "reward margin", "chosen", "rejected"]
    note = "Against the model that it was trained from; margin: mean ± standard error, its parts beside it."
    return fragment(table(header, rows, 2), tag("p", note, class_="note")) if rows else EMPTY


def _judged(row: dict[str, Any]) -> list[object]:
    if "verdict" in row:
        return [tag("span", row["verdict"], class_="range"), *[None] * 4]
    error = "" if row["margin_se"] is None else f" ± {row['margin_se']:.4f}"
    margin = fragment(tag("strong", f"{row['margin']:+.4f}"), tag("span", error, class_="range"))
    scored = f"{row['n']:,}" if row["n"] == row["n_pairs"] else f"{row['n']:,} of {row['n_pairs']:,}"
    rewards = [f"{row[name]:+.4f}" for name in ("chosen_reward", "rejected_reward")]
    return [share(row, "accuracy"), scored, margin, *rewards]


def labelled_examples(examples: list[dict[str, Any]], longest: int) -> Markup:
    """Samples with their steps, the first wrong one marked; texts are cut at `longest` code points."""
    return fragment(*(_example(row, longest) for row in examples))


def _example(row: dict[str, Any], longest: int) -> Markup:
    title = tag("h3", f"{row['run']} · {row['sample_id']} · {row['labeler']}")
    steps = [_step(text, i == row["first_error"], longest) for i, text in enumerate(row["steps"] or [])]
    said = [
        tag("p", tag("strong", f"{name}: "), _cut(row[key], longest))
        for name, key in (("Why", "rationale"), ("Corrected", "correction"))
        if row[key]
    ]
    question = tag("pre", _cut(row["question"] or "(problem not found)", longest))
    return fragment(title, question, tag("ol", *steps, class_="steps"), *said)


def _step(text: str | None, wrong: bool, longest: int) -> Markup:
    shown = _cut((text or "").strip(), longest)
    return tag("li", tag("mark", shown), tag("span", " first wrong step", class_="no")) if wrong else tag("li", shown)


def _cut(text: str, longest: int) -> str:
    more = len(text) - longest
    return text[:longest] + (f"… {more:,} more characters" if more > 0 else "")
