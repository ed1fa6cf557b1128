"""The stage `pairs_outcome`: its inputs, its cap and its progress. The rule is tested in `test_pairs_outcome`."""

from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import stores.progress
from builders import pairs_outcome
from builders.streams import whole_groups
from schemas import Reward, Sample
from stores.stage import execute
from tests import stage_world as world

PROBLEMS = sorted((world.problem(f"What is {i} + 4?") for i in range(12)), key=lambda p: p.problem_id)
PROMPTS = [world.prompt(p) for p in PROBLEMS]
VERDICTS = "+-+"


def reward(of: Sample, sign: str) -> Reward:
    verdict = {"+": "correct", "-": "wrong", "?": "undecided"}[sign]
    value = {"+": 1.0, "-": 0.0, "?": None}[sign]
    fields = {"sample_id": of.sample_id, "verdict": verdict, "reward": value, "checker": "n", "checker_version": "1"}
    return Reward.model_validate(fields)


SAMPLES = [world.sample(p, i, f"It is {i}.") for p in PROMPTS for i in range(len(VERDICTS))]
REWARDS = [reward(s, VERDICTS[s.index]) for s in SAMPLES]


def pairs(samples: Sequence[Sample] = SAMPLES, rewards: Sequence[Reward] = REWARDS, seed: int = 0, **config: Any):
    """(prompt, rank) of the pairs, and the rejects."""
    world.write("samples", "drawn", samples)
    world.write("rewards", "judged", rewards)
    run = {"samples": "drawn", "rewards": "judged", "gold": "none", "k": 2} | config
    world.write_params(
        seed=seed,
        predictions={"p": {"samples": "drawn", "prompts": "train", "problems": "train"}},
        rewards={"judged": {"predictions": "p", "problems": "train"}},
        pairs_outcome={"o": run},
    )
    execute("pairs_outcome", "o", pairs_outcome.run)
    return {(row["prompt_id"], row["rank"]) for row in world.read("pairs", "o")}, world.rejects("pairs_outcome", "o")


def test_a_cap_is_exact_seeded_and_rejects_the_rest(workspace: Path) -> None:
    everything, none = pairs()
    assert (len(everything), none) == (24, [])
    kept, capped = pairs(max_pairs=10)
    assert len(kept) == 10
    assert kept < everything
    assert {reason for _, _, reason, _ in capped} == {"capped"}
    prompt_of = {p.problem_id: p.prompt_id for p in PROMPTS}
    assert {(prompt_of[str(p)], int(detail.split()[-1])) for p, _, _, detail in capped} == everything - kept
    assert pairs(max_pairs=10)[0] == kept
    assert pairs(max_pairs=10, seed=1)[0] != kept
    assert pairs(max_pairs=24) == (everything, [])


@pytest.mark.parametrize(
    "rewards",
    [REWARDS[:-1], REWARDS[1:], [*REWARDS, reward(world.sample(PROMPTS[-1], 3, "?"), "+")]],
    ids=["one too few at the end", "one too few at the start", "one too many"],
)
def test_rewards_of_other_samples_are_refused(workspace: Path, rewards: list[Reward]) -> None:
    with pytest.raises(ValueError, match="rewards run 'judged' was not made from samples run 'drawn'"):
        pairs(rewards=rewards)


def test_no_samples_give_no_pairs(workspace: Path) -> None:
    assert pairs([], []) == (set(), [])


def test_samples_that_answer_no_prompt_are_refused(workspace: Path) -> None:
    given = [s.model_copy(update={"prompt_id": None}) for s in SAMPLES]
    with pytest.raises(ValueError, match="samples run 'drawn' answers no prompts: name its `prompts` run"):
        pairs(given)
    with pytest.raises(ValueError, match="samples run 'drawn' answers no prompts"):
        pairs([*SAMPLES[:-1], given[-1]])


def test_groups_are_whole_with_nulls_and_empty_batches() -> None:
    values = [None, None, "a", "a", None, "b"]
    table = pa.table({"x": pa.array(values, pa.string())})
    batches = [table.slice(0, 0), table.slice(0, 1), table.slice(1, 2), table.slice(3, 0), table.slice(3, 3)]
    groups = [g["x"].to_pylist() for g in whole_groups(batches, "x")]
    assert list(chain.from_iterable(groups)) == values
    assert all(before[-1] != after[0] for before, after in pairwise(groups))
    assert list(whole_groups([table.slice(0, 0)], "x")) == []


def test_prompts_whose_samples_were_all_cut_off_empty_have_no_chosen_one(workspace: Path) -> None:
    cut = [world.sample(PROMPTS[0], i, "", "length") for i in range(2)]
    _, dropped = pairs(cut, [reward(s, "-") for s in cut])
    assert sorted(reason for _, _, reason, _ in dropped) == ["empty", "empty", "no_chosen"]
    _, dropped = pairs(cut, [reward(cut[0], "-"), reward(cut[1], "?")])
    assert "undecided" in {reason for _, sample, reason, _ in dropped if sample is None}


def test_progress_counts_samples(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores.progress, "LINE_EVERY_S", 0.0)
    pairs()
    assert "pairs o: 36/36 samples" in capsys.readouterr().err.splitlines()[-1]
