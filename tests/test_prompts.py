"""Prompts of problems and demonstrations: drawn, redrawn or named, never the asked problem's own solution."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.prompts import (
    Demonstration,
    Redraw,
    Template,
    build,
    draw,
    named_demos,
    run,
    shown,
)
from schemas import Problem, Prompt, Sample
from schemas.ids import problem_id, prompt_id, sample_id, text_hash
from schemas.params import Params
from stores.parquet import read_table, rows_to_table, write_table
from stores.paths import run_dir
from stores.stage import Stage, execute

PLAIN = Template(style="natural", user="Q: {question}\nA:\n")
CHOICE = Template(style="natural", user="{question}\n{choices}", prefill="Let us see. ", system="Be brief.")


def demonstration(number: int, problem: int | None = None, choices: list[str] | None = None) -> Demonstration:
    asked = number if problem is None else problem
    return Demonstration(f"sample {number}", f"problem {asked}", f"question {asked}", choices, f"answer {number}")


# --- demonstrations ----------------------------------------------------------------------------------------------


def test_draw_takes_one_sample_per_problem_and_a_spare_one() -> None:
    candidates = [demonstration(i, problem=i % 5) for i in range(40)]
    drawn = draw(candidates, 3, seed=1)
    assert len(drawn) == 4
    assert len({demo.problem_id for demo in drawn}) == 4
    assert drawn == draw(candidates[::-1], 3, seed=1)
    assert len({tuple(draw(candidates, 3, seed=seed)) for seed in range(20)}) > 10


def test_draw_needs_enough_problems() -> None:
    with pytest.raises(ValueError, match="shots: 3 wanted, but `demo_samples` has completed samples of 2 problems"):
        draw([demonstration(i, problem=i % 2) for i in range(9)], 3, seed=0)


def test_a_problem_never_shows_its_own_solution() -> None:
    demos = [demonstration(i) for i in range(4)]
    assert shown(demos, 3, "another") == demos[:3]
    assert shown(demos, 3, "problem 3") == demos[:3]
    assert shown(demos, 3, "problem 1") == [demos[0], demos[2], demos[3]]
    with pytest.raises(ValueError, match="shots: problem problem 1 is itself a demonstration and no other is left"):
        shown(demos[:3], 3, "problem 1")

    assert shown(demos[:3], 3, "problem 1", fewer=True) == [demos[0], demos[2]]


def test_named_are_samples_or_first_samples_of_problems() -> None:
    candidates = [demonstration(i, problem=i % 3) for i in (5, 4, 3, 2, 1, 0)]
    found = named_demos(candidates, ["sample 4", "problem 2", "sample 0"])
    assert [demo.sample_id for demo in found] == ["sample 4", "sample 2", "sample 0"]
    with pytest.raises(ValueError, match="named: 'sample 9' is neither a sample of `demo_samples` that is") as error:
        named_demos(candidates, ["sample 1", "sample 9"])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="named: 'sample 2' and 'problem 2' are both sample 'sample 2'; name it once"):
        named_demos(candidates, ["problem 2", "sample 5", "sample 2"])


def test_redraw_shows_every_problem_others() -> None:
    candidates = [demonstration(i, problem=i % 10) for i in range(30)]
    draw_for = Redraw(candidates, 4, seed=1)
    asked = [f"problem {i}" for i in range(400)]
    drawn = {problem: draw_for(problem) for problem in asked}
    for problem, demos in drawn.items():
        assert len({demo.problem_id for demo in demos}) == 4
        assert problem not in {demo.problem_id for demo in demos}
    assert drawn == {problem: Redraw(candidates[::-1], 4, seed=1)(problem) for problem in asked}
    assert drawn != {problem: Redraw(candidates, 4, seed=2)(problem) for problem in asked}
    shows = Counter(demo.sample_id for demos in drawn.values() for demo in demos)
    assert len(shows) == 30, "every sample has its turn"
    assert max(shows.values()) < 3 * min(shows.values())
    firsts = Counter(demos[0].problem_id for demos in drawn.values())
    assert max(firsts.values()) < 3 * min(firsts.values())


def test_redraw_needs_enough_other_problems() -> None:
    candidates = [demonstration(i) for i in range(3)]
    with pytest.raises(ValueError, match="shots: 4 wanted, but `demo_samples` has completed samples of 3 problems"):
        Redraw(candidates, 4, seed=0)
    exactly = Redraw(candidates, 3, seed=0)
    assert {demo.sample_id for demo in exactly("another")} == {"sample 0", "sample 1", "sample 2"}
    with pytest.raises(ValueError, match="shots: problem problem 1 is itself a demonstration and no other is left"):
        exactly("problem 1")


def test_redraw_of_many_candidates_is_quick() -> None:
    candidates = [demonstration(i) for i in range(10_000)]
    began = time.process_time()
    draw_for = Redraw(candidates, 4, seed=0)
    for i in range(10_000):
        assert len(draw_for(f"problem {i}")) == 4
    assert time.process_time() - began < 5, "no pass over the candidates for each prompt"


def test_rows() -> None:
    problem = problem_id("s", "how?", None)
    rows = [{"problem_id": problem, "question": "how?", "choices": None}]
    (zero,) = build(rows, (PLAIN, "plain@0"), "text")
    messages = [{"role": "user", "content": "Q: how?\nA:\n"}]
    assert [message.model_dump() for message in zero.messages] == messages
    assert zero.prompt_id == prompt_id(problem, messages, "", "text")
    assert (zero.demo_sample_ids, zero.template, zero.style, zero.prefill) == (None, "plain@0", "natural", "")
    (two,) = build(rows, (PLAIN, "plain@0"), "chat", lambda _: [demonstration(0), demonstration(1)])
    assert two.demo_sample_ids == ["sample 0", "sample 1"]
    assert len(two.messages) == 5
    assert two.prompt_id.startswith(problem)
    assert two.prompt_id != zero.prompt_id


# --- the stage ---------------------------------------------------------------------------------------------------


def problem_row(question: str) -> Problem:
    identity = problem_id("s", question, None)
    return Problem(
        problem_id=identity, source="s", split="train", question=question, choices=None, answer_kind="number",
        level=None, subject=None, licence="MIT",
    )  # fmt: skip


def sample_row(question: str, text: str, finish_reason: Any = "stop", index: int = 0) -> Sample:
    problem = problem_id("s", question, None)
    return Sample(
        sample_id=sample_id(problem, "0" * 8, index), prompt_id=None, problem_id=problem, model="gold",
        model_fingerprint="gold", index=index, seed=None, temperature=None, top_p=None, text=text,
        text_hash=text_hash(text), n_chars=len(text), n_tokens=None, n_prompt_tokens=None, token_ids=None,
        finish_reason=finish_reason,
    )  # fmt: skip


@pytest.fixture
def project(workspace: Path) -> Path:
    """Problems `train` q0..q5, and gold samples of q0..q3 of which q2 is truncated and q3 empty."""
    write_table(
        run_dir("problems", "train"), Problem, [rows_to_table(Problem, [problem_row(f"q{i}") for i in range(6)])]
    )
    samples = [sample_row("q0", "a0"), sample_row("q1", "a1"), sample_row("q2", "a2", "length"), sample_row("q3", " ")]
    write_table(run_dir("samples", "gold"), Sample, [rows_to_table(Sample, samples)])
    return workspace


def configure(**changes: Any) -> None:
    none = {"demo_samples": "none", "demo_problems": "none"}
    prompts = {"problems": "train", "template": "question_answer", "rendering": "text"} | none | changes
    source = {"source": "gsm8k", "path": "rows.jsonl", "split": "train"}
    gold = {"problems": "train", "ending": "", "model": "none"}
    sections: dict[str, Any] = {name: {} for name in Params.model_fields} | {"seed": 0}
    sections |= {"problems": {"train": source}, "samples_gold": {"gold": gold}, "prompts": {"asked": prompts}}
    Path("params.yaml").write_text(yaml.safe_dump(sections))


def written() -> list[dict]:
    return read_table(run_dir("prompts", "asked"), Prompt).to_pylist()


def test_stage_zero_shot(project: Path) -> None:
    configure()
    execute("prompts", "asked", run)
    rows = written()
    assert sorted(row["messages"][0]["content"] for row in rows) == [f"Question: q{i}\nAnswer:\n" for i in range(6)]
    assert [row["prompt_id"] for row in rows] == sorted(row["prompt_id"] for row in rows)
    assert {row["demo_sample_ids"] for row in rows} == {None}


def test_stage_few_shot(project: Path) -> None:
    configure(shots=1, demo_samples="gold", demo_problems="train", rendering="chat")
    execute("prompts", "asked", run)
    shown_to = {row["messages"][-1]["content"][10:12]: row for row in written()}
    first = {row["demo_sample_ids"][0] for question, row in shown_to.items() if question not in ("q0", "q1")}
    assert len(first) == 1, "the demonstration is fixed"
    for question, other in (("q0", "q1"), ("q1", "q0")):
        row = shown_to[question]
        assert question not in row["messages"][0]["content"]
        assert row["demo_sample_ids"][0] is not None
        if row["demo_sample_ids"][0] not in first:
            assert row["messages"][0]["content"] == f"Question: {other}\nAnswer:\n"
    assert [message["role"] for message in shown_to["q5"]["messages"]] == ["user", "assistant", "user"]
    assert shown_to["q5"]["messages"][1]["content"] in ("a0", "a1"), "neither truncated nor empty samples are shown"


FEW_SHOTS = {"demo_samples": "gold", "demo_problems": "train", "rendering": "chat"}


def questions_shown() -> dict[str, list[str]]:
    """Question asked -> questions shown before it."""
    asked = [[m["content"][10:12] for m in row["messages"] if m["role"] == "user"] for row in written()]
    return {questions[-1]: questions[:-1] for questions in asked}


def test_stage_named(project: Path) -> None:
    first, second = (problem_id("s", question, None) for question in ("q1", "q0"))
    configure(shots=1, named=[first, sample_id(second, "0" * 8, 0)], **FEW_SHOTS)
    execute("prompts", "asked", run)
    assert questions_shown() == {f"q{i}": ["q1"] for i in range(6)} | {"q1": ["q0"]}
    configure(shots=2, named=[first, sample_id(second, "0" * 8, 0)], **FEW_SHOTS)
    execute("prompts", "asked", run)
    assert questions_shown() == {f"q{i}": ["q1", "q0"] for i in range(6)} | {"q0": ["q1"], "q1": ["q0"]}
    assert {len(row["demo_sample_ids"]) for row in written()} == {1, 2}


def test_stage_redraw(project: Path) -> None:
    write_table(
        run_dir("samples", "gold"), Sample, [rows_to_table(Sample, [sample_row(f"q{i}", "a") for i in range(6)])]
    )
    configure(shots=2, redraw=True, **FEW_SHOTS)
    execute("prompts", "asked", run)
    seen = questions_shown()
    assert all(len(set(others)) == 2 and asked not in others for asked, others in seen.items())
    assert len({tuple(others) for others in seen.values()}) > 3, "every prompt has its own"


def test_demonstrations_are_samples_under_any_prompt_and_no_gold_is_read(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a weak model wrote, asked in its own way and right or wrong; the stage reads nothing but problems and it."""
    asked = problem_id("s", "q4", None)
    drafted = sample_row("q4", "a wrong draft").model_copy(
        update={
            "prompt_id": f"{asked}-12345678",
            "sample_id": sample_id(f"{asked}-12345678", "1" * 8, 0),
            "model": "weak",
        }
    )
    write_table(run_dir("samples", "gold"), Sample, [rows_to_table(Sample, [drafted])])
    tables: set[str] = set()
    for name in ("read", "scan"):
        reading = getattr(Stage, name)

        def noted(stage: Stage, table: str, *rest: Any, reading: Any = reading, **more: Any) -> Any:
            tables.add(table)
            return reading(stage, table, *rest, **more)

        monkeypatch.setattr(Stage, name, noted)
    configure(shots=1, named=[drafted.sample_id], **FEW_SHOTS)
    execute("prompts", "asked", run)
    assert questions_shown() == {f"q{i}": ["q4"] for i in range(6)} | {"q4": []}
    assert {row["messages"][1]["content"] for row in written() if len(row["messages"]) == 3} == {"a wrong draft"}
    assert tables == {"problems", "samples"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"named": ["a", "b"], "redraw": True, "shots": 1}, "prompts.asked: named: these are no draw; remove it"),
        ({"named": ["a"]}, "prompts.asked: shots: say how many a prompt shows, or remove `named`"),
        ({"redraw": True}, "prompts.asked: shots: say how many a prompt shows, or remove `redraw`"),
        ({"named": ["a"], "shots": 2}, "named: 1 cannot make 2 shots; name more, or lower `shots`"),
        ({"named": ["a", "a"], "shots": 2}, "named: 'a' is there twice; name it once"),
        ({"named": ["a"], "shots": 1, **FEW_SHOTS}, "named: 'a' is neither a sample of `demo_samples` that is"),
        ({"redraw": True, "shots": 1}, "shots: 1 need `demo_samples` and `demo_problems`"),
        ({"redraw": True, "shots": 3, **FEW_SHOTS}, "shots: 3 wanted, but .* of 2 problems"),
        ({"redraw": True, "shots": 2, **FEW_SHOTS}, "is itself a demonstration and no other is left"),
        ({"shots": 2}, "shots: 2 need `demo_samples` and `demo_problems`"),
        ({"shots": 3, "demo_samples": "gold", "demo_problems": "train"}, "shots: 3 wanted, but .* of 2 problems"),
        (
            {"shots": 2, "demo_samples": "gold", "demo_problems": "train"},
            "is itself a demonstration and no other is left",
        ),
        ({"template": "boxd"}, "did you mean 'boxed'"),
    ],
)
def test_stage_errors(project: Path, changes: dict, message: str) -> None:
    configure(**changes)
    with pytest.raises(ValueError, match=message):
        execute("prompts", "asked", run)
    assert not run_dir("prompts", "asked").exists()


def test_samples_of_other_problems_are_an_error(project: Path) -> None:
    write_table(run_dir("samples", "gold"), Sample, [rows_to_table(Sample, [sample_row("elsewhere", "a")])])
    configure(shots=1, demo_samples="gold", demo_problems="train")
    with pytest.raises(ValueError, match="demo_problems: 'train' lacks the problem of sample"):
        execute("prompts", "asked", run)
