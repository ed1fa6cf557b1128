"""The report on voting and reranking: figures by hand, and what the page shows."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import report
from builders.reporting.metrics import DEFINITIONS
from builders.reporting.statistics import wilson
from builders.reporting.voting_tables import voting_table
from schemas import Score
from stores.stage import execute
from tests.report_world import PROBLEMS, build_world, judged, put, sample, verdict_of

Row = tuple[str | None, float | None]
"""An answer (7 is right) and its score."""
GIVEN: list[list[Row]] = [
    [("7", 0.9), ("1", 0.2), ("1", 0.3)],  # reranking and weights are right, the majority is not
    [("1", 0.9), ("7", 0.5), ("7", 0.5)],  # weights and majority are right
    [("1", 0.5), ("7", 0.5), (None, 0.9)],  # a tie of all: the first; what states nothing is no candidate
    [("7", None), ("1", 0.1), ("1", 0.1)],  # one without a score is not chosen
    [(None, 0.9), (None, 0.8), (None, 0.7)],  # nobody to choose
    [("t", 0.8), ("7", 0.6), ("7", 0.1)],  # an undecided one is not correct, and outweighs 7
]
RERANKED, WEIGHTED, MAJORITY = [0], [0, 1], [1, 5]


def metrics() -> dict[str, Any]:
    execute("report", "report", report.run)
    return json.loads(Path("data/report/metrics.json").read_text())["models"]


def evaluated(run: str = "m0") -> None:
    """An evaluation of the first problems, all of them wrong when decoded greedily."""
    rows = []
    for problem, answers in zip(PROBLEMS, GIVEN, strict=False):
        rows.append((sample(problem, "aaaaaaaa", 0, "g", 0.0), "1", "wrong"))
        drawn = [sample(problem, "bbbbbbbb", i, f"s{i}", 0.8) for i in range(len(answers))]
        rows += [(one, answer, verdict_of(answer)) for one, (answer, _) in zip(drawn, answers, strict=True)]
    judged(Path(), run, rows)


def scored(run: str) -> None:
    """Scores of those samples, greedy ones too, which are no candidates."""
    found = {}
    for problem, answers in zip(PROBLEMS, GIVEN, strict=False):
        found[sample(problem, "aaaaaaaa", 0, "g", 0.0).sample_id] = 1.0
        for i, (_, score) in enumerate(answers):
            if score is not None:
                found[sample(problem, "bbbbbbbb", i, "s", 0.8).sample_id] = score
    put(Path(), run, Score, [Score(sample_id=s, score=v, fingerprint="f") for s, v in sorted(found.items())])


def with_runs(**scores: dict[str, str]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    optimizer = {"lr": 1e-6, "batch_size": 4, "steps": 1}
    params["reward_model"] = {"rm": {"model": "base", "samples": "own", "rewards": "own", "optimizer": optimizer}}
    params["scores"] = scores
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture
def built(workspace: Path) -> Path:
    build_world(workspace)
    evaluated()
    with_runs(second={"samples": "m0", "model": "rm"}, rm={"samples": "m0", "model": "rm"})
    return workspace


def test_a_reward_model_chooses_among_the_sampled_completions(built: Path) -> None:
    scored("rm")
    found, n = metrics(), len(GIVEN)
    m0 = found["m0"]
    assert (m0["maj_3"], m0["pass_3"]) == (round(len(MAJORITY) / n, 6), round(5 / n, 6))
    assert m0["rerank_3"] == round(len(RERANKED) / n, 6)
    assert m0["rerank_3_ci95"] == pytest.approx(wilson(len(RERANKED), n), abs=1e-6)
    ends = [round(end, 6) for end in wilson(len(WEIGHTED), n)]
    assert m0["reranking"] == {
        "rm": {"model": "rm", "rerank": m0["rerank_3"], "rerank_ci95": m0["rerank_3_ci95"],
               "weighted": round(len(WEIGHTED) / n, 6), "weighted_ci95": ends}
    }  # fmt: skip
    assert not [key for key in found["m1"] if key.startswith("rerank")]


def test_what_a_program_did_not_come_to_is_no_answer(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking: list[Row] = [("undecided: no module sympy", 0.9)]
    monkeypatch.setattr(sys.modules[__name__], "GIVEN", [lacking * 2 + [("7", 0.1)]])
    build_world(workspace)
    evaluated()
    with_runs(rm={"samples": "m0", "model": "rm"})
    scored("rm")
    m0 = metrics()["m0"]
    assert (m0["maj_3"], m0["rerank_3"], m0["reranking"]["rm"]["weighted"]) == (1.0, 1.0, 1.0)


def test_the_first_of_several_scores_in_params_is_a_models_own(built: Path) -> None:
    """And each of them is in `reranking`, one without any score among them."""
    scored("rm")
    put(Path(), "second", Score, [])
    m0 = metrics()["m0"]
    assert list(m0["reranking"]) == ["second", "rm"]
    assert m0["rerank_3"] == m0["reranking"]["second"]["rerank"] == 0
    assert m0["reranking"]["rm"]["rerank"] == round(1 / 6, 6)


def test_scores_of_other_samples_rerank_nothing(built: Path) -> None:
    with_runs(rm={"samples": "own", "model": "rm"})
    scored("rm")
    assert "reranking" not in metrics()["m0"]


def test_the_page_shows_what_voting_and_reranking_make_of_samples(built: Path) -> None:
    scored("rm")
    metrics()
    page = Path("data/report/report.html").read_text()
    section = page.split('id="voting-and-reranking"')[1].split("</section>")[0]
    assert section.count("<tr>") == 4  # the header, and three evaluated models
    cells = section.split(">m0<")[1].split("</tr>")[0]
    for shown in ("0.0 %", "33.3 %", "16.7 %", "83.3 %", ">rm<"):
        assert shown in cells
    assert {"rerank@k", "weighted@k", "maj@k", "pass@k"} <= set(DEFINITIONS)


def test_models_without_sampled_completions_have_no_row() -> None:
    assert voting_table({"m0": {"k": 0}}) == ""
    one = {"k": 1, "accuracy": 0.5, "ci95": [0.4, 0.6], "pass_1": 0.25, "maj_1": 0.25, "maj_1_ci95": [0.2, 0.3]}
    assert voting_table({"m0": {"k": 0}, "m1": one}).count("<tr>") == 2
