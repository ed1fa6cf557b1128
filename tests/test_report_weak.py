"""Weak supervision in the report: every figure is counted a second time here, in plain Python, from random answers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import report
from builders.reporting.metrics import measure
from builders.reporting.statistics import wilson
from builders.reporting.views import open_views
from builders.reporting.weak_to_strong import gold_of
from schemas import Agreement, Pair, Vote
from schemas.params import load_params
from stores.duck import Duck
from stores.paths import run_dir
from stores.stage import execute
from tests.report_world import PROBLEMS, build_world, judged, put, sample, verdict_of
from tests.weak_world import N, Weak, build_weak, evaluate, write_params

KEY = "m0-to-m1"


def metrics(root: Path) -> dict[str, Any]:
    """The content of `metrics.json`, without a report."""
    params = load_params(root / "params.yaml")
    with Duck() as duck:
        found = measure(duck, params, open_views(duck, params, root))
    return json.loads(json.dumps(found, allow_nan=False))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weak, dict[str, Any], str]:
    """The world, the block of its metrics, and the page."""
    root = tmp_path_factory.mktemp("weak")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRWRIGHT_LEDGER", str(root / "ledger"))
        world = build_weak(root)
        execute("report", "report", report.run, root)
    found = json.loads((root / "data/report/metrics.json").read_text())
    return world, found["weak_to_strong"][KEY], (root / "data/report/report.html").read_text()


def share(answers: list[str | None]) -> dict[str, Any] | None:
    """By hand: the share of right answers (7) among those that the checker could decide (not t)."""
    decided = [verdict_of(a) == "correct" for a in answers if verdict_of(a) != "undecided"]
    if not decided:
        return None
    right, n = sum(decided), len(decided)
    close = [pytest.approx(end, abs=1e-6) for end in wilson(right, n)]
    return {"n": n, "n_right": right, "share": pytest.approx(right / n, abs=1e-6), "ci95": close}


def right(world: Weak, run: str) -> np.ndarray:
    return np.array([world.evaluated[run][problem][0] == "7" for problem in PROBLEMS], dtype=float)


def test_the_gap_recovered_is_that_of_the_three_accuracies(shown: tuple[Weak, dict[str, Any], str]) -> None:
    world, block, _ = shown
    floor, ceiling = right(world, "m0"), right(world, "m1")
    assert list(block["models"]) == ["dpo", "m2", "m1"]
    for name in ("dpo", "m1"):
        model, got = right(world, name), block["models"][name]
        assert (got["n"], got["reason"]) == (len(PROBLEMS), None)
        means = [model.mean(), floor.mean(), ceiling.mean()]
        assert [got[side] for side in ("model", "floor", "ceiling")] == pytest.approx(means, abs=1e-6)
        gained, lead = model - floor, ceiling - floor
        assert got["pgr"] == pytest.approx(gained.mean() / lead.mean(), abs=1e-6)
        for end in got["ci95"]:
            # Fieller's: at the ends of the interval, the mean of (gained - share * lead) is z standard errors from 0.
            rest = gained - end * lead
            if name != "m1":
                error = rest.std(ddof=1) / np.sqrt(len(PROBLEMS))
                assert abs(rest.mean()) == pytest.approx(1.959964 * error, abs=1e-5)
    assert block["models"]["m1"]["ci95"] == [1, 1], "the ceiling recovers all of the gap, whatever the problems"
    assert block["models"]["m2"] == {"pgr": None, "ci95": None, "reason": "not built"}


def test_filters_have_precision_and_recall_of_either_side(shown: tuple[Weak, dict[str, Any], str]) -> None:
    world, block, _ = shown
    got, rows = block["filters"]["filter"], world.agreements
    assert {k: got[k] for k in ("a", "b", "n")} == {"a": "weak", "b": "strong", "n": len(rows)}
    assert (got["n_agreeing"], got["n_kept"]) == (sum(r.agrees for r in rows), sum(r.kept for r in rows))
    assert got["n_agreeing"] < got["n_kept"] < got["n"], "the world has all kinds of rows"
    for side, gold in (("a", "weak_gold"), ("b", "strong_gold")):
        answers = [(r, getattr(r, f"{side}_answer")) for r in rows]
        kept = [a for r, a in answers if r.kept]
        found = sum(a == "7" for a in kept), sum(a == "7" for _, a in answers)
        recall = {"n": found[1], "n_right": found[0], "share": pytest.approx(found[0] / found[1], abs=1e-6)}
        assert {k: v for k, v in got["sides"][side]["recall"].items() if k != "ci95"} == recall
        assert {k: v for k, v in got["sides"][side].items() if k != "recall"} == {
            "gold": gold,
            "before": share([a for _, a in answers]),
            "precision": share(kept),
            "topped_up": share([a for r, a in answers if r.kept and not r.agrees]),
        }


def test_votes_are_counted_at_every_threshold(shown: tuple[Weak, dict[str, Any], str]) -> None:
    world, block, _ = shown
    got = block["votes"]["many"]
    assert (got["gold"], got["n"]) == ("many_gold", len(PROBLEMS))
    assert got["n_no_answer"] == sum(v.answer is None for v in world.votes) > 0
    assert [row["threshold"] for row in got["thresholds"]] == [i / 10 for i in range(11)]
    for tenths, row in enumerate(got["thresholds"]):
        kept: list[str | None] = [v.answer for v in world.votes if v.answer is not None and 10 * v.count >= tenths * N]
        assert (row["n_kept"], row["right"]) == (len(kept), share(kept))
    at = {v.count for v in world.votes}
    assert {2, 3, 4} <= at, "a confidence of 3 in 5 is at the threshold 0.6"


def test_label_noise_is_counted_by_the_side_that_is_weak(shown: tuple[Weak, dict[str, Any], str]) -> None:
    world, block, _ = shown
    got, pairs = block["pairs"]["contrast"], world.pairs["contrast"]
    assert got["gold"] == {"strong": "many_gold", "weak": "weak_gold"}
    cases = {"weak_chosen": [p for i, p in enumerate(pairs) if i % 3], "weak_rejected": pairs[::3]}
    for case, rows in {"total": pairs, **cases}.items():
        row = got["total"] if case == "total" else got["by_case"][case]
        assert row == {"n": len(rows), "chosen": share([c for c, _ in rows]), "rejected": share([r for _, r in rows])}
    assert list(got["by_case"]) == ["weak_chosen", "weak_rejected"]


@pytest.mark.parametrize("run", ["alone", "voted"])
def test_pairs_of_one_model_are_judged_by_gold_though_votes_made_them(
    shown: tuple[Weak, dict[str, Any], str], run: str
) -> None:
    world, block, _ = shown
    got, pairs = block["pairs"][run], world.pairs[run]
    assert got["gold"] == {"strong": "many_gold"}
    assert got["total"]["chosen"] == share([c for c, _ in pairs])
    assert got["by_case"] == {"own": got["total"]}


def test_what_no_gold_judged_is_not_measured_but_counted(shown: tuple[Weak, dict[str, Any], str]) -> None:
    world, block, page = shown
    side = block["filters"]["blind"]["sides"]["a"]
    nothing = dict.fromkeys(("before", "precision", "recall", "topped_up"))
    assert side == {"gold": None, "reason": "not measured"} | nothing
    assert block["filters"]["blind"]["sides"]["b"]["precision"] is not None
    votes = block["votes"]["blind"]
    assert (votes["gold"], votes["reason"]) == (None, "not measured")
    assert [row["right"] for row in votes["thresholds"]] == [None] * 11
    stated = sum(a is not None for a in world.weak.values())
    assert [row["n_kept"] for row in votes["thresholds"]] == [stated] * 11
    noise = block["pairs"]["blind"]
    assert (noise["gold"], noise["reason"]) == ({"strong": "many_gold", "weak": None}, "not measured")
    chosen = [c for i, (c, _) in enumerate(world.pairs["blind"]) if i % 3 == 0]
    assert noise["by_case"]["weak_rejected"] == {"n": 7, "chosen": share(chosen), "rejected": None}
    assert noise["by_case"]["weak_chosen"]["chosen"] is None
    assert page.count("not measured") > 3


def test_runs_that_are_not_built_say_so(shown: tuple[Weak, dict[str, Any], str]) -> None:
    _, block, page = shown
    for kind in ("filters", "votes", "pairs"):
        assert block[kind]["unbuilt"] == {"verdict": "not built"}
    assert "not built" in page


def test_the_page_shows_every_table_and_needs_no_network(shown: tuple[Weak, dict[str, Any], str]) -> None:
    _, block, page = shown
    (section,) = re.findall(r'<section id="weak-to-strong">.*?</section>', page, flags=re.DOTALL)
    for title in ("m0 → m1", "Filters by agreement", "Majority votes", "Label noise of pairs"):
        assert f">{title}</h" in section
    pgr = block["models"]["dpo"]
    low, high = (f"{100 * end:.1f}" for end in pgr["ci95"])
    assert f"<strong>{100 * pgr['pgr']:.1f} %</strong>" in section
    assert f"[{low}, {high}]" in section
    assert section.count(">many<") == 11
    for term in ("PGR", "precision, recall", "majority right", "chosen right, rejected right", "gold"):
        assert f"<dt>{term}</dt>" in page
    assert not re.findall(r"https?:|//[a-z]|<script|<link|\burl\((?!#)", section)


def test_nothing_asked_is_an_empty_key_and_no_section(workspace: Path) -> None:
    build_world(workspace)
    execute("report", "report", report.run, workspace)
    assert json.loads(Path("data/report/metrics.json").read_text())["weak_to_strong"] == {}
    assert "Weak to strong" not in Path("data/report/report.html").read_text()


def test_the_same_tables_give_the_same_bytes(workspace: Path) -> None:
    build_weak(workspace)
    written = []
    for _ in range(2):
        execute("report", "report", report.run, workspace)
        written.append([Path("data/report", name).read_bytes() for name in ("metrics.json", "report.html")])
    assert written[0] == written[1]


def halves(good: int) -> list[bool]:
    return [place < good for place in range(len(PROBLEMS))]


@pytest.mark.parametrize(
    ("floor", "model", "ceiling", "pgr", "reason"),
    [
        (10, 15, 10, None, "the ceiling is not above the floor"),
        (10, 15, 9, None, "the ceiling is not above the floor"),
        (10, 15, 11, 5.0, "the ceiling's lead is not distinguishable from 0"),
        (10, 15, 20, 0.5, None),
        (10, 5, 20, -0.5, None),
        (10, 30, 20, 2.0, None),
    ],
)
def test_a_gap_is_guarded(
    workspace: Path, floor: int, model: int, ceiling: int, pgr: float | None, reason: str | None
) -> None:
    build_world(workspace)
    write_params(workspace, [{"floor": "m0", "ceiling": "m1", "models": ["dpo"]}])
    for run, good in (("m0", floor), ("dpo", model), ("m1", ceiling)):
        evaluate(workspace, run, halves(good))
    got = metrics(workspace)["weak_to_strong"][KEY]["models"]["dpo"]
    assert (got["pgr"], got["reason"]) == (pgr, reason)
    assert (got["ci95"] is None) == (reason is not None)
    assert got["model"] == pytest.approx(model / 30, abs=1e-6), "accuracies are shown in any case"


def test_models_of_other_problems_are_not_compared(workspace: Path) -> None:
    build_weak(workspace)
    judged(workspace, "dpo", [(sample("f" * 16, "aaaaaaaa", 0, "g", 0.0), "7", "correct")])
    got = metrics(workspace)["weak_to_strong"][KEY]["models"]["dpo"]
    assert got == {"pgr": None, "ci95": None, "reason": "no problems in common"}


def test_an_empty_filter_and_empty_votes_are_counts_of_nothing(workspace: Path) -> None:
    build_weak(workspace)
    for row_class, run in ((Agreement, "filter"), (Vote, "many"), (Pair, "contrast")):
        put(workspace, run, row_class, [])
    block = metrics(workspace)["weak_to_strong"][KEY]
    assert (block["filters"]["filter"]["n"], block["filters"]["filter"]["sides"]["a"]["recall"]) == (0, None)
    assert (block["votes"]["many"]["n"], block["votes"]["many"]["thresholds"]) == (0, [])
    assert block["pairs"]["contrast"]["total"] == {"n": 0, "chosen": None, "rejected": None}


def test_gold_is_a_run_of_rewards_or_evaluate_and_never_a_vote(workspace: Path) -> None:
    build_weak(workspace)
    params = load_params()
    everything = {*params.rewards, *params.rewards_votes, *params.evaluate}
    golds = {p: gold_of(params, p, everything) for p in ("weak", "again", "many", "unmeasured", "m0")}
    assert golds == {"weak": "weak_gold", "again": "weak_gold", "many": "many_gold", "unmeasured": None, "m0": "m0"}
    assert gold_of(params, "many", everything - {"many_gold"}) is None


def test_the_funnel_names_what_votes_decided_as_their_own(workspace: Path) -> None:
    build_weak(workspace)
    funnel = {(e["stage"], e["run"]): e for e in metrics(workspace)["funnel"]}
    assert funnel["rewards_votes", "voted"]["verdicts"] == {"correct": len(PROBLEMS) * N}
    assert "correct" in funnel["rewards", "many_gold"]["verdicts"]


def test_figures_of_evaluated_models_do_not_change_with_votes(workspace: Path) -> None:
    build_weak(workspace)
    before = metrics(workspace)["models"]
    for run in ("voted", "voted_weak", "voted_blind"):
        for part in run_dir("rewards", run).iterdir():
            part.unlink()
        run_dir("rewards", run).rmdir()
    assert metrics(workspace)["models"] == before
