"""Pairs from real completions, against the paper's rule computed by hand from the sources' own labels."""

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from builders import pairs_outcome, predictions, problems, prompts, rewards, samples_import
from stores.stage import execute
from tests.stage_world import read, rejects, write_params

SOURCES = {"openai_gsm8k_x4": ("gsm8k", "number", 5), "qwen25math_math100x8": ("math", "latex", 7)}
KNOWN_LABEL_ERRORS = {"qwen25math_math100x8": 1}
"""Verdicts that differ from the label: the label calls `10000` wrong where gold is `10{,}000`."""


def prepare(shared_data: Path, name: str, k: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Writes the source's problems and samples in published shapes, and params; returns the source's rows."""
    directory = shared_data / "model_samples"
    asked = pq.read_table(directory / f"{name}.problems.parquet").to_pylist()
    sampled = pq.read_table(directory / f"{name}.samples.parquet").to_pylist()
    source, checker, _ = SOURCES[name]
    with Path("problems.jsonl").open("w") as file:
        for row in asked:
            gsm8k = {"question": row["problem"], "answer": f"{row['gold_solution']}\n#### {row['gold']}"}
            math = {"problem": row["problem"], "level": "Level 1", "type": "Algebra",
                    "solution": row["gold_solution"], "answer": row["gold"]}  # fmt: skip
            file.write(json.dumps(gsm8k if source == "gsm8k" else math) + "\n")
    question = {row["problem_id"]: row["problem"] for row in asked}
    with gzip.open("samples.jsonl.gz", "wt") as file:
        for row in sampled:
            file.write(json.dumps(row | {"question": question[row["problem_id"]]}) + "\n")
    columns = {"question": "question", "text": "response", "model": "model", "index": "sample_index"}
    write_params(
        problems={"real": {"source": source, "path": "problems.jsonl", "split": "test"}},
        prompts={"real": {"problems": "real", "template": "question_answer", "rendering": "text",
                          "demo_samples": "none", "demo_problems": "none"}},
        samples={},
        samples_import={"real": {"problems": "real", "prompts": "real", "path": "samples.jsonl.gz",
                                 "columns": columns, "model": "none"}},
        predictions={"real": {"samples": "real", "prompts": "real", "problems": "real", "checker": checker}},
        rewards={"real": {"predictions": "real", "problems": "real"}},
        pairs_outcome={"real": {"samples": "real", "rewards": "real", "step_labels": "none", "gold": "none", "k": k}},
    )  # fmt: skip
    return asked, sampled


@pytest.mark.parametrize("name", SOURCES)
def test_pairs_of_real_completions_follow_the_papers_rule(workspace: Path, shared_data: Path, name: str) -> None:
    k = SOURCES[name][2]
    asked, sampled = prepare(shared_data, name, k)
    for section, module in (
        ("problems", problems),
        ("prompts", prompts),
        ("samples_import", samples_import),
        ("predictions", predictions),
        ("rewards", rewards),
        ("pairs_outcome", pairs_outcome),
    ):
        execute(section, "real", module.run)  # fmt: skip
    samples = {row["sample_id"]: row for row in read("samples", "real")}
    assert len(samples) == len(sampled)
    label = {(row["response"], row["model"], row["sample_index"]): row["is_correct"] for row in sampled}
    correct = {i: label[row["text"], row["model"], row["index"]] for i, row in samples.items()}
    verdict = {row["sample_id"]: row["verdict"] == "correct" for row in read("rewards", "real")}
    assert sum(correct[i] != verdict[i] for i in samples) == KNOWN_LABEL_ERRORS.get(name, 0)
    groups: dict[str, list[str]] = defaultdict(list)
    for i in sorted(samples):
        groups[samples[i]["prompt_id"]].append(i)
    expected = {}
    for prompt_id, ids in groups.items():
        winners, losers = [i for i in ids if verdict[i]], [i for i in ids if not verdict[i]]
        for rank in range(k if winners and losers else 0):
            expected[prompt_id, rank] = winners[rank % len(winners)], losers[rank % len(losers)]
    pairs = read("pairs", "real")
    found = {(p["prompt_id"], p["rank"]): (p["chosen_sample_id"], p["rejected_sample_id"]) for p in pairs}
    assert found == expected
    assert len(found) > 50
    assert all(p["chosen_end"] == len(samples[p["chosen_sample_id"]]["text"]) for p in pairs)
    mixed = {prompt for prompt, _ in expected}
    one_sided = [reason for _, _, reason, _ in rejects("pairs_outcome", "real")]
    assert len(one_sided) == len(groups) - len(mixed)
    assert set(one_sided) <= {"no_chosen", "no_rejected"}
    assert len(groups) == len({row["problem"] for row in asked})
