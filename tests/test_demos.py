"""The stages `demos_gold`, `demos_correct` and `demos_union`."""

from pathlib import Path
from typing import Any

import pytest

from builders import demos_correct, demos_gold, demos_union, samples_gold
from schemas import Demo, Reward, Sample
from stores.parquet import texts_digest
from stores.paths import run_dir
from stores.stage import execute
from tests import stage_world as world

CATS, SUM, HARD = world.problem("Legs of 2 cats?"), world.problem("3 + 4?"), world.problem("Is P = NP?")
PLAIN, THINK = world.prompt(CATS), world.prompt(CATS, words=" Think.")


def write_gold(text: str = "4 + 4") -> None:
    world.write("problems", "train", [CATS, HARD])
    world.write("answers", "train", [])
    world.write("solutions", "train", [world.solution(CATS, text), world.solution(HARD, "Hm.")])
    world.write("prompts", "train", [PLAIN, THINK, world.prompt(SUM)])
    world.write_params(
        samples_gold={"gold": {"problems": "train", "ending": "", "model": "none"}},
        demos_gold={"gold": {"samples": "gold", "prompts": "train"}},
    )
    execute("samples_gold", "gold", samples_gold.run)
    execute("demos_gold", "gold", demos_gold.run)


def test_gold_samples_go_under_every_prompt_of_their_problem(workspace: Path) -> None:
    write_gold()
    samples = {row["problem_id"]: row["sample_id"] for row in world.read("samples", "gold")}
    assert world.read("demos", "gold") == [
        {"prompt_id": p, "sample_id": samples[CATS.problem_id]} for p in sorted([PLAIN.prompt_id, THINK.prompt_id])
    ]
    rejected = (HARD.problem_id, samples[HARD.problem_id], "unknown_prompt", "")
    assert world.rejects("demos_gold", "gold") == [rejected]


def test_a_changed_text_changes_the_file_though_no_id_does(workspace: Path) -> None:
    write_gold("4 + 4")
    rows, before = world.read("demos", "gold"), texts_digest(run_dir("demos", "gold"))
    write_gold("2 × 4")
    assert world.read("demos", "gold") == rows
    after = texts_digest(run_dir("demos", "gold"))
    assert before != after is not None


def judged(sample: Sample, verdict: str) -> Reward:
    reward = None if verdict == "undecided" else float(verdict == "correct")
    return Reward.model_validate(
        {"sample_id": sample.sample_id, "verdict": verdict, "reward": reward, "checker": "n", "checker_version": "1"}
    )


def run_correct(given: list[tuple[Sample, str]], **settings: Any) -> dict[str, str]:
    """Runs the stage on (sample, verdict); returns sample_id -> "demo" or the reason of its reject."""
    world.write_params(
        predictions={"p": {"samples": "drawn", "prompts": "none", "problems": "train"}},
        rewards={"r": {"predictions": "p", "problems": "train"}},
        demos_correct={"star": {"samples": "drawn", "rewards": "r"} | settings},
    )
    world.write("samples", "drawn", sorted((s for s, _ in given), key=lambda s: s.sample_id))
    world.write("rewards", "r", [judged(s, verdict) for s, verdict in given])
    execute("demos_correct", "star", demos_correct.run)
    found = {row["sample_id"]: "demo" for row in world.read("demos", "star")}
    rejected = {sample: reason for _, sample, reason, _ in world.rejects("demos_correct", "star") if sample}
    assert not found.keys() & rejected.keys()
    return found | rejected


CASES = [
    # prompt, index, text, verdict, finish_reason; fate with deduplication and a cap of 2, fate with neither
    (PLAIN, 0, "no", "wrong", "stop", "wrong", "wrong"),
    (PLAIN, 1, "a", "correct", "stop", "demo", "demo"),
    (PLAIN, 2, "a", "correct", "stop", "duplicate", "demo"),
    (PLAIN, 3, "?", "no_answer", "stop", "no_answer", "no_answer"),
    (PLAIN, 4, "c", "correct", "stop", "capped", "demo"),
    (PLAIN, 5, "d", "undecided", "stop", "undecided", "undecided"),
    (PLAIN, 6, "c", "correct", "stop", "duplicate", "demo"),
    (PLAIN, 7, "e", "correct", "length", "truncated", "truncated"),
    (THINK, 0, "b", "correct", "stop", "demo", "demo"),
    (THINK, 9, "b", "correct", "stop", "duplicate", "demo"),
    (world.prompt(SUM), 8, "a", "correct", "stop", "demo", "demo"),
]


@pytest.mark.parametrize(("settings", "column"), [({"max_per_problem": 2}, 5), ({"deduplicate": False}, 6)])
def test_correct_samples_become_demos(workspace: Path, settings: dict[str, Any], column: int) -> None:
    samples = [world.sample(asked, index, text, reason) for asked, index, text, _, reason, *_ in CASES]
    fates = run_correct([(s, case[3]) for s, case in zip(samples, CASES, strict=True)], **settings)
    assert fates == {s.sample_id: case[column] for s, case in zip(samples, CASES, strict=True)}
    demos = world.read("demos", "star")
    assert demos == sorted(demos, key=lambda row: (row["prompt_id"], row["sample_id"]))
    assert all(row["sample_id"].startswith(row["prompt_id"]) for row in demos)


def test_the_cap_takes_the_lowest_indices_across_prompts(workspace: Path) -> None:
    samples = [world.sample(p, i, f"{p.prompt_id} {i}") for p in (PLAIN, THINK) for i in range(4)]
    fates = run_correct([(s, "correct") for s in samples], max_per_problem=4)
    assert {s.index for s in samples if fates[s.sample_id] == "demo"} == {0, 1}


def test_what_is_longer_than_the_limit_is_rejected(workspace: Path) -> None:
    fits, long = (
        world.sample(PLAIN, i, "a" * i).model_copy(update={"n_prompt_tokens": 10, "n_tokens": n})
        for i, n in ((0, 20), (1, 21))
    )
    given = [(fits, "correct"), (long, "correct")]
    assert run_correct(given, max_tokens=30) == {fits.sample_id: "demo", long.sample_id: "over_long"}
    assert set(run_correct(given).values()) == {"demo"}


def test_a_limit_needs_lengths(workspace: Path) -> None:
    with pytest.raises(ValueError, match=r"max_tokens: the tokens of sample .* are not known; name a `model`"):
        run_correct([(world.sample(PLAIN, 0, "a"), "correct")], max_tokens=30)


def test_samples_of_no_prompt_are_rejected(workspace: Path) -> None:
    orphan = world.sample(PLAIN, 0, "a").model_copy(update={"prompt_id": None})
    assert run_correct([(orphan, "correct")]) == {orphan.sample_id: "unknown_prompt"}


def test_rewards_of_other_samples_are_an_error(workspace: Path) -> None:
    run_correct([(world.sample(PLAIN, 0, "a"), "correct")])
    world.write("samples", "drawn", [world.sample(PLAIN, 1, "a")])
    with pytest.raises(
        ValueError, match=r"demos_correct\.star: sample .*-0001 has no reward in run 'r'; name the rewards"
    ):
        execute("demos_correct", "star", demos_correct.run)


UNION = {"a": "gold", "b": "more", "c": "none", "d": "none"}


def test_demos_of_several_runs_come_together_and_a_repeated_one_counts_once(workspace: Path) -> None:
    write_gold()
    gold = [Demo.model_validate(row) for row in world.read("demos", "gold")]
    own = Demo(prompt_id=PLAIN.prompt_id, sample_id=world.sample(PLAIN, 3, "8").sample_id)
    demos = {name: {"samples": "gold", "prompts": "train"} for name in ("gold", "more")}
    given = {"gold": {"problems": "train", "ending": "", "model": "none"}}
    world.write_params(samples_gold=given, demos_gold=demos, demos_union={"all": UNION})
    world.write("demos", "more", [own, gold[0]])
    execute("demos_union", "all", demos_union.run)
    assert world.read("demos", "all") == sorted((d.model_dump() for d in [*gold, own]), key=lambda d: tuple(d.values()))
    repeated = (CATS.problem_id, gold[0].sample_id, "duplicate", "of run more")
    assert world.rejects("demos_union", "all") == [repeated]
    before = texts_digest(run_dir("demos", "all"))
    write_gold("2 × 4")
    world.write_params(samples_gold=given, demos_gold=demos, demos_union={"all": UNION})
    execute("demos_union", "all", demos_union.run)
    assert texts_digest(run_dir("demos", "all")) != before
