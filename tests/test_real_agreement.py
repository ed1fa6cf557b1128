"""Agreement of two real models: which answers it keeps, against the published rule and against true labels."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from builders import consistency, demos_consistent, predictions_import, problems, prompts, samples_import
from stores.stage import execute
from tests import stage_world as world

COLUMNS = {"question": "question", "text": "response"}
NAMED = COLUMNS | {"model": "model"}
MODELS = ("gpt3-6b_finetuning", "gpt3-6b_verification", "gpt3-175b_finetuning", "gpt3-175b_verification")


def read_source(shared_data: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    directory = shared_data / "model_samples"
    asked = pq.read_table(directory / "openai_gsm8k_x4.problems.parquet").to_pylist()
    question = {row["problem_id"]: row["problem"] for row in asked}
    sampled = pq.read_table(directory / "openai_gsm8k_x4.samples.parquet").to_pylist()
    return asked, [row | {"question": question[row["problem_id"]]} for row in sampled]


def build(asked: list[dict[str, Any]], sampled: list[dict[str, Any]]) -> None:
    """Imports what each model made, answers included, and compares every two of them."""
    names = [f"m{i}" for i in range(len(MODELS))]
    with Path("problems.jsonl").open("w") as file:
        for row in asked:
            file.write(json.dumps({"question": row["problem"], "answer": f"Hm.\n#### {row['gold']}"}) + "\n")
    for name, model in zip(names, MODELS, strict=True):
        with Path(f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in sampled if row["model"] == model)
    asks = {"template": "question_answer", "rendering": "text", "demo_samples": "none", "demo_problems": "none"}
    common = {name: {"problems": "real", "path": f"{name}.jsonl"} for name in names}
    pairs = {f"{a}_{b}": {"a": a, "b": b} for a, b in permutations(names, 2)}
    world.write_params(
        problems={"real": {"source": "gsm8k", "path": "problems.jsonl", "split": "test"}},
        prompts={"real": {"problems": "real"} | asks},
        samples={},
        samples_import={n: r | {"prompts": "real", "columns": NAMED, "model": "none"} for n, r in common.items()},
        predictions_import={
            n: r | {"samples": n, "columns": COLUMNS | {"prediction": "pred"}} for n, r in common.items()
        },
        consistency=pairs,
        demos_consistent={
            "hybrid": {"samples": "m0", "other": "m2", "prompts": "real", "agreements": "m0_m2"},
        },
    )
    execute("problems", "real", problems.run)
    execute("prompts", "real", prompts.run)
    for name in names:
        execute("samples_import", name, samples_import.run)
        execute("predictions_import", name, predictions_import.run)
    for run in pairs:
        execute("consistency", run, consistency.run)


def test_any_two_models_keep_what_the_published_rule_keeps(workspace: Path, shared_data: Path) -> None:
    """`pred_weak != '' and pred_weak == pred_icl` (METHODS: stage I), counted here from the source's own columns; and
    what is kept is right more often than the weak model is."""
    asked, sampled = read_source(shared_data)
    build(asked, sampled)
    of_question = {row["question"]: row["problem_id"] for row in world.read("problems", "real")}
    stated = {
        (model, of_question[row["question"].strip()]): row
        for model in MODELS
        for row in sampled
        if row["model"] == model and row["question"].strip() in of_question
    }
    for (i, weak), (j, strong) in permutations(enumerate(MODELS), 2):
        rows = world.read("agreements", f"m{i}_m{j}")
        assert len(rows) == len(of_question)
        kept = {row["problem_id"] for row in rows if row["kept"]}
        mine = {p: (stated[weak, p], stated[strong, p]) for p in of_question.values()}
        rule = {p for p, (a, b) in mine.items() if (a["pred"] or "") != "" and a["pred"] == b["pred"]}
        assert kept == rule
        right = [mine[p][0]["is_correct"] for p in kept]
        before = [a["is_correct"] for a, _ in mine.values()]
        assert sum(right) / len(right) > sum(before) / len(before)


def test_real_hybrid_demos_are_both_samples_of_every_kept_problem(workspace: Path, shared_data: Path) -> None:
    """And agreement is symmetric."""
    build(*read_source(shared_data))
    for table in ("samples", "agreements"):
        world.write(table, "none", [])
    execute("demos_consistent", "hybrid", demos_consistent.run)
    one, other = (
        {row["problem_id"]: (row["agrees"], row["kept"]) for row in world.read("agreements", run)}
        for run in ("m0_m2", "m2_m0")
    )
    kept = [problem for problem, (_, kept) in one.items() if kept]
    assert one == other
    assert len(kept) > 200
    assert sorted(row["sample_id"][:16] for row in world.read("demos", "hybrid")) == sorted([*kept, *kept])
