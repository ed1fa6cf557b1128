"""The checkers against labels of real completions. The data lie beside a developer's checkout.

Where a checker disagrees with a label, it is one of three classes, and each row is named in the tests:

* the label is wrong, or judges more than the answer: `4` against gold `4` said to be wrong, `10000` against `10{,}000`;
* the solution states its answer in its middle, without a box or a marker, and goes on with other numbers or with
  remarks on itself (`processbench_gsm8k`, `processbench_math`);
* two decimals of the same computation differ in the last digit of a double (`verify_cot_human_addsub`: numbers are
  compared exactly);
* none so far: an answer that was found and compared wrongly.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from builders import predictions, problems, rewards, samples_import
from builders.checkers import get_checker
from builders.checkers.verdicts import judge_texts
from stores.stage import execute
from tests import stage_world as world


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def agreement(checker: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of which the checker disagrees with the label."""
    with get_checker(checker) as opened:
        found = judge_texts(opened, [r["text"] for r in rows], [""] * len(rows), [str(r["gold"]) for r in rows])
    return (row for row, verdict in zip(rows, found, strict=True) if (verdict == "correct") != row["expected"])


def test_gsm8k_solutions_get_the_official_verdicts(workspace: Path, shared_data: Path) -> None:
    solved = read_rows(shared_data / "gsm8k" / "example_model_solutions.jsonl.gz")
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    official = {(row["question"].strip(), m): row[m]["is_correct"] for row in solved for m in models}
    given = [{"q": row["question"], "s": row[m]["solution"], "m": m} for row in solved for m in models]
    Path("solutions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    source = {"source": "gsm8k", "path": str(shared_data / "gsm8k" / "test.jsonl.gz"), "split": "test"}
    columns = {"question": "q", "text": "s", "model": "m"}
    world.write_params(
        problems={"train": source},
        samples_import={
            "i": {
                "problems": "train",
                "prompts": "none",
                "path": "solutions.jsonl",
                "columns": columns,
                "model": "none",
            }
        },
        predictions={"p": {"samples": "i", "prompts": "none", "problems": "train"}},
        rewards={"r": {"predictions": "p", "problems": "train"}},
    )
    for section, name, stage in (
        ("problems", "train", problems),
        ("samples_import", "i", samples_import),
        ("predictions", "p", predictions),
        ("rewards", "r", rewards),
    ):
        execute(section, name, stage.run)
    questions = {row["problem_id"]: row["question"].strip() for row in world.read("problems", "train")}
    asked = {row["sample_id"]: (questions[row["problem_id"]], row["model"]) for row in world.read("samples", "i")}
    judged = {asked[row["sample_id"]]: row["verdict"] == "correct" for row in world.read("rewards", "r")}
    assert len(judged) == len(given) == 5276
    assert judged == official


def test_qwen_math_samples_agree_but_for_one_label(shared_data: Path) -> None:
    folder = shared_data / "model_samples"
    golds = pq.read_table(folder / "qwen25math_math100x8.problems.parquet", columns=["problem_id", "gold"]).to_pylist()
    gold = {row["problem_id"]: row["gold"] for row in golds}
    samples = pq.read_table(folder / "qwen25math_math100x8.samples.parquet").to_pylist()
    rows = [{"text": s["response"], "gold": gold[s["problem_id"]], "expected": s["is_correct"]} for s in samples]
    assert len(rows) == 800
    assert [(row["gold"], row["text"][-18:]) for row in agreement("latex", rows)] == [
        ("10{,}000", "\\(\\boxed{10000}\\).")
    ]


LABELLED = [
    # checker, source, rows, disagreements
    ("number", "openai_gsm8k_example", 924, 0),
    ("number", "processbench_gsm8k", 269, 1),
    ("number", "mr_gsm8k_partial", 231, 1),
    ("number", "verify_cot_human_gsm8k", 74, 0),
    ("latex", "openai_gsm8k_example", 924, 0),
    ("latex", "processbench_gsm8k", 269, 1),
    ("latex", "processbench_math", 700, 2),
    ("latex", "mr_gsm8k_partial", 231, 1),
    ("latex", "qwen_math_cot_100", 86, 0),
    ("latex", "verify_cot_human_gsm8k", 74, 0),
    ("latex", "verify_cot_human_MATH", 61, 0),
    ("number", "verify_cot_human_addsub", 69, 2),
    ("choice", "verify_cot_human_aqua_rat", 65, 0),
    ("text", "verify_cot_human_date", 75, 1),
    ("text", "verify_cot_human_last_letters", 65, 0),
    ("step_dpo", "qwen_math_cot_100", 86, 0),
]


@pytest.mark.slow
def test_real_outputs_agree(shared_data: Path) -> None:
    """Over 99 % of each source; math-verify with its defaults, reading whole texts, has 98.5 % of ProcessBench."""
    outputs = read_rows(shared_data / "answer_equivalence" / "real_outputs.jsonl.gz")
    found = set()
    for checker in sorted({c for c, *_ in LABELLED}):
        sources = [source for c, source, *_ in LABELLED if c == checker]
        rows = [row for row in outputs if not row["disputed"] and row["source"] in sources]
        wrong = [row["source"] for row in agreement(checker, rows)]
        all_sources = [row["source"] for row in rows]
        found |= {(checker, source, all_sources.count(source), wrong.count(source)) for source in sources}
    assert found == set(LABELLED)


TAGGED = {
    "assign_strip": (25, 25), "escape_artifact": (1, 1), "inequality_vs_interval": (2, 2), "percent": (2, 2),
    "set_vs_tuple": (2, 2), "approx": (11, 16), "extraction_policy": (7, 10), "form": (0, 1),
    "known_wrong_label": (0, 1), "locale_number": (0, 3), "non_english": (13, 15), "order": (4, 7), "units": (9, 12),
}  # fmt: skip
"""Facts that depend on a convention -> (agreeing, all). Not ours: that a rounded decimal equals the exact value
(`approx`), that `\frac{2}{4}` is wrong (`form`), decimal commas, lists without braces in one order only (`order`), that
`10cm` is not 10 but `10 cm^2` is (`units`)."""


def facts_found(checker: str, facts: list[dict[str, Any]]) -> list[bool]:
    """Whether the checker agrees with each fact. Where prediction or gold is a text, the answer is extracted first."""
    with get_checker(checker) as opened:
        pairs = []
        for fact in facts:
            whole = fact["kind"] == "full_text" or "answer" in fact["pred"].lower()
            extracted = opened.extract("", fact["pred"]) if whole or checker == "choice" else fact["pred"]
            text = "boxed" in fact["gold"] or "final answer" in fact["gold"].lower()
            gold = opened.extract("", fact["gold"]) if text or checker == "choice" else fact["gold"]
            pairs.append((extracted or "", gold or ""))
        found = opened.matches(pairs)
    return [(verdict is True) == fact["expected"] for fact, verdict in zip(facts, found, strict=True)]


@pytest.mark.slow
def test_answer_equivalence_facts(shared_data: Path) -> None:
    """Core facts, at least 98 % of them; facts that depend on a convention are counted by tag."""
    lines = (shared_data / "answer_equivalence" / "triples.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [fact for fact in map(json.loads, lines) if fact["expected"] is not None]
    options = [fact for fact in facts if "multiple_choice" in fact["tags"]]
    others = [fact for fact in facts if "multiple_choice" not in fact["tags"]]
    right = facts_found("latex", others)
    core = [agrees for agrees, fact in zip(right, others, strict=True) if fact["core"]]
    assert len(core) == 204
    assert sum(core) >= 0.98 * len(core)
    by_tag: dict[str, list[bool]] = {}
    for agrees, fact in zip(right, others, strict=True):
        for tag in fact["tags"]:
            by_tag.setdefault(tag, []).append(agrees)
    assert {tag: (sum(found), len(found)) for tag, found in by_tag.items()} == TAGGED
    assert (sum(facts_found("choice", options)), len(options)) == (9, 10)
