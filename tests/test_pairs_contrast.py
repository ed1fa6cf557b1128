"""`pairs_contrast`: the weak model's sample against the strong model's majority, by the paper's rule."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import pairs_contrast
from stores.checks import check_tables
from stores.parquet import texts_digest
from stores.paths import run_dir
from stores.stage import execute
from stores.store import Store
from stores.views import local_parts, run_files
from tests import stage_world as world
from tests.voting_world import Answered, contrast, drawn, vote, weak, write_answered, write_params

CATS, SUM = world.prompt(world.problem("Legs of 2 cats?")), world.prompt(world.problem("3 + 4?"))
OTHER = world.prompt(world.problem("Legs of 2 cats?"), words=" Think.")
OWN = None
"""No weak side."""

ONE_THRESHOLD = {"reject_threshold": 0.6}
FATES: list[tuple[Sequence[str | None], str | None, dict[str, Any], str]] = [
    # answers of the strong model, answer of the weak one, settings, what becomes of the prompt
    (["8"] * 6 + ["4"] * 4, "8", {}, "weak chosen"),
    (["8"] * 5 + ["4"] * 5, "8", {}, "low_confidence: 5 of 10 samples agree, below 0.6"),
    (["8"] * 10, "8", {}, "no_rejected: all samples state the answer of the majority"),
    (["8"] * 9 + [None], "8", {}, "weak chosen"),
    (["8"] * 8 + ["4"] * 2, "4", {}, "weak rejected"),
    (["8"] * 10, "4", {}, "weak rejected"),
    (["8"] * 8 + ["4"] * 2, None, {}, "weak rejected"),
    (
        ["8"] * 7 + ["4"] * 3,
        "4",
        {},
        "low_confidence: 7 of 10 samples contradict the weak one, below reject_threshold 0.8",
    ),
    (["8"] * 7 + ["4"] * 3, "4", ONE_THRESHOLD, "weak rejected"),
    (["8"] * 6 + ["4"] * 4, "4", ONE_THRESHOLD, "weak rejected"),
    (["8"] * 5 + ["4"] * 5, "4", ONE_THRESHOLD, "low_confidence: 5 of 10 samples agree, below 0.6"),
    ([None] * 8 + ["4"] * 2, "4", {}, "no_answer: most samples state no answer"),
    ([None] * 8 + ["4"] * 2, None, {}, "no_answer: most samples state no answer"),
    ([None] * 5 + ["4"] * 5, "4", {}, "low_confidence: 5 of 10 samples agree, below 0.6"),
    (["8", "4"], "8", {"threshold": 0.5}, "weak chosen"),
]


def fate(made: Any, weak_sample: str) -> str:
    """What became of the only prompt."""
    if made.rejects:
        ((_, _, reason, detail),) = made.rejects
        assert made.pairs == []
        return f"{reason}: {detail}"
    sides = {chosen == weak_sample for _, _, chosen, _ in made.pairs}
    assert {rejected == weak_sample for *_, rejected in made.pairs} == {not side for side in sides}
    return "weak chosen" if sides == {True} else "weak rejected"


@pytest.mark.parametrize(("answers", "said", "settings", "expected"), FATES)
def test_what_becomes_of_a_prompt(workspace: Path, answers, said, settings, expected) -> None:
    strong, other = drawn(CATS, answers), weak(CATS, said)
    assert fate(contrast(strong, [other], **settings), other.sample.sample_id) == expected


def test_a_problem_without_a_weak_sample(workspace: Path) -> None:
    made = contrast(drawn(CATS, ["8"] * 8 + ["4"]), [weak(SUM, "7")])
    assert (made.pairs, made.reasons) == ([], {CATS.problem_id: "unpaired"})


def test_the_first_weak_sample_counts_under_every_prompt_of_its_problem(workspace: Path) -> None:
    first, second = weak(CATS, "8"), weak(CATS, "4", index=1)
    made = contrast([*drawn(CATS, ["8", "8", "4"]), *drawn(OTHER, ["8", "8", "8", "5"])], [second, first])
    assert {(asked, chosen) for asked, _, chosen, _ in made.pairs} == {
        (asked.prompt_id, first.sample.sample_id) for asked in (CATS, OTHER)
    }


def test_rejected_samples_are_drawn_without_replacement_and_may_read_alike(workspace: Path) -> None:
    strong = drawn(CATS, ["8"] * 6 + ["4", "4", None, "5"], ["right"] * 6 + ["same", "same", "none", "other"])
    made = contrast(strong, [weak(CATS, "8")], k=3)
    losers = [rejected for *_, rejected in made.pairs]
    assert [rank for _, rank, *_ in made.pairs] == [0, 1, 2]
    assert len(set(losers)) == 3
    assert set(losers) <= {one.sample.sample_id for one in strong[6:]}
    everything = contrast(strong, [weak(CATS, "8")], k=9)
    assert {rejected for *_, rejected in everything.pairs} == {one.sample.sample_id for one in strong[6:]}
    assert everything.pairs[:3] == made.pairs


def test_further_chosen_samples_come_in_order_and_differ_from_the_first(workspace: Path) -> None:
    """They may be equal among each other, as in the published code."""
    texts = ["a", "a", "b", "b", "c", "a", "d", "d"]
    strong = drawn(CATS, ["8"] * 8 + ["4"], [*texts, "no"])
    firsts = set()
    for seed in range(12):
        made = contrast(strong, [weak(CATS, "4")], seed=seed, k=4)
        places = [int(chosen[-4:]) for _, _, chosen, _ in made.pairs]
        firsts.add(places[0])
        others = [i for i in range(8) if texts[i] != texts[places[0]]]
        assert places[1:] == others[:3]
    assert len(firsts) > 2


def test_one_text_makes_one_pair(workspace: Path) -> None:
    made = contrast(drawn(CATS, ["8"] * 9, ["alike"] * 9), [weak(CATS, "4")], k=3)
    assert len(made.pairs) == 1


def test_without_a_weak_side_both_are_drawn(workspace: Path) -> None:
    strong = [*drawn(CATS, ["8"] * 6 + ["4", "5", None, None]), *drawn(SUM, ["7"] * 10)]
    made = contrast(strong, OWN, k=9)
    right, wrong = {s.sample.sample_id for s in strong[:6]}, {s.sample.sample_id for s in strong[6:10]}
    assert [rank for _, rank, *_ in made.pairs] == [0, 1, 2, 3]
    chosen, rejected = ([pair[side] for pair in made.pairs] for side in (2, 3))
    assert len(set(chosen)) == 4
    assert set(chosen) <= right
    assert set(rejected) == wrong
    assert made.reasons == {SUM.problem_id: "no_rejected"}
    assert contrast(strong[:10], OWN).pairs == made.pairs[:1]
    assert contrast(strong[:10], OWN, threshold=0.7).reasons == {CATS.problem_id: "low_confidence"}


def test_draws_depend_on_the_seed_and_on_nothing_else(workspace: Path) -> None:
    strong, other = drawn(CATS, ["8"] * 6 + ["4"] * 6), weak(CATS, "8")
    settings = {"threshold": 0.5}
    alone = contrast(strong, [other], **settings).pairs
    beside = contrast([*strong, *drawn(SUM, ["7", "8"])], [other, weak(SUM, "7")], **settings).pairs
    assert [pair for pair in beside if pair[0] == CATS.prompt_id] == alone
    found = Counter(contrast(strong, [other], seed=seed, **settings).pairs[0][3] for seed in range(15))
    assert len(found) > 2


def test_spans_are_whole_and_a_truncated_side_has_no_ending(workspace: Path) -> None:
    strong = drawn(CATS, ["8"] * 8 + ["4"])
    cut = [one._replace(sample=one.sample.model_copy(update={"finish_reason": "length"})) for one in strong]
    for other, ends in ((weak(CATS, "8"), (True, False)), (weak(CATS, "4", finish_reason="length"), (False, False))):
        contrast(cut, [other])
        (row,) = world.read("pairs", "c")
        lengths = {one.sample.sample_id: one.sample.n_chars for one in [*strong, other]}
        assert (row["chosen_eos"], row["rejected_eos"]) == ends
        assert (row["chosen_start"], row["rejected_start"]) == (0, 0)
        assert (row["chosen_end"], row["rejected_end"]) == (
            lengths[row["chosen_sample_id"]], lengths[row["rejected_sample_id"]],
        )  # fmt: skip


def empty(one: Answered, finish_reason: str = "length") -> Answered:
    return one._replace(sample=one.sample.model_copy(update={"text": "", "n_chars": 0, "finish_reason": finish_reason}))


def test_a_sample_cut_off_before_any_text_is_no_side(workspace: Path) -> None:
    strong = drawn(CATS, ["8"] * 8 + [None])
    made = contrast([*strong[:8], empty(strong[8])], [weak(CATS, "8")])
    assert made.pairs == []
    assert {(sample, reason) for _, sample, reason, _ in made.rejects} == {
        (None, "no_rejected"), (strong[8].sample.sample_id, "empty"),
    }  # fmt: skip
    assert contrast([*strong[:8], empty(strong[8], "stop")], [weak(CATS, "8")]).rejects == []
    assert contrast(strong, [empty(weak(CATS, None))]).reasons == {CATS.problem_id: "empty"}
    assert contrast([empty(one, "stop") for one in strong], [weak(CATS, "4")]).reasons == {CATS.problem_id: "no_chosen"}


def counted(one: Answered, tokens: int | None, asked: int | None = 10) -> Answered:
    return one._replace(sample=one.sample.model_copy(update={"n_tokens": tokens, "n_prompt_tokens": asked}))


def test_what_is_longer_than_the_limit_is_rejected(workspace: Path) -> None:
    strong = [counted(one, 20 + i) for i, one in enumerate(drawn(CATS, ["4", "5", "6"] + ["8"] * 7))]
    made = contrast(strong, [counted(weak(CATS, "8"), 5)], k=3, max_tokens=31)
    kept = {rejected for *_, rejected in made.pairs}
    assert kept == {one.sample.sample_id for one in strong[:2]}
    ((_, _, reason, detail),) = made.rejects
    missing = ({0, 1, 2} - {rank for _, rank, *_ in made.pairs}).pop()
    assert (reason, detail) == ("over_long", f"above 31 tokens, rank {missing}")
    assert contrast(strong, [counted(weak(CATS, "8"), 40)], max_tokens=31).reasons == {CATS.problem_id: "over_long"}


@pytest.mark.parametrize("unknown", ["strong", "weak", "prompt"])
def test_a_limit_needs_lengths(workspace: Path, unknown: str) -> None:
    strong = [
        counted(one, None if unknown == "strong" else 5, None if unknown == "prompt" else 5)
        for one in drawn(CATS, ["8", "8", "4"])
    ]
    other = counted(weak(CATS, "8"), None if unknown == "weak" else 5)
    with pytest.raises(ValueError, match=r"pairs_contrast\.c\.max_tokens needs token counts: name a `model`"):
        contrast(strong, [other], max_tokens=30)


def test_wrong_inputs_are_named(workspace: Path) -> None:
    strong, other = drawn(CATS, ["8", "8", "4"]), weak(CATS, "8")
    contrast(strong, [other])
    write_answered("weak", "elsewhere", [weak(SUM, "7")])
    with pytest.raises(ValueError, match=r"pairs_contrast\.c\.weak_predictions: run 'weak' was not made from samples"):
        execute("pairs_contrast", "c", pairs_contrast.run)
    contrast(strong, [other])
    write_answered("drawn", "p", drawn(SUM, ["7"]))
    with pytest.raises(ValueError, match=r"pairs_contrast\.c\.votes: run 'v' has votes on prompt .*; name the votes"):
        execute("pairs_contrast", "c", pairs_contrast.run)
    write_answered("elsewhere", "p", strong)
    with pytest.raises(ValueError, match=r"pairs_contrast\.c\.predictions: run 'p' was not made from samples"):
        execute("pairs_contrast", "c", pairs_contrast.run)
    orphan = strong[0].sample.model_copy(update={"prompt_id": None})
    write_answered("drawn", "p", [strong[0]._replace(sample=orphan)])
    with pytest.raises(ValueError, match=r"pairs_contrast\.c\.samples: sample .* answers no prompt"):
        execute("pairs_contrast", "c", pairs_contrast.run)


def test_a_prompt_that_the_votes_lack(workspace: Path) -> None:
    """Where no sample states an answer and `empty_counts` is off."""
    rows = [*drawn(CATS, [None, None]), *drawn(SUM, ["7", "7", "8"])]
    contrast(rows, [weak(CATS, "8"), weak(SUM, "7")])
    vote(rows, empty_counts=False)
    write_params(voting={"empty_counts": False})
    execute("pairs_contrast", "c", pairs_contrast.run)
    assert world.rejects("pairs_contrast", "c") == [(CATS.problem_id, None, "no_answer", "the prompt has no vote")]
    assert len(world.read("pairs", "c")) == 1


def test_pairs_fit_into_the_store(workspace: Path) -> None:
    contrast([*drawn(CATS, ["8", "8", "4"]), *drawn(SUM, ["7"] * 5)], [weak(CATS, "8"), weak(SUM, "8")], k=2)
    world.write("problems", "train", [world.problem("Legs of 2 cats?"), world.problem("3 + 4?")])
    world.write("prompts", "train", [CATS, SUM])
    store = Store.open()
    assert list(check_tables(store.params, run_files(store.params, local_parts(workspace)))) == []
    query = "select chosen_run, rejected_run, count(*) from pair_texts where run = 'c' group by all order by all"
    assert store.sql(query).fetchall() == [("drawn", "weak", 2), ("weak", "drawn", 1)]
    lineage = "select sample_run, prediction_run, count(*) from lineage where run = 'c' group by all order by all"
    assert store.sql(lineage).fetchall() == [("drawn", "p", 3), ("weak", "weak", 3)]


def test_a_changed_text_changes_the_file_though_no_id_does(workspace: Path) -> None:
    digests = []
    for texts in (["a", "b", "c"], ["a", "b", "d"]):
        contrast(drawn(CATS, ["8", "8", "4"], texts), [weak(CATS, "8")])
        digests.append(texts_digest(run_dir("pairs", "c")))
    assert digests[0] != digests[1] is not None


ANSWERS = st.lists(st.sampled_from(["1", "2", None]), min_size=1, max_size=10)
TEXTS = st.lists(st.sampled_from("abc"), min_size=10, max_size=10)


def reference(
    strong: Sequence[Answered], other: Answered | None, two_models: bool, k: int, threshold: float, second: float
) -> tuple[str, int]:
    """(what becomes of a prompt, its number of pairs), as the published code does it: a loop over a Counter.

    Its draws are random, so only what does not depend on them is compared: the side of the weak sample, and counts.
    Where the number of pairs depends on the first draw, it is the text of the sample that was drawn that decides.
    """
    counts = Counter(one.answer for one in strong)
    majority, most = counts.most_common(1)[0]
    if most / len(strong) < threshold:
        return "low_confidence", 0
    if majority is None:
        return "no_answer", 0
    negatives = [one for one in strong if one.answer != majority]
    if not two_models:
        return ("own", min(k, most, len(negatives))) if negatives else ("no_rejected", 0)
    if other is None:
        return "unpaired", 0
    if other.answer == majority:
        return ("weak chosen", min(k, len(negatives))) if negatives else ("no_rejected", 0)
    return ("weak rejected", -1) if most / len(strong) >= second else ("low_confidence", 0)


@settings(max_examples=60)
@given(
    strong=st.lists(st.tuples(ANSWERS, TEXTS), min_size=1, max_size=6),
    said=st.lists(st.sampled_from(["1", "2", None, "absent"]), min_size=6, max_size=6),
    two_models=st.booleans(),
    k=st.integers(1, 4),
    thresholds=st.tuples(st.integers(0, 10), st.integers(0, 10)).map(sorted),
)
def test_any_input_gives_what_the_published_rule_gives(workspace, strong, said, two_models, k, thresholds) -> None:
    low, high = (n / 10 for n in thresholds)
    asked = [world.prompt(world.problem(f"{i} + 4?")) for i in range(len(strong))]
    groups = [drawn(p, answers, texts[: len(answers)]) for p, (answers, texts) in zip(asked, strong, strict=True)]
    others = [None if s == "absent" else weak(p, s) for p, s in zip(asked, said, strict=False)]
    given = [one for one in others if one is not None] if two_models else OWN
    made = contrast([one for group in groups for one in group], given, k=k, threshold=low, reject_threshold=high)
    for prompt, group, other in zip(asked, groups, others, strict=True):
        expected, n = reference(group, other, two_models, k, low, high)
        pairs = [pair for pair in made.pairs if pair[0] == prompt.prompt_id]
        if expected in ("low_confidence", "no_answer", "no_rejected", "unpaired"):
            assert (pairs, made.reasons[prompt.problem_id]) == ([], expected)
            continue
        assert prompt.problem_id not in made.reasons
        by_id = {one.sample.sample_id: one for one in [*group, *([other] if other else [])]}
        majority = Counter(one.answer for one in group).most_common(1)[0][0]
        chosen, rejected = [by_id[pair[2]] for pair in pairs], [by_id[pair[3]] for pair in pairs]
        assert {one.answer for one in chosen} == {majority}
        assert majority not in {one.answer for one in rejected}
        if expected == "weak rejected":
            differing = [o for o in group if o.answer == majority and o.sample.text != chosen[0].sample.text]
            assert chosen[1:] == differing[: k - 1]
            assert rejected == [other] * len(pairs)
        else:
            assert len(pairs) == n
            assert len({one.sample.sample_id for one in rejected}) == n
        if expected == "weak chosen":
            assert chosen == [other] * n
