"""The report's groups of problems: by steps, level and subject, by problem set, and the lengths of samples."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import report
from builders.reporting.domains import domain_matrix, trained_on
from builders.reporting.page import _models
from builders.reporting.tables import group_table
from schemas import Problem, Solution
from schemas.params import load_params, parse_params
from stores.parquet import read_table, rows_to_table, write_table
from stores.paths import run_dir
from stores.stage import execute
from stores.store import Store
from tests.report_world import PROBLEMS, build_world

REPOSITORY = Path(__file__).resolve().parent.parent


def published(root: Path, steps: dict[str, int]) -> None:
    """The problems as those of a published set: subjects, and human solutions of so many lines."""
    rows = read_table(run_dir("problems", "test", root), Problem).to_pylist()
    subjects = ["algebra", "counting"]
    changed = [Problem(**row | {"source": "gsm8k", "subject": subjects[i % 2]}) for i, row in enumerate(rows)]
    texts = {p: "\n".join(["a step", " "] * n) for p, n in steps.items()}
    solutions = [Solution(problem_id=p, style="natural", index=0, text=text) for p, text in texts.items()]
    write_table(run_dir("problems", "test", root), Problem, [rows_to_table(Problem, changed)])
    write_table(run_dir("solutions", "test", root), Solution, [rows_to_table(Solution, solutions)])


def metrics(root: Path) -> dict[str, Any]:
    execute("report", "report", report.run, root)
    return json.loads((root / "data/report/metrics.json").read_text())


def test_generated_problems_are_grouped_by_the_steps_they_were_made_with(workspace: Path) -> None:
    build_world(workspace)
    model = metrics(workspace)["models"]["m1"]
    assert model["by_steps"] == model["by_level"]
    assert [group["n"] for group in model["by_steps"].values()] == [10, 10, 10]
    assert model["by_subject"] == {}


def test_published_problems_are_grouped_by_lines_of_their_solution(workspace: Path) -> None:
    given = build_world(workspace)["given"]["m1"]
    steps = {problem: 1 + i % 12 for i, problem in enumerate(PROBLEMS)}
    published(workspace, steps)
    model = metrics(workspace)["models"]["m1"]
    expected = Counter(str(n) if n < 10 else "10+" for n in steps.values())
    assert {group: share["n"] for group, share in model["by_steps"].items()} == expected
    assert list(model["by_steps"])[-1] == "10+"
    right = [given[p][0] == "7" for p in PROBLEMS[::2]]
    assert model["by_subject"]["algebra"]["accuracy"] == pytest.approx(sum(right) / len(right), abs=1e-6)
    page = (workspace / "data/report/report.html").read_text()
    for title in ("Accuracy by steps", "Accuracy by subject", "Token lengths"):
        assert f"<h2>{title}</h2>" in page


def test_a_file_of_ones_own_may_be_called_arithmetic_and_have_levels_in_words(workspace: Path) -> None:
    build_world(workspace)
    rows = read_table(run_dir("problems", "test", workspace), Problem).to_pylist()
    changed = [Problem(**row | {"level": "hard"}) for row in rows]
    write_table(run_dir("problems", "test", workspace), Problem, [rows_to_table(Problem, changed)])
    model = metrics(workspace)["models"]["m1"]
    assert list(model["by_level"]) == ["hard"]
    assert model["by_steps"] == {}


def test_one_sample_per_problem_has_one_column_of_pass_at_1() -> None:
    counts = dict.fromkeys(("n_no_answer", "n_undecided", "n_truncated", "mean_tokens"), 0)
    shares = {"maj_1": 0.25, "pass_1": 0.75}
    page = str(_models({"a": row("m1", "test") | counts | {"k": 1} | shares}))
    for text in ("maj@1", "pass@1", "25.0 %", "75.0 %"):
        assert page.count(text) == 1


def test_lengths_are_those_of_the_samples(workspace: Path) -> None:
    build_world(workspace)
    found = metrics(workspace)["lengths"]["own"]
    with Store.open(workspace) as store:
        tokens = [n for (n,) in store.sql("select n_tokens from samples where run = 'own'").fetchall()]
    assert found["n"] == len(tokens)
    assert list(found["completion"]) == ["median", "p90", "p99", "max"]
    assert found["completion"]["max"] == max(tokens)
    assert found["completion"]["median"] in tokens


def test_the_problems_behind_a_model() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    expected = {"tiny": set(), "m0": {"warmup"}, "m1": {"warmup", "train"}, "m2": {"warmup", "train"}}
    assert {model: trained_on(params, model) for model in expected} == expected


def row(model: str, problems: str) -> dict[str, Any]:
    return {"model": model, "problems": problems, "accuracy": 0.5, "ci95": [0.4, 0.6], "n": 10}


def test_a_problem_set_of_another_kind_is_out_of_domain() -> None:
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    raw["problems"]["long"] = raw["problems"]["test"] | {"steps": [5, 6]}
    params = parse_params(yaml.safe_dump(raw))
    models = {"a": row("m1", "test"), "b": row("m1", "long"), "c": row("tiny", "test")}
    found = domain_matrix(params, models)
    assert {(m, p): cell["domain"] for m, sets in found.items() for p, cell in sets.items()} == {
        ("m1", "test"): "in",
        ("m1", "long"): "out",
        ("tiny", "test"): None,
    }
    assert found["m1"]["long"]["run"] == "b"


def test_a_model_evaluated_twice_on_one_set_has_a_row_for_each() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    models = {"a": row("m1", "test"), "b": row("m1", "test") | {"accuracy": 0.9}, "c": row("m2", "test")}
    found = domain_matrix(params, models)
    assert {m: (sets["test"]["run"], sets["test"]["accuracy"]) for m, sets in found.items()} == {
        "m1": ("a", 0.5),
        "m1 (b)": ("b", 0.9),
        "m2": ("c", 0.5),
    }
    shares = {"a": 0.25, "b": 0.75, "c": 1.0}
    by_level = {run: models[run] | {"by_level": {"2": {"accuracy": shares[run], "n": 4}}} for run in models}
    page = str(group_table(by_level, "level"))
    for text in ("m1 (b)", "25.0 %", "75.0 %", "100.0 %"):
        assert text in page


@pytest.mark.parametrize(
    ("trained", "evaluated", "domain"),
    [
        ({"source": "metamath"}, {"source": "gsm8k"}, "in"),
        ({"source": "gsm8k"}, {"source": "metamath"}, "in"),
        ({"source": "metamath"}, {"source": "svamp"}, "out"),
        ({"source": "mathqa_numeric"}, {"source": "mathqa"}, "in"),
        ({"source": "reft", "path": "data/gsm8k_nl.json"}, {"source": "gsm8k"}, "in"),
        ({"source": "reft", "path": "data/gsm8k_nl.json"}, {"source": "reft", "path": "data/svamp_nl.json"}, "out"),
        ({"source": "mathqa"}, {"source": "reft", "path": "data/mathqa-numeric_test_set.json"}, "in"),
        ({"source": "gsm8k"}, {"source": "math"}, "out"),
    ],
)
def test_sources_made_of_others_are_of_their_domain(trained: dict, evaluated: dict, domain: str) -> None:
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    made = {"path": "data/none", "split": "train"}
    raw["problems"] |= {"warmup": made | trained, "train": made | trained, "test": made | evaluated}
    found = domain_matrix(parse_params(yaml.safe_dump(raw)), {"a": row("m1", "test")})
    assert found["m1"]["test"]["domain"] == domain
