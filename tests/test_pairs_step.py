"""The stage `pairs_step`: given wrong steps, continuations and verdicts, expect pairs of steps and rejects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import stores.progress
from builders import pairs_step
from builders.pairs_step import first_step
from schemas import Pair, Prompt, Sample, StepLabels
from schemas.ids import text_hash
from schemas.step_labels import StepSpan
from stores.parquet import texts_digest
from stores.paths import run_dir
from tests import stage_world as world
from tests import step_world as steps
from tests.step_world import ASKED, CATS, PREFILL, SUM, label, reward

START = "A cat has 4 legs."
BAD = f"{START}\nStep 2: 2 * 4 = 6.\nStep 3: So 6."
BAD_STEP, GOOD_STEP = " 2 * 4 = 6.", " 2 * 4 = 8."
GOOD = f"{GOOD_STEP}\nStep 3: So 8."


class World:
    """One problem, whose samples go wrong at step 2 after the same start, and continuations of that start."""

    def __init__(self, rejected: Sequence[str] = (BAD,), **reasons: str):
        self.rejected = [world.sample(ASKED, i, text, reasons.get(f"_{i}", "stop")) for i, text in enumerate(rejected)]
        steps.write(self.rejected, [label(s, 1) for s in self.rejected])
        steps.run("prompts_step")
        self.prompts = steps.step_prompts()

    def pairs(
        self,
        continuations: Sequence[str | tuple[str, str]],
        signs: str | None = None,
        judged: Sequence[int | None] | None = None,
        **config: Any,
    ) -> list[tuple[int, int, int]]:
        """(rank, index of the continuation, index of the sample) of the pairs; `judged`: labels of continuations."""
        (asked,) = self.prompts
        given = [(text, "stop") if isinstance(text, str) else text for text in continuations]
        self.chosen = [world.sample(asked, i, *what) for i, what in enumerate(given)]
        verdicts = [reward(s, sign) for s, sign in zip(self.chosen, signs or "+" * len(given), strict=True)]
        labels = [
            label(s, error, prefill=asked.prefill)
            for s, error in zip(self.chosen, judged or (), strict=False)
            if error != "none"
        ]
        return self.run(self.chosen, verdicts, labels, **{"judged": "judged" if judged else "none"} | config)

    def run(
        self, chosen: Sequence[Sample], verdicts: Sequence[Any], labels: Sequence[StepLabels] = (), **config: Any
    ) -> list[tuple[int, int, int]]:
        world.write("samples", "continued", chosen)
        world.write("rewards", "continued", verdicts)
        world.write("step_labels", "judged", labels)
        steps.write_params(pairs_step=config)
        steps.run("pairs_step")
        self.rows = world.read("pairs", "step")
        place = lambda i: int(i[-4:])  # noqa: E731
        return [(r["rank"], place(r["chosen_sample_id"]), place(r["rejected_sample_id"])) for r in self.rows]

    def rejects(self) -> list[tuple[str, int, str, str]]:
        """(side, index, reason, detail) of all rejects, `detail` with indexes in place of sample ids."""
        sides = {s.sample_id: ("rejected", s.index) for s in self.rejected}
        sides |= {s.sample_id: ("chosen", s.index) for s in self.chosen}
        found = []
        for sample, reason, detail in steps.rejects("pairs_step"):
            for known, (_, index) in sides.items():
                detail = detail.replace(known, str(index))
            assert sample is not None
            found.append((*sides[sample], reason, detail))
        return sorted(found)


def test_a_pair_is_two_steps_after_the_same_start(workspace: Path) -> None:
    world_ = World()
    assert world_.pairs([GOOD]) == [(0, 0, 0)]
    (row,), (asked,), bad, good = world_.rows, world_.prompts, world_.rejected[0], world_.chosen[0]
    start = len(START) + len("\nStep 2:")
    assert row == {
        "prompt_id": asked.prompt_id, "rank": 0, "problem_id": CATS.problem_id,
        "chosen_sample_id": good.sample_id, "chosen_start": 0, "chosen_end": len(GOOD_STEP), "chosen_eos": False,
        "rejected_sample_id": bad.sample_id, "rejected_start": start, "rejected_end": start + len(BAD_STEP),
        "rejected_eos": False,
    }  # fmt: skip
    assert asked.prefill == PREFILL + bad.text[:start], "DESIGN: what the pair's prompt gives is what the sample said"
    assert bad.text[start : row["rejected_end"]] == BAD_STEP
    assert world_.rejects() == []


def test_completions_reach_to_their_ends(workspace: Path) -> None:
    world_ = World([BAD], _0="length")
    assert world_.pairs([GOOD, (" 8.\nStep 3: So", "length")], span="completion") == [(0, 0, 0), (1, 1, 0)]
    first, second = (Pair.model_validate(row) for row in world_.rows)
    assert (first.chosen_end, first.chosen_eos) == (len(GOOD), True)
    assert (second.chosen_end, second.chosen_eos) == (len(" 8.\nStep 3: So"), False)
    assert (first.rejected_end, first.rejected_eos) == (len(BAD), False)


def test_the_same_pairs_are_taken_of_steps_and_of_completions(workspace: Path) -> None:
    """So that a comparison of both is of the same pairs."""
    world_ = World([BAD, BAD.replace("So", "Hence")])
    texts = [GOOD, f"{GOOD_STEP}\nStep 3: Hence 8.", " 4 + 4 = 8.", BAD_STEP]
    assert world_.pairs(texts) == world_.pairs(texts, span="completion") == [(0, 0, 0), (1, 2, 0)]


VERDICTS = [
    # verdicts, chosen indexes, reasons of the others
    ("+", [0], {}),
    ("-+", [1], {0: "wrong"}),
    ("?+0", [1], {0: "undecided", 2: "no_answer"}),
    ("?", [], {0: "undecided"}),
    ("-", [], {0: "wrong"}),
]


@pytest.mark.parametrize(("signs", "chosen", "reasons"), VERDICTS)
def test_only_correct_continuations_are_chosen(
    workspace: Path, signs: str, chosen: list[int], reasons: dict[int, str]
) -> None:
    world_ = World()
    texts = [f" {i} + 8 - {i} = 8." for i in range(len(signs))]
    assert [c for _, c, _ in world_.pairs(texts, signs)] == chosen
    dropped = world_.rejects()
    assert {index: reason for side, index, reason, _ in dropped if side == "chosen"} == reasons
    said = f"continuations: {len(signs)}, correct: 0, undecided: {signs.count('?')}"
    assert [r[1:] for r in dropped if r[0] == "rejected"] == ([] if chosen else [(0, "no_chosen", said)])


def test_without_rewards_all_continuations_count_as_correct(workspace: Path) -> None:
    assert World().pairs([GOOD, " 8"], "--", rewards="none") == [(0, 0, 0), (1, 1, 0)]


def test_a_blank_wrong_step_is_no_side_of_a_pair(workspace: Path) -> None:
    """The splitter gives none, but a label's spans may be anybody's."""
    world_ = World()
    start = len(START) + len("\nStep 2:")
    blank = label(world_.rejected[0], 1).model_copy(
        update={"steps": [StepSpan(start=0, end=1), StepSpan(start=start, end=start + 1)]}
    )
    world.write("step_labels", "labels", [blank])
    assert world_.pairs([GOOD]) == []
    assert world_.rejects() == [("rejected", 0, "empty", "")]


STEPS_CHOSEN = [
    # continuations, chosen indexes, (index, reason, detail) of the others
    ([GOOD, " 4 + 4 = 8."], [0, 1], []),
    ([GOOD, f"{GOOD_STEP}\nStep 3: Otherwise."], [0], [(1, "duplicate", "the step of 0")]),
    ([GOOD, GOOD_STEP + " "], [0, 1], []),
    ([BAD_STEP + "\nStep 3: No, 8."], [], [(0, "duplicate", "the wrong step of 0")]),
    (["\nStep 3: So 8."], [], [(0, "empty", "")]),
    (["", GOOD], [1], [(0, "empty", "")]),
    ([(GOOD_STEP, "length")], [], [(0, "truncated", "")]),
    ([(GOOD, "length")], [0], []),
    ([(" 2 * 4 =", "length"), " 2 * 4 ="], [1], [(0, "truncated", "")]),
]


@pytest.mark.parametrize(("texts", "chosen", "dropped"), STEPS_CHOSEN)
def test_steps_to_choose_are_whole_distinct_and_not_known_to_be_wrong(
    workspace: Path, texts: list[Any], chosen: list[int], dropped: list[tuple[int, str, str]]
) -> None:
    world_ = World()
    assert [c for _, c, _ in world_.pairs(texts)] == chosen
    assert [r[1:] for r in world_.rejects() if r[0] == "chosen"] == dropped


def test_each_chosen_step_meets_each_wrong_one(workspace: Path) -> None:
    """The first continuation comes first, so that a limit keeps every wrong step as long as it can."""
    other = BAD.replace("= 6", "= 7")
    world_ = World([BAD, other, f"{START}\nStep 2:{BAD_STEP}\nStep 3: And so 6."])
    texts = [GOOD, " 4 + 4 = 8.", " 2 * 4 = 7."]
    expected = [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]
    assert world_.pairs(texts) == expected
    duplicates = [
        ("chosen", 2, "duplicate", "the wrong step of 1"),
        ("rejected", 2, "duplicate", "the wrong step of 0"),
    ]
    assert world_.rejects() == duplicates
    assert world_.pairs(texts, max_per_prompt=3) == expected[:3]
    assert world_.rejects() == sorted([*duplicates, ("chosen", 1, "capped", "against 1")])
    assert world_.pairs(texts, max_per_prompt=1) == expected[:1]


@pytest.mark.parametrize(
    ("signs", "least", "kept"),
    [
        ("++--", 0.5, True), ("+---", 0.5, False), ("+-??", 0.5, True), ("+0-?", 0.5, False), ("+--", 0.3333, True),
        ("++++", 1.0, True), ("+++-", 1.0, False),
    ],
)  # fmt: skip
def test_accuracy_is_over_all_decided_continuations_of_a_start(
    workspace: Path, signs: str, least: float, kept: bool
) -> None:
    world_ = World()
    texts = [f" {i} + 8 - {i} = 8." for i in range(len(signs))]
    correct = [i for i, sign in enumerate(signs) if sign == "+"]
    assert [c for _, c, _ in world_.pairs(texts, signs, min_accuracy=least)] == (correct if kept else [])
    low = {(side, index) for side, index, reason, _ in world_.rejects() if reason == "low_accuracy"}
    assert low == (set() if kept else {("rejected", 0), *(("chosen", i) for i in correct)})


def test_judged_continuations_with_a_wrong_step_are_dropped(workspace: Path) -> None:
    """A label that is missing or invalid is no leave to use the continuation."""
    world_ = World()
    texts = [f" {i} + 8 - {i} = 8.\nStep 3: So 8." for i in range(6)]
    judged: list[Any] = [None, 0, 1, -1, "none", None]
    assert world_.pairs(texts, "+++++-", judged) == [(0, 0, 0)]
    assert [r[1:] for r in world_.rejects()] == [
        (1, "wrong_step", "step 1"),
        (2, "wrong_step", "step 2"),
        (3, "invalid", "labels: 1"),
        (4, "unlabeled", ""),
        (5, "wrong", ""),
    ]


def test_a_continuation_that_is_dropped_leaves_its_step_to_a_later_one(workspace: Path) -> None:
    world_ = World()
    texts = [GOOD, GOOD + " Yes.", GOOD + " Oh yes."]
    assert world_.pairs(texts, "-++", [None, 0, None]) == [(0, 2, 0)]


def test_over_long_pairs_are_rejects(workspace: Path) -> None:
    world_ = World([BAD, BAD.replace("= 6", "= 7")])
    world_.rejected = [s.model_copy(update={"n_prompt_tokens": 5, "n_tokens": 10 + s.index}) for s in world_.rejected]
    world.write("samples", "drawn", world_.rejected)
    (asked,) = world_.prompts
    world_.chosen = [
        world.sample(asked, i, f" {i}").model_copy(update={"n_prompt_tokens": 9, "n_tokens": 3 + 4 * i})
        for i in range(3)
    ]
    verdicts = [reward(s, "+") for s in world_.chosen]
    assert world_.run(world_.chosen, verdicts, max_tokens=15) == [(0, 0, 0)]
    assert {r[:3] for r in world_.rejects()} == {("chosen", i, "over_long") for i in range(3)}
    assert len(world_.rejects()) == 5
    assert world_.run(world_.chosen, verdicts, max_tokens=16, max_per_prompt=3) == [(0, 0, 0), (1, 0, 1), (2, 1, 0)]
    assert sorted(r[2] for r in world_.rejects()) == ["capped", "over_long", "over_long"]
    longest_first = [s.model_copy(update={"n_tokens": 8 - 4 * s.index}) for s in world_.chosen[:2]]
    assert world_.run(longest_first, verdicts[:2], max_tokens=16) == [(0, 1, 0), (1, 1, 1)], "ranks are of those kept"
    uncounted = [s.model_copy(update={"n_tokens": None}) for s in world_.chosen]
    with pytest.raises(ValueError, match=r"pairs_step.step.max_tokens: the tokens of sample \S+-0000 are not known"):
        world_.run(uncounted, verdicts, max_tokens=16)


def test_where_the_first_step_is_wrong_the_prompt_is_the_samples_own(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, "A cat has 3 legs.\nStep 2: 6.")
    steps.write([sample], [label(sample, 0)])
    steps.run("prompts_step")
    chosen = [world.sample(ASKED, i, text) for i, text in enumerate([BAD, "A cat has 3 legs.\nStep 2: 6, no, 8."])]
    world.write("samples", "continued", chosen)
    world.write("rewards", "continued", [reward(s, "+") for s in chosen])
    steps.run("pairs_step")
    (row,) = world.read("pairs", "step")
    assert row["prompt_id"] == ASKED.prompt_id
    assert (row["chosen_sample_id"], row["chosen_end"]) == (chosen[0].sample_id, len(START))
    assert (row["rejected_start"], row["rejected_end"]) == (0, len("A cat has 3 legs."))


def test_samples_without_a_wrong_step_are_rejects(workspace: Path) -> None:
    samples = [world.sample(ASKED, i, f"{BAD} {i}") for i in range(5)]
    labels = [label(samples[0], 1), label(samples[1], None), label(samples[2], -1)]
    labels += [label(samples[3], i, labeler=str(i)) for i in (1, 2)]
    steps.write(samples, labels)
    steps.run("prompts_step")
    world_ = World.__new__(World)
    world_.rejected, world_.prompts = samples, steps.step_prompts()
    assert world_.pairs([GOOD]) == [(0, 0, 0)]
    assert [r[1:3] for r in world_.rejects()] == [
        (1, "no_error"), (2, "invalid"), (3, "disputed"), (4, "unlabeled"),
    ]  # fmt: skip


def test_corrections_are_chosen_as_they_are(workspace: Path) -> None:
    sample = world.sample(ASKED, 0, BAD)
    correction = "Step 2: 2 * 4 = 8,\nwhich is 8.\nStep 3: So 8."
    steps.write([sample], [label(sample, 1, labeler="ada", correction=correction)])
    steps.run("prompts_step")
    steps.run("samples_corrections")
    steps.write_params(pairs_step={"chosen": "corrected", "rewards": "none"})
    steps.run("pairs_step")
    (row,), (chosen,) = world.read("pairs", "step"), world.read("samples", "corrected")
    assert chosen["text"][row["chosen_start"] : row["chosen_end"]] == " 2 * 4 = 8,\nwhich is 8."
    steps.write_params(pairs_step={"chosen": "corrected", "rewards": "none", "span": "completion"})
    with pytest.raises(ValueError, match=r"pairs_step.step.span: 'corrected' holds single corrected steps"):
        steps.run("pairs_step")


FIRST_STEPS = [
    # prefill, continuation, end of its first step
    ("Step 2:", " 8.\nStep 3: So.", 3),
    ("Step 2: ", "8.", 2),
    ("Step 2:", "\n\n8.\nStep 3: So.", 4),
    ("Step 2:", "\nStep 3: So.", None),
    ("Step 2:", " ", None),
    ("", "\nFour legs.\nEight.", 11),
    ("So:\n", "Four legs.\nEight.", 10),
    ("So:\n", "First this.\nStep 1: Eight.", None),
]


@pytest.mark.parametrize(("prefill", "text", "end"), FIRST_STEPS)
def test_a_first_step_begins_where_the_prefill_ends(prefill: str, text: str, end: int | None) -> None:
    assert first_step(prefill, text) == end


def test_a_changed_text_changes_the_files_though_all_ids_stay(workspace: Path) -> None:
    world_, digests = World(), []
    for text in (GOOD, GOOD.replace("2 * 4", "4 * 2"), GOOD.replace("So 8", "So 9")):
        world_.pairs([text])
        digests.append(texts_digest(run_dir("pairs", "step")))
    assert digests[0] != digests[1]
    assert digests[0] == digests[2], "what is not in the span changes nothing"
    world_.pairs([GOOD], span="completion")
    whole = texts_digest(run_dir("pairs", "step"))
    world_.pairs([GOOD.replace("So 8", "So 9")], span="completion")
    assert texts_digest(run_dir("pairs", "step")) != whole


def test_step_prompts_of_other_labels_are_refused(workspace: Path) -> None:
    world_ = World()
    world.write("step_labels", "labels", [label(world_.rejected[0], 2)])
    message = r"pairs_step.step.prompts: run 'steps' has no prompt that stops before the first wrong step of sample \S+"
    with pytest.raises(ValueError, match=message):
        world_.pairs([GOOD])


def test_a_text_that_is_not_the_prompts_is_refused(workspace: Path) -> None:
    world_ = World()
    world.write("samples", "drawn", [world.sample(ASKED, 0, BAD.replace("4 legs", "5 legs"))])
    with pytest.raises(ValueError, match=r"pairs_step.step.prompts: run 'steps' has no prompt that stops before"):
        world_.pairs([GOOD])


def test_own_prompts_with_other_words_or_prefill_are_refused(workspace: Path) -> None:
    world_ = World()
    message = ASKED.messages[0].model_copy(update={"content": "Else?"})
    for change in ({"messages": [message]}, {"prefill": "Step 1: "}, {"rendering": "chat"}):
        world.write("prompts", "train", [ASKED.model_copy(update=change)])
        with pytest.raises(ValueError, match=r"pairs_step.step.prompts: run 'steps' has no prompt that stops before"):
            world_.pairs([GOOD])
    world.write("prompts", "train", [world.prompt(SUM, PREFILL)])
    with pytest.raises(ValueError, match=r"pairs_step.step.rejected_prompts: sample \S+ answers no prompt of run 'tr"):
        world_.pairs([GOOD])


def test_continuations_of_other_prompts_or_without_verdicts_are_refused(workspace: Path) -> None:
    world_ = World()
    (asked,) = world_.prompts
    other = world.sample(world.prompt(CATS, "Step 7:"), 0, GOOD)
    with pytest.raises(ValueError, match=r"pairs_step.step.chosen: sample \S+ of run 'continued' continues no prompt"):
        world_.run([other], [reward(other, "+")])
    with pytest.raises(ValueError, match=r"pairs_step.step.rewards: run 'continued' has no verdict of sample \S+"):
        world_.run([world.sample(asked, 0, GOOD)], [])
    chosen = world.sample(asked, 0, GOOD)
    foreign = label(other, None, prefill="Step 7:")
    with pytest.raises(ValueError, match=r"pairs_step.step: step_labels run 'judged' labels sample \S+, which is not"):
        world_.run([chosen], [reward(chosen, "+")], [foreign], judged="judged")


def test_continuations_where_no_sample_goes_wrong_are_rejects(workspace: Path) -> None:
    world_ = World()
    extra = Prompt.model_validate(world.prompt(SUM, "Step 7:").model_dump())
    world.write("prompts", "steps", [*world_.prompts, extra])
    chosen = [world.sample(world_.prompts[0], 0, GOOD), world.sample(extra, 0, GOOD)]
    assert world_.run(chosen, [reward(s, "+") for s in chosen]) == [(0, 0, 0)]
    assert [(r[0], r[1]) for r in steps.rejects("pairs_step")] == [(chosen[1].sample_id, "no_rejected")]


def test_nothing_gives_nothing(workspace: Path) -> None:
    steps.write([], [])
    steps.run("prompts_step")
    for table, name in (("samples", "continued"), ("rewards", "continued")):
        world.write(table, name, [])
    steps.run("pairs_step")
    assert (world.read("pairs", "step"), steps.rejects("pairs_step")) == ([], [])


def test_progress_counts_samples(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores.progress, "LINE_EVERY_S", 0.0)
    World().pairs([GOOD, " 8"])
    assert "pairs_step step: 3/3 rows" in capsys.readouterr().err


def test_cut_steps_are_hashed_as_samples_are() -> None:
    given = {"sample_id": ["a", "b"], "text": [GOOD, ""], "is_cut": [False, True], "prefill": ["Step 2:", "Step 2:"]}
    assert pairs_step.cut(pa.table(given)).to_pylist() == [
        {"sample_id": "a", "step_end": len(GOOD_STEP), "step_hash": text_hash(GOOD_STEP), "is_whole": True},
        {"sample_id": "b", "step_end": None, "step_hash": None, "is_whole": True},
    ]
