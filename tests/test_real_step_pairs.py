"""Step pairs of real completions: MR-Ben's wrong steps against what its annotators wrote in their place."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from builders import pairs_step, prompts_step, samples_corrections
from builders.steps import split_steps
from schemas import Problem, Sample, StepLabels
from schemas.ids import problem_id
from stores.stage import execute
from stores.store import Store
from tests import stage_world as world
from tests import step_world as steps
from tests.first_error_rows import MARKED, PREFILL, LabelledRow, rows

SOURCES = ("mr_ben_math", "mr_ben_physics", "mr_ben_chemistry")
ROWS = {"mr_ben_math": 636, "mr_ben_physics": 457, "mr_ben_chemistry": 612}


class Given(NamedTuple):
    """A row of the source, its sample, and what its annotators (none, one or two) wrote for the wrong step."""

    row: LabelledRow
    sample: Sample
    rectified: list[str]


def given(shared_data: Path) -> Iterator[Given]:
    """All rows of the three subjects, as samples of one prompt per question."""
    count: Counter[str] = Counter()
    for source in SOURCES:
        with gzip.open(shared_data / "first_error" / f"{source}.jsonl.gz", "rt", encoding="utf-8") as file:
            raw = [json.loads(line) for line in file]
        for row, written in zip(rows(shared_data, (source,)), raw, strict=True):
            asked = world.prompt(problem(row), PREFILL)
            sample = world.sample(asked, count[asked.prompt_id], row.continuation)
            count[asked.prompt_id] += 1
            yield Given(row, sample, written.get("rectified_first_error_step") or [])


def problem(row: LabelledRow) -> Problem:
    options = "\n".join(row.options or ())
    question = f"{row.problem}\n{options}"
    return world.problem(question).model_copy(update={"problem_id": problem_id("made", question, None)})


def labels(one: Given) -> Iterator[StepLabels]:
    """A label per annotator, who all name the same step; a person without a correction where there is none."""
    for number, correction in enumerate(one.rectified or [None]):
        yield steps.label(
            one.sample, one.row.first_error, labeler=f"annotator {number}", prefill=PREFILL, correction=correction
        )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[list[Given]]:
    """Writes what the stages read into a directory of their own, and runs them there."""
    root = tmp_path_factory.mktemp("steps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRWRIGHT_LEDGER", str(root / "ledger"))
        patch.chdir(root)
        yield build(shared_data)


def build(shared_data: Path) -> list[Given]:
    everything = list(given(shared_data))
    problems = {p.problem_id: p for p in (problem(one.row) for one in everything)}
    world.write("problems", "train", list(problems.values()))
    world.write("prompts", "train", [world.prompt(p, PREFILL) for p in problems.values()])
    world.write("samples", "drawn", [one.sample for one in everything])
    world.write("step_labels", "labels", [label for one in everything for label in labels(one)])
    steps.write_params(pairs_step={"chosen": "corrected", "rewards": "none"})
    for section, name, module in (
        ("prompts_step", "steps", prompts_step),
        ("samples_corrections", "corrected", samples_corrections),
        ("pairs_step", "step", pairs_step),
    ):
        execute(section, name, module.run)
    return everything


def wrong_step(one: Given) -> tuple[str, str]:
    """What stands before the wrong step of a row and the step, found by its marker in the source's own text."""
    whole, wanted = PREFILL + one.sample.text, one.row.steps[one.row.first_error or 0]
    step = one.row.first_error or 0
    starts = [span.start for span in split_steps(PREFILL, one.sample.text)]
    start = len(PREFILL) + starts[step]
    return whole[:start], whole[start : whole.index(wanted, start) + len(wanted)]


def corrected(one: Given) -> list[str]:
    """What the annotators wrote, as the authors cut a step out, in place of the wrong one after its marker's colon."""
    _, wrong = wrong_step(one)
    space = wrong[: len(wrong) - len(wrong.lstrip())]
    return [space + _without_marker(r.strip()).split("\nStep ")[0].strip() for r in one.rectified]


def _without_marker(text: str) -> str:
    marker = MARKED.match(text)
    return text[marker.end() :] if marker else text


def test_every_row_becomes_pairs_or_a_reject(found: list[Given]) -> None:
    assert Counter(one.row.source for one in found) == ROWS
    wrong = [one for one in found if one.row.first_error is not None]
    right = sorted((one.sample.sample_id, "no_error", "") for one in found if one.row.first_error is None)
    assert (len(wrong), len(right)) == (1_114, 591)
    assert steps.rejects("prompts_step") == steps.rejects("samples_corrections") == right
    assert len(world.read("prompts", "steps")) == len({(problem(one.row), wrong_step(one)[0]) for one in wrong})
    corrections = {row["sample_id"] for row in world.read("samples", "corrected")}
    assert len(corrections) == sum(len(one.rectified) for one in wrong) == 2_228
    dropped = [reject for reject in steps.rejects("pairs_step") if reject[1] != "no_error"]
    assert {reason for _, reason, _ in dropped} == {"duplicate"}
    pairs = world.read("pairs", "step")
    used = {row["chosen_sample_id"] for row in pairs} | {row["rejected_sample_id"] for row in pairs}
    lost = {sample for sample, _, _ in dropped}
    assert used | lost == corrections | {one.sample.sample_id for one in wrong}
    assert not used & lost
    assert (len(pairs), len(dropped)) == (2_503, 35)


def test_pairs_are_the_annotators_steps_against_the_wrong_ones(found: list[Given]) -> None:
    chosen: dict[tuple[str, str], set[str]] = {}
    rejected: dict[tuple[str, str], set[str]] = {}
    for one in found:
        if one.row.first_error is not None:
            before, wrong = wrong_step(one)
            place = problem(one.row).problem_id, before
            rejected.setdefault(place, set()).add(wrong.rstrip())
            chosen.setdefault(place, set()).update(text.rstrip() for text in corrected(one))
    expected = {
        (*place, good, bad) for place, wrong in rejected.items() for good in chosen[place] - wrong for bad in wrong
    }
    found_pairs = Store.open().sql("select problem_id, prefill, chosen, rejected from pair_texts").fetchall()
    pairs = [(asked, prefill, good.rstrip(), bad.rstrip()) for asked, prefill, good, bad in found_pairs]
    assert set(pairs) == expected
    assert len(pairs) == len(expected)


def test_prompt_wrong_step_and_the_rest_are_the_sources_text(found: list[Given]) -> None:
    texts = {one.sample.sample_id: one for one in found}
    query = "select prefill, rejected, rejected_sample_id, rejected_end, chosen_eos or rejected_eos from pair_texts"
    for prefill, rejected, sample, end, ends in Store.open().sql(query).fetchall():
        one = texts[sample]
        assert prefill + rejected + one.sample.text[end:] == PREFILL + one.sample.text
        assert one.row.text.endswith(rejected + one.sample.text[end:])
        assert rejected.strip() == one.row.steps[one.row.first_error or 0]
        assert not ends


def test_the_store_finds_nothing_wrong(found: list[Given]) -> None:
    """Of the rows alone: the runs of rewards and predictions that params name are not built."""
    assert Store.open().check() == []
