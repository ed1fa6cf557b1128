"""One row per (real samples, checker, their label, our verdict, class of disagreement), with the number of samples.

    python -m tests.real_verdicts

The samples, their labels and what they were labelled by are described in the README beside them. Texts go through
`extract` and `matches` as in the stages `predictions` and `rewards`; programs run in the sandbox. Class `agrees` is all
that agree; every other sample is of the first class whose condition holds, and `unexplained` must stay empty.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from builders.checkers import extract_all, get_checker
from builders.checkers.number import number_value
from builders.checkers.program_text import entry, program_text
from builders.checkers.sandbox import Sandbox
from builders.checkers.verdicts import VERDICTS
from tests.conftest import REPOSITORY


class Judged(NamedTuple):
    """A sample with its source's label and answer, and ours. `right` is None where the source has no label."""

    text: str
    gold: str
    theirs: str
    right: bool
    extracted: str | None
    verdict: str

    @property
    def agrees(self) -> bool:
        return (self.verdict == "correct") == self.right and self.verdict != "undecided"


Class = tuple[str, Callable[[Judged], bool]]


def _number(text: str | None) -> float | None:
    value = number_value(text) if text else None
    return None if value is None else float(value)


def _simple(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def _says(judged: Judged) -> bool:
    """Whether the text holds the source's answer too; a date may lack its zeros there."""
    plain = re.sub(r"\b0", "", judged.theirs)
    return any(_simple(answer) in _simple(judged.text) for answer in (judged.theirs, plain))


def _opposite(judged: Judged) -> bool:
    ours, gold = _number(judged.extracted), _number(judged.gold)
    return ours is not None and gold is not None and ours < 0 and abs(ours + gold) < 1e-9


def _near(judged: Judged) -> bool:
    ours, gold = _number(judged.extracted), _number(judged.gold)
    return ours is not None and gold is not None and abs(ours - gold) < 0.011 + abs(gold) * 0.01


_UNDECIDED: list[Class] = [
    ("the program needs numpy or sympy", lambda j: (j.extracted or "").startswith("undecided: no module")),
    ("the program does not end", lambda j: j.extracted == "undecided: limit of time"),
]
_TORA_TEXT: list[Class] = [
    ("no box: the last number of the sentence is another", lambda j: j.verdict == "wrong" and "boxed" not in j.text),
]
_TORA_PROGRAM: list[Class] = [
    *_UNDECIDED,
    ("the program raises, the text answers nevertheless", lambda j: j.verdict == "no_answer" and "Error" in j.text),
    ("the program is right, the text is wrong or missing", lambda j: j.verdict == "correct"),
    ("the text drops the sign of the value", _opposite),
    ("the text takes the first of several values", lambda j: (j.extracted or "").startswith("(")),
    ("the text rounds or corrects the value", lambda j: j.verdict == "wrong"),
]
_POT: list[Class] = [
    *_UNDECIDED,
    ("the source takes the first of several values", lambda j: (j.extracted or "").startswith("(")),
    ("the source drops the sign of the value", _opposite),
]
_VERIFY_COT: list[Class] = [
    ("right, but not written as MM/DD/YYYY", lambda j: j.verdict == "correct" and j.theirs == "No answer!"),
    ("several dates, and the last is another", lambda j: j.verdict == "wrong" and j.theirs == j.gold),
    ("the source read an earlier date or quotation", lambda j: j.verdict == "correct" and _says(j)),
]
_REFT: list[Class] = [("gold is rounded, or of another rounding", _near)]

_REFT_RULE: list[Class] = [
    ("a percent sign is no number to the authors' code", lambda j: j.verdict == "no_answer" and j.text.endswith("%")),
    ("another last sentence", lambda j: j.verdict == "no_answer" and "Therefore, the answer is" not in j.text),
    *_REFT,
]


def samples(root: Path, name: str, data_set: str | None = None) -> Iterator[tuple[str, str, str, bool]]:
    """(text, gold, the source's answer, its label) of one `model_samples` table."""
    folder = root / "model_samples"
    problems = pq.read_table(folder / f"{name}.problems.parquet", columns=["problem_id", "gold", "dataset"]).to_pylist()
    asked = {row["problem_id"]: row for row in problems}
    for row in pq.read_table(folder / f"{name}.samples.parquet").to_pylist():
        problem = asked[row["problem_id"]]
        if data_set in (None, problem["dataset"]):
            yield row["response"], problem["gold"], str(row["pred"]), row["is_correct"]


def chains(root: Path, name: str) -> Iterator[tuple[str, str, str, bool]]:
    """ReFT's chains, which its authors kept because they are right."""
    with gzip.open(root / "reft" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            yield row["answer_cot"], row["answer_value"], "", True


def stated_chains(root: Path, name: str) -> Iterator[tuple[str, str, str, bool]]:
    """Chains whose own last sentence, `Therefore, the answer is <…>.`, is put as the authors' code reads it."""
    for text, gold, theirs, right in chains(root, name):
        stated = re.sub(r"\s*Therefore, the answer is <(.*)>\.$", r"\nTherefore, the answer is: \1", text)
        yield stated, gold, theirs, right


COT = "verify_cot_chatgpt_x10"
SOURCES: list[tuple[str, str, Callable[[Path], Iterator[tuple[str, str, str, bool]]], list[Class]]] = [
    # name, checker, samples, classes
    ("tora", "number", lambda root: samples(root, "tora_gsm8k_tool"), _TORA_TEXT),
    ("tora", "program", lambda root: samples(root, "tora_gsm8k_tool"), _TORA_PROGRAM),
    ("pot", "program", lambda root: samples(root, "pot_pcot"), _POT),
    ("verify_cot date", "text", lambda root: samples(root, COT, "date"), _VERIFY_COT),
    (
        "verify_cot last_letters",
        "text",
        lambda root: samples(root, COT, "last_letters"),
        _VERIFY_COT,
    ),
    ("verify_cot addsub", "number", lambda root: samples(root, COT, "addsub"), []),
    ("reft svamp programs", "program", lambda root: chains(root, "svamp_python_sdp"), _REFT),
    ("reft svamp programs", "reft_program", lambda root: chains(root, "svamp_python_sdp"), _REFT),
    ("reft svamp chains", "number", lambda root: chains(root, "svamp_nl"), _REFT),
    ("reft svamp chains", "reft_number", lambda root: stated_chains(root, "svamp_nl"), _REFT_RULE),
]


def judged(checker: str, rows: Iterator[tuple[str, str, str, bool]]) -> list[Judged]:
    """The rows with our answers and verdicts."""
    given = list(rows)
    with get_checker(checker) as opened:
        extracted = extract_all(opened, [("", text, None) for text, *_ in given])
        stated = [(answer, row[1]) for answer, row in zip(extracted, given, strict=True) if answer is not None]
        verdicts = iter(opened.matches(stated))
        ours = ["no_answer" if answer is None else VERDICTS[next(verdicts)] for answer in extracted]
    return [Judged(*row, answer, verdict) for row, answer, verdict in zip(given, extracted, ours, strict=True)]


def table(root: Path) -> Counter[tuple[str, str, str, str, str]]:
    """(samples, checker, label, verdict, class) -> number of samples."""
    counts: Counter[tuple[str, str, str, str, str]] = Counter()
    for name, checker, rows, classes in SOURCES:
        for sample in judged(checker, rows(root)):
            kind = next((title for title, holds in classes if holds(sample)), "unexplained")
            label = "right" if sample.right else "wrong"
            counts[name, checker, label, sample.verdict, "agrees" if sample.agrees else kind] += 1
    return counts


PROGRAMS: dict[str, Callable[[Path], Iterator[tuple[str, str, str, bool]]]] = {
    "reft svamp programs": lambda root: chains(root, "svamp_python_sdp"),
    "pot": lambda root: samples(root, "pot_pcot"),
    "tora": lambda root: samples(root, "tora_gsm8k_tool"),
}


def endings(rows: Iterator[tuple[str, str, str, bool]]) -> Counter[str]:
    """How programs end -> how many: with a value, an exception (its class), or undecided (why)."""
    programs = [program_text("", text) for text, *_ in rows]
    found = [program for program in programs if program is not None]
    sandbox = Sandbox()
    try:
        outcomes = sandbox.run_all([(program, entry(program)) for program in found])
    finally:
        sandbox.close()
    kinds = Counter((outcome.error or "value").partition(":")[0] for outcome in outcomes)
    return kinds + Counter({"no program": programs.count(None)})


def main() -> None:
    for row, count in sorted(table(REPOSITORY.parent / "shared" / "data").items()):
        print(f"{count:6}  {row[0]:24} {row[1]:13} label {row[2]:6} {row[3]:10} {row[4]}")
    for name, rows in PROGRAMS.items():
        for ending, count in endings(rows(REPOSITORY.parent / "shared" / "data")).most_common():
            print(f"{count:6}  {name:24} ends with: {ending}")


if __name__ == "__main__":
    main()
