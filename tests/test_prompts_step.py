"""The stage `prompts_step`: given completions and labels of their steps, expect prompts before wrong ones."""

from pathlib import Path

import pytest

from schemas import Sample, StepLabels
from schemas.ids import prompt_id
from tests import stage_world as world
from tests import step_world as steps
from tests.step_world import ASKED, PREFILL, RIGHT, SUM, WRONG, label


def prefills(samples: list[Sample], labels: list[StepLabels], **more) -> list[str]:
    steps.write(samples, labels, **more)
    steps.run("prompts_step")
    return sorted(row["prefill"] for row in world.read("prompts", "steps"))


@pytest.mark.parametrize(
    ("first_error", "expected"),
    [
        (0, PREFILL),
        (1, PREFILL + "A cat has 4 legs.\nStep 2:"),
        (2, PREFILL + "A cat has 4 legs.\nStep 2: 2 * 4 = 6.\nStep 3:"),
    ],
)
def test_a_prompt_stops_at_the_marker_of_the_first_wrong_step(workspace: Path, first_error: int, expected: str) -> None:
    sample = world.sample(ASKED, 0, WRONG)
    assert prefills([sample], [label(sample, first_error)]) == [expected]
    (row,) = world.read("prompts", "steps")
    messages = [m.model_dump() for m in ASKED.messages]
    assert row == ASKED.model_dump() | {
        "prefill": expected,
        "prompt_id": prompt_id(ASKED.problem_id, messages, expected, "text"),
    }
    assert (row["prompt_id"] == ASKED.prompt_id) == (first_error == 0), "nothing was right: the prompt is the old one"
    assert steps.rejects("prompts_step") == []


def test_a_completion_that_wrote_the_first_marker_is_asked_with_it(workspace: Path) -> None:
    asked = world.prompt(steps.CATS)
    sample = world.sample(asked, 0, "Step 1: A cat has 3 legs.")
    assert prefills([sample], [label(sample, 0, prefill="")], prompts=[asked]) == ["Step 1:"]


def test_completions_with_the_same_correct_start_share_a_prompt(workspace: Path) -> None:
    ends = ["2 * 4 = 6.", "2 * 4 = 9.\nStep 3: So 9.", "2 * 4 = 6."]
    samples = [world.sample(ASKED, i, f"A cat has 4 legs.\nStep 2: {end}") for i, end in enumerate(ends)]
    other = world.sample(ASKED, 3, "A cat has four legs.\nStep 2: 2 * 4 = 6.")
    labels = [label(sample, 1) for sample in (*samples, other)]
    found = prefills([*samples, other], labels)
    assert found == sorted(f"{PREFILL}A cat has {n} legs.\nStep 2:" for n in ("4", "four"))


def test_problems_and_messages_are_kept_apart(workspace: Path) -> None:
    prompts = [ASKED, world.prompt(SUM, PREFILL), world.prompt(SUM, PREFILL, words=" Think.")]
    samples = [world.sample(asked, 0, WRONG) for asked in prompts]
    assert len(prefills(samples, [label(sample, 1) for sample in samples], prompts=prompts)) == 3
    rows = world.read("prompts", "steps")
    assert {row["messages"][0]["content"] for row in rows} == {p.messages[0].content for p in prompts}
    assert [row["prompt_id"] for row in rows] == sorted(row["prompt_id"] for row in rows)


CONSENSUS = [
    # the labels' first errors, expected prefill's last step (None: none), reason and detail of the reject
    ([1], 2, None),
    ([1, 1, 2], 2, None),
    ([2, 1, 2], 3, None),
    ([1, 2], None, ("disputed", "step 2 (1), step 3 (1)")),
    ([1, None], None, ("disputed", "step 2 (1), none (1)")),
    ([1, 1, None], 2, None),
    ([1, None, None], None, ("no_error", "")),
    ([None], None, ("no_error", "")),
    ([-1], None, ("invalid", "labels: 1")),
    ([-1, -1, 1], 2, None),
    ([-1, None], None, ("no_error", "")),
    ([0, 1, 2], None, ("disputed", "step 1 (1), step 2 (1), step 3 (1)")),
    ([], None, ("unlabeled", "")),
]


@pytest.mark.parametrize(("errors", "step", "reject"), CONSENSUS, ids=[str(errors) for errors, *_ in CONSENSUS])
def test_the_step_that_most_labels_name_counts(
    workspace: Path, errors: list[int | None], step: int | None, reject: tuple[str, str] | None
) -> None:
    sample = world.sample(ASKED, 0, WRONG)
    labels = [label(sample, error, labeler=f"person {i}") for i, error in enumerate(errors)]
    found = prefills([sample], labels)
    assert [f"Step {step}:" in prefill[-8:] for prefill in found] == ([True] if step else [])
    assert steps.rejects("prompts_step") == ([] if reject is None else [(sample.sample_id, *reject)])


def test_repeats_of_one_labeler_are_votes_too(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, WRONG)
    labels = [label(sample, error, repeat=i) for i, error in enumerate([1, 2, 1])]
    assert prefills([sample], labels) == [PREFILL + "A cat has 4 legs.\nStep 2:"]


def test_every_sample_has_a_prompt_or_is_a_reject(workspace: Path) -> None:
    samples = [world.sample(ASKED, i, f"{WRONG} {i}") for i in range(6)] + [world.sample(ASKED, 6, RIGHT)]
    labels = [label(s, e) for s, e in zip(samples, [0, 1, 2, None, -1], strict=False)]
    assert len(prefills(samples, labels)) == 3
    assert [(sample, reason) for sample, reason, _ in steps.rejects("prompts_step")] == [
        (samples[3].sample_id, "no_error"),
        (samples[4].sample_id, "invalid"),
        (samples[5].sample_id, "unlabeled"),
        (samples[6].sample_id, "unlabeled"),
    ]


def test_spans_count_code_points(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, "🐈\u200d⬛ e\u0301lan: 4.\nStep 2: 6")
    assert prefills([sample], [label(sample, 1)]) == [PREFILL + "🐈\u200d⬛ e\u0301lan: 4.\nStep 2:"]


def test_labels_of_other_samples_are_refused(workspace: Path) -> None:
    samples = [world.sample(ASKED, i, WRONG) for i in range(2)]
    with pytest.raises(ValueError, match=r"prompts_step.steps: step_labels run 'labels' labels sample \S+-0001, which"):
        prefills(samples[:1], [label(sample, 1) for sample in samples])


def test_samples_of_other_prompts_are_refused(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, WRONG)
    with pytest.raises(ValueError, match=r"prompts_step.steps.prompts: sample \S+ answers no prompt of run 'train'"):
        prefills([sample], [label(sample, 1)], prompts=[world.prompt(SUM)])
    homeless = sample.model_copy(update={"prompt_id": None})
    with pytest.raises(ValueError, match="answers no prompt of run 'train'"):
        prefills([homeless], [label(sample, 1)])


def test_no_samples_give_no_prompts(workspace: Path) -> None:
    assert prefills([], []) == []
