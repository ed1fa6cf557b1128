"""The stage `predictions_import`: answers that were found elsewhere, as a user's file has them."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import predictions_import, rewards, samples_import
from stores.stage import execute
from tests import stage_world as world

CATS, SUM = world.problem("Legs of 2 cats?"), world.problem("3 + 4?")
COLUMNS = {"question": "question", "text": "response", "prediction": "prediction"}


def write_file(*rows: tuple[str, str, Any], **more: list[Any]) -> None:
    lines = [
        {"question": question, "response": text, "prediction": prediction} | {k: v[i] for k, v in more.items()}
        for i, (question, text, prediction) in enumerate(rows)
    ]
    Path("made.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_import(columns: dict[str, str] = COLUMNS, again: bool = False) -> list[tuple[str, str | None, str | None, str]]:
    """Imports samples and predictions of `made.jsonl`: (text, extracted, normalised, extractor)."""
    taken = {name: column for name, column in columns.items() if name != "prediction"}
    imported = {"problems": "train", "prompts": "none", "path": "made.jsonl", "columns": taken, "model": "none"}
    given = {"samples": "made", "problems": "train", "path": "made.jsonl", "columns": columns}
    world.write_params(
        samples_import={"made": imported}, predictions_import={"made": given},
        rewards={"made": {"predictions": "made", "problems": "train"}},
    )  # fmt: skip
    ordered = sorted([CATS, SUM], key=lambda p: p.problem_id)
    world.write("problems", "train", ordered)
    if not again:
        execute("samples_import", "made", samples_import.run)
    execute("predictions_import", "made", predictions_import.run)
    texts = {row["sample_id"]: row["text"] for row in world.read("samples", "made")}
    found = world.read("predictions", "made")
    return [(texts[r["sample_id"]], r["extracted"], r["normalised"], r["extractor"]) for r in found]


def test_every_sample_has_the_answer_of_its_row(workspace: Path) -> None:
    write_file((CATS.question, "8 legs", " 8 "), (CATS.question, "many", ""), (SUM.question, "It is 7", 7),
               (SUM.question, "Hm", None))  # fmt: skip
    assert sorted(run_import()) == [
        ("8 legs", "8", "8", "number:given"),
        ("Hm", None, None, "number:given"),
        ("It is 7", "7", "7", "number:given"),
        ("many", None, None, "number:given"),
    ]


def test_gold_is_compared_by_the_problems_checker(workspace: Path) -> None:
    write_file((CATS.question, "8 legs", "8.0"), (SUM.question, "It is 7", "9"))
    run_import()
    gold = sorted([world.answer(CATS, "8"), world.answer(SUM, "7")], key=lambda row: row.problem_id)
    world.write("answers", "train", gold)
    execute("rewards", "made", rewards.run)
    verdicts = {row["sample_id"][:16]: row["verdict"] for row in world.read("rewards", "made")}
    assert verdicts == {CATS.problem_id: "correct", SUM.problem_id: "wrong"}


def test_rows_without_a_sample_are_rejects(workspace: Path) -> None:
    write_file((CATS.question, "8 legs", "8"))
    run_import()
    write_file((CATS.question, "8 legs", "8"), ("Who?", "me", "1"), (CATS.question, "9 legs", "9"))
    assert len(run_import(again=True)) == 1
    assert world.rejects("predictions_import", "made") == [
        (CATS.problem_id, None, "unpaired", "row 3"),
        (None, None, "unknown_problem", "row 2"),
    ]


def test_a_sample_without_a_row_is_an_error(workspace: Path) -> None:
    write_file((CATS.question, "8 legs", "8"))
    run_import()
    write_file((CATS.question, "eight legs", "8"))
    with pytest.raises(ValueError, match=r"made\.jsonl: no row has the problem and text of sample .*; name the file"):
        run_import(again=True)


def test_rows_of_one_text_must_agree_or_be_told_apart(workspace: Path) -> None:
    write_file((CATS.question, "legs", "8"), (CATS.question, "legs", "9"), index=[0, 1])
    with pytest.raises(ValueError, match=r"rows 1 and 2 have the problem and text of sample .*; map their `index`"):
        run_import()
    assert [row[1] for row in run_import(COLUMNS | {"index": "index"})] == ["8", "9"]


@pytest.mark.parametrize(("value", "message"), [([1], "is no text and no number"), (True, "is no text and no number")])
def test_other_values_are_errors(workspace: Path, value: object, message: str) -> None:
    write_file((CATS.question, "legs", value))
    with pytest.raises(ValueError, match=message):
        run_import()


def test_columns_that_are_needed(workspace: Path) -> None:
    with pytest.raises(ValueError, match=r"predictions_import\.made: columns: `prediction`, `text` and one of"):
        run_import({"question": "question", "text": "response"})
