"""Labels against those of humans: small tables by hand, published examples of the statistics, and real labels."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from builders import rule_labels
from builders.calibration import (
    Calibrations,
    Score,
    calibrate_runs,
    cohen_kappa,
    harmonic_mean,
    krippendorff_alpha,
)
from builders.calibration_command import as_json, calibrate
from builders.reporting.statistics import wilson
from schemas.params import load_params
from stores.printing import Format
from tests import first_error_rows
from tests.calibration_world import INVALID, NONE, Label, write_runs

TWO_THIRDS = round(2 / 3, 12)


def scored(root: Path, judge: Sequence[Label], humans: Sequence[Label]) -> Calibrations:
    write_runs(root, {"judge": ("judge", {"s": judge}), "humans": ("human", {"s": humans})})
    return calibrate_runs(load_params(root / "params.yaml"), root, "judge", "humans")


def total(found: Calibrations, labeler: str) -> Score:
    (score,) = [score for score in found.scores if score.labeler == labeler and score.source is None]
    return score


def ann(sample: str, step: int, **more: int) -> Label:
    return Label(sample, "ann", step, **more)


def judge(sample: str, step: int, **more: int) -> Label:
    return Label(sample, "judge-1", step, **more)


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        # (judge, human) per sample -> right of erroneous, right of correct, F1; then the same of valid answers
        ([(2, 2), (1, 3), (NONE, NONE), (0, NONE)], ((1, 2), (1, 2), 0.5, (1, 2), (1, 2), 0.5)),
        ([(NONE, 2), (1, 1), (NONE, NONE)], ((1, 2), (1, 1), TWO_THIRDS, (1, 2), (1, 1), TWO_THIRDS)),
        # invalid answers are not right, and are left out of what is valid
        ([(INVALID, 2), (1, 1), (INVALID, NONE), (NONE, NONE)], ((1, 2), (1, 2), 0.5, (1, 1), (1, 1), 1.0)),
        ([(INVALID, 2), (INVALID, NONE)], ((0, 1), (0, 1), 0.0, (0, 0), (0, 0), None)),
        # only erroneous samples: no F1
        ([(2, 2), (3, 2)], ((1, 2), (0, 0), None, (1, 2), (0, 0), None)),
        # nothing right
        ([(2, 1), (0, NONE)], ((0, 1), (0, 1), 0.0, (0, 1), (0, 1), 0.0)),
    ],
)
def test_scores_of_processbench(workspace: Path, says: list, expected: tuple) -> None:
    found = scored(
        workspace,
        [judge(f"q{i}", step) for i, (step, _) in enumerate(says)],
        [ann(f"q{i}", step) for i, (_, step) in enumerate(says)],
    )
    got = total(found, "judge-1")
    counts = [(a.n_right, a.n) for a in (got.error, got.correct, got.error_valid, got.correct_valid)]
    f1, f1_valid = (None if f is None else round(f, 12) for f in (got.f1, got.f1_valid))
    assert (*counts[:2], f1, *counts[2:], f1_valid) == expected
    assert got.n_labels == len(says)
    assert got.n_invalid == sum(step == INVALID for step, _ in says)
    for accuracy in (got.error, got.correct):
        if accuracy.n:
            assert (accuracy.low, accuracy.high) == pytest.approx(wilson(accuracy.n_right, accuracy.n))
        else:
            assert accuracy[2:] == (None, None, None)


def test_several_humans_any_of_them_is_agreed_with_and_a_dispute_is_counted_apart(workspace: Path) -> None:
    bob = [Label("both", "bob", 4), Label("none", "bob", NONE), Label("dispute", "bob", NONE)]
    found = scored(
        workspace,
        [judge("both", 4), judge("none", NONE), judge("dispute", 1)],
        [ann("both", 2), ann("none", NONE), ann("dispute", 1), *bob],
    )
    got = total(found, "judge-1")
    assert (got.error.n, got.error.share, got.correct.n, got.correct.share) == (1, 1.0, 1, 1.0)
    assert got.n_disputed == 1


def test_samples_without_a_label_on_the_other_side_are_counted_not_scored(workspace: Path) -> None:
    found = scored(
        workspace,
        [judge("seen", 2), judge("alone", 1), judge("unsure", 1), judge("other", 1, n_steps=3)],
        [ann("seen", 2), ann("unread", 0), ann("unsure", INVALID), ann("other", 1)],
    )
    got = total(found, "judge-1")
    assert (got.error.n, got.error.share, got.correct.n) == (1, 1.0, 0)
    # a human who does not answer says nothing; labels of other steps are not comparable
    assert (got.n_without_human, got.n_unlabelled) == (3, 1)
    assert [row.n for row in found.agreements] == [1]


def test_no_human_labels_at_all(workspace: Path) -> None:
    found = scored(workspace, [judge("a", 2), judge("b", INVALID)], [])
    got = total(found, "judge-1")
    assert (got.error.n, got.correct.n, got.f1, got.f1_valid, got.n_without_human, got.n_invalid) == (
        *(0, 0, None, None),
        *(2, 1),
    )
    assert found.agreements == found.reliabilities == []
    assert "NaN" not in json.dumps(as_json(found))


def test_no_labels_at_all(workspace: Path) -> None:
    assert scored(workspace, [], [ann("a", 1)]) == Calibrations([], [], [])


def test_by_source_and_in_total(workspace: Path) -> None:
    write_runs(
        workspace,
        {
            "judge": ("judge", {"gsm8k": [judge("a", 1), judge("b", 1)], "math": [judge("a", NONE)]}),
            "humans": ("human", {"gsm8k": [ann("a", 1), ann("b", 2)], "math": [ann("a", NONE)], "arc": [ann("z", 1)]}),
        },
    )
    found = calibrate_runs(load_params(), workspace, "judge", "humans")
    got = {score.source: (score.error.share, score.correct.share, score.n_unlabelled) for score in found.scores}
    assert got == {"arc": (None, None, 1), "gsm8k": (0.5, None, 0), "math": (None, 1.0, 0), None: (0.5, 1.0, 1)}
    assert list(got)[-1] is None


def test_a_human_is_scored_against_the_others_alone(workspace: Path) -> None:
    people = [ann("a", 1), Label("a", "bob", 1), Label("a", "eve", 2), ann("b", 3)]
    write_runs(workspace, {"humans": ("human", {"s": people})})
    found = calibrate_runs(load_params(), workspace, "humans", "humans")
    shares = {name: (total(found, name).error.share, total(found, name).n_without_human) for name in ("ann", "eve")}
    assert shares == {"ann": (1.0, 1), "eve": (0.0, 0)}
    assert total(found, "bob").n_unlabelled == 1


def test_a_person_s_own_labels_elsewhere_leave_nothing_unlabelled(workspace: Path) -> None:
    write_runs(
        workspace,
        {
            "team": ("human", {"s": [ann("a", 1)]}),
            "humans": ("human", {"s": [ann("b", 2), ann("c", 2), Label("a", "bob", 1), Label("c", "bob", 2)]}),
        },
    )
    found = calibrate_runs(load_params(), workspace, "team", "humans")
    assert (total(found, "ann").error.n, total(found, "ann").n_unlabelled) == (1, 1)


def test_each_repeat_counts_and_intervals_count_samples(workspace: Path) -> None:
    answers = [judge("a", step, repeat=i) for i, step in enumerate((2, 2, 1, INVALID))]
    answers += [judge("b", 3, repeat=i) for i in range(2)]
    sound = [judge("c", step, repeat=i) for i, step in enumerate((NONE, 0, NONE, INVALID))]
    found = scored(workspace, [*answers, *sound], [ann("a", 2), ann("b", 3), ann("c", NONE)])
    got = total(found, "judge-1")
    assert (got.correct.low, got.correct.high) == pytest.approx(wilson(2 / 4, 1))
    assert (got.correct_valid.low, got.correct_valid.high) == pytest.approx(wilson(2 / 3, 1))
    assert (got.error_valid.low, got.error_valid.high) == pytest.approx(wilson(4 / 5 * 2, 2))
    assert (got.error.n, got.error.n_right, got.error_valid.n) == (6, 4, 5)
    assert (got.error.low, got.error.high) == pytest.approx(wilson(4 / 6 * 2, 2))
    (repeats,) = found.reliabilities
    # of a and c: three valid labels each, one equal pair of three; of b: one of one
    assert (repeats.labeler, repeats.n_samples, repeats.n_pairs, repeats.n_equal) == ("judge-1", 3, 7, 3)


def test_a_sample_that_is_not_scored_counts_once_however_often_it_is_answered(workspace: Path) -> None:
    answers = [judge(name, 1, repeat=i) for name in ("dispute", "alone") for i in range(3)]
    found = scored(workspace, answers, [ann("dispute", 1), Label("dispute", "bob", NONE)])
    got = total(found, "judge-1")
    assert (got.n_labels, got.n_disputed, got.n_without_human, got.error.n) == (6, 1, 1, 0)


def test_two_labelers_agree_by_the_first_valid_answers_to_what_is_scored(workspace: Path) -> None:
    steps = (INVALID, 1, 2)
    again = [Label("a", "cleo", step, repeat=i) for i, step in enumerate(steps)]
    humans = [ann("a", 2), ann("a", 3, repeat=1), Label("a", "bob", 1), *again]
    write_runs(workspace, {"team": ("human", {"s": [ann("a", 1, repeat=1)]}), "humans": ("human", {"s": humans})})
    found = calibrate_runs(load_params(), workspace, "team", "humans")
    assert {(row.a, row.b): row.n_equal for row in found.agreements} == {
        ("ann", "bob"): 1, ("ann", "cleo"): 1, ("bob", "cleo"): 1,
    }  # fmt: skip
    together = next(row for row in found.reliabilities if row.labeler is None)
    # of the humans alone: ann 2, bob 1, cleo 1
    assert (together.run, together.n_pairs, together.n_equal) == ("humans", 3, 1)


def test_agreement_of_two_labelers(workspace: Path) -> None:
    found = scored(
        workspace,
        [judge("a", 1), judge("b", 1), judge("c", NONE), judge("d", 2), judge("e", INVALID), judge("f", 0)],
        [ann("a", 1), ann("b", 2), ann("c", NONE), ann("d", 2), ann("e", 1), ann("g", 0)],
    )
    (got,) = found.agreements
    assert ({got.a, got.b}, got.n, got.n_equal, got.share) == ({"ann", "judge-1"}, 4, 3, 0.75)
    # judge: 1 1 none 2, ann: 1 2 none 2; by chance 2/4 1/4 + 1/4 1/4 + 1/4 2/4 = 5/16
    assert got.kappa == pytest.approx((3 / 4 - 5 / 16) / (1 - 5 / 16))


def test_agreement_of_several_humans(workspace: Path) -> None:
    """The example of Krippendorff (2011), part D: four observers, twelve units, alpha 0.743."""
    rows = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    people = [
        Label(f"u{unit:02}", f"observer {name}", int(value))
        for name, row in zip("ABCD", rows, strict=True)
        for unit, value in enumerate(row)
        if value != "."
    ]
    write_runs(workspace, {"humans": ("human", {"s": people})})
    found = calibrate_runs(load_params(), workspace, "humans", "humans")
    (got,) = found.reliabilities
    assert (got.labeler, got.n_samples, round(got.alpha or 0, 3)) == (None, 11, 0.743)
    assert len(found.agreements) == 6


@pytest.mark.parametrize(
    ("n", "equal", "chance", "kappa"),
    [
        (50, 35, 25 * 30 + 25 * 20, 0.4),  # the textbook's table: 20, 5, 10, 15
        (10, 10, 100, None),  # one label only
        (10, 10, 50, 1.0),
        (10, 0, 50, -1.0),
    ],
)
def test_cohen_kappa(n: int, equal: int, chance: int, kappa: float | None) -> None:
    assert cohen_kappa(n, equal, chance) == (kappa if kappa is None else pytest.approx(kappa))


def test_alpha_of_one_label_is_not_defined() -> None:
    assert krippendorff_alpha(4, 4, 12) is None
    assert krippendorff_alpha(0, 0, 0) is None
    assert krippendorff_alpha(4, 4, 4) == 1.0


@pytest.mark.parametrize(("a", "b", "f1"), [(None, 1.0, None), (0.0, 0.0, 0.0), (1.0, 0.5, 2 / 3)])
def test_harmonic_mean(a: float | None, b: float, f1: float | None) -> None:
    assert harmonic_mean(a, b) == (f1 if f1 is None else pytest.approx(f1))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (("judge", "nobody"), "no run 'nobody' under 'step_labels' in params.yaml (have 'humans', 'judge', 'later')"),
        (("later", "humans"), "step_labels.later is not built; run `dvc repro step_labels@later`"),
        ((None, None), "no calibration is named: give two runs of step_labels"),
    ],
)
def test_mistakes(workspace: Path, runs: tuple[str | None, str | None], message: str) -> None:
    write_runs(workspace, {"judge": ("judge", {}), "humans": ("human", {})})
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["step_labels"]["later"] = raw["step_labels"]["judge"]
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError) as error:
        calibrate_runs(load_params(), workspace, *runs)
    assert message in str(error.value)


def test_the_command_prints_what_params_name(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(
        workspace,
        {
            "judge": ("judge", {"s": [judge("a", 1), judge("b", INVALID)]}),
            "humans": ("human", {"s": [ann("a", 1), ann("b", NONE)]}),
        },
    )
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["report"] = {"calibrations": [{"labels": "judge", "humans": "humans"}]}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    calibrate(format=Format.json)
    found = json.loads(capsys.readouterr().out)
    assert [(r["source"], r["error_share"], r["f1"], r["f1_valid"]) for r in found["scores"]] == [
        ("s", 1.0, 0.0, None),
        (None, 1.0, 0.0, None),
    ]
    calibrate("judge", "humans", format=Format.csv)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(",") == Score.columns()
    assert len(lines) == 3
    calibrate("judge", "humans")
    shown = capsys.readouterr().out
    assert "agreement of two labelers" in shown
    assert "100.0 %" in shown
    with pytest.raises(ValueError, match="name the run of human labels too"):
        calibrate("judge")


def real_runs(shared_data: Path) -> dict[str, dict[str, list[Label]]]:
    """Labels of all real completions by source: those of humans; of a judge that repeats the first human's, every tenth
    answer malformed; and of the rule.
    """
    runs: dict[str, dict[str, list[Label]]] = {name: {} for name in ("humans", "judge", "rule")}
    seen: Counter[tuple[str, str]] = Counter()
    for i, row in enumerate(first_error_rows.rows(shared_data)):
        name, n_steps = f"{row.problem}\n{row.text}", len(row.steps)
        step = NONE if row.first_error is None else row.first_error
        given = {"humans": Label(name, f"annotator {seen[row.source, name]}", step, n_steps=n_steps)}
        if not seen[row.source, name]:
            labels, wrong = rule_labels.label(row.steps)
            computed = len(labels) - 1 if wrong else NONE
            given["judge"] = Label(name, "replay", INVALID if i % 10 == 0 else step, n_steps=n_steps)
            given["rule"] = Label(name, "arithmetic", computed, n_steps=n_steps)
        for run, label in given.items():
            runs[run].setdefault(row.source, []).append(label)
        seen[row.source, name] += 1
    return runs


def of_labeler(found: Calibrations, labeler: str) -> list[Score]:
    return [score for score in found.scores if score.labeler == labeler]


def test_a_judge_that_repeats_real_labels_is_exact_on_its_valid_answers(workspace: Path, shared_data: Path) -> None:
    runs = real_runs(shared_data)
    write_runs(workspace, {"judge": ("judge", runs["judge"]), "humans": ("human", runs["humans"])})
    found = calibrate_runs(load_params(), workspace, "judge", "humans")
    replayed = of_labeler(found, "replay")
    assert [score.source for score in replayed] == [*sorted(first_error_rows.SOURCES), None]
    for score in replayed:
        given = [la for source in runs["judge"] for la in runs["judge"][source] if score.source in (source, None)]
        invalid = sum(label.step == INVALID for label in given)
        assert (score.n_labels, score.n_invalid) == (len(given), invalid)
        assert (score.n_disputed, score.n_without_human, score.n_unlabelled) == (0, 0, 0)
        assert {score.error_valid.share, score.correct_valid.share} <= {1.0, None}
        assert score.error_valid.n + score.correct_valid.n == len(given) - invalid
        assert score.error.n + score.correct.n == len(given)
    whole = replayed[-1]
    assert (whole.f1_valid, whole.n_labels, whole.n_invalid) == (1.0, 2763, 280)
    assert whole.f1 == pytest.approx(0.9, abs=0.005)
    # 155 completions were labelled by several teachers, who name the same step in 55 % of the pairs of labels
    (teachers,) = found.reliabilities
    assert (teachers.n_samples, teachers.n_pairs, teachers.n_equal) == (155, 432, 237)
    assert teachers.alpha == pytest.approx(0.453, abs=5e-4)


def test_the_rule_against_real_labels(workspace: Path, shared_data: Path) -> None:
    """It finds what is computed wrong, which few wrong steps of word problems are, and hardly blames a right one.

    Of the samples that people call correct and the rule does not, most compute something false all the same.
    """
    runs = real_runs(shared_data)
    write_runs(workspace, {"rule": ("rule", runs["rule"]), "humans": ("human", runs["humans"])})
    found = of_labeler(calibrate_runs(load_params(), workspace, "rule", "humans"), "arithmetic")
    # (of erroneous samples, at least so many right), (of correct ones, at most so many blamed)
    expected = {
        "bbmistake_multistep_arithmetic": ((172, 165), (46, 12)),
        "eth_stepverify": ((430, 4), (0, 0)),
        "mr_ben_chemistry": ((342, 4), (270, 1)),
        "mr_ben_math": ((539, 20), (97, 1)),
        "mr_ben_physics": ((233, 2), (224, 2)),
        "mr_gsm8k_partial": ((410, 79), (0, 0)),
        None: ((2126, 277), (637, 16)),
    }
    assert {score.source: (score.error.n, score.correct.n) for score in found} == {
        source: (wrong[0], sound[0]) for source, (wrong, sound) in expected.items()
    }
    for score in found:
        (_, least), (_, most) = expected[score.source]
        assert least <= score.error.n_right, score.source
        assert score.correct.n - score.correct.n_right <= most, score.source
        assert score.n_invalid == 0
