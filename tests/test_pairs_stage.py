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
from tests.step_world import label

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


LABELS = {"samples": "drawn", "prompts": "train", "problems": "train", "rewards": "none", "labeler": "rule",
          "model": "none", "path": "data/none", "neutral_is_error": False}  # fmt: skip


def pairs(samples: Sequence[Sample] = SAMPLES, rewards: Sequence[Reward] = REWARDS, seed: int = 0, **config: Any):
    """(prompt, rank) of the pairs, and the rejects."""
    world.write("samples", "drawn", samples)
    world.write("rewards", "judged", rewards)
    run = {"samples": "drawn", "rewards": "judged", "step_labels": "none", "gold": "none", "k": 2} | config
    world.write_params(
        seed=seed,
        predictions={"p": {"samples": "drawn", "prompts": "train", "problems": "train"}},
        rewards={"judged": {"predictions": "p", "problems": "train"}},
        step_labels={"audit": LABELS},
        samples_gold={"gold": {"problems": "train", "ending": "", "model": "none"}},
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


def sides() -> set[tuple[str, str]]:
    return {(row["chosen_sample_id"], row["rejected_sample_id"]) for row in world.read("pairs", "o")}


@pytest.mark.parametrize("chosen", ["correct", "gold"])
def test_right_samples_with_a_wrong_step_are_on_neither_side(workspace: Path, chosen: str) -> None:
    """Of the samples + - + of each prompt; a wrong sample's wrong step changes nothing, nor does a missing label."""
    gold = [world.sample(p, 0, "8").model_copy(update={"prompt_id": None}) for p in PROMPTS]
    gold = [s.model_copy(update={"sample_id": s.sample_id.replace(s.sample_id[-13:-5], "99999999")}) for s in gold]
    world.write("samples", "gold", sorted(gold, key=lambda s: s.sample_id))
    setting: dict[str, Any] = {"gold": "gold", "chosen": "gold"} if chosen == "gold" else {}
    flaws = {0: None, 3: 0, 4: 0, 6: 0, 8: 0}  # sample -> first wrong step; of prompt 1 the first and the wrong one,
    world.write("step_labels", "audit", [label(SAMPLES[i], step, prefill="") for i, step in flaws.items()])
    pairs(k=3, **setting)
    before = sides()
    _, dropped = pairs(step_labels="audit", k=3, **setting)
    out = {SAMPLES[i].sample_id for i in (3, 6, 8)}  # of prompt 2 both right ones
    assert {(sample, reason, detail) for _, sample, reason, detail in dropped if sample} == {
        (sample, "wrong_step", "most labels find one") for sample in out
    }
    found = sides()
    assert found
    assert not {sample for pair in found for sample in pair} & out
    assert {p for p in before if not set(p) & out} <= found
    without = {str(problem) for problem, sample, reason, _ in dropped if sample is None and reason == "no_chosen"}
    assert without == ({PROBLEMS[2].problem_id} if chosen == "correct" else set())


def test_labels_of_other_samples_are_refused(workspace: Path) -> None:
    world.write("step_labels", "audit", [label(world.sample(PROMPTS[0], 9, "It is.\nSo."), 0, prefill="")])
    with pytest.raises(
        ValueError, match=r"pairs_outcome\.o: step_labels run 'audit' labels sample .*-0009, which is not"
    ):
        pairs(step_labels="audit")


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
