"""Single steps in the report: counts of labels, calibrations, audits, judging of pairs, and their place on the page."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from builders import report
from builders.reporting.metrics import measure
from builders.reporting.statistics import wilson
from builders.reporting.step_tables import audit_table, calibration_table, judging_table, wrong_step_table
from builders.reporting.views import open_views
from schemas import ReferenceLogprob, Rollout, TrainingStep
from schemas.params import load_params, parse_params
from schemas.step_labels import LabelerKind, StepLabels, StepSpan
from stores.duck import Duck
from stores.ledger import Completion, Ledger
from stores.parquet import read_table
from stores.paths import run_dir
from stores.stage import execute
from tests.calibration_world import INVALID, NONE, Label, label_row, put_labels
from tests.report_world import HOSTILE, PROBLEMS, build_world, judged, put, sample

CHOSEN = f"so {HOSTILE}"
SPANS = [StepSpan(start=0, end=2), StepSpan(start=3, end=len(CHOSEN))]
FOUND = {"samples": "own", "prompts": "test", "problems": "test", "rewards": "own"}
RIGHT = {"labeler": "human", "model": "none", "path": "labels.jsonl", "select": "correct", "limit": 30}

RULE = {"labeler": "rule", "model": "none", "path": "data/none", "neutral_is_error": False}


def sample_id(problem: int, index: int = 0) -> str:
    return sample(PROBLEMS[problem], "cccccccc", index, "", 0.8).sample_id


def row(problem: int, labeler: str, step: int, kind: LabelerKind = "human", **more: Any) -> StepLabels:
    """A label of the chosen sample of a problem, which has two steps."""
    given = Label("", labeler, step, more.pop("repeat", 0), 2)
    return label_row(more.pop("sample_id", sample_id(problem)), given, kind, **{"steps": SPANS} | more)


def change(root: Path, **sections: Any) -> None:
    """Adds runs to sections of params (`report`: settings)."""
    path = root / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    for section, runs in sections.items():
        raw[section] |= runs
    path.write_text(yaml.safe_dump(raw, sort_keys=False))


def label_world(root: Path, people: list[StepLabels], judge: list[StepLabels]) -> None:
    build_world(root)
    change(
        root,
        models={"judge": {"path": "data/none", "hosted": "judge-1", "vocabulary": "none"}},
        step_labels={
            "judge": FOUND | {"labeler": "judge", "model": "judge", "path": "data/none"},
            "people": FOUND | RIGHT,
        },
    )
    put_labels(root, "people", people)
    put_labels(root, "judge", judge)


def metrics(root: Path) -> dict[str, Any]:
    """The content of `metrics.json`, without a report."""
    params = load_params(root / "params.yaml")
    with Duck() as duck:
        found = measure(duck, params, open_views(duck, params, root))
    return json.loads(json.dumps(found, allow_nan=False))


def reported(root: Path) -> tuple[dict[str, Any], str]:
    """`metrics.json` and the page, as the stage writes them."""
    execute("report", "report", report.run, root)
    directory = root / "data/report"
    return json.loads((directory / "metrics.json").read_text()), (directory / "report.html").read_text()


def test_params_that_ask_for_nothing_get_empty_keys_and_no_new_sections(workspace: Path) -> None:
    build_world(workspace)
    found, shown = reported(workspace)
    keys = ("step_labels", "calibrations", "audits", "wrong_steps", "wrong_steps_logged", "judging")
    assert {k: found[k] for k in keys} == {k: {} for k in keys}
    for title in ("Step labels", "Calibration", "Audits", "Right answers with", "Judging of pairs", "Labelled steps"):
        assert f"<h2>{title}" not in shown
    with Path("data/report/calibration.csv").open() as file:
        assert list(csv.DictReader(file)) == []


def test_labels_are_counted_by_verdict_label_and_first_wrong_step(workspace: Path) -> None:
    neutral = row(2, "j", 1, "judge", labels=["correct", "neutral"])
    judge = [row(0, "j", 1, "judge"), row(1, "j", NONE, "judge"), neutral, row(3, "j", INVALID, "judge")]
    long = [StepSpan(start=i, end=i + 1) for i in range(12)]
    judge += [row(4 + i, "j", step, "judge", steps=long) for i, step in enumerate((8, 9, 11))]
    label_world(workspace, [], judge)
    found = metrics(workspace)
    assert found["step_labels"] == {
        "judge": {
            "labelers": {"j": 7},
            "verdicts": {"error": 5, "invalid": 1, "no_error": 1},
            "labels": {"correct": 32, "neutral": 1, "incorrect": 4},
            "first_wrong_step": {"2": 2, "9": 1, "10+": 2},
        }
    }
    assert list(found["step_labels"]["judge"]["first_wrong_step"]) == ["2", "9", "10+"]
    (entry,) = [e for e in found["funnel"] if (e["stage"], e["run"]) == ("step_labels", "judge")]
    assert entry["verdicts"] == {"error": 5, "invalid": 1, "no_error": 1}
    assert entry["rows"] == {"step_labels": 7}


def test_an_audit_is_the_share_of_right_answers_whose_process_is_right(workspace: Path) -> None:
    people = [
        row(0, "ann", NONE),
        row(1, "ann", 1),
        # several labelers: what most of them say; different wrong steps are both wrong
        *(row(2, name, step) for name, step in (("ann", 0), ("bob", 1), ("eve", NONE))),
        *(row(3, name, step) for name, step in (("ann", NONE), ("bob", NONE), ("eve", 1))),
        *(row(4, name, step) for name, step in (("ann", 0), ("bob", NONE))),
        *(row(5, name, step) for name, step in (("ann", INVALID), ("bob", NONE))),
        row(6, "ann", INVALID),
    ]
    label_world(workspace, people, [])
    change(workspace, report={"audits": ["people"]})
    counts = {"n_samples": 7, "n_right": 3, "n_wrong": 2, "n_disputed": 1, "n_invalid": 1, "n": 5, "share": 0.6}
    expected = counts | {"ci95": [round(end, 6) for end in wilson(3, 5)]}
    found = metrics(workspace)["audits"]
    assert found == {"people": {"by_source": {"arithmetic": expected}, "total": expected}}
    assert "60.0 %" in str(audit_table(found))


@pytest.mark.parametrize(
    ("people", "expected"),
    [
        ([], {"verdict": "no labels"}),
        ([row(0, "ann", INVALID)], {"n": 0, "n_invalid": 1, "share": None}),
        ([row(0, "ann", 0), row(0, "bob", NONE)], {"n": 0, "n_disputed": 1, "share": None}),
    ],
)
def test_an_audit_without_a_verdict_has_no_share(
    workspace: Path, people: list[StepLabels], expected: dict[str, Any]
) -> None:
    label_world(workspace, people, [])
    change(workspace, report={"audits": ["people"]})
    found = metrics(workspace)["audits"]
    got = found["people"]
    assert (got.get("total") or got).items() >= expected.items()
    assert "people" in str(audit_table(found))


def test_the_share_of_right_answers_with_a_wrong_step_is_shown_without_being_asked_for(workspace: Path) -> None:
    """Wrong samples with wrong steps do not count; the rewards are found by the samples where the labels name none."""
    wrong = [row(i, "rule", 0, sample_id=sample_id(i, 1)) for i in range(5)]
    said = [row(0, "rule", 0), row(1, "rule", 1), row(2, "rule", NONE), row(3, "rule", INVALID), row(4, "rule", NONE)]
    said.append(row(4, "ann", 0))
    build_world(workspace)
    change(workspace, step_labels={name: FOUND | RULE | {"rewards": "none"} for name in ("all", "later", "bad")})
    put_labels(workspace, "all", [*said, *wrong])
    put_labels(workspace, "bad", wrong)
    found, shown = reported(workspace)
    counts = {"n_samples": 5, "n_right": 1, "n_wrong": 2, "n_disputed": 1, "n_invalid": 1, "n": 3, "share": 0.666667}
    total = counts | {"ci95": [round(end, 6) for end in wilson(2, 3)]}
    entry = {"samples": "own", "rewards": "own", "rollouts": None, "by_source": {"arithmetic": total}, "total": total}
    assert found["wrong_steps"] == {"all": entry}
    assert "<h2>Right answers with a wrong step</h2>" in shown
    assert "66.7 %" in str(wrong_step_table(found["wrong_steps"], {}))


def test_a_vote_calls_no_answer_right_here(workspace: Path) -> None:
    build_world(workspace)
    votes = {"votes": {"v": {"samples": "own", "predictions": "own"}}}
    voted = {"rewards_votes": {"own": {"predictions": "own", "votes": "v", "threshold": 0.5}}}
    change(workspace, step_labels={"all": FOUND | RULE}, **votes, **voted)
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["rewards"] = {}
    Path("params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    put_labels(workspace, "all", [row(0, "rule", 0)])
    assert metrics(workspace)["wrong_steps"] == {}


PPO = {
    "model": "base", "prompts": "test", "problems": "test", "demos": "none", "value_model": "none", "engine": "hf",
    "sampling": "rollout", "steps_from": "none", "optimizer": {"lr": 1.0e-5, "batch_size": 1, "steps": 20},
    "validation": {"prompts": "none", "problems": "none", "questions": "none", "labels": "none", "sampling": "greedy"},
}  # fmt: skip
ROLLOUT = {"rollout": {"temperature": 1.0, "max_new_tokens": 8}}


def test_rollouts_are_shown_by_tenths_of_the_steps_that_drew_them(workspace: Path) -> None:
    """In the first half of 20 steps no right answer has a wrong step, in the second half all of them have."""
    build_world(workspace)
    rules = FOUND | RULE | {"samples": "rl", "rewards": "none"}
    change(workspace, ppo={"rl": PPO}, sampling=ROLLOUT, step_labels={"guard": rules})
    drawn = [sample(problem, "dddddddd", 0, CHOSEN, 0.8) for problem in PROBLEMS[:20]]
    judged(workspace, "rl", [(s, "7", "wrong" if i == 19 else "correct") for i, s in enumerate(drawn)])
    known = {"score": 1.0, "n_tokens": 3, "logprob": -1.0, "reference_logprob": -1.0, "sampler_gap": None,
             "value": 0.0, "reward_to_go": 1.0}  # fmt: skip
    rollouts = [Rollout(sample_id=s.sample_id, step=i, **known) for i, s in enumerate(drawn)]
    put(workspace, "rl", Rollout, rollouts)
    labels = [row(i, "rule", 0 if i >= 10 else NONE, sample_id=s.sample_id) for i, s in enumerate(drawn)]
    put_labels(workspace, "guard", labels)
    entry = metrics(workspace)["wrong_steps"]["guard"]
    assert (entry["samples"], entry["rewards"], entry["rollouts"]) == ("rl", "rl", "rl")
    assert (entry["total"]["n"], entry["total"]["n_wrong"]) == (19, 9)
    steps = [(row["first_step"], row["last_step"], row["n"], row["share"]) for row in entry["by_step"]]
    assert steps == [(2 * i, min(2 * i + 1, 18), 2 if i < 9 else 1, float(i >= 5)) for i in range(10)]
    shown = str(wrong_step_table({"guard": entry}, {}))
    assert all(f"steps {2 * i} to {min(2 * i + 1, 18)}" in shown for i in range(10))


def test_what_training_logged_of_wrong_steps_is_shown_by_tenths(workspace: Path) -> None:
    """Steps without a share are left out, and runs without any are not there."""
    build_world(workspace)
    change(workspace, ppo={"rl": PPO}, sampling=ROLLOUT)
    shares = [None, None, *(i / 20 for i in range(2, 20))]
    empty = dict.fromkeys(TrainingStep.model_fields)
    logged = read_table(run_dir("training", "irpo", workspace), TrainingStep).to_pylist()[0]
    rows = [TrainingStep.model_validate(empty | logged | {"step": i, "wrong_steps": x}) for i, x in enumerate(shares)]
    put(workspace, "rl", TrainingStep, rows)
    found = metrics(workspace)["wrong_steps_logged"]
    assert list(found) == ["rl"]
    tenths = [(row["first_step"], row["last_step"], row["n_steps"], row["share"]) for row in found["rl"]]
    assert tenths == [(2 * i, 2 * i + 1, 2, (4 * i + 1) / 40) for i in range(1, 10)]
    shown = str(wrong_step_table({}, found))
    assert "While training, by rule" in shown
    assert "steps 18 to 19" in shown
    assert "92.5 %" in shown


def test_an_audit_is_of_right_answers() -> None:
    text = (Path(__file__).parent.parent / "params.yaml").read_text()
    raw = yaml.safe_load(text)
    samples = {"samples": "s", "prompts": "none", "problems": "test", "rewards": "none"}
    imported = {"problems": "test", "prompts": "none", "path": "x.jsonl", "model": "none"}
    raw["samples_import"]["s"] = imported | {"columns": {"question": "q", "text": "t"}}
    raw["step_labels"]["everything"] = samples | RULE
    raw["report"]["audits"] = ["everything", "nothing"]
    with pytest.raises(ValueError) as error:
        parse_params(yaml.safe_dump(raw))
    assert "report.audits: 'everything' labels other samples too (select: all); set its select to 'correct'" in str(
        error.value
    )
    assert "report.audits: no entry 'nothing' under 'step_labels'" in str(error.value)


def test_a_calibration_has_scores_by_source_agreement_and_a_table(workspace: Path) -> None:
    judge = [row(0, "j", 1, "judge"), row(1, "j", NONE, "judge"), row(2, "j", INVALID, "judge")]
    judge += [row(0, "j", 0, "judge", repeat=1), row(1, "j", NONE, "judge", repeat=1)]
    people = [row(0, "ann", 1), row(1, "ann", NONE), row(2, "ann", 0), row(0, "bob", 1), row(3, "bob", 0)]
    label_world(workspace, people, judge)
    change(workspace, report={"calibrations": [{"labels": "judge", "humans": "people"}]})
    found, shown = reported(workspace)
    got = found["calibrations"]["judge-vs-people"]
    score = got["labelers"]["j"]["total"]
    assert got["labelers"]["j"]["by_source"] == {"arithmetic": score}
    # erroneous: samples 0 (two answers, one right) and 2 (invalid); correct: sample 1
    assert (score["error"]["n"], score["error"]["n_right"], score["error"]["accuracy"]) == (3, 1, 0.333333)
    assert (score["valid"]["error"]["n"], score["valid"]["error"]["accuracy"]) == (2, 0.5)
    assert (score["correct"]["accuracy"], score["f1"], score["valid"]["f1"]) == (1.0, 0.5, 0.666667)
    assert (score["n_labels"], score["n_invalid"], score["n_unlabelled"]) == (5, 1, 1)
    assert score["correct"]["ci95"] == [round(end, 6) for end in wilson(1, 1)]
    assert [(r["a"], r["b"], r["n"], r["n_equal"], r["kappa"]) for r in got["agreements"]] == [
        ("ann", "bob", 1, 1, None),
        ("ann", "j", 2, 2, 1.0),
        ("bob", "j", 1, 1, None),
    ]
    (repeats,) = got["reliabilities"]["judge"]
    assert (repeats["labeler"], repeats["n_samples"], repeats["n_equal"], repeats["share"]) == ("j", 2, 1, 0.5)
    (together,) = got["reliabilities"]["people"]
    assert (together["labeler"], together["n_samples"], together["share"]) == (None, 1, 1.0)
    with Path("data/report/calibration.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["labels"], r["source"], float(r["f1_valid"])) for r in rows] == [
        ("judge", "arithmetic", pytest.approx(2 / 3)),
        ("judge", "", pytest.approx(2 / 3)),
    ]
    for text in ("<h2>Calibration</h2>", "Two labelers", "repeats of j", "66.7 %"):
        assert text in shown


def test_a_calibration_of_runs_that_are_not_built_says_so(workspace: Path) -> None:
    build_world(workspace)
    later = FOUND | RULE
    change(
        workspace,
        step_labels={"later": later, "empty": later},
        report={"calibrations": [{"labels": n, "humans": "empty"} for n in ("later", "empty")]},
    )
    put_labels(workspace, "empty", [])
    found = metrics(workspace)["calibrations"]
    assert {key: entry["verdict"] for key, entry in found.items()} == {
        "later-vs-empty": "not built",
        "empty-vs-empty": "no labels",
    }
    assert "not built" in str(calibration_table(found))


def test_many_labelers_leave_pairs_to_the_metrics() -> None:
    pair = {"b": "z", "n_equal": 1, "share": 1.0, "ci95": [0.2, 1.0], "kappa": None}
    pairs = [pair | {"a": f"a{i}", "n": i} for i in range(12)]
    entry = {"labels": "x", "humans": "y", "labelers": {}, "agreements": pairs, "verdict": "no labels"}
    shown = str(calibration_table({"x-vs-y": entry}))
    assert "2 more pairs are in metrics.json" in shown
    assert ">a11<" in shown
    assert ">a1<" not in shown


def judging_world(root: Path) -> tuple[list[float], float]:
    """Log-probs of the same pairs under `irpo`; returns the margins and beta, worked out apart."""
    build_world(root)
    change(root, reference={"own_irpo": {"pairs": "own", "model": "irpo"}})
    rows = read_table(run_dir("reference_logprobs", "own", root), ReferenceLogprob).to_pylist()
    changed, beta = [], 0.5
    moved: dict[str, list[float]] = {}
    for i, old in enumerate(sorted(rows, key=lambda r: r["sample_id"])):
        step = -0.25 * (i % 5)
        changed.append(ReferenceLogprob(**old | {"logprob": old["logprob"] + step}))
        moved.setdefault(old["prompt_id"], []).append(step)
    put(root, "own_irpo", ReferenceLogprob, sorted(changed, key=lambda r: (r.prompt_id, r.sample_id)))
    return [beta * (chosen - rejected) for chosen, rejected in moved.values()], beta


def test_judging_accuracy_and_margin_are_those_of_the_definition(workspace: Path) -> None:
    margins, beta = judging_world(workspace)
    change(workspace, report={"judging": [{"model": "own_irpo", "start": "own", "beta": beta}]})
    right = sum(margin > 0 for margin in margins)
    assert 0 < right < len(margins) == 12
    found, shown = reported(workspace)
    got = found["judging"]["irpo"]
    assert (got["model"], got["start"], got["pairs"], got["beta"]) == ("own_irpo", "own", "own", 0.5)
    assert (got["n"], got["n_pairs"], got["accuracy"]) == (12, 12, round(right / 12, 6))
    assert got["ci95"] == [round(end, 6) for end in wilson(right, 12)]
    assert got["margin"] == pytest.approx(np.mean(margins), abs=1e-6)
    assert got["margin_se"] == pytest.approx(np.std(margins, ddof=1) / np.sqrt(12), abs=1e-6)
    assert got["chosen_reward"] - got["rejected_reward"] == pytest.approx(got["margin"], abs=2e-6)
    assert "<h2>Judging of pairs</h2>" in shown
    assert f"{got['margin']:+.4f}" in shown


def test_other_spans_of_a_sample_are_no_part_of_its_pair(workspace: Path) -> None:
    margins, beta = judging_world(workspace)
    for run in ("own", "own_irpo"):
        rows = read_table(run_dir("reference_logprobs", run, workspace), ReferenceLogprob).to_pylist()
        others = [r | {"end": r["end"] + 1} for r in rows] + [r | {"eos": not r["eos"]} for r in rows]
        found = [ReferenceLogprob(**r) for r in [*rows, *(r | {"logprob": -1000.0} for r in others)]]
        put(workspace, run, ReferenceLogprob, sorted(found, key=lambda r: (r.prompt_id, r.sample_id, r.end, r.eos)))
    change(workspace, report={"judging": [{"model": "own_irpo", "start": "own", "beta": beta}]})
    found = metrics(workspace)["judging"]["irpo"]
    assert (found["n"], found["n_pairs"], found["margin"]) == (12, 12, pytest.approx(np.mean(margins), abs=1e-6))


def test_a_model_that_did_not_move_judges_nothing(workspace: Path) -> None:
    build_world(workspace)
    change(workspace, report={"judging": [{"model": "own", "start": "own"}] * 2})
    found = metrics(workspace)["judging"]
    assert list(found) == ["base", "base (own)"]
    assert (found["base"]["accuracy"], found["base"]["margin"], found["base"]["margin_se"]) == (0.0, 0.0, 0.0)


def test_pairs_that_only_one_run_has_scored_are_left_out(workspace: Path) -> None:
    _, beta = judging_world(workspace)
    rows = read_table(run_dir("reference_logprobs", "own_irpo", workspace), ReferenceLogprob).to_pylist()
    put(workspace, "own_irpo", ReferenceLogprob, [ReferenceLogprob(**r) for r in rows[:3]])
    change(workspace, report={"judging": [{"model": "own_irpo", "start": "own", "beta": beta}]})
    found = metrics(workspace)["judging"]
    assert [found["irpo"][name] for name in ("n", "n_pairs", "margin_se")] == [1, 12, None]
    assert "1 of 12" in str(judging_table(found))


@pytest.mark.parametrize(
    ("case", "verdict"),
    [("other pairs", "not comparable"), ("not built", "not built"), ("no pairs", "no pairs")],
)
def test_judging_that_cannot_be_measured_says_why(workspace: Path, case: str, verdict: str) -> None:
    _, beta = judging_world(workspace)
    start = "own"
    if case == "other pairs":
        change(workspace, pairs_union={"half": {"a": "own", "b": "none", "c": "none", "d": "none", "problems": "none"}})
        change(workspace, reference={"half": {"pairs": "half", "model": "base"}})
        start = "half"
    elif case == "not built":
        change(workspace, reference={"later": {"pairs": "own", "model": "base"}})
        start = "later"
    else:
        put(workspace, "own_irpo", ReferenceLogprob, [])
    change(workspace, report={"judging": [{"model": "own_irpo", "start": start, "beta": beta}]})
    found = metrics(workspace)["judging"]
    assert found["irpo"]["verdict"] == verdict
    assert verdict in str(judging_table(found))


def test_labelled_examples_mark_the_wrong_step_and_are_escaped(workspace: Path) -> None:
    said = {"rationale": f"because {HOSTILE}", "correction": "<b>9</b>"}
    judge = [row(i, f"j{HOSTILE}", 1, "judge", repeat=n, **said) for i in range(3) for n in range(2)]
    judge += [row(4, f"j{HOSTILE}", NONE, "judge")]
    label_world(workspace, [], judge)
    _, shown = reported(workspace)
    assert "<script" not in shown
    assert "<img" not in shown
    section = shown[shown.index("<h2>Labelled steps</h2>") :].split("</section>")[0]
    assert section.count("<mark>&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;") == report.EXAMPLES_PER_RUN
    assert section.count("first wrong step") == report.EXAMPLES_PER_RUN
    assert all(sample_id(problem) in section for problem in range(report.EXAMPLES_PER_RUN)), "each sample once"
    assert "<li>so</li>" in section
    assert "because &lt;script&gt;" in section
    assert "&lt;b&gt;9&lt;/b&gt;" in section


def test_what_judging_steps_cost_comes_from_the_ledger(workspace: Path) -> None:
    judge = [row(0, "j", 1, "judge", ledger_key=f"eeeeeeee00000000-{'0' * 16}-0000")]
    label_world(workspace, [], judge)
    ledger = Ledger()
    answer = Completion("no", "stop", 7, 50, price_usd=0.25)
    ledger.append("eeeeeeee00000000", "judge", [(judge[0].ledger_key or "", answer)], 3.0)
    ledger.append("ffffffff00000000", "judge", [("ffffffff00000000-0-0000", answer)], 3.0)
    ledger.close()
    _, shown = reported(workspace)
    costs = json.loads(Path("data/report/costs.json").read_text())["generation"]
    own = {"batches": 1, "completions": 1, "tokens": 7, "wall_s": 3.0, "device_s": 0.0, "price_usd": 0.25}
    assert costs == {"settings": {"eeeeeeee": {"runs": ["step_labels.judge"]} | own}, "total": own}
    assert "$0.2500" in shown
