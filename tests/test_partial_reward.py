"""Partial rewards: who gets one under which rule, as a function and in the stage `rewards`."""

import shutil
from typing import Any

import pytest
from pydantic import ValidationError

from builders import predictions, rewards
from builders.checkers.partial import are_numbers, cases, reward
from schemas.sections import RewardsRun
from schemas.slots import PartialRule
from stores.paths import run_dir
from stores.stage import execute
from tests import stage_world as world

RULES: list[PartialRule] = ["none", "paper", "code"]
CASES = [
    # verdict, numbers, options, none, paper, code
    ("correct", True, False, 1.0, 1.0, 1.0),
    ("correct", False, True, 1.0, 1.0, 1.0),
    ("wrong", True, False, 0.0, 0.1, 0.1),
    ("wrong", False, False, 0.0, 0.0, 0.1),
    ("wrong", True, True, 0.0, 0.0, 0.1),
    ("wrong", False, True, 0.0, 0.0, 0.1),
    ("no_answer", False, False, 0.0, 0.0, 0.0),
    ("no_answer", False, True, 0.0, 0.0, 0.1),
    ("undecided", True, False, None, None, None),
    ("undecided", False, True, None, None, None),
]


@pytest.mark.parametrize(("verdict", "numbers", "options", "none", "paper", "code"), CASES)
def test_who_gets_a_partial_reward(verdict, numbers: bool, options: bool, none, paper, code) -> None:
    assert [reward(verdict, numbers, options, rule, 0.1) for rule in RULES] == [none, paper, code]


def test_cases_are_the_whole_function() -> None:
    for rule in RULES:
        rows = list(cases(rule, 0.25))
        assert len({row[:3] for row in rows}) == len(rows) == 16
        assert {row[3] for row in rows} <= {None, 0.0, 0.25, 1.0}


@pytest.mark.parametrize(
    ("extracted", "gold", "numbers"),
    [
        ("6", "8", True),
        ("-1,234.50", "1,234", True),
        ("$5", "50%", True),
        ("1/3", "2 1/3", True),
        (r"\frac{1}{2}", "3", True),
        ("1e+300", "8", True),
        ("7" * 300, "8", True),
        ("7" * 400, "8", False),
        ("inf", "8", False),
        ("nan", "8", False),
        ("(1, 2)", "8", False),
        ("5 apples", "8", False),
        ("2x", "8", False),
        ("6", "b", False),
        ("B", "B", False),
        ("True", "1", False),
        (None, "8", False),
    ],
)
def test_what_is_a_number(extracted: str | None, gold: str, numbers: bool) -> None:
    assert are_numbers(extracted, gold) is numbers


CATS = world.problem("Legs of 2 cats?")
HALF = world.problem("Half of x?", "latex")
PICK = world.problem("Which is 2?", "choice").model_copy(update={"choices": ["1", "2"]})
GIVEN = [
    # problem, gold, text, then the reward under each rule
    (CATS, "#### 8", 1.0, 1.0, 1.0),
    (CATS, "#### 6", 0.0, 0.1, 0.1),
    (CATS, "I do not know.", 0.0, 0.0, 0.0),
    (HALF, r"so $\boxed{x}$", 0.0, 0.0, 0.1),
    (PICK, "Final answer: B", 1.0, 1.0, 1.0),
    (PICK, "Final answer: A", 0.0, 0.0, 0.1),
    (PICK, "no letter at all.", 0.0, 0.0, 0.1),
]


@pytest.fixture
def made(workspace) -> dict[str, tuple[Any, ...]]:
    """Sample id -> what is expected of it; predictions of run `p` are written."""
    problems = [CATS, HALF, PICK]
    prompts = {p.problem_id: world.prompt(p, "") for p in problems}
    samples = [world.sample(prompts[p.problem_id], i, text) for i, (p, text, *_) in enumerate(GIVEN)]
    lost = world.problem("Nobody knows?")
    samples.append(world.sample(world.prompt(lost, ""), 90, "#### 1"))
    rules = {f"by_{rule}": {"predictions": "p", "problems": "train", "partial": rule} for rule in RULES}
    half = rules["by_paper"] | {"partial_reward": 0.5}
    world.write_params(
        predictions={"p": {"samples": "drawn", "prompts": "none", "problems": "train"}},
        rewards=rules | {"half": half, "default": {"predictions": "p", "problems": "train"}},
    )
    world.write("problems", "train", [*problems, lost])
    world.write("answers", "train", [world.answer(p, g) for p, g in ((CATS, "8"), (HALF, r"\frac{x}{2}"), (PICK, "B"))])
    world.write("samples", "drawn", sorted(samples, key=lambda s: s.sample_id))
    execute("predictions", "p", predictions.run)
    expected = {s.sample_id: row[2:] for s, row in zip(samples, GIVEN, strict=False)}
    return expected | {samples[-1].sample_id: (None, None, None)}


def test_the_stage_pays_by_its_rule(made: dict[str, tuple[Any, ...]]) -> None:
    verdicts = []
    for position, rule in enumerate(RULES):
        execute("rewards", f"by_{rule}", rewards.run)
        found = world.read("rewards", f"by_{rule}")
        assert {row["sample_id"]: row["reward"] for row in found} == {key: row[position] for key, row in made.items()}
        verdicts.append([(row["sample_id"], row["verdict"], row["checker_version"]) for row in found])
    assert verdicts[0] == verdicts[1] == verdicts[2]


def test_the_amount_is_a_parameter(made: dict[str, tuple[Any, ...]]) -> None:
    execute("rewards", "half", rewards.run)
    found = {row["reward"] for row in world.read("rewards", "half")}
    assert found == {None, 0.0, 0.5, 1.0}


def test_without_a_rule_problems_are_not_read(made: dict[str, tuple[Any, ...]]) -> None:
    execute("rewards", "by_none", rewards.run)
    shutil.rmtree(run_dir("problems", "train"))
    execute("rewards", "default", rewards.run)
    files = [run_dir("rewards", run) / "part-00000.parquet" for run in ("by_none", "default")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(ValueError, match="problems"):
        execute("rewards", "by_code", rewards.run)


@pytest.mark.parametrize("change", [{"partial": "all"}, {"partial_reward": 1.0}, {"partial_reward": -0.1}])
def test_what_is_no_rule_or_amount_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        RewardsRun.model_validate({"predictions": "p", "problems": "train"} | change)
