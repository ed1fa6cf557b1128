"""Votes over real completions: the precision of the majority at every threshold, against the sources' own labels."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from builders import predictions_import, problems, prompts, samples_import, votes
from schemas import Reject, Reward
from stores.parquet import write_table
from stores.paths import rejects_dir
from stores.stage import execute
from stores.store import Store
from tests import stage_world as world

COLUMNS = {"question": "question", "text": "response", "index": "sample_index"}
SOURCES = {"verify_cot_chatgpt_x10": 10, "qwen25math_math100x8": 8}
ASKS = {"template": "question_answer", "rendering": "text", "demo_samples": "none", "demo_problems": "none"}


def build(shared_data: Path, name: str) -> list[dict[str, Any]]:
    """Imports a source with its own answers, lets them vote, and takes its labels for gold; returns its rows."""
    directory = shared_data / "model_samples"
    asked = pq.read_table(directory / f"{name}.problems.parquet").to_pylist()
    question = {row["problem_id"]: row["problem"].strip() for row in asked}
    twice = {text for text, count in Counter(question.values()).items() if count > 1}
    sampled = [
        row | {"question": question[row["problem_id"]]}
        for row in pq.read_table(directory / f"{name}.samples.parquet").to_pylist()
        if question[row["problem_id"]] not in twice and row["response"].strip()
    ]
    Path("problems.jsonl").write_text("".join(
        json.dumps({"q": row["problem"], "a": row["gold"]}) + "\n" for row in asked
        if question[row["problem_id"]] not in twice
    ))  # fmt: skip
    Path("made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sampled))
    common = {"problems": "real", "path": "made.jsonl"}
    world.write_params(
        problems={"real": {"source": "file", "path": "problems.jsonl", "split": "test", "answer_kind": "latex",
                           "licence": "MIT", "columns": {"question": "q", "answer": "a"}}},
        prompts={"real": {"problems": "real"} | ASKS},
        samples={},
        samples_import={"made": common | {"prompts": "real", "columns": COLUMNS, "model": "none"}},
        predictions_import={"made": common | {"samples": "made", "columns": COLUMNS | {"prediction": "pred"}}},
        votes={"made": {"samples": "made", "predictions": "made"}},
        rewards={"made": {"predictions": "made", "problems": "real"}},
    )  # fmt: skip
    for section, module in (("problems", problems), ("prompts", prompts)):
        execute(section, "real", module.run)
    for section, module in (("samples_import", samples_import), ("predictions_import", predictions_import)):
        execute(section, "made", module.run)
    execute("votes", "made", votes.run)
    labels = {(row["question"], row["sample_index"]): row["is_correct"] for row in sampled}
    asked_of = {row["problem_id"]: row["question"] for row in world.read("problems", "real")}
    rewards = [
        Reward.model_validate({
            "sample_id": s["sample_id"], "verdict": "correct" if right else "wrong", "reward": float(right),
            "checker": "label", "checker_version": "1",
        })
        for s in world.read("samples", "made")
        for right in [labels[asked_of[s["problem_id"]], s["index"]]]
    ]  # fmt: skip
    world.write("rewards", "made", rewards)
    write_table(rejects_dir("rewards", "made"), Reject, [])
    return sampled


def majorities(sampled: list[dict[str, Any]]) -> list[tuple[int, int, bool]]:
    """(count, n, is right) of every question's majority that states an answer: the first of the most frequent ones."""
    by_question: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(sampled, key=lambda row: row["sample_index"]):
        by_question[row["question"]].append(row)
    found = []
    for rows in by_question.values():
        answers = [(str(row["pred"]).strip() if row["pred"] is not None else "") for row in rows]
        best, count = Counter(answers).most_common(1)[0]
        if best:
            found.append((count, len(rows), rows[answers.index(best)]["is_correct"]))
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_precision_of_majorities_follows_the_labels(workspace: Path, shared_data: Path, name: str) -> None:
    """As counted here from the source's columns; and the more agree, the more often they are right."""
    found = majorities(build(shared_data, name))
    with Store.open(guard=True) as store:
        result = store.query("vote_thresholds")
        rows = [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]
    for row in rows:
        kept = [right for count, n, right in found if count / n >= row["threshold"]]
        assert (row["n_kept"], row["n_judged"]) == (len(kept), len(kept))
        assert row["share_right"] == pytest.approx(sum(kept) / len(kept), abs=1e-6)
    assert rows[10]["share_right"] > rows[6]["share_right"] > rows[0]["share_right"]
    assert max(n for _, n, _ in found) == SOURCES[name]
    print(name, [(r["threshold"], r["n_kept"], r["share_right"]) for r in rows])
