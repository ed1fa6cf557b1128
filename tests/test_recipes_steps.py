"""The Step-DPO recipes hold the paper's numbers (arXiv 2406.18629), and its comparisons as rows."""

import re

import pytest
import yaml

from builders.prompts import load_template
from schemas.params import Params, load_params, parse_params, table_runs
from schemas.slots import NONE
from tests import recipe_costs
from tests.test_recipes import README, RECIPES, STEP_DPO, assert_held_out, problems_behind

WITH_SFT = ("step_dpo_qwen2_7b", "step_dpo_qwen2_72b", "step_dpo_llama3_70b", "step_dpo_deepseekmath")
PAPER = {
    # base model, epochs of SFT, epochs of Step-DPO, beta, rendering, what joins the prompt and the given start
    "step_dpo_qwen2_7b": ("Qwen/Qwen2-7B", 3, 8, 0.4, "chat", ""),
    "step_dpo_qwen2_72b": ("Qwen/Qwen2-72B", 2, 4, 0.5, "chat", ""),
    "step_dpo_llama3_70b": ("meta-llama/Meta-Llama-3-70B", 2, 4, 0.4, "text", "\n"),
    "step_dpo_deepseekmath": ("deepseek-ai/deepseek-math-7b-base", 3, 8, 0.4, "text", " "),
}
START = "Let's think step by step.\nStep 1: "
JUDGED = [name for name in STEP_DPO if name != "step_dpo_published"]


@pytest.fixture(params=JUDGED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def params(name: str) -> Params:
    return load_params(RECIPES[name])


@pytest.fixture(params=WITH_SFT)
def whole(request: pytest.FixtureRequest) -> str:
    return request.param


def start_of(params: Params) -> str:
    """The model whose errors are collected."""
    return "sft" if params.sft else "chat"


def test_every_recipe_is_known_here():
    assert set(STEP_DPO) == {*WITH_SFT, "step_dpo_1gpu", "step_dpo_published"}


def test_the_sft_stage_is_the_papers(whole):
    """Right answers of DeepSeekMath to problems of MetaMath and MMIQC; batch 256, 5e-6, linear, warm-up 0.03."""
    params = load_params(RECIPES[whole])
    run = params.sft["sft"]
    base, epochs, *_ = PAPER[whole]
    assert params.models[run.model].hub == base
    o = run.optimizer
    assert (o.epochs, o.batch_size, o.lr, o.schedule, o.warmup) == (epochs, 256, 5e-6, "linear", 0.03)
    members = [params.demos_correct[name] for name in params.demos_union[run.demos].members]
    assert {params.models[params.samples[demos.samples].model].hub for demos in members} == {
        "deepseek-ai/deepseek-math-7b-rl"
    }
    assert {demos.samples for demos in members} == {demos.rewards for demos in members}
    sources = {params.problems[p].source for p in problems_behind(params, "demos", run.demos)}
    assert sources == {"metamath", "mmiqc"}


def test_the_problems_of_pairs_are_those_that_sft_leaves_out_and_aqua(whole):
    params = load_params(RECIPES[whole])
    assert {params.problems[p].source for p in problems_behind(params, "pairs", "step")} == {
        "metamath",
        "mmiqc",
        "aqua",
    }
    rows = {name: params.problems[name].limit or 0 for name in ("metamath_sft", "mmiqc_sft", "metamath", "mmiqc")}
    for source in ("metamath", "mmiqc"):
        assert_held_out(params, ("demos", "sft"), source)
        shares = rows[f"{source}_sft"] / (rows[f"{source}_sft"] + rows[source])
        assert shares == pytest.approx(299 / 374, abs=0.01)


def test_errors_are_collected_as_the_paper_does(name, params):
    """T = 0.8, top_p 0.95, 2,048 tokens, 2 samples per problem; 20 continuations of the same model."""
    start = start_of(params)
    steps = {n: run for n, run in params.samples.items() if run.prompts in params.prompts_step}
    errors = {n: run for n, run in params.samples.items() if n not in steps and not n.endswith("_sft")}
    assert {run.n for run in steps.values()} == {20}
    assert {run.n for run in errors.values()} == {4 if name == "step_dpo_1gpu" else 2}
    assert {run.model for run in (*errors.values(), *steps.values())} == {start}
    (drawn,) = {run.sampling for run in (*errors.values(), *steps.values())}
    sampling = params.sampling[drawn]
    longest = 1024 if name == "step_dpo_1gpu" else 2048
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.8, 0.95, longest)


def test_the_judge_is_pinned_reads_wrong_answers_and_calls_neutral_an_error(params):
    judge = params.models["judge"]
    assert re.fullmatch(r"gpt-4o-\d{4}-\d\d-\d\d", judge.hosted or "")
    for labels in (run.step_labels for run in params.pairs_step.values()):
        run = params.step_labels[labels]
        assert (run.labeler, run.model, run.select, run.neutral_is_error) == ("judge", "judge", "wrong", True)
        assert run.judge is not None
        assert run.judge.temperature == 0


def test_pairs_are_of_the_same_labels_prompts_and_continuations(params):
    """Step-DPO, DPO on the same pairs, and the judge's own corrections differ in the span or the chosen side alone."""
    for name, run in params.pairs_step.items():
        chain = re.sub("_(full|written)$", "", name)
        plain = params.pairs_step[chain]
        assert plain.span == "step"
        assert (plain.chosen, plain.judged) == (f"{chain}_step", f"{chain}_step")
        assert params.step_labels[plain.judged].select == "correct"
        assert params.rewards[plain.rewards].predictions == plain.chosen
        assert (run.min_accuracy, run.max_per_prompt, run.max_tokens) == (0.0, None, 1024)
        given, same = run.model_dump(), plain.model_dump()
        changed = {key for key in given if given[key] != same[key]}
        expected = {"full": {"span"}, "written": {"chosen", "rewards", "judged"}}
        assert changed == expected.get(name.removeprefix(f"{chain}_"), set())
        if name.endswith("written"):
            assert table_runs(params, "samples")[run.chosen] == "samples_corrections"
            judge = params.step_labels[run.step_labels].judge
            assert judge is not None
            assert judge.corrections


def test_training_is_the_papers(name, params):
    """Batch 128, 5e-7, cosine, warm-up 0.1, at most 1,024 tokens; epochs and beta by size."""
    epochs, beta = PAPER[name][2:4] if name in PAPER else (8, 0.4)
    arms = {"step_dpo": "step", "dpo": "full", "step_dpo_written": "written"}
    for arm, run in params.preference.items():
        o = run.optimizer
        assert (o.epochs, o.batch_size, o.lr, o.schedule, o.warmup) == (epochs, 128, 5e-7, "cosine", 0.1)
        assert (run.loss, run.beta, run.max_tokens, run.model) == ("dpo", beta, 1024, start_of(params))
        assert run.pairs == run.reference == arms[arm]
        assert params.reference[run.reference].model == run.model
    written = {"step_dpo_written"} if name in ("step_dpo_qwen2_7b", "step_dpo_1gpu") else set()
    assert set(params.preference) == {"step_dpo", "dpo"} | written


def test_judging_is_measured_on_pairs_that_no_training_has(params):
    (pairs,) = {params.reference[j.model].pairs for j in params.report.judging}
    assert {params.reference[j.start].model for j in params.report.judging} == {start_of(params)}
    assert {params.reference[j.model].model for j in params.report.judging} == set(params.preference)
    for problems in problems_behind(params, "pairs", pairs):
        for run in params.preference.values():
            assert_held_out(params, ("pairs", run.pairs), problems)


def test_thirty_right_answers_of_every_set_are_audited_and_the_judge_is_asked_again(params):
    audits = [params.step_labels[audit] for audit in params.report.audits]
    assert {(run.select, run.limit) for run in audits} == {("correct", 30)}
    assert {run.samples for run in audits} == {run.rejected for run in params.pairs_step.values()}
    (again,) = {c.labels for c in params.report.calibrations}
    repeats = {name: run.judge.repeats for name, run in params.step_labels.items() if run.judge}
    assert {name: count for name, count in repeats.items() if count > 1} == {again: 3}


@pytest.mark.parametrize("name", STEP_DPO)
def test_every_model_is_evaluated_on_math_and_gsm8k(name):
    params = load_params(RECIPES[name])
    asked = {(run.model, params.problems[run.problems].source) for run in params.evaluate.values()}
    models = {start_of(params), *params.preference}
    assert asked == {(model, source) for model in models for source in ("math", "gsm8k")}
    assert {params.sampling[run.greedy].temperature for run in params.evaluate.values()} == {0}


@pytest.mark.parametrize("name", STEP_DPO)
def test_prompts_open_the_first_step_in_the_models_own_form(name):
    params = load_params(RECIPES[name])
    *_, rendering, joined = PAPER.get(name, ("chat", ""))
    for run in params.prompts.values():
        template, _ = load_template(run.template)
        assert run.rendering == rendering
        assert (template.user[-1:] if joined == "\n" else "") + template.prefill == joined + START
        assert ("{choices}" in template.user) == (params.problems[run.problems].source == "aqua")


def test_the_published_pairs_are_trained_on_as_steps_and_as_full_answers():
    params = load_params(RECIPES["step_dpo_published"])
    assert {name: run.span for name, run in params.pairs_import.items()} == {"step": "step", "full": "completion"}
    step, full = params.preference["step_dpo"], params.preference["dpo"]
    assert (step.pairs, full.pairs) == ("step", "full")
    o = step.optimizer
    assert (o.epochs, o.batch_size, o.lr, o.schedule, o.warmup, step.beta) == (8, 128, 5e-7, "cosine", 0.1, 0.5)


def test_the_readmes_rows_for_calibration_go_into_the_recipe():
    block = re.findall(r"```yaml\n(step_labels:.*?)```", README, re.DOTALL)
    raw, added = yaml.safe_load(RECIPES["step_dpo_1gpu"].read_text(encoding="utf-8")), yaml.safe_load(block[0])
    raw["step_labels"] |= added["step_labels"]
    raw["report"] |= added["report"]
    params = parse_params(yaml.safe_dump(raw))
    shipped = load_params(RECIPES["step_dpo_1gpu"]).report.calibrations
    assert [(c.labels, c.humans) for c in params.report.calibrations if c not in shipped] == [("math", "math_people")]
    assert re.findall(r"pairwright label serve (\w+) --labels (\S+)", README) == [
        ("math", params.step_labels["math_people"].path)
    ]
    assert re.findall(r"pairwright calibrate (\w+) (\w+)", README) == [("math", "math_people")]
    estimated = re.findall(r"builders.step_labels (\w+) --estimate", README)
    assert {params.step_labels[run].labeler for run in estimated} == {"judge"}


def test_the_cost_of_a_recipe_by_hand():
    """MATH: 4 answers, 2,400 prefixes of 3,000 judged answers, 4 models on 2 test sets, 29 validations."""
    params = load_params(RECIPES["step_dpo_1gpu"])
    by_hand = 4 * 7500 + 20 * 2400 + 4 * (5000 + 1319) + 29 * 1000
    assert recipe_costs.completions(params) == by_hand
    right = 20 * 2400 * 0.4
    assert recipe_costs.judge_calls(params) == 3000 + right + 30 + 3 * 100
    assert recipe_costs.n_pairs(params, "step") == round(right * 0.6 * 6500 / 7500)


def test_nothing_is_validated_but_where_the_comment_says_so():
    selecting = {
        name
        for name in STEP_DPO
        for run in load_params(RECIPES[name]).preference.values()
        if run.validation.prompts != NONE
    }
    assert selecting == {"step_dpo_1gpu"}
