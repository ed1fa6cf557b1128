"""Chains and programs by a hosted model after a few examples, checked, kept, and put where there are no examples.

Warm-up data for problems that have none (ReFT, arXiv 2401.08967, §4.1), from engine `openai` to `demos_correct`.
"""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders.arithmetic import WordProblem, generate
from schemas.slots import NO_FILE
from stores.stage import StopEarly, execute
from tests import stage_world as world
from tests.fault_server import MODEL, Act, Asked, FaultServer
from tests.hosted_world import connect
from tests.judging_world import Meter, ledger_sql, usage_of

COUNT, SHOTS = 24, 2
SEEDS = {"train": 1, "examples": 2}
ENDING = "\nTherefore, the answer is: {answer}"
PROBLEMS = generate(SEEDS["train"], (2, 3), COUNT)
STYLES = {"natural": "reft_number", "program": "reft_program"}
FATES = ("right", "wrong", "flawed")
"""What the model writes for the problems in turn; a flawed chain states the right answer, a flawed program raises."""
EXPECTED = {
    "natural": {"right": "demo", "wrong": "wrong", "flawed": "wrong_step"},
    "program": {"right": "demo", "wrong": "wrong", "flawed": "no_answer"},
}


def sections() -> dict[str, Any]:
    made = {"source": "arithmetic", "path": NO_FILE, "split": "train", "steps": [2, 3]}
    none = {"demo_samples": "none", "demo_problems": "none"}
    found: dict[str, Any] = {
        "sampling": {"annotate": {"temperature": 0.7, "max_new_tokens": 200}},
        "problems": {name: made | {"seed": seed, "limit": COUNT} for name, seed in SEEDS.items()},
        "models": {"annotator": {"path": NO_FILE, "vocabulary": "none", "hosted": MODEL}},
        **{s: {} for s in ("samples_gold", "prompts", "samples", "predictions", "rewards", "step_labels")},
        "demos_correct": {},
    }
    for style, checker in STYLES.items():
        asked = {"problems": "train", "template": f"reft_{style}"}
        examples = {"problems": "examples", "style": style, "model": "none"}
        few = {"demo_samples": f"shown_{style}", "demo_problems": "examples", "shots": SHOTS, "rendering": "chat"}
        answers = {"samples": style, "prompts": style, "problems": "train"}
        found["samples_gold"][f"shown_{style}"] = examples | {"ending": ENDING if style == "natural" else ""}
        found["prompts"] |= {style: asked | few, f"zero_{style}": asked | none | {"rendering": "text"}}
        found["samples"][style] = {"prompts": style, "model": "annotator", "engine": "openai", "sampling": "annotate",
                                   "n": 1}  # fmt: skip
        found["predictions"][style] = answers | {"checker": checker}
        found["rewards"][style] = {"predictions": style, "problems": "train"}
        found["step_labels"][style] = answers | {"rewards": style, "labeler": "rule", "model": "none", "path": NO_FILE,
                                                 "neutral_is_error": False, "select": "correct"}  # fmt: skip
        found["demos_correct"][style] = {"samples": style, "rewards": style, "step_labels": style,
                                         "sample_prompts": style, "prompts": f"zero_{style}"}  # fmt: skip
    return found


def build(*stages: str) -> None:
    """Runs the stages, all of their runs, from `world.write_params` on."""
    for section in stages:
        for name in sections()[section]:
            execute(section, name, importlib.import_module(f"builders.{section}").run)


def written(problem: WordProblem, style: str, fate: str) -> str:
    """What the annotator answers."""
    if style == "program":
        end = {"right": "", "wrong": " + 1", "flawed": " // 0"}[fate]
        return problem.program + end
    answer = str(int(problem.answer) + (fate == "wrong"))
    chain = problem.chain if fate != "flawed" else f"One and one, 1 + 1 = 3. {problem.chain}"
    return chain + ENDING.format(answer=answer)


class Annotator(Meter):
    """Answers each question by its place among the problems, in the style of the examples that it is shown."""

    def __call__(self, asked: Asked) -> Act:
        act = super().__call__(asked)
        messages = asked.body["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * SHOTS + ["user"]
        style = "program" if messages[1]["content"].startswith("def solution():\n") else "natural"
        place = next(i for i, p in enumerate(PROBLEMS) if p.question in asked.question)
        return replace(act, text=written(PROBLEMS[place], style, FATES[place % 3]), fields={"usage": usage_of(asked)})


def fates(style: str) -> dict[str, str]:
    """Problem -> "demo", or why its sample is none."""
    found = {row["sample_id"][:16]: "demo" for row in world.read("demos", style)}
    return found | {str(problem): reason for problem, _, reason, _ in world.rejects("demos_correct", style)}


def test_annotations_are_checked_and_become_zero_shot_demos(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write_params(**sections())
    build("problems", "models", "samples_gold", "prompts")
    meter = Annotator()
    with FaultServer(meter).running() as server:
        connect(monkeypatch, server, budget_usd="0.0005")
        with pytest.raises(StopEarly, match="completions are missing, the others are in the ledger"):
            build("samples")
        kept = ledger_sql("select count(*) from completions")[0][0]
        assert 0 < kept == meter.answered < COUNT
        assert not Path("data/samples/run=natural").exists()
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "1")
        build("samples")
        assert meter.answered == 2 * COUNT, "what was paid for is not asked for again"
    build("predictions", "rewards", "step_labels", "demos_correct")
    ids = {row["question"]: row["problem_id"] for row in world.read("problems", "train")}
    for style in STYLES:
        expected = {ids[p.question]: EXPECTED[style][FATES[i % 3]] for i, p in enumerate(PROBLEMS)}
        assert fates(style) == expected
        zero = {row["prompt_id"]: row for row in world.read("prompts", f"zero_{style}")}
        texts = {row["sample_id"]: row["text"] for row in world.read("samples", style)}
        by_problem = {ids[p.question]: p for p in PROBLEMS}
        demos = world.read("demos", style)
        assert len(demos) == COUNT // 3
        for demo in demos:
            asked = zero[demo["prompt_id"]]
            assert asked["demo_sample_ids"] is None
            assert texts[demo["sample_id"]] == written(by_problem[asked["problem_id"]], style, "right")


def test_programs_do_not_go_under_a_prompt_that_gives_their_head(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = sections()
    given["prompts"]["zero_program"]["template"] = "reft_program_start"
    world.write_params(**given)
    build("problems", "models", "samples_gold", "prompts")
    with FaultServer(Annotator()).running() as server:
        connect(monkeypatch, server)
        build("samples")
    build("predictions", "rewards", "step_labels")
    with pytest.raises(ValueError, match=r"demos_correct\.program\.prompts: sample \S+ continues no prefill, and"):
        build("demos_correct")
