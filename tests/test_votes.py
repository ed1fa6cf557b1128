"""The stages `votes` and `rewards_votes`: the majority of a prompt's samples, and verdicts by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from builders import pairs_outcome, rewards_votes, votes
from schemas.params import load_params
from stores.checks import check_tables
from stores.stage import execute
from stores.store import Store
from stores.views import local_parts, run_files
from tests import stage_world as world
from tests.voting_world import drawn, verdicts, vote, write_answered, write_params

CATS, SUM = world.prompt(world.problem("Legs of 2 cats?")), world.prompt(world.problem("3 + 4?"))
OTHER = world.prompt(world.problem("Legs of 2 cats?"), words=" Think.")


CASES: list[tuple[Sequence[str | None], dict[str, Any], tuple[Any, ...] | None]] = [
    # answers; settings; (answer, count, n, index of the first sample that states it), or none
    (["8", "4", "8"], {}, ("8", 2, 3, 0)),
    (["4", "8", "8"], {}, ("8", 2, 3, 1)),
    (["4", "8", "8", "4"], {}, ("4", 2, 4, 0)),
    (["1", "2", "3"], {}, ("1", 1, 3, 0)),
    (["4", None, None], {}, (None, 2, 3, 1)),
    ([None, "4"], {}, (None, 1, 2, 0)),
    (["4", None], {}, ("4", 1, 2, 0)),
    (["4", None, None], {"empty_counts": False}, ("4", 1, 1, 0)),
    ([None, "4", "8", "8"], {"empty_counts": False}, ("8", 2, 3, 2)),
    ([None, None], {"empty_counts": False}, None),
    ([None, None], {}, (None, 2, 2, 0)),
    (["", "", "4"], {}, ("", 2, 3, 0)),
    ([str(i) for i in range(9)] + ["10", "10"], {}, ("10", 2, 11, 9)),
]


@pytest.mark.parametrize(("answers", "settings", "expected"), CASES)
def test_the_majority(workspace: Path, answers, settings, expected) -> None:
    samples = drawn(CATS, answers)
    rows = vote(samples, **settings)
    if expected is None:
        assert rows == []
        detail = "no sample states an answer"
        assert world.rejects("votes", "v") == [(CATS.problem_id, None, "no_answer", detail)]
        return
    answer, count, n, first = expected
    assert rows == [
        {"prompt_id": CATS.prompt_id, "problem_id": CATS.problem_id, "sample_id": samples[first].sample.sample_id,
         "answer": answer, "count": count, "n": n, "confidence": count / n}
    ]  # fmt: skip
    assert world.rejects("votes", "v") == []


def test_every_prompt_votes_for_itself(workspace: Path) -> None:
    rows = vote([*drawn(CATS, ["8"]), *drawn(OTHER, ["4", "4"]), *drawn(SUM, ["7", "7", "8"])])
    assert {row["prompt_id"]: (row["answer"], row["count"], row["n"]) for row in rows} == {
        CATS.prompt_id: ("8", 1, 1), OTHER.prompt_id: ("4", 2, 2), SUM.prompt_id: ("7", 2, 3),
    }  # fmt: skip
    assert [row["prompt_id"] for row in rows] == sorted(row["prompt_id"] for row in rows)


def test_the_first_by_index_wins_whatever_the_order_of_ids(workspace: Path) -> None:
    """Samples of two settings: the one with the lower index was given first."""
    late, early = (one for one in drawn(CATS, ["4", "8"]))
    other = late.sample.model_copy(update={"sample_id": early.sample.sample_id.replace("abcdef01", "00000000")})
    rows = vote([early, late._replace(sample=other.model_copy(update={"index": 5}))])
    assert rows[0]["answer"] == "8"


def test_votes_fit_into_the_store(workspace: Path) -> None:
    vote([*drawn(CATS, ["8", "8", None]), *drawn(SUM, ["7", "8"])])
    write_params(pairs_contrast={})
    world.write("problems", "train", [world.problem("Legs of 2 cats?"), world.problem("3 + 4?")])
    world.write("prompts", "train", [CATS, SUM])
    with Store.open() as store:
        query = "select answer, v.count from votes v join predictions using (sample_id) where confidence > 0.5"
        assert store.sql(query).fetchall() == [("8", 2)]
    params = load_params(Path("params.yaml"))
    assert list(check_tables(params, run_files(params, local_parts(workspace)))) == []


def test_a_sample_without_a_prompt_is_a_mistake(workspace: Path) -> None:
    (one,) = drawn(CATS, ["8"])
    orphan = one.sample.model_copy(update={"prompt_id": None})
    with pytest.raises(ValueError, match=r"votes\.v\.samples: sample .* answers no prompt; name a `prompts` run"):
        vote([one._replace(sample=orphan)])


@pytest.mark.parametrize("kept", [slice(1), slice(1, 2)])
def test_predictions_of_other_samples_are_a_mistake(workspace: Path, kept: slice) -> None:
    both = drawn(CATS, ["8", "4"])
    vote(both)
    samples, predictions = world.read("samples", "drawn"), world.read("predictions", "p")
    write_answered("drawn", "p", both[kept])
    if kept == slice(1):
        write_answered("drawn", "other", both)
    else:
        write_answered("other", "p", both)
    assert (len(samples), len(predictions)) == (2, 2)
    with pytest.raises(ValueError, match=r"votes\.v\.predictions: run 'p' was not made from samples run 'drawn'"):
        execute("votes", "v", votes.run)


def test_verdicts_by_the_majority(workspace: Path) -> None:
    rows = drawn(CATS, ["8", "8", "8", "4", None])
    found = verdicts(rows)
    expected = [("correct", 1.0)] * 3 + [("wrong", 0.0), ("no_answer", 0.0)]
    assert [found[one.sample.sample_id] for one in rows] == expected
    assert {(row["checker"], row["checker_version"]) for row in world.read("rewards", "rv")} == {("votes", "1")}
    assert world.rejects("rewards_votes", "rv") == []


@pytest.mark.parametrize(
    ("answers", "settings", "reason", "detail"),
    [
        (["8", "8", "4", "5"], {}, "low_confidence", "2 of 4 samples agree, below 0.6"),
        (["8", None, None, None], {}, "no_answer", "most samples state no answer"),
        ([None, None], {"empty_counts": False}, "no_answer", "the prompt has no vote"),
        ([None, "4", "8"], {"threshold": 0.5}, "low_confidence", "1 of 3 samples agree, below 0.5"),
    ],
)
def test_without_a_clear_majority_all_samples_are_undecided(workspace: Path, answers, settings, reason, detail) -> None:
    found = verdicts(drawn(CATS, answers), **settings)
    assert set(found.values()) == {("undecided", None)}
    assert world.rejects("rewards_votes", "rv") == [(CATS.problem_id, None, reason, detail)]


@pytest.mark.parametrize(("threshold", "agree"), [(i / 10, i) for i in range(11)])
def test_a_threshold_is_reached_exactly(workspace: Path, threshold: float, agree: int) -> None:
    """6 of 10 is 0.6, though neither is a binary fraction."""
    answers = ["8"] * max(agree, 1) + [str(100 + i) for i in range(10 - max(agree, 1))]
    assert "correct" in {verdict for verdict, _ in verdicts(drawn(CATS, answers), threshold).values()}
    if 1 < agree < 10:
        below = ["8"] * (agree - 1) + [str(100 + i) for i in range(11 - agree)]
        assert {verdict for verdict, _ in verdicts(drawn(CATS, below), threshold).values()} == {"undecided"}


def test_votes_of_other_prompts_are_a_mistake(workspace: Path) -> None:
    vote(drawn(CATS, ["8"]))
    write_answered("drawn", "p", drawn(SUM, ["7"]))
    with pytest.raises(ValueError, match=r"rewards_votes\.rv\.votes: run 'v' has votes on prompt .*; name the votes"):
        execute("rewards_votes", "rv", rewards_votes.run)


def test_iterative_rpo_without_answers(workspace: Path) -> None:
    """`pairs_outcome` takes the verdicts of the majority as it takes those of gold."""
    clear, unclear = drawn(CATS, ["8", "4", "8", None, "8"]), drawn(SUM, ["7", "8", "9", "10"])
    verdicts([*clear, *unclear])
    write_params(
        pairs_outcome={"o": {"samples": "drawn", "rewards": "rv", "step_labels": "none", "gold": "none", "k": 3}}
    )
    world.write("samples", "none", [])
    execute("pairs_outcome", "o", pairs_outcome.run)
    ids = [one.sample.sample_id for one in clear]
    found = [(row["chosen_sample_id"], row["rejected_sample_id"]) for row in world.read("pairs", "o")]
    assert found == [(ids[0], ids[1]), (ids[2], ids[3]), (ids[4], ids[1])]
    reasons = [(problem, reason) for problem, _, reason, _ in world.rejects("pairs_outcome", "o")]
    assert set(reasons) == {(SUM.problem_id, "undecided")}
