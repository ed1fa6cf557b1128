"""Contamination in real problems: every planted copy of a test question is found, and what else is found is counted."""

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import quality
from stores.stage import execute
from tests import stage_world as world

pytestmark = pytest.mark.slow
PLANTED = 60
"""Test questions of each kind of copy."""
RNG = random.Random(0)


def number_changed(text: str) -> str:
    numbers = list(re.finditer(r"\d+", text)) or [re.match("", text)]
    place = RNG.choice(numbers)
    assert place is not None
    return f"{text[: place.start()]}{int(place[0] or 0) + 7}{text[place.end() :]}"


def word_changed(text: str) -> str:
    found = text.split()
    found[RNG.randrange(len(found))] = "banana"
    return " ".join(found)


def sentences_moved(text: str) -> str:
    sentences = re.split(r"(?<=[.?!])\s+", text)
    return " ".join([*sentences[1:], sentences[0]])


COPIES: dict[str, Callable[[str], str]] = {
    "copy": lambda text: text + " ",
    "typography": lambda text: "  ".join(text.upper().split()).replace("'", "’"),
    "number": number_changed,
    "word": word_changed,
    "order": sentences_moved,
    "inside": lambda text: f"Here is a task that I found in an old book. {text} Answer it in one short sentence.",
}


def questions(path: Path, column: str) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return list(dict.fromkeys(json.loads(line)[column] for line in file))


def examined(train: list[str], test: list[str]) -> list[dict[str, Any]]:
    for name, rows in (("train", train), ("test", test)):
        world.write("problems", name, [world.problem(question) for question in rows])
    against = {"a": "test", "b": "none", "c": "none", "d": "none"}
    runs = {"clean": {"problems": "train", "against": against, "drop": ["contaminated"]}}
    world.write_params(problems=dict.fromkeys(("train", "test"), world.PROBLEMS), quality=runs)
    execute("quality", "clean", quality.run)
    return world.read("findings", "clean")


def planted(test: list[str], long_enough: int) -> dict[str, tuple[str, str]]:
    """Copy -> (kind of copy, the test question)."""
    usable = [question for question in test if len(question.split()) >= long_enough]
    chosen = RNG.sample(usable, PLANTED * len(COPIES))
    kinds = [kind for kind in COPIES for _ in range(PLANTED)]
    return {COPIES[kind](question): (kind, question) for kind, question in zip(kinds, chosen, strict=True)}


def found_in_test(findings: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Problem id -> ids of the test problems that it is like."""
    found: dict[str, set[str]] = {}
    for row in findings:
        if row["other_run"] == "test":
            found.setdefault(row["problem_id"], set()).add(row["other_problem_id"])
    return found


@pytest.mark.parametrize(
    ("folder", "column", "long_enough", "counts", "within"),
    [
        ("gsm8k", "question", 0, {"shared_ngram": 2}, {"near_duplicate": 5}),
        (
            "math",
            "problem",
            18,
            {"shared_ngram": 427, "near_duplicate": 289, "duplicate": 3},
            {"near_duplicate": 212, "duplicate": 2},
        ),
    ],
)
def test_every_planted_copy_is_found(
    shared_data: Path, workspace: Path, folder: str, column: str, long_enough: int, counts: dict[str, int],
    within: dict[str, int],
) -> None:  # fmt: skip
    """A copy with one changed word is sure to be found from 18 words on. What else is found is counted exactly, too."""
    train, test = (questions(shared_data / folder / f"{split}.jsonl.gz", column) for split in ("train", "test"))
    copies = planted(test, long_enough)
    findings = examined([*train, *copies], test)
    found = found_in_test(findings)
    identities = {text: world.problem(text).problem_id for text in copies}
    missed = Counter(
        kind
        for text, (kind, question) in copies.items()
        if world.problem(question).problem_id not in found.get(identities[text], set())
    )
    others = [row for row in findings if row["problem_id"] not in set(identities.values())]
    assert missed == Counter()
    dropped = {identity for identity, *_ in world.rejects("quality", "clean")}
    assert dropped == set(found)
    assert Counter(row["kind"] for row in others if row["other_run"] == "test") == counts
    assert Counter(row["kind"] for row in others if row["other_run"] == "train") == within
