"""The part of `metrics.json` about single steps: how well labelers find the wrong ones, and models judge pairs of them.

`calibrations` and `judging` hold what params' `report` names; `step_labels` has every run that is built. `audits` has
the module `audits`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from builders.calibration import Accuracy, Agreement, Calibrations, Reliability, Score, calibrate
from builders.reporting.audits import AUDIT_DEFINITIONS, NO_LABELS, NOT_BUILT, measure_audits
from builders.reporting.statistics import wilson
from builders.reporting.views import report_rows, strings
from schemas.params import Params
from stores.duck import Duck

NOT_COMPARABLE = "not comparable"
NO_PAIRS = "no pairs"
STEP_DEFINITIONS = {
    "first wrong step": "the first step that a labeler calls incorrect (or neutral, where params say that it counts); "
    "steps are numbered from 1",
    "found exactly": "share of the samples that humans call erroneous whose first wrong step the labeler names "
    "(ProcessBench, arXiv 2412.06559); of several humans it must agree with one",
    "none found": "share of the samples that humans call correct in which the labeler finds no error",
    "F1 of labels": "harmonic mean of the two. An invalid answer counts as not right; 'of valid' leaves it out. "
    "Samples that humans dispute (some find an error, others none), or have not labelled, are in neither",
    "kappa": "Cohen's: how much more often two labelers name the same first wrong step than by chance, 1 at most; 'no "
    "error' is a label as any step is",
    "alpha": "Krippendorff's, of nominal labels: the same for any number of labels of a sample, by one labeler's "
    "repeats or by all labelers of a run",
    **AUDIT_DEFINITIONS,
    "reward margin": "beta * [(chosen - chosen at the start) - (rejected - rejected at the start)], summed log-probs "
    "of the spans under the trained model and under the model that it started from",
    "judging accuracy": "share of pairs with a reward margin above 0 (Step-DPO, arXiv 2406.18629, figure 2)",
}


def measure_steps(duck: Duck, params: Params) -> dict[str, Any]:
    """Counts of labels, calibrations, audits and judging, as far as they are built."""
    built = {run for (run,) in duck.con.sql("select run from runs where \"table\" = 'step_labels'").fetchall()}
    return {
        "step_labels": _labels(duck),
        "calibrations": _calibrations(duck, params, built),
        **measure_audits(duck, params, built),
        "judging": _judging(duck, params),
    }


def calibrations(duck: Duck, params: Params) -> Calibrations:
    """Those of params' `report.calibrations`; a run that is not built has no rows."""
    return calibrate(duck, [(c.labels, c.humans) for c in params.report.calibrations])


def _labels(duck: Duck) -> dict[str, dict[str, dict[str, int]]]:
    """step_labels run -> labellings by labeler, by verdict and by first wrong step, and steps by label."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    kinds = ("labelers", "verdicts", "labels", "first_wrong_step")
    for row in report_rows(duck, "labelled"):
        counts = found.setdefault(row["run"], {kind: {} for kind in kinds})
        counts[row["kind"]][row["outcome"]] = row["n"]
    return found


def _calibrations(duck: Duck, params: Params, built: set[str]) -> dict[str, dict[str, Any]]:
    """`<labels>-vs-<humans>` -> scores of each labeler, in total and by source, and who agrees with whom."""
    known = calibrations(duck, params)
    found: dict[str, dict[str, Any]] = {}
    for c in params.report.calibrations:
        entry: dict[str, Any] = {"labels": c.labels, "humans": c.humans}
        if not built.issuperset((c.labels, c.humans)):
            entry["verdict"] = NOT_BUILT
        else:
            entry |= _calibration(known, c.labels, c.humans)
        found[f"{c.labels}-vs-{c.humans}"] = entry
    return found


def _calibration(known: Calibrations, labels: str, humans: str) -> dict[str, Any]:
    labelers: dict[str, dict[str, Any]] = {}
    for score in known.scores:
        if (score.labels, score.humans) == (labels, humans):
            labeler = labelers.setdefault(score.labeler, {"kind": score.kind, "total": {}, "by_source": {}})
            if score.source is None:
                labeler["total"] = _score(score)
            else:
                labeler["by_source"][score.source] = _score(score)
    agreements = [_agreement(row) for row in known.agreements if (row.labels, row.humans) == (labels, humans)]
    runs = dict.fromkeys((labels, humans))
    alphas = {run: [_reliability(row) for row in known.reliabilities if row.run == run] for run in runs}
    return {
        **({} if labelers else {"verdict": NO_LABELS}),
        "labelers": labelers,
        "agreements": agreements,
        "reliabilities": {run: rows for run, rows in alphas.items() if rows},
    }


def _score(score: Score) -> dict[str, Any]:
    counts = {name: value for name, value in score._asdict().items() if name.startswith("n_")}
    return counts | {
        "error": _accuracy(score.error),
        "correct": _accuracy(score.correct),
        "f1": _rounded(score.f1),
        "valid": {
            "error": _accuracy(score.error_valid),
            "correct": _accuracy(score.correct_valid),
            "f1": _rounded(score.f1_valid),
        },
    }


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    found: dict[str, Any] = {"n": accuracy.n, "n_right": accuracy.n_right, "accuracy": _rounded(accuracy.share)}
    return found | ({"ci95": _ends(accuracy)} if accuracy.n else {})


def _agreement(row: Agreement) -> dict[str, Any]:
    counts = {"a": row.a, "b": row.b, "n": row.n, "n_equal": row.n_equal}
    return counts | {"share": _rounded(row.share), "ci95": _ends(row), "kappa": _rounded(row.kappa)}


def _reliability(row: Reliability) -> dict[str, Any]:
    counts = {"labeler": row.labeler, "n_samples": row.n_samples, "n_pairs": row.n_pairs, "n_equal": row.n_equal}
    return counts | {"share": _rounded(row.share), "ci95": _ends(row), "alpha": _rounded(row.alpha)}


def _ends(row: Accuracy | Agreement | Reliability) -> list[float | None]:
    return [_rounded(row.low), _rounded(row.high)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _interval(successes: int, n: int) -> list[float]:
    return [round(end, 6) for end in wilson(successes, n)]


def _judging(duck: Duck, params: Params) -> dict[str, dict[str, Any]]:
    """Model -> its judging accuracy and reward margin; a model that is judged again has its reference run behind."""
    asked = params.report.judging
    rows = [(str(place), j.model, j.start, repr(j.beta)) for place, j in enumerate(asked)]
    strings(duck, "judging", ["place", "model", "start", "beta"], rows)
    counted = {int(row.pop("place")): row for row in report_rows(duck, "judging")}
    built = {r for (r,) in duck.con.sql("select run from runs where \"table\" = 'reference_logprobs'").fetchall()}
    names = _judged_names([(params.reference[j.model].model, j.model) for j in asked])
    return {
        name: {"model": j.model, "start": j.start, "pairs": params.reference[j.model].pairs, "beta": j.beta}
        | _judged(params, j.model, j.start, built, counted.get(place, {}))
        for place, (name, j) in enumerate(zip(names, asked, strict=True))
    }


def _judged_names(models: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One name per (model, reference run): the model's, or with the run's and a number where that is taken."""
    seen: set[str] = set()
    for model, run in models:
        candidates = [model, f"{model} ({run})", *(f"{model} ({run}, {i})" for i in range(2, len(models) + 1))]
        name = next(c for c in candidates if c not in seen)
        seen.add(name)
        yield name


def _judged(params: Params, model: str, start: str, built: set[str], row: dict[str, Any]) -> dict[str, Any]:
    if params.reference[model].pairs != params.reference[start].pairs:
        return {"verdict": NOT_COMPARABLE}
    if not built.issuperset((model, start)):
        return {"verdict": NOT_BUILT}
    if not row.get("n"):
        return {"verdict": NO_PAIRS}
    n, right = row["n"], row["n_right"]
    found = {"n": n, "n_pairs": row["n_pairs"], "accuracy": _rounded(right / n), "ci95": _interval(right, n)}
    return found | {k: _rounded(row[k]) for k in ("margin", "margin_se", "chosen_reward", "rejected_reward")}
