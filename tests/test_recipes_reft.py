"""The ReFT recipes hold the figures of the paper (arXiv 2401.08967, §4.1 to 4.3) and of its authors' code."""

import re
from typing import Any, NamedTuple

import pytest

from builders.checkers import get_checker
from builders.prompts import load_template
from schemas.params import Params, load_params
from schemas.sections_reinforcement import PpoRun
from schemas.slots import NONE
from tests import recipe_costs
from tests.test_recipes import README, RECIPES, REFT, assert_held_out, trainings


class Paper(NamedTuple):
    """What a recipe is to hold: rows of the training files, epochs of warm-up by model and style, voted samples."""

    rows: dict[str, int]
    warmup: dict[str, int]
    k: int
    checkers: dict[str, str]


NUMBERS = {"n": "reft_number", "p": "reft_program"}
PAPER = {
    "reft_gsm8k": Paper(
        {"n": 7_465, "p": 7_356}, {"galactica_n": 2, "galactica_p": 2, "codellama_n": 2, "codellama_p": 2}, 100, NUMBERS
    ),
    "reft_svamp": Paper(
        {"n": 3_076, "p": 3_043}, {"galactica_n": 2, "galactica_p": 2, "codellama_n": 1, "codellama_p": 1}, 0, NUMBERS
    ),
    "reft_mathqa": Paper(
        {"n": 14_862, "p": 15_250}, {"galactica_n": 5, "galactica_p": 2, "codellama_n": 5, "codellama_p": 2}, 0,
        NUMBERS | {"n": "reft_choice"},
    ),
    "reft_mathqa_numeric": Paper({"n": 8_955}, {"galactica_n": 10, "codellama_n": 10}, 0, NUMBERS),
}  # fmt: skip
STYLES = {"n": "natural", "p": "program"}
BETA = {"n": 0.05, "p": 0.01}
SMALL, ANNOTATION, WHOLE = "reft_galactica_125m", "reft_annotation", "reft_gsm8k"
ROWS = {"warmup", "sft", "offline_st", "online_st", "reft"}
ABLATIONS = {"no_partial", "no_kl", "value_model"}


@pytest.fixture(params=PAPER)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def paper(name: str) -> Paper:
    return PAPER[name]


@pytest.fixture
def params(name: str) -> Params:
    return load_params(RECIPES[name])


def style_of(name: str) -> str:
    """`n` or `p`, of a run that is named `<model>_<style>_<row>`."""
    return re.findall(r"_([np])_", name)[0]


def changed(run: Any, other: Any) -> dict[str, Any]:
    """What one run sets otherwise than another."""
    given, usual = run.model_dump(), other.model_dump()
    return {key: value for key, value in given.items() if value != usual[key]}


def test_every_recipe_is_known_here():
    assert set(REFT) == {*PAPER, SMALL, ANNOTATION}


def test_questions_are_the_authors_files_and_some_are_held_out(params, paper):
    for style, size in paper.rows.items():
        train, held_out = (params.problems[f"{STYLES[style]}_{part}"] for part in ("train", "held_out"))
        assert train.path == held_out.path
        assert recipe_costs.FILES[train.path] == size == train.skip + (train.limit or 0) + (held_out.limit or 0)
        assert_held_out(params, ("demos", STYLES[style]), f"{STYLES[style]}_held_out")
    assert {params.problems[run.problems].split for run in params.evaluate.values()} == {"test"}


def test_every_model_is_taught_and_compared(params, paper):
    """Every row of the paper's table 2 (MathQA as numbers: table 3) by each model and style."""
    for key in paper.warmup:
        ablations = ABLATIONS if key == "codellama_p" and params.evaluate.get(f"{key}_no_kl") else set()
        rows = {run.removeprefix(f"{key}_") for run in params.evaluate if run.startswith(f"{key}_")}
        assert rows == ROWS | ablations
    compared = {(c.baseline, c.candidate) for c in params.report.comparisons}
    others = [n for n in params.evaluate if not n.endswith("_reft")]
    assert compared == {(n, re.sub(r"_([np])_\w+$", r"_\1_reft", n)) for n in others}


def test_fine_tuning_is_the_papers(params, paper):
    for key, epochs in paper.warmup.items():
        warmup, sft, offline = (params.sft[f"{key}_{row}"] for row in ("warmup", "sft", "offline_st"))
        assert (warmup.optimizer.epochs, sft.optimizer.epochs, offline.optimizer.epochs) == (epochs, 40, 20)
        assert {run.model for run in (warmup, sft, offline)} == {key[:-2]}, "from the base model"
        assert warmup.validation.prompts == NONE
        for run in (warmup, sft, offline):
            assert (run.optimizer.lr, run.optimizer.warmup, run.optimizer.batch_size) == (1e-5, 0.1, 48)
            assert (run.max_tokens, run.optimizer.weight_decay, run.optimizer.grad_clip) == (1024, 0, 1)
        style = STYLES[key[-1]]
        assert (warmup.demos, sft.demos) == (style, style)
        own = params.demos_correct[f"{key}_own"]
        assert (own.max_per_problem, own.deduplicate) == (10, True)
        union = params.demos_union[offline.demos]
        assert union.members == [f"{key}_own", style]


def test_self_training_draws_a_hundred_from_the_warm_up_model(params, paper):
    for key in paper.warmup:
        drawn = params.samples[f"{key}_warmup_100"]
        sampling = params.sampling[drawn.sampling]
        assert (drawn.n, drawn.model) == (100, f"{key}_warmup")
        assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens + 300) == (1, 1, 1024)


def test_reft_is_the_papers(params, paper, name):
    for key in paper.warmup:
        run, style = params.ppo[f"{key}_reft_rl"], key[-1]
        assert (run.model, run.value_model, run.algorithm) == (f"{key}_warmup", NONE, "ppo")
        assert (run.optimizer.lr, run.optimizer.schedule, run.optimizer.warmup) == (3e-7, "constant", 0)
        assert (run.optimizer.batch_size, run.optimizer.epochs, run.mini_batch) == (32, 300, None)
        assert (run.optimizer.weight_decay, run.optimizer.grad_clip) == (0, 1)
        assert (run.beta, run.adaptive_kl, run.ppo_epochs) == (BETA[style], None, 2)
        assert (run.gamma, run.lam, run.value_lam, run.clip, run.value_clip) == (1.0, 0.95, None, 0.2, 0.2)
        assert (run.value_coefficient, run.whiten, run.critic_warmup, run.max_tokens) == (5, True, 0, 700)
        assert (run.partial, run.partial_reward) == ("none" if name == "reft_mathqa" else "paper", 0.1)
        sampling = params.sampling[run.sampling]
        assert (sampling.temperature, sampling.top_p, 300 + sampling.max_new_tokens) == (1, 1, 700)
        online = params.ppo[f"{key}_online_st_rl"]
        other = changed(online, run)
        assert other.pop("partial", "paper") == "paper"
        assert other.pop("beta", 0.05) == 0.05
        assert other == {"algorithm": "online_st", "demos": STYLES[style]}


def test_selection_is_once_an_epoch_on_what_is_held_out(params):
    for key, run in trainings(params).items() | params.ppo.items():
        if run.validation.prompts == NONE:
            assert key.endswith("_warmup")
            continue
        style = STYLES[style_of(key)]
        assert (run.validation.prompts, run.validation.problems) == (f"{style}_held_out", f"{style}_held_out")
        if "offline" not in key:
            size = recipe_costs.n_problems(params, f"{style}_train")
            assert run.validation.every == -(-size // run.optimizer.batch_size)


def test_chains_and_programs_are_asked_and_checked_as_in_the_authors_code(params, paper):
    for style in paper.rows:
        prompts = params.prompts[f"{STYLES[style]}_train"]
        template, _ = load_template(prompts.template)
        gold = params.samples_gold[STYLES[style]]
        assert (template.style, prompts.rendering) == (STYLES[style], "text")
        if style == "p":
            assert template.prefill.startswith('def solution():\n    """{question}')
            assert (gold.style, gold.body, gold.ending) == ("program", True, "")
        else:
            assert (gold.ending, template.prefill) == ("\nTherefore, the answer is: {answer}", "")
        assert {p.template for n, p in params.prompts.items() if n.startswith(STYLES[style])} == {prompts.template}
    for key, run in (*params.evaluate.items(), *params.ppo.items()):
        style = style_of(key)
        assert run.checker == paper.checkers[style]
        with get_checker(run.checker) as checker:
            assert checker.name == run.checker


def test_the_best_of_a_hundred_by_vote_and_by_reward_model(params, paper, name):
    voted = {run.k for key, run in params.evaluate.items() if re.fullmatch(r".*_(warmup|sft|reft)", key)}
    assert voted == {paper.k}
    assert {params.sampling[run.explore].temperature for run in params.evaluate.values()} == {1}
    assert bool(params.reward_model) == bool(params.scores) == (name == WHOLE)
    for key, run in params.reward_model.items():
        ((base, row),) = re.findall(r"^(\w+_[np])_(sft|reft)_rm$", key)
        assert run.model == {"sft": f"{base}_sft", "reft": f"{base}_reft_rl"}[row]
        assert (run.samples, run.rewards, run.deduplicate) == (f"{base}_warmup_100", f"{base}_warmup_100", True)
        assert (run.optimizer.epochs, run.optimizer.batch_size, run.optimizer.lr) == (3, 48, 1e-6)
        assert run.max_tokens == 700
        assert params.scores[f"{base}_{row}"].model == key
        assert params.scores[f"{base}_{row}"].samples == f"{base}_{row}"


def test_table_6_sets_one_thing_apart():
    params = load_params(RECIPES[WHOLE])
    usual = params.ppo["codellama_p_reft_rl"]
    found = {row: changed(params.ppo[f"codellama_p_{row}_rl"], usual) for row in ABLATIONS}
    assert found["no_partial"] == {"partial": "none"}
    assert found["value_model"] == {"value_model": "codellama_p_warmup"}
    assert found["no_kl"].pop("stops")["constant_reward"] == 0
    assert found["no_kl"] == {"beta": 0.0}


def test_right_letters_after_wrong_steps_are_counted():
    """The paper's §4.4, of chains in words with options."""
    params = load_params(RECIPES["reft_mathqa"])
    assert set(params.step_labels) == {name for name in params.ppo if name.endswith("_n_reft_rl")}
    for name, run in params.step_labels.items():
        assert (run.samples, run.rewards, run.labeler, run.select) == (name, name, "rule", "correct")


def test_the_small_model_is_the_papers():
    """Table 5 and appendix: 125 million parameters, programs."""
    params = load_params(RECIPES[SMALL])
    assert {run.hub for run in params.models.values()} == {"facebook/galactica-125m"}
    for data, epochs, rows in (("gsm8k", 10, 7_356), ("svamp", 10, 3_043), ("mathqa", 40, 15_250)):
        run: PpoRun = params.ppo[f"{data}_reft_rl"]
        assert (run.optimizer.epochs, run.optimizer.lr, run.optimizer.batch_size) == (700, 3e-6, 256)
        assert (run.beta, run.ppo_epochs, run.checker) == (0.01, 2, "reft_program")
        warmup, sft = params.sft[f"{data}_warmup"], params.sft[f"{data}_sft"]
        assert (warmup.optimizer.epochs, sft.optimizer.epochs) == (epochs, 40)
        assert (warmup.optimizer.lr, warmup.optimizer.batch_size) == (2e-5, 48)
        assert recipe_costs.FILES[params.problems[f"{data}_program_train"].path] == rows
        assert_held_out(params, ("demos", f"{data}_program"), f"{data}_program_held_out")


def test_annotations_go_from_examples_to_prompts_without_them():
    params = load_params(RECIPES[ANNOTATION])
    assert params.models["annotator"].hosted == "gpt-3.5-turbo"
    for style in STYLES.values():
        kept, asked = params.demos_correct[style], params.prompts[params.samples[style].prompts]
        assert (asked.shots, asked.rendering, params.samples[style].engine) == (8, "chat", "openai")
        assert params.samples_gold[asked.demo_samples].style == style
        assert (kept.sample_prompts, kept.prompts) == (params.samples[style].prompts, style)
        templates = {load_template(params.prompts[n].template)[0] for n in (kept.sample_prompts, kept.prompts)}
        assert {(template.style, template.prefill) for template in templates} == {(style, "")}
        assert params.sft[f"warmup_{style}"].demos == style


def test_the_readme_names_the_files_that_the_recipes_read():
    files = {
        run.path for name in REFT for run in load_params(RECIPES[name]).problems.values() if "data/reft" in run.path
    }
    assert files <= set(recipe_costs.FILES)
    assert "mwp_ReFT" in README
    for name in REFT:
        assert f"`{name}.yaml`" in README
