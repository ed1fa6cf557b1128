"""How well a labeler finds first wrong steps: its labels against those of humans, as ProcessBench scores them.

ProcessBench (arXiv 2412.06559, §3.1 and the authors' evaluation): of the erroneous samples, the share whose first wrong
step is named exactly; of the correct ones, the share where no error is found; F1 is the harmonic mean of the two. An
invalid answer is not right there, which is what `all` says; `valid` leaves it out.

What the paper's data does not have is settled so:

* several humans labelled a sample: a labelling is right if it agrees with any of them; a human who is scored is
  compared with the others alone;
* humans dispute whether there is an error at all: the sample is neither erroneous nor correct, and is counted apart;
* a labeler answered several times (`repeats`): each answer counts, and intervals count samples;
* the total is of all samples together, where the paper's average is the mean of the F1 of its four sources.

Whatever labels the run named as `humans` has count as truth, so a rule can stand in for people where it is exact.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from builders.reporting.statistics import wilson
from builders.reporting.views import strings
from schemas.params import Params, table_runs
from stores.duck import Duck, sql_file
from stores.views import Views, local_parts, run_files

COUNTS = ("n_labels", "n_invalid", "n_disputed", "n_without_human", "n_unlabelled")
ACCURACIES = ("error", "correct", "error_valid", "correct_valid")


class Accuracy(NamedTuple):
    """A share of `n` labellings with its 95 % Wilson interval; the share is None where there are none."""

    n: int
    n_right: int
    share: float | None
    low: float | None
    high: float | None


class Score(NamedTuple):
    """One row per (labels run, humans run, labeler, source). `source` None: all sources together.

    `error`, `correct`: of the samples that humans call erroneous or correct; `*_valid`: of valid labellings alone.
    `n_disputed`, `n_without_human`: samples that humans dispute, or that none of them labelled; `n_unlabelled`: samples
    of the humans that the labeler has not labelled. None of the three is in the accuracies.
    """

    labels: str
    humans: str
    kind: str
    labeler: str
    source: str | None
    n_labels: int
    n_invalid: int
    n_disputed: int
    n_without_human: int
    n_unlabelled: int
    error: Accuracy
    correct: Accuracy
    f1: float | None
    error_valid: Accuracy
    correct_valid: Accuracy
    f1_valid: float | None

    @classmethod
    def columns(cls) -> list[str]:
        """The columns of `flat`, in order."""
        parts = {name: [f"{name}_{part}" for part in Accuracy._fields] for name in ACCURACIES}
        return [column for name in cls._fields for column in parts.get(name, [name])]

    def flat(self) -> dict[str, Any]:
        """The row with an accuracy's parts as columns of their own: `error_n`, `error_n_right`, `error_share`, …"""
        values = [part for value in self for part in (value if isinstance(value, Accuracy) else [value])]
        return dict(zip(self.columns(), values, strict=True))


class Agreement(NamedTuple):
    """One row per (calibration, two labelers): how often they name the same first wrong step, or both none.

    `kappa` is Cohen's (1960); None where both use one label only, so that chance alone explains everything.
    """

    labels: str
    humans: str
    a: str
    b: str
    n: int
    n_equal: int
    share: float
    low: float
    high: float
    kappa: float | None


class Reliability(NamedTuple):
    """One row per (step_labels run, labeler): its agreement with itself over repeats; labeler None: that of the run's
    labelers with each other.

    `share`: of `n_pairs`, the pairs of labels of one sample, those that are equal; its interval counts samples.
    `alpha` is Krippendorff's (2011, nominal data); None where only one label is used.
    """

    run: str
    labeler: str | None
    n_samples: int
    n_pairs: int
    n_equal: int
    share: float
    low: float
    high: float
    alpha: float | None


class Calibrations(NamedTuple):
    """All that is known of some (labels run, humans run)."""

    scores: list[Score]
    agreements: list[Agreement]
    reliabilities: list[Reliability]


def calibrate(duck: Duck, wanted: Sequence[tuple[str, str]]) -> Calibrations:
    """Scores some (labels run, humans run), from the store's views `step_labels`, `problems` and `run_sources`."""
    strings(duck, "calibrated", ["labels_run", "humans_run"], list(dict.fromkeys(wanted)))
    scores = [_score(row) for row in duck.table(sql_file(__file__, "calibration_scores")).to_pylist()]
    pairs = [_agreement(row) for row in duck.table(sql_file(__file__, "calibration_pairs")).to_pylist()]
    alphas = [_reliability(row) for row in duck.table(sql_file(__file__, "calibration_alpha")).to_pylist()]
    duck.execute("drop table calibrated")
    return Calibrations(scores, pairs, alphas)


def calibrate_runs(params: Params, root: Path, labels: str | None = None, humans: str | None = None) -> Calibrations:
    """What is built of params' `report.calibrations`, or of two named runs, in the checkout at `root`.

    Raises ValueError for an unknown run, one that is not built, or where nothing is named.
    """
    wanted = [(labels, humans)] if labels and humans else [(c.labels, c.humans) for c in params.report.calibrations]
    if not wanted:
        raise ValueError(
            "no calibration is named: give two runs of step_labels (pairwright calibrate LABELS HUMANS), or list some"
            " under report.calibrations in params.yaml"
        )
    files = run_files(params, local_parts(root))
    built = {file.run for file in files if file.table == "step_labels" and file.parts}
    for name in dict.fromkeys(name for pair in wanted for name in pair):
        if name not in (known := table_runs(params, "step_labels")):
            have = ", ".join(f"'{n}'" for n in sorted(known)) or "none"
            raise ValueError(f"no run '{name}' under 'step_labels' in params.yaml (have {have})")
        if name not in built:
            raise ValueError(f"step_labels.{name} is not built; run `dvc repro step_labels@{name}`")
    with Duck() as duck:
        Views(duck, params, files).provide("step_labels problems run_sources")
        return calibrate(duck, wanted)


def harmonic_mean(a: float | None, b: float | None) -> float | None:
    """ProcessBench's F1 of two accuracies: 0 where either is, None where either has no samples."""
    if a is None or b is None:
        return None
    return 2 * a * b / (a + b) if a + b else 0.0


def cohen_kappa(n: int, n_equal: int, n_chance: int) -> float | None:
    """(p_o - p_e) / (1 - p_e) with p_o = n_equal / n and p_e = n_chance / n² (Cohen 1960)."""
    return (n * n_equal - n_chance) / (n * n - n_chance) if n * n > n_chance else None


def krippendorff_alpha(n: int, agreed: float, n_chance: int) -> float | None:
    """1 - D_o / D_e for nominal labels (Krippendorff 2011, "Computing Krippendorff's alpha-reliability", part D).

    n: values of samples with two or more; agreed: sum over samples and labels of n_uc (n_uc - 1) / (m_u - 1);
    n_chance: sum over labels of n_c (n_c - 1).
    """
    return ((n - 1) * agreed - n_chance) / (n * (n - 1) - n_chance) if n * (n - 1) > n_chance else None


def _score(row: dict[str, Any]) -> Score:
    columns = {name: row[name] for name in ("kind", "labeler", "source", *COUNTS)}
    columns |= {"labels": row["labels_run"], "humans": row["humans_run"]}
    for valid in ("", "_valid"):
        error, correct = _accuracy(row, "error", valid), _accuracy(row, "correct", valid)
        columns |= {f"error{valid}": error, f"correct{valid}": correct}
        columns[f"f1{valid}"] = harmonic_mean(error.share, correct.share)
    return Score(**columns)


def _accuracy(row: dict[str, Any], truth: str, valid: str) -> Accuracy:
    n, right = row[f"n_{truth}{valid}"], row[f"n_{truth}_right"]
    return Accuracy(n, right, *_share(right, n, row[f"{truth}{valid}_samples"])) if n else Accuracy(0, 0, *[None] * 3)


def _share(successes: int, n: int, samples: int) -> tuple[float, float, float]:
    """A share of `n` labels and its interval, which counts samples: labels of one sample are not independent."""
    return (successes / n, *wilson(successes * samples / n, samples))


def _agreement(row: dict[str, Any]) -> Agreement:
    n, equal = row["n"], row["n_equal"]
    names = row["labels_run"], row["humans_run"], row["a"], row["b"]
    return Agreement(*names, n, equal, *_share(equal, n, n), cohen_kappa(n, equal, row["n_chance"]))


def _reliability(row: dict[str, Any]) -> Reliability:
    share = _share(row["n_equal"], row["n_pairs"], row["n_samples"])
    alpha = krippendorff_alpha(row["n_values"], row["agreed"], row["n_chance"])
    return Reliability(row["run"], row["labeler"], row["n_samples"], row["n_pairs"], row["n_equal"], *share, alpha)
