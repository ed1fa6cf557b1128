"""The stage `samples_corrections`: given labels with corrections, expect samples that follow the marker of the step."""

from pathlib import Path

import pytest

from builders.model_files import load_tokenizer, write_record
from builders.models import initialise
from builders.rendering import render_ids
from builders.samples_corrections import fitted
from builders.steps import split_steps
from schemas import Prompt, Sample, StepLabels
from schemas.ids import digest, sample_id, text_hash
from stores.paths import run_dir
from tests import stage_world as world
from tests import step_world as steps
from tests.step_world import ASKED, SUM, WRONG, label
from tests.test_samples_gold_import import TINY

FITTED = [
    # correction, the wrong step, expected
    ("2 * 4 = 8.", " 2 * 4 = 6.", " 2 * 4 = 8."),
    ("  2 * 4 = 8.\n", " 2 * 4 = 6.", " 2 * 4 = 8."),
    ("2 * 4 = 8.", "2 * 4 = 6.", "2 * 4 = 8."),
    ("Step 2: 2 * 4 = 8.", " 2 * 4 = 6.", " 2 * 4 = 8."),
    ("step 7:2 * 4 = 8.", " 2 * 4 = 6.", " 2 * 4 = 8."),
    ("**Step 2:** 2 * 4 = 8.", " 2 * 4 = 6.", " 2 * 4 = 8."),
    ("**Step 2:** 2 * 4 = 8.", "** 2 * 4 = 6.", "** 2 * 4 = 8."),
    ("**Step 2**: 2 * 4 = 8.", " 2 * 4 = 6.", " 2 * 4 = 8."),
    ("### Step 2: 2 * 4 = 8.", " 2 * 4 = 6.", " 2 * 4 = 8."),
    ("Step 2: **8** legs", " **6** legs", " **8** legs"),
    ("**8** legs", "**6** legs", "**8** legs"),
    ("Steps are 8.", "\n 6", "\n Steps are 8."),
    ("Use Step 2: 8.", " 6", " Use Step 2: 8."),
    ("8,\nhence 8", " 6", " 8,\nhence 8"),
    ("Step 2:", " 6", ""),
    ("**Step 2:** ", " 6", ""),
    (" \n", " 6", ""),
]


@pytest.mark.parametrize(("correction", "step", "expected"), FITTED)
def test_a_correction_fits_where_the_wrong_step_was(correction: str, step: str, expected: str) -> None:
    assert fitted(correction, step) == expected


def corrected(samples: list[Sample], labels: list[StepLabels], **changes) -> list[dict]:
    prompts = changes.pop("prompts", (ASKED,))
    steps.write(samples, labels, prompts=prompts)
    steps.run("prompts_step")
    steps.write_params(samples_corrections=changes)
    steps.run("samples_corrections")
    return world.read("samples", "corrected")


def test_a_correction_is_a_sample_of_the_prompt_before_the_step(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, WRONG)
    (row,) = corrected([sample], [label(sample, 1, labeler="ada", correction="Step 2: 2 * 4 = 8.")])
    (asked,) = steps.step_prompts()
    fingerprint = digest(["correction", "ada"])
    assert row == dict.fromkeys(Sample.model_fields) | {
        "sample_id": sample_id(asked.prompt_id, fingerprint, 0), "prompt_id": asked.prompt_id,
        "problem_id": ASKED.problem_id, "model": "ada", "model_fingerprint": fingerprint, "index": 0,
        "text": " 2 * 4 = 8.", "text_hash": text_hash(" 2 * 4 = 8."), "n_chars": 11, "finish_reason": "stop",
    }  # fmt: skip
    joined = asked.prefill + row["text"]
    spans = split_steps("", joined)
    assert [joined[s.start : s.end] for s in spans][-1] == " 2 * 4 = 8."
    assert steps.rejects("samples_corrections") == []


def test_corrections_of_one_prompt_are_numbered_by_sample_labeler_and_repeat(workspace: Path) -> None:
    samples = [world.sample(ASKED, i, WRONG) for i in range(2)]
    labels = [
        label(samples[1], 1, labeler="ada", correction="d"),
        label(samples[0], 1, labeler="bob", repeat=1, correction="c"),
        label(samples[0], 1, labeler="bob", correction="b"),
        label(samples[0], 1, labeler="ada", correction="a"),
    ]
    rows = corrected(samples, labels)
    assert sorted((row["index"], row["text"], row["model"]) for row in rows) == [
        (0, " a", "ada"), (1, " b", "bob"), (2, " c", "bob"), (3, " d", "ada"),
    ]  # fmt: skip
    assert len({row["sample_id"] for row in rows}) == 4


def test_labels_without_a_usable_correction_are_rejects(workspace: Path) -> None:
    samples = [world.sample(ASKED, i, f"{WRONG} {i}") for i in range(5)]
    cut_otherwise = label(samples[0], 1, labeler="gus", correction="7")
    first, wrong, last = cut_otherwise.steps
    shorter = wrong.model_copy(update={"end": wrong.end - 1})
    cut_otherwise = cut_otherwise.model_copy(update={"steps": [first, shorter, last]})
    labels = [
        label(samples[0], 1, labeler="ada", correction="8"),
        label(samples[0], 1, labeler="bob"),
        label(samples[0], 1, labeler="cyd", correction="Step 2:"),
        label(samples[0], 2, labeler="dan", correction="9"),
        label(samples[0], -1, labeler="eve"),
        label(samples[0], None, labeler="fay"),
        cut_otherwise,
        label(samples[1], None),
        label(samples[2], -1),
        label(samples[3], 1, labeler="ada", correction="8"),
        label(samples[3], 2, labeler="bob", correction="9"),
    ]
    assert [row["text"] for row in corrected(samples, labels)] == [" 8"]
    assert steps.rejects("samples_corrections") == [
        (samples[0].sample_id, "disputed", "dan, repeat 0"),
        (samples[0].sample_id, "disputed", "fay, repeat 0"),
        (samples[0].sample_id, "disputed", "gus, repeat 0"),
        (samples[0].sample_id, "empty", "cyd, repeat 0"),
        (samples[0].sample_id, "invalid", "eve, repeat 0"),
        (samples[0].sample_id, "no_correction", "bob, repeat 0"),
        (samples[1].sample_id, "no_error", ""),
        (samples[2].sample_id, "invalid", "labels: 1"),
        (samples[3].sample_id, "disputed", "step 2 (1), step 3 (1)"),
        (samples[4].sample_id, "unlabeled", ""),
    ]


def test_tokens_are_those_of_training(workspace: Path) -> None:
    model = run_dir("models", "base")
    model.mkdir(parents=True)
    write_record(model, initialise(TINY, [WRONG], 0, model, "config"))
    sample = world.sample(ASKED, 0, WRONG)
    (row,) = corrected([sample], [label(sample, 1, correction="2 * 4 = 8.")], model="base")
    tokenizer, (asked,) = load_tokenizer(model), steps.step_prompts()
    assert row["n_tokens"] == len(tokenizer.encode(" 2 * 4 = 8.")) + 1
    messages = [m.model_dump() for m in asked.messages]
    assert row["n_prompt_tokens"] == len(render_ids(tokenizer, messages, asked.prefill, "text"))


def test_step_prompts_of_other_labels_are_refused(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, WRONG)
    steps.write([sample], [label(sample, 1)])
    steps.run("prompts_step")
    world.write("step_labels", "labels", [label(sample, 2, correction="8")])
    message = (
        r"samples_corrections.corrected.step_prompts: run 'steps' has no prompt that stops before the first wrong step"
        r" of sample \S+-0000; name the run of prompts_step that was made of the same samples, prompts and step_labels"
    )
    with pytest.raises(ValueError, match=message):
        steps.run("samples_corrections")


def test_a_label_of_another_text_is_refused(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, WRONG)
    steps.write([sample], [label(sample, 2, correction="8")])
    steps.run("prompts_step")
    world.write("samples", "drawn", [world.sample(ASKED, 0, WRONG[:-5])])
    with pytest.raises(ValueError, match=r"names a step that ends after the text of sample \S+-0000; label the"):
        steps.run("samples_corrections")


def test_prompts_of_other_problems_are_refused(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, WRONG)
    steps.write([sample], [label(sample, 1, correction="8")])
    steps.run("prompts_step")
    world.write("prompts", "train", [Prompt.model_validate(world.prompt(SUM).model_dump())])
    with pytest.raises(ValueError, match=r"samples_corrections.corrected.prompts: sample \S+-0000 answers no prompt"):
        steps.run("samples_corrections")
