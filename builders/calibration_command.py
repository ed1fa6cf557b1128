"""`pairwright calibrate [LABELS HUMANS]`: prints what `builders.calibration.calibrate_runs` returns."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from builders.calibration import Agreement, Calibrations, Reliability, Score, calibrate_runs
from schemas.params import load_params
from stores.printing import Format, FormatOption, print_rows

SHOWN = (
    "labels", "humans", "labeler", "source", "erroneous", "found exactly", "correct", "none found", "F1", "of valid",
    "F1 of valid", "labels given", "invalid", "disputed", "no human", "not labelled",
)  # fmt: skip


def calibrate(
    labels: Annotated[
        str | None, typer.Argument(help="A run of step_labels to score (default: as params ask).")
    ] = None,
    humans: Annotated[str | None, typer.Argument(help="The run of step_labels that it is scored against.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """Scores first wrong steps against those of humans as ProcessBench does, and how far labelers agree.

    `json` is one object of all three tables, `csv` the scores alone.
    """
    if labels is not None and humans is None:
        raise ValueError(
            f"name the run of human labels too: pairwright calibrate {labels} HUMANS (or {labels} once more, which says"
            " how far its labelers agree with each other and with themselves)"
        )
    found = calibrate_runs(load_params(), Path(), labels, humans)
    match format:
        case Format.json:
            print(json.dumps(as_json(found), indent=1, ensure_ascii=False))
        case Format.csv:
            print_rows(Score.columns(), [list(score.flat().values()) for score in found.scores], format)
        case Format.table:
            _print_tables(found)


def as_json(found: Calibrations) -> dict[str, list[dict[str, Any]]]:
    """All three tables as objects; scores are flat."""
    return {
        "scores": [score.flat() for score in found.scores],
        "agreements": [row._asdict() for row in found.agreements],
        "reliabilities": [row._asdict() for row in found.reliabilities],
    }


def _print_tables(found: Calibrations) -> None:
    print_rows(SHOWN, map(_readable, found.scores), Format.table)
    if found.agreements:
        print("\nagreement of two labelers")
        rows = [[r.labels, r.humans, r.a, r.b, r.n, *_interval(r), _number(r.kappa)] for r in found.agreements]
        names = ("labels", "humans", "labeler", "other", "samples", "equal", "95 % interval", "kappa")
        print_rows(names, rows, Format.table)
    if found.reliabilities:
        print("\nlabels of one sample: a labeler's repeats, and all labelers of a run")
        rows = [[r.run, r.labeler or "all", r.n_samples, r.n_pairs, *_interval(r), _number(r.alpha)]
                for r in found.reliabilities]  # fmt: skip
        print_rows(("run", "labeler", "samples", "pairs", "equal", "95 % interval", "alpha"), rows, Format.table)


def _readable(score: Score) -> Sequence[Any]:
    return [
        score.labels, score.humans, score.labeler, score.source or "all",
        score.error.n, _percent(score.error.share), score.correct.n, _percent(score.correct.share),
        _percent(score.f1), score.error_valid.n + score.correct_valid.n, _percent(score.f1_valid),
        score.n_labels, score.n_invalid, score.n_disputed, score.n_without_human, score.n_unlabelled,
    ]  # fmt: skip


def _interval(row: Agreement | Reliability) -> tuple[str | None, str]:
    return _percent(row.share), f"{100 * row.low:.1f} – {100 * row.high:.1f}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
