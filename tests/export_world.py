"""A workspace with something of every kind that a release can hold: two training problems and one of the test split."""

import json
from pathlib import Path
from typing import Any

import yaml

from builders import export
from builders.word_tokenizer import build_tokenizer
from schemas import Demo, Pair, Problem, Prompt, Sample
from schemas.ids import prompt_id
from schemas.params import STAGES
from stores.paths import run_dir
from stores.stage import execute
from tests import stage_world as world
from tests.step_world import SECTIONS, label, reward

PREFILL = "Let's see.\nStep 1: "
QUESTIONS = ("Legs of 2 cats?", "What is 3 + 4?", "A secret of the test split?")
RIGHT = "A cat 🐈 has 4 legs.\nStep 2: 2 * 4 = 8.\nStep 3: The answer is 8."
WRONG = "A cat 🐈 has 4 legs.\nStep 2: 2 * 4 = 6.\nStep 3: The answer is 6."
OUTCOME = {"step_labels": "none", "gold": "none", "k": 2}
PARAMS: dict[str, Any] = SECTIONS | {
    "seed": 0,
    "report": {},
    "sampling": {"explore": {"temperature": 1.0, "max_new_tokens": 32}},
    "problems": {"train": world.PROBLEMS},
    "models": world.COMMON["models"] | {
        "words": {"path": "data/none", "vocabulary": "train", "config": {"model_type": "llama"}}
    },
    "prompts": {"train": world.PROMPTS, "asked": world.PROMPTS | {"rendering": "chat"}},
    "samples": SECTIONS["samples"] | {"said": world.SAMPLES | {"prompts": "asked"}},
    "predictions": SECTIONS["predictions"] | {"drawn": {"samples": "drawn", "prompts": "train", "problems": "train"},
                                              "said": {"samples": "said", "prompts": "asked", "problems": "train"}},
    "rewards": SECTIONS["rewards"] | {"drawn": {"predictions": "drawn", "problems": "train"},
                                      "said": {"predictions": "said", "problems": "train"}},
    "demos_correct": {"star": {"samples": "drawn", "rewards": "drawn"} | world.UNMOVED},
    "pairs_outcome": {"whole": {"samples": "drawn", "rewards": "drawn"} | OUTCOME,
                      "said": {"samples": "said", "rewards": "said"} | OUTCOME},
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "pairs": ["whole"], "step_pairs": ["step"], "demos": ["star"], "samples": ["drawn", "said"],
    "rewards": ["drawn"], "step_labels": ["labels"], "model": "none",
}  # fmt: skip
"""A release with every config."""


def problems() -> list[Problem]:
    """The last one is of the test split."""
    found = [world.problem(question) for question in QUESTIONS]
    return [*found[:2], found[2].model_copy(update={"split": "test"})]


def chat(asked: Problem) -> Prompt:
    """A conversation of two messages, without a given start of the answer."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked.question}]
    made = world.prompt(asked).model_dump()
    made |= {"messages": messages, "rendering": "chat", "template": "chat-1"}
    return Prompt.model_validate(made | {"prompt_id": prompt_id(asked.problem_id, messages, "", "chat")})


def build() -> None:
    """Writes tables and params below the working directory."""
    asked = [world.prompt(problem, PREFILL) for problem in problems()]
    chats = [chat(problem) for problem in problems()]
    drawn = {p.prompt_id: _drawn(p) for p in (*asked, *chats)}
    prefix = [_step_prompt(p) for p in asked]
    continued = [world.sample(p, 0, RIGHT[RIGHT.index("2 *") :]) for p in prefix]
    aligned = zip(prefix, continued, asked, strict=True)
    for table, run, rows in (
        ("problems", "train", problems()),
        ("answers", "train", [world.answer(p, "8") for p in problems()[:1]]),
        ("prompts", "train", asked),
        ("prompts", "asked", chats),
        ("prompts", "steps", prefix),
        ("samples", "drawn", [s for p in asked for s in drawn[p.prompt_id]]),
        ("samples", "said", [s for p in chats for s in drawn[p.prompt_id]]),
        ("samples", "continued", continued),
        ("rewards", "drawn", [r for p in asked for r in map(reward, drawn[p.prompt_id], "+-")]),
        ("step_labels", "labels", [row for p in asked for row in _labels(*drawn[p.prompt_id])]),
        ("demos", "star", [Demo(prompt_id=p.prompt_id, sample_id=drawn[p.prompt_id][0].sample_id) for p in asked]),
        ("pairs", "whole", [pair(p, *drawn[p.prompt_id]) for p in asked]),
        ("pairs", "said", [pair(p, *drawn[p.prompt_id]) for p in chats]),
        ("pairs", "step", [step(p, s, drawn[a.prompt_id][1]) for p, s, a in aligned]),
    ):
        world.write(table, run, rows)
    write_params({"everything": EVERYTHING})


def write_params(releases: dict[str, Any]) -> None:
    params = {section: {} for section in STAGES} | PARAMS | {"export": releases}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def release(**changes: Any) -> Path:
    """Exports a release of everything but for `changes`; its directory."""
    write_params({"everything": EVERYTHING | changes})
    execute("export", "everything", export.run)
    return Path("data/export/everything")


def write_model() -> None:
    """The model `words`: a tokenizer with a chat template, without weights."""
    directory = run_dir("models", "words")
    build_tokenizer([*QUESTIONS, RIGHT, WRONG, PREFILL, "Be brief."]).save_pretrained(directory)
    record = {"fingerprint": "0" * 16, "provenance": {}, "files": {}}
    (directory / "pairwright.json").write_text(json.dumps(record))


def _drawn(asked: Prompt) -> list[Sample]:
    """A right and a wrong one."""
    return [world.sample(asked, 0, RIGHT), world.sample(asked, 1, WRONG, "length")]


def _step_prompt(asked: Prompt) -> Prompt:
    """The one that stops before the wrong step."""
    prefill = PREFILL + WRONG[: WRONG.index("2 *")]
    messages = [message.model_dump() for message in asked.messages]
    return asked.model_copy(
        update={"prefill": prefill, "prompt_id": prompt_id(asked.problem_id, messages, prefill, "text")}
    )


def _labels(right: Sample, wrong: Sample) -> list[Any]:
    """Of a right sample, of a wrong one, and an answer that labels nothing."""
    return [label(right, None), label(wrong, 1), label(wrong, -1, "judge-1")]


def pair(asked: Prompt, chosen: Sample, rejected: Sample) -> Pair:
    """A pair of whole samples; the rejected one was cut off."""
    return Pair(
        prompt_id=asked.prompt_id, rank=0, problem_id=asked.problem_id,
        chosen_sample_id=chosen.sample_id, chosen_start=0, chosen_end=chosen.n_chars, chosen_eos=True,
        rejected_sample_id=rejected.sample_id, rejected_start=0, rejected_end=rejected.n_chars, rejected_eos=False,
    )  # fmt: skip


def step(asked: Prompt, chosen: Sample, rejected: Sample) -> Pair:
    """The pair of the second step."""
    start = rejected.text.index("2 *")
    return Pair(
        prompt_id=asked.prompt_id, rank=0, problem_id=asked.problem_id,
        chosen_sample_id=chosen.sample_id, chosen_start=0, chosen_end=chosen.text.index("\n"), chosen_eos=False,
        rejected_sample_id=rejected.sample_id, rejected_start=start, rejected_end=rejected.text.index("\n", start),
        rejected_eos=False,
    )  # fmt: skip
