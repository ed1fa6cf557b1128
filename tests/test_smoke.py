"""`shrink`: every run and reference of a params file, on generated problems and tiny models."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

import builders.problems
from builders.prompts import load_template
from builders.smoke import STEP_PAIRS, TINY, TOGETHER, WARMUP, shrink, step_pairs
from schemas.params import parse_params, references, stage_runs
from stores.stage import execute
from tests import stage_world as world
from tests.conftest import REPOSITORY


def shipped() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))


def small(raw: dict[str, Any], problems: int = 20) -> Any:
    return parse_params(yaml.safe_dump(shrink(raw, problems), sort_keys=False))


def test_every_run_and_reference_is_kept():
    raw, params = shipped(), small(shipped())
    before = {
        (section, name, ref.slot, ref.value)
        for section, name, run in stage_runs(parse_params(yaml.safe_dump(raw)))
        for ref in references(section, name, run)
        if section not in ("problems", "models")
    }
    after = {(s, n, ref.slot, ref.value) for s, n, run in stage_runs(params) for ref in references(s, n, run)}
    assert before <= after
    made = {"tiny", "tiny_steps", "weak_start", "strong_start", "tiny_program", TINY}
    assert {name for _, name, *_ in after - before if not name.startswith(WARMUP)} == made


def test_what_was_given_is_left_as_it_was():
    raw = shipped()
    before = copy.deepcopy(raw)
    shrink(raw)
    assert raw == before


def test_windows_of_one_source_keep_their_order_and_overlaps():
    common = {"source": "gsm8k", "path": "data/none", "revision": "0" * 40, "split": "train", "shuffle": True}
    runs = {
        "train": common | {"limit": 6473},
        "held_out": common | {"skip": 6473, "limit": 1000},
        "whole": common,
        "test": common | {"split": "test"},
        "elsewhere": common | {"seed": 1},
    }
    found = {
        n: (r.seed, r.skip, r.limit, r.split)
        for n, r in small(shipped() | {"problems": shipped()["problems"] | runs}).problems.items()
    }
    seed = found["train"][0]
    assert found["train"] == (seed, 0, 20, "train")
    assert found["held_out"] == (seed, 20, 20, "train")
    assert found["whole"] == (seed, 0, 60, "train")
    assert len({found[name][0] for name in ("train", "test", "elsewhere", WARMUP)}) == 4


@pytest.mark.parametrize(("given", "expect"), [(1, 1), (2, 2), (4, 2), (10, 3), (30, 5), (60, 8)])
def test_counts_shrink_and_still_differ(given, expect):
    raw = shipped()
    raw["samples"]["irpo_0"]["n"] = given
    assert small(raw).samples["irpo_0"].n == expect


def test_problems_that_are_asked_with_options_get_some():
    """In all windows of their source, and those that the tiny models learn from."""
    arc = {"source": "arc", "path": "data/none", "revision": "0" * 40, "split": "train"}
    raw = shipped()
    raw["problems"] |= {"arc": arc | {"limit": 9}, "rest": arc | {"skip": 9}}
    asked = raw["prompts"]["train"] | {"problems": "arc", "template": "choice_final_answer"}
    raw["prompts"] = {"arc": asked} | raw["prompts"]
    found = {name: run.options for name, run in small(raw).problems.items()}
    assert {name for name, options in found.items() if options == 4} == {"arc", "rest", WARMUP}


def test_generated_problems_with_options(workspace: Path) -> None:
    """The answer is the letter of the option that the plain problem's answer is; everything else is the same."""
    plain = {"source": "arithmetic", "path": "data/none", "split": "train", "limit": 6, "steps": [1, 2]}
    world.write_params(problems={"train": plain, "choice": plain | {"options": 4}})
    for name in ("train", "choice"):
        execute("problems", name, builders.problems.run)
    answers = {row["problem_id"]: row["answer"] for run in ("train", "choice") for row in world.read("answers", run)}
    solutions = {
        row["problem_id"]: row["text"] for row in world.read("solutions", "choice") if row["style"] == "natural"
    }
    expected = {row["question"]: answers[row["problem_id"]] for row in world.read("problems", "train")}
    for row in world.read("problems", "choice"):
        letter = answers[row["problem_id"]]
        assert row["choices"]["ABCD".index(letter)] == expected.pop(row["question"])
        assert solutions[row["problem_id"]].endswith(f" That is ({letter}).")
        assert row["answer_kind"] == "choice"
    assert not expected


def test_engines_precision_and_sizes_are_a_cpus():
    raw = shipped()
    raw["samples"]["irpo_0"] |= {"engine": "vllm", "precision": "bf16"}
    params = small(raw)
    assert {run.engine for run in params.samples.values()} == {"hf"}
    assert {run.precision for run in params.samples.values()} == {"fp32"}
    steps = {name: run.optimizer.steps for name, run in (*params.sft.items(), *params.preference.items())}
    made = [steps.pop(name) for name in raw["models"]]
    assert made == [650, 660, 670, 680, 690], "350, 100 for each further way to ask, and 10 more for each further model"
    assert set(steps.values()) == {4}


def test_a_reward_model_is_trained_for_a_few_steps():
    raw = shipped()
    optimizer = {"lr": 1.0e-6, "batch_size": 48, "epochs": 3}
    given = {"model": "m0", "samples": "irpo_0", "rewards": "irpo_0", "precision": "bf16", "max_tokens": 700}
    raw["reward_model"] = {"rm": given | {"optimizer": optimizer}}
    raw["scores"] = {"rm": {"samples": "irpo_0", "model": "rm", "precision": "bf16"}}
    params = small(raw)
    run, scores = params.reward_model["rm"], params.scores["rm"]
    assert (run.optimizer.steps, run.optimizer.epochs, run.optimizer.batch_size) == (4, None, 4)
    assert (run.precision, scores.precision, run.samples, scores.model) == ("fp32", "fp32", "irpo_0", "rm")


def recipe(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / f"recipes/{name}.yaml").read_text(encoding="utf-8"))


def test_the_rule_labels_for_the_judge_and_models_continue_where_it_corrects():
    params = small(recipe("step_dpo_1gpu"))
    assert {(run.labeler, run.model, run.judge) for run in params.step_labels.values()} == {("rule", "none", None)}
    assert set(params.models) == {TINY}
    assert params.samples_corrections == {}
    written = params.samples["math_written"]
    assert (written.prompts, written.model, written.n, written.engine) == ("math_step", "chat", 1, "hf")
    assert params.pairs_step["math_written"].chosen == "math_written"
    assert params.samples_gold[WARMUP].ending.startswith("\nStep 2: ")


@pytest.mark.parametrize("name", ["reft_gsm8k", "reft_mathqa", "reft_galactica_125m", "reft_annotation"])
def test_the_tiny_models_learn_programs_as_they_are_asked_for(name):
    """With the head of the function where no prompt gives it; and reinforcement learning takes a few steps."""
    params = small(recipe(name))
    warmups = [run for run in params.samples_gold if run.startswith(WARMUP)]
    styles = set()
    for run in warmups:
        template, _ = load_template(params.prompts[run].template)
        gold = params.samples_gold[run]
        styles.add(template.style)
        assert (gold.style, gold.body) == (template.style, template.style == "program" and template.prefill != "")
        ending = "" if template.style == "program" else "\nTherefore, the answer is: {answer}"
        assert gold.ending == ending
    assert styles == ({"program"} if name == "reft_galactica_125m" else {"natural", "program"})
    learning = [*params.ppo.values(), *params.reward_model.values()]
    assert all((run.optimizer.steps, run.precision) == (4, "fp32") for run in learning)
    assert {run.engine for run in params.ppo.values()} <= {"hf"}
    whole = 3 if name == "reft_annotation" else 1
    assert {sampling.max_new_tokens for sampling in params.sampling.values()} == {32 * whole}


def test_a_judge_that_answers_problems_too_stays():
    raw = recipe("step_dpo_1gpu")
    raw["samples"]["math"]["model"] = "judge"
    assert "judge" in small(raw).sft


def test_the_tiny_models_learn_every_way_to_ask():
    params = small(recipe("step_dpo_qwen2_7b"))
    names = params.demos_union[TOGETHER].members
    asked = [params.prompts[name] for name in names]
    assert names == [WARMUP, f"{WARMUP}_2"]
    assert [run.template for run in asked] == ["step_dpo", "step_dpo_choice"]
    assert [params.problems[run.problems].options for run in asked] == [None, 4]
    assert {params.sft[name].demos for name in ("teacher", "base")} == {TOGETHER}
    assert params.models[TINY].templates == ["step_dpo", "step_dpo_choice"]


def test_step_pairs_are_read_from_a_made_up_file():
    params = small(recipe("step_dpo_published"))
    assert {(run.path, run.revision) for run in params.pairs_import.values()} == {(STEP_PAIRS, None)}
    for row in step_pairs(20):
        assert row["initial_reason_steps"].endswith("\nStep 2: ")
        assert row["chosen"] != row["rejected"]
        assert row["full_chosen"] == f"{row['chosen']}\nFinal answer: {row['answer']}"
        assert row["full_rejected"].startswith(row["rejected"])


def test_problems_that_quality_kept_are_asked_as_those_they_are_of() -> None:
    raw = yaml.safe_load((REPOSITORY / "recipes/irpo_arc_1gpu.yaml").read_text(encoding="utf-8"))
    asked = raw["prompts"]["train"]["problems"]
    against = dict.fromkeys("abcd", "none")
    raw["quality"]["kept"] = {"problems": asked, "against": against, "drop": ["near_duplicate"]}
    raw["prompts"]["train"]["problems"] = "kept"
    found = small(raw)
    assert found.quality["kept"].drop == []
    assert found.prompts["train"].problems == "kept"
    assert found.problems[asked].options is not None
