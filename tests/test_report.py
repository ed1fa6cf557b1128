"""`builders.report` on a small workspace whose every number is computed a second time here, in plain Python."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from builders import report
from builders.reporting.metrics import measure
from builders.reporting.page import CAPTIONS
from builders.reporting.plots import LOGPROB_COLUMNS, ROLLOUT_COLUMNS, draw
from builders.reporting.views import open_views
from schemas.params import load_params
from stores.duck import Duck
from stores.ledger import Completion, Ledger
from stores.paths import rejects_dir, run_dir
from stores.run_log import RunLog
from stores.stage import execute, run_stage
from tests.report_world import PARAMS, PROBLEMS, K, build_world, judged, sample, verdict_of

PLOTS = ("accuracy_by_iteration", "logprobs", "validation")


class Shown(NamedTuple):
    """A report of that workspace, made once for all tests that only read it."""

    world: dict[str, Any]
    metrics: dict[str, Any]
    directory: Path

    @property
    def page(self) -> str:
        return (self.directory / "report.html").read_text()

    def csv(self, name: str) -> list[dict[str, str]]:
        with (self.directory / name).open() as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    root = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRWRIGHT_LEDGER", str(root / "ledger"))
        world = build_world(root)
        return Shown(world, metrics(root), root / "data" / "report")


@pytest.fixture
def built(workspace: Path) -> dict[str, Any]:
    """A workspace with everything but `evaluate.m2` built; what the report must find."""
    return build_world(workspace)


def metrics(root: Path = Path()) -> dict[str, Any]:
    execute("report", "report", report.run, root)
    return json.loads((root / "data/report/metrics.json").read_text())


def right(given: dict[str, list[str | None]]) -> dict[str, bool]:
    return {problem: answers[0] == "7" for problem, answers in given.items()}


def majority(answers: list[str | None]) -> str | None:
    """By hand: most votes, then the earliest; no answer does not vote."""
    votes = Counter(a for a in answers if a is not None)
    return max(votes, key=lambda a: (votes[a], -answers.index(a))) if votes else None


def test_accuracy_majority_and_pass_of_each_model(shown: Shown) -> None:
    models = shown.metrics["models"]
    assert list(models) == ["m0", "m1", "dpo"]
    for name, given in shown.world["given"].items():
        got, n = models[name], len(PROBLEMS)
        counts = Counter(verdict_of(answers[0]) for answers in given.values())
        assert got["n"] == n
        assert [got[f"n_{v}"] for v in ("correct", "wrong", "no_answer", "undecided")] == [
            counts[v] for v in ("correct", "wrong", "no_answer", "undecided")
        ]
        assert got["accuracy"] == pytest.approx(counts["correct"] / n, abs=1e-6)
        assert got["k"] == K
        assert got["maj_3"] == pytest.approx(np.mean([majority(a[1:]) == "7" for a in given.values()]), abs=1e-6)
        assert got["pass_3"] == pytest.approx(np.mean(["7" in a[1:] for a in given.values()]), abs=1e-6)
        assert got["pass_1"] == pytest.approx(np.mean([x == "7" for a in given.values() for x in a[1:]]), abs=1e-6)
        low, high = got["ci95"]
        assert 0 <= low < got["accuracy"] < high <= 1
    assert sum(counts["undecided"] for counts in [Counter(map(verdict_of, a)) for a in given.values()]) > 0


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1", "7", "7"], 1.0),
        (["7", "1", "2"], 1.0),  # a tie: the answer given first
        (["1", "7", "2"], 0.0),
        ([None, None, "7"], 1.0),  # no answer does not vote
        ([None, None, None], 0.0),
    ],
)
def test_majority_vote(built: dict[str, Any], answers: list[str | None], expected: float) -> None:
    rows = [(sample(PROBLEMS[0], "aaaaaaaa", 0, "g", 0.0), "1", "wrong")]
    rows += [(sample(PROBLEMS[0], "bbbbbbbb", i, "s", 0.8), a, verdict_of(a)) for i, a in enumerate(answers)]
    judged(Path(), "m0", rows)
    params = load_params()
    with Duck() as duck:
        assert measure(duck, params, open_views(duck, params, Path()))["models"]["m0"]["maj_3"] == expected


def test_by_level(shown: Shown) -> None:
    levels = shown.metrics["models"]["m1"]["by_level"]
    assert list(levels) == ["2", "3", "4"]
    correct = right(shown.world["given"]["m1"])
    for level, got in levels.items():
        of_level = [correct[p] for i, p in enumerate(PROBLEMS) if str(2 + i % 3) == level]
        assert (got["n"], got["accuracy"]) == (10, pytest.approx(np.mean(of_level), abs=1e-6))


@pytest.mark.parametrize(("baseline", "candidate"), [("m0", "m1"), ("dpo", "m1")])
def test_paired_comparison(shown: Shown, baseline: str, candidate: str) -> None:
    got = shown.metrics["comparisons"][f"{candidate}-vs-{baseline}"]
    before, after = (right(shown.world["given"][name]) for name in (baseline, candidate))
    differences = np.array([int(after[p]) - int(before[p]) for p in PROBLEMS])
    assert (got["fixed"], got["broken"]) == ((differences == 1).sum(), (differences == -1).sum())
    assert got["both_right"] == sum(after[p] and before[p] for p in PROBLEMS)
    assert got["both_wrong"] == sum(not after[p] and not before[p] for p in PROBLEMS)
    half = 1.959964 * differences.std(ddof=1) / np.sqrt(len(differences))
    expected = 100 * np.array([differences.mean(), differences.mean() - half, differences.mean() + half])
    assert np.allclose([got["points"], *got["ci95"]], expected, atol=1e-3)


def test_iterations_and_orders_follow_the_comparisons(shown: Shown) -> None:
    got = shown.metrics
    step = got["comparisons"]["m1-vs-m0"]
    assert got["iterations"] == {
        "m1": {"from": "m0", "gain_points": step["points"], "ci95": step["ci95"], "saturated": step["points"] < 0.5}
    }
    assert got["orders"]["m2-vs-m1"] == got["orders"]["m2-vs-m0"] == "not built"
    assert got["not_built"] == ["evaluate.m2"]
    assert got["orders"]["m1-vs-dpo"] == "holds"


def auroc(chosen: list[float], rejected: list[float]) -> float:
    return float(np.mean([(c > r) + 0.5 * (c == r) for c in chosen for r in rejected]))


def test_likelihood_separates(shown: Shown) -> None:
    got = shown.metrics["likelihood"]["own"]
    _, chosen, n_chosen, rejected, n_rejected = (list(column) for column in zip(*shown.world["scores"], strict=True))
    per_token = (
        [c / n for c, n in zip(chosen, n_chosen, strict=True)],
        [r / n for r, n in zip(rejected, n_rejected, strict=True)],
    )
    assert got["auroc"] == pytest.approx(auroc(chosen, rejected), abs=1e-6)
    assert got["auroc_per_token"] == pytest.approx(auroc(*per_token), abs=1e-6)
    ordered = np.mean([(c > r) + 0.5 * (c == r) for c, r in zip(chosen, rejected, strict=True)])
    assert got["pairs_ordered"] == pytest.approx(ordered, abs=1e-6)
    assert got["chosen_logprob"] == pytest.approx(np.mean(chosen), abs=1e-6)


def test_funnel_counts_rows_verdicts_and_reasons_of_runs_in_params(shown: Shown) -> None:
    funnel = {(entry["stage"], entry["run"]): entry for entry in shown.metrics["funnel"]}
    assert funnel["pairs_outcome", "own"]["rows"] == {"pairs": 12}
    assert funnel["pairs_outcome", "own"]["rejects"] == {"no_chosen": 18}
    assert funnel["rewards", "own"]["verdicts"] == {"correct": 12, "wrong": 12}
    assert funnel["evaluate", "m0"]["rows"] == dict.fromkeys(("samples", "predictions", "rewards"), 30 * (1 + K))
    assert not [run for _, run in funnel if run in ("old", "m2")]


def test_the_same_tables_give_the_same_bytes_but_for_costs(built: dict[str, Any]) -> None:
    metrics()
    deciding = ["metrics.json", "accuracy_by_iteration.csv", "logprobs.csv", *(f"plots/{n}.svg" for n in PLOTS)]
    before = {name: (Path("data/report") / name).read_bytes() for name in deciding}
    with RunLog().measure("samples", "own"):
        pass
    metrics()
    assert before == {name: (Path("data/report") / name).read_bytes() for name in deciding}


def test_costs_are_those_of_runs_in_params(built: dict[str, Any]) -> None:
    with RunLog().measure("samples", "own") as cost:
        cost.tokens, cost.device_s = 42, 1.5
    with RunLog().measure("samples", "old"):
        pass
    metrics()
    costs = json.loads(Path("data/report/costs.json").read_text())
    assert list(costs["runs"]) == ["samples"]
    assert list(costs["runs"]["samples"]) == ["own"]
    own = costs["runs"]["samples"]["own"]
    assert (own["tokens"], own["device_s"]) == (42, 1.5)
    assert costs["total"]["tokens"] == 42


def test_generation_costs_come_from_the_ledger(built: dict[str, Any]) -> None:
    ledger = Ledger()
    ledger.append("cccccccc00000000", "base", [("k1", Completion("a", "stop", 11, 5))], 2.0, 1.0)
    ledger.append("dddddddd00000000", "base", [("k2", Completion("a", "stop", 99, 5))], 2.0, 1.0)
    ledger.close()
    metrics()
    costs = json.loads(Path("data/report/costs.json").read_text())
    generation = {"batches": 1, "completions": 1, "tokens": 11, "wall_s": 2.0, "device_s": 1.0}
    assert costs["generation"] == {"settings": {"cccccccc": {"runs": ["own"]} | generation}, "total": generation}
    assert costs["runs"] == {}
    assert costs["total"]["tokens"] == 0, "no execution here generated it"
    page = Path("data/report/report.html").read_text()
    assert "All batches that the ledger holds" in page
    assert "The last execution of each run" not in page


def test_csv_files_for_dvc_plots(shown: Shown) -> None:
    models = shown.metrics["models"]
    rows = shown.csv("accuracy_by_iteration.csv")
    assert [(r["iteration"], r["model"]) for r in rows] == [("0", "m0"), ("1", "m1")]
    assert float(rows[1]["maj_k"]) == models["m1"]["maj_3"]
    steps = shown.csv("logprobs.csv")
    assert [(r["run"], r["step"]) for r in steps] == [(n, s) for n in ("irpo", "plain") for s in ("0", "10", "20")]
    assert float(steps[5]["chosen_logprob"]) == -15.0


def test_the_page_needs_no_network_and_escapes_model_output(shown: Shown) -> None:
    page = shown.page
    without_examples = page.replace("//evil.example", "")
    assert not re.findall(r"https?:|//[a-z]|@import|<link|<script|<iframe|<img|\burl\((?!#)", without_examples)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page
    assert "&lt;dt" not in page, "our own markup is not escaped"
    assert page.count("<svg") >= len(PLOTS)
    assert "evaluate.m2" in page


def test_ids_of_inlined_plots_are_unique_and_resolve(shown: Shown) -> None:
    page = shown.page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) != set()
    assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)} <= set(ids)


def test_nothing_built_is_a_report_too(workspace: Path) -> None:
    (workspace / "params.yaml").write_text(PARAMS)
    got = metrics()
    assert got["models"] == got["iterations"] == got["likelihood"] == {}
    assert len(got["not_built"]) == 14
    assert "No model is evaluated yet" in Path("data/report/report.html").read_text()


def test_a_model_without_sampled_completions_has_no_majority(built: dict[str, Any]) -> None:
    greedy = [(sample(p, "aaaaaaaa", 0, "g", 0.0), "7", "correct") for p in PROBLEMS]
    judged(Path(), "m1", greedy)
    m1 = metrics()["models"]["m1"]
    assert (m1["accuracy"], m1["k"]) == (1.0, 0)
    assert not [name for name in m1 if name.startswith(("maj_", "pass_"))]


def test_models_of_different_problems_are_not_compared(built: dict[str, Any]) -> None:
    judged(Path(), "m1", [(sample("f" * 16, "aaaaaaaa", 0, "g", 0.0), "7", "correct")])
    got = metrics()
    assert got["orders"]["m1-vs-m0"] == "no problems in common"
    assert got["iterations"] == {}


def test_empty_params_are_a_report_too(workspace: Path) -> None:
    sections = re.findall(r"^(\w+):", PARAMS, flags=re.MULTILINE)
    (workspace / "params.yaml").write_text("seed: 0\n" + "".join(f"{s}: {{}}\n" for s in sections if s != "seed"))
    assert metrics()["funnel"] == []


def test_the_command_takes_no_argument_writes_no_rejects_and_replaces_the_directory(
    built: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    stale = Path("data/report/plots/stale.svg")
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    run_stage("report", report.run, [])
    assert not stale.exists()
    assert not rejects_dir("report", "report").exists()
    with pytest.raises(SystemExit, match="2"):
        run_stage("report", report.run, ["m0"])
    assert "no arguments" in capsys.readouterr().err


def test_a_corrupt_table_is_one_line(built: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    part = run_dir("rewards", "m0") / "part-00000.parquet"
    part.write_bytes(b"PAR1 but not really")
    with pytest.raises(SystemExit, match="1"):
        run_stage("report", report.run, [])
    error = capsys.readouterr().err.strip()
    assert error.startswith("report: ")
    assert str(part) in error
    assert "\n" not in error
    assert not Path("data/report").exists()


def test_rollouts_are_plotted_as_their_training_logged_them() -> None:
    """One panel each for correct ones, KL and entropy; a run without rollouts is in none of them."""
    others = dict.fromkeys(LOGPROB_COLUMNS[1:])
    logged = [others | {"step": i, "correct": 0.1 * i, "kl": 0.5 * i, "entropy": 0.3 - 0.1 * i} for i in range(3)]
    tuned = [others | dict.fromkeys(ROLLOUT_COLUMNS) | {"step": 0, "validation_accuracy": 0.5}]
    plots = draw([], {"reft": logged, "tuned": tuned})
    assert set(plots) == {"validation", "rollouts"}
    assert all(label in plots["rollouts"] for label in (*ROLLOUT_COLUMNS.values(), "reft"))
    assert "tuned" not in plots["rollouts"]
    assert plots["rollouts"] == draw([], {"reft": logged})["rollouts"]
    assert set(plots) <= set(CAPTIONS)
