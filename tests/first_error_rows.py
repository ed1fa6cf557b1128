"""Real completions with the first wrong step that humans found, in one shape.

Three sources (`mr_ben_*`) list the lines of a response. Their label is the number of the marker that the step has
(`Step 4:`), not a place in the list: lines without a marker, blank ones above all, stand between the steps and belong
to the step before. (Of 1,114 wrong steps 1,113 were rectified under this number.) The other sources list steps: all are
marked in `mr_gsm8k_partial`, none in `eth_stepverify` and `bbmistake`, where they get a marker here.
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SOURCES = (
    "bbmistake_multistep_arithmetic", "eth_stepverify", "mr_ben_chemistry", "mr_ben_math", "mr_ben_physics",
    "mr_gsm8k_partial",
)  # fmt: skip
PREFILL = "Let's think step by step.\nStep 1: "
MARKED = re.compile(r"Step (\d+): ?")
OPTION = re.compile(r"^[A-Z]: ?(.*?) *$", re.MULTILINE)


class LabelledRow(NamedTuple):
    """A completion, `text`, which has a marker before every step, and its label.

    `steps` are the steps without markers and without white space around them, `first_error` the first wrong one of
    them (None: none); blank steps count nowhere. `(source, id)` is unique; of `eth_stepverify` several rows are one
    completion, which several teachers labelled.
    """

    source: str
    id: str
    problem: str
    options: list[str] | None
    text: str
    steps: list[str]
    first_error: int | None
    gold_answer: str | None
    gold_solution: str | None
    correction: str | None
    final_answer_correct: bool | None

    @property
    def continuation(self) -> str:
        """The completion as it goes on after `PREFILL`: what comes after its first marker."""
        first = MARKED.search(self.text)
        assert first is not None
        return self.text[first.end() :]


def rows(shared_data: Path, sources: tuple[str, ...] = SOURCES) -> Iterator[LabelledRow]:
    """All rows of the sources, in the order of the files."""
    for source in sources:
        with gzip.open(shared_data / "first_error" / f"{source}.jsonl.gz", "rt", encoding="utf-8") as file:
            yield from (_row(json.loads(line)) for line in file)


def _row(given: dict[str, Any]) -> LabelledRow:
    lines = given["steps"]
    if not any(MARKED.match(line) for line in lines):
        lines = [f"Step {number}: {line}" for number, line in enumerate(lines, 1)]
    numbered = [(number, step) for number, step in _marked(lines) if step]
    numbers = [number for number, _ in numbered]
    label = given["first_error"]
    return LabelledRow(
        given["source"],
        given["id"],
        given["problem"],
        OPTION.findall(given["options"]) if given.get("options") else None,
        "\n".join(lines),
        [step for _, step in numbered],
        None if label < 0 else numbers.index(label + 1),
        given["gold_answer"],
        given.get("gold_solution"),
        _correction(given.get("rectified_first_error_step")),
        given["final_answer_correct"],
    )


def _marked(lines: list[str]) -> list[tuple[int, str]]:
    """(number in its marker, step) of every step; lines before the first marker are no step."""
    steps: list[tuple[int, list[str]]] = []
    for line in lines:
        marker = MARKED.match(line)
        if marker is not None:
            steps.append((int(marker[1]), [line[marker.end() :]]))
        elif steps:
            steps[-1][1].append(line)
    return [(number, "\n".join(step).strip()) for number, step in steps]


def _correction(rectified: list[str] | None) -> str | None:
    """The first annotator's version of the wrong step, without its marker."""
    text = next((text.strip() for text in rectified or () if text and text.strip()), None)
    return MARKED.sub("", text, count=1) if text and MARKED.match(text) else text
