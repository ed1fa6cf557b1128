"""Real solutions in which humans found the first wrong step: their steps, and what the rule labeler makes of them.

The figures of the rule are what it comes to, not what it should: most errors are of reasoning, which it cannot see.
"""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from builders.rule_labels import label
from builders.steps import split_steps
from tests.first_error_rows import PREFILL, SOURCES, LabelledRow, rows

ROWS = {
    # source: (rows, steps, with an error, with a correction)
    "bbmistake_multistep_arithmetic": (218, 1092, 172, 0),
    "eth_stepverify": (685, 4019, 685, 0),
    "mr_ben_chemistry": (612, 3387, 342, 342),
    "mr_ben_math": (636, 4293, 539, 539),
    "mr_ben_physics": (457, 2633, 233, 233),
    "mr_gsm8k_partial": (410, 3320, 410, 0),
}
RULE = {
    # source: (names the humans' step, an earlier one, a later one, none though there is one, rightly none)
    "bbmistake_multistep_arithmetic": (168, 12, 1, 2, 35),
    "eth_stepverify": (9, 1, 3, 672, 0),
    "mr_gsm8k_partial": (84, 2, 19, 305, 0),
}


def texts(prefill: str, text: str) -> list[str]:
    return [text[span.start : span.end].strip() for span in split_steps(prefill, text)]


@pytest.mark.parametrize("source", SOURCES)
def test_every_solution_is_split_into_the_steps_that_it_was_joined_from(shared_data: Path, source: str) -> None:
    found = list(rows(shared_data, (source,)))
    for row in found:
        assert texts("", row.text) == row.steps, row.id
        assert texts(PREFILL, row.continuation) == row.steps, row.id
        assert row.first_error is None or row.steps[row.first_error]
    wrong = sum(row.first_error is not None for row in found)
    corrected = sum(row.correction is not None for row in found)
    assert (len(found), sum(len(row.steps) for row in found), wrong, corrected) == ROWS[source]


def test_rows_are_told_apart_by_their_source_and_id(shared_data: Path) -> None:
    found = [(row.source, row.id) for row in rows(shared_data)]
    assert len(set(found)) == len(found) == 3018


def test_a_label_is_the_number_of_a_marker_where_lines_are_listed(shared_data: Path) -> None:
    """A rectified step mostly begins with its marker, whose number the label is: so it names no place in the list."""
    named, elsewhere = Counter(), 0
    for source in ("mr_ben_math", "mr_ben_physics", "mr_ben_chemistry"):
        with gzip.open(shared_data / "first_error" / f"{source}.jsonl.gz", "rt", encoding="utf-8") as file:
            for given in map(json.loads, file):
                number = given["first_error"] + 1
                if number:
                    rectified = [text or "" for text in given["rectified_first_error_step"]]
                    named[any(text.startswith(f"Step {number}:") for text in rectified)] += 1
                    elsewhere += not given["steps"][number - 1].startswith(f"Step {number}:")
    assert named == {True: 1113, False: 1}
    assert elsewhere == 255, "lines without a marker and blank ones come before the step"


def outcome(row: LabelledRow) -> str:
    labels, wrong = label(row.steps)
    named = None if wrong is None else len(labels) - 1
    if named is None:
        return "rightly none" if row.first_error is None else "missed"
    if row.first_error is None or named < row.first_error:
        return "earlier"
    return "same" if named == row.first_error else "later"


@pytest.mark.parametrize("source", RULE)
def test_the_rule_against_humans(shared_data: Path, source: str) -> None:
    found = Counter(map(outcome, rows(shared_data, (source,))))
    assert tuple(found[kind] for kind in ("same", "earlier", "later", "missed", "rightly none")) == RULE[source]


def test_the_rule_hardly_ever_blames_a_step_that_humans_found_correct(shared_data: Path) -> None:
    """By step, on solutions of word problems; those that it blames are false sums that humans let pass."""
    labels = Counter()
    for row in rows(shared_data, ("eth_stepverify", "mr_gsm8k_partial")):
        labels.update(label(row.steps[: row.first_error])[0])
    assert labels == {"correct": 1206, "neutral": 1196, "incorrect": 3}


def gold_steps(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        answers = [json.loads(line)["answer"].split("####")[0] for line in file]
    return [[line for line in answer.split("\n") if line.strip()] for answer in answers]


@pytest.mark.parametrize(("split", "blamed", "unchecked"), [("train", 35, 2031), ("test", 1, 368)])
def test_the_rule_finds_gsm8k_solutions_correct(shared_data: Path, split: str, blamed: int, unchecked: int) -> None:
    """All but a few; of these most have a slip of the pen. `unchecked` steps state no equation that it can read."""
    found = [label(steps)[0] for steps in gold_steps(shared_data / "gsm8k" / f"{split}.jsonl.gz")]
    counts = Counter(label for labels in found for label in labels)
    assert (counts["incorrect"], counts["neutral"]) == (blamed, unchecked)
