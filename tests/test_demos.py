"""The stages `demos_gold`, `demos_correct` and `demos_union`."""

from pathlib import Path
from typing import Any

import pytest

from builders import demos_correct, demos_gold, demos_union, samples_gold
from schemas import TABLES, Demo, Prompt, Reward, Sample, StepLabels
from stores.parquet import read_table, texts_digest
from stores.paths import rejects_dir, run_dir
from stores.stage import execute
from tests import stage_world as world
from tests.step_world import label

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


def run_correct(
    given: list[tuple[Sample, str]],
    labels: dict[str, Any] | None = None,
    prompts_runs: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, str]:
    """Runs the stage on (sample, verdict); returns sample_id -> "demo" or the reason of its reject."""
    world.write_params(
        step_labels=labels or {},
        **({"prompts": prompts_runs} if prompts_runs else {}),
        predictions={"p": {"samples": "drawn", "prompts": "none", "problems": "train"}},
        rewards={"r": {"predictions": "p", "problems": "train"}},
        demos_correct={"star": {"samples": "drawn", "rewards": "r"} | world.UNMOVED | settings},
    )
    world.write("samples", "drawn", sorted((s for s, _ in given), key=lambda s: s.sample_id))
    world.write("rewards", "r", [judged(s, verdict) for s, verdict in given])
    execute("demos_correct", "star", demos_correct.run)
    found = {row["sample_id"]: "demo" for row in world.read("demos", "star")}
    rejected = {sample: reason for _, sample, reason, _ in world.rejects("demos_correct", "star") if sample}
    assert not found.keys() & rejected.keys()
    return dict(sorted((found | rejected).items()))


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


# --- right answers with wrong steps ---------------------------------------------------------------------------------

RULE = {"samples": "drawn", "prompts": "none", "problems": "train", "rewards": "none", "labeler": "rule",
        "model": "none", "path": "data/none", "neutral_is_error": False}  # fmt: skip
LABELLED = [
    # verdict of the sample, what its labels say (a first wrong step, None: none is; -1: invalid), fate
    ("correct", [], "demo"),
    ("correct", [None], "demo"),
    ("correct", [0], "wrong_step"),
    ("correct", [0, 1, None], "wrong_step"),
    ("correct", [0, None], "demo"),
    ("correct", [0, None, -1], "demo"),
    ("correct", [-1], "demo"),
    ("correct", [-1, 1], "wrong_step"),
    ("wrong", [0], "wrong"),
    ("undecided", [0], "undecided"),
]


def labelled(samples: list[Sample]) -> list[StepLabels]:
    rows = [
        label(drawn, step, labeler=f"l{i}", prefill="")
        for drawn, (_, said, _) in zip(samples, LABELLED, strict=True)
        for i, step in enumerate(said)
    ]
    return sorted(rows, key=lambda row: (row.sample_id, row.labeler))


def test_right_samples_with_a_wrong_step_are_rejected(workspace: Path) -> None:
    samples = [world.sample(PLAIN, i, f"Legs.\nSo {i}.") for i in range(len(LABELLED))]
    world.write("step_labels", "audit", labelled(samples))
    given = [(s, verdict) for s, (verdict, _, _) in zip(samples, LABELLED, strict=True)]
    fates = run_correct(given, labels={"audit": RULE}, step_labels="audit")
    assert [fates[s.sample_id] for s in samples] == [fate for *_, fate in LABELLED]
    before = run_correct(given, labels={"audit": RULE})
    assert [before[s.sample_id] for s in samples] == ["demo" if v == "correct" else v for v, _, _ in LABELLED]


def test_a_wrong_step_takes_no_place_of_the_cap(workspace: Path) -> None:
    samples = [world.sample(PLAIN, i, f"Legs.\nSo {i}.") for i in range(3)]
    world.write("step_labels", "audit", [label(samples[0], 0, prefill="")])
    fates = run_correct(
        [(s, "correct") for s in samples], labels={"audit": RULE}, step_labels="audit", max_per_problem=1
    )
    assert [fates[s.sample_id] for s in samples] == ["wrong_step", "demo", "capped"]


def test_labels_of_other_samples_are_an_error(workspace: Path) -> None:
    other = world.sample(PLAIN, 1, "Legs.\nSo 8.")
    world.write("step_labels", "audit", [label(other, None, prefill="")])
    with pytest.raises(ValueError, match=r"demos_correct\.star: step_labels run 'audit' labels sample .*-0001, which"):
        run_correct([(world.sample(PLAIN, 0, "a"), "correct")], labels={"audit": RULE}, step_labels="audit")


# --- under other prompts --------------------------------------------------------------------------------------------


def moved(given: list[tuple[Sample, str]], targets: list[Prompt], **settings: Any) -> dict[str, str]:
    """Runs the stage with samples that answer the run `train`, put under the run `zero`."""
    world.write("prompts", "zero", targets)
    prompts = dict.fromkeys(("train", "zero"), world.PROMPTS)
    return run_correct(given, prompts_runs=prompts, sample_prompts="train", prompts="zero", **settings)


def test_samples_go_under_other_prompts_of_their_problem(workspace: Path) -> None:
    """What a model wrote after demonstrations is put where there are none; caps count samples, not prompts."""
    few = [world.prompt(p, words=" As before.") for p in (CATS, SUM)]
    world.write("prompts", "train", few)
    samples = [world.sample(few[0], i, f"{i}") for i in range(3)] + [world.sample(few[1], 0, "7")]
    samples += [world.sample(PLAIN, 7, "no prompt").model_copy(update={"prompt_id": None})]
    fates = moved([(s, "correct") for s in samples], [PLAIN, THINK], max_per_problem=2)
    assert [fates[s.sample_id] for s in samples] == ["demo", "demo", "capped", "unknown_prompt", "capped"]
    assert [(row["prompt_id"], row["sample_id"]) for row in world.read("demos", "star")] == sorted(
        (p.prompt_id, s.sample_id) for p in (PLAIN, THINK) for s in samples[:2]
    )
    rejects = {sample: prompt for _, prompt, sample, _ in prompts_of_rejects()}
    assert rejects[samples[2].sample_id] == few[0].prompt_id, "a reject keeps the prompt that it answered"


def prompts_of_rejects() -> list[tuple[str, str, str, str]]:
    rows = read_table(rejects_dir("demos_correct", "star"), TABLES["rejects"]).to_pylist()
    return [(row["problem_id"], row["prompt_id"], row["sample_id"], row["reason"]) for row in rows]


HEAD = "def solution():\n"
PREFILLS = [
    # prefill of the samples' prompt (None: they answer none), of the other, what is wrong
    ("", "", None),
    (HEAD, HEAD, None),
    (None, "", None),
    (
        HEAD,
        "",
        r"continues the prefill 'def solution\(\):\\n', and .* in run 'zero' ends in no prefill; name prompts with",
    ),
    ("", HEAD, r"continues no prefill, and the prompt of its problem in run 'zero' ends in the prefill 'def"),
    (None, HEAD, r"continues no prefill, and"),
]


@pytest.mark.parametrize(("own", "other", "message"), PREFILLS)
def test_a_sample_continues_the_prefill_that_it_was_drawn_with(
    workspace: Path, own: str | None, other: str, message: str | None
) -> None:
    asked, target = world.prompt(CATS, own or "", " As before."), world.prompt(CATS, other)
    world.write("prompts", "train", [asked])
    drawn = world.sample(asked, 0, "    return 8")
    drawn = drawn if own is not None else drawn.model_copy(update={"prompt_id": None})
    if message is None:
        assert moved([(drawn, "correct")], [target]) == {drawn.sample_id: "demo"}
        return
    assert moved([(drawn, "wrong")], [target]) == {drawn.sample_id: "wrong"}
    with pytest.raises(ValueError, match=rf"demos_correct\.star\.prompts: sample .*-0000 {message}"):
        moved([(drawn, "correct")], [target])


def test_prompts_that_the_samples_do_not_answer_are_named(workspace: Path) -> None:
    world.write("prompts", "train", [THINK])
    drawn = world.sample(PLAIN, 0, "8")
    with pytest.raises(ValueError, match=r"star\.sample_prompts: the prompt of sample .* is not in run 'train'; name"):
        moved([(drawn, "correct")], [PLAIN])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_prompts": "train"}, "sample_prompts: only samples that go under other `prompts` need it"),
        ({"prompts": "train", "max_tokens": 9}, "max_tokens: the tokens of other `prompts` are not known here"),
    ],
)
def test_settings_that_do_not_go_together(workspace: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"demos_correct\.star: {message}"):
        run_correct([(world.sample(PLAIN, 0, "a"), "correct")], **settings)


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
