"""The weak-to-strong recipes hold the numbers of the paper (arXiv 2407.13647) and its code, and no gold guides them."""

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

import pytest
import yaml

from builders.checkers import get_checker
from builders.prompts import load_template
from builders.smoke import shrink
from schemas.params import Params, load_params, parse_params, stage_runs, table_runs
from schemas.sections_training import PreferenceRun
from schemas.slots import NONE
from tests import recipe_costs
from tests.conftest import REPOSITORY
from tests.test_recipes import README, RECIPES, W2S, assert_held_out, problems_behind, trainings


class Paper(NamedTuple):
    """What a recipe is to hold: its models, iterations of stage I, longest completion, pairs per question, top-up."""

    weak: str
    strong: str
    iterations: int
    longest: int
    k: int
    checker: str
    top_up: int | None = None


LLAMA2 = "meta-llama/Llama-2-70b-hf"
PAPER = {
    "w2s_gsm8k_llama2_7b": Paper("meta-llama/Llama-2-7b-hf", LLAMA2, 2, 1024, 1, "w2s_gsm8k"),
    "w2s_gsm8k_gemma_2b": Paper("google/gemma-2b", LLAMA2, 2, 1024, 1, "w2s_gsm8k"),
    "w2s_gsm8k_mistral_7b": Paper("mistralai/Mistral-7B-v0.1", LLAMA2, 2, 1024, 1, "w2s_gsm8k"),
    "w2s_math_llama2_7b": Paper("meta-llama/Llama-2-7b-hf", LLAMA2, 1, 2048, 3, "w2s_math"),
    "w2s_math_gemma_2b": Paper("google/gemma-2b", LLAMA2, 1, 2048, 3, "w2s_math", 1_000),
    "w2s_math_mistral_7b": Paper("mistralai/Mistral-7B-v0.1", LLAMA2, 1, 2048, 3, "w2s_math", 2_000),
    "w2s_olympicarena_llama3": Paper(
        "meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-70B", 2, 2048, 3, "auto"
    ),
}
SIZES = {"gsm8k": (7_000, 7_000, 1_319), "math": (6_000, 6_000, 500), "olympicarena": (None, 6_020, 313)}
"""Rows of the weak model's problems, the questions and the test problems, by the authors' README."""
WHOLE = "w2s_gsm8k_llama2_7b"


@pytest.fixture(params=W2S)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def paper(name: str) -> Paper:
    return PAPER[name]


@pytest.fixture
def params(name: str) -> Params:
    return load_params(RECIPES[name])


def source_of(params: Params) -> str:
    return params.problems["questions"].source


def test_every_recipe_is_known_here():
    assert set(W2S) == set(PAPER)


# --- problems ------------------------------------------------------------------------------------------------------


def rows(params: Params, name: str) -> int | None:
    """Published rows that a run takes."""
    run = params.problems.get(name)
    if run is None:
        return None
    found = recipe_costs.FILES.get(run.path) or recipe_costs.FILES.get(run.hub or "")
    return run.limit or found or recipe_costs.SIZES[run.source, run.split, run.subset]


def test_splits_have_the_papers_sizes(params):
    assert tuple(rows(params, name) for name in ("weak_train", "questions", "test")) == SIZES[source_of(params)]


def test_the_weak_models_problems_and_the_questions_are_apart(params):
    """Windows of one order (MATH), or the authors' two files; and neither is the test split."""
    if "weak_train" not in params.problems:
        assert source_of(params) == "olympicarena"
    elif source_of(params) == "math":
        assert_held_out(params, ("demos", "weak_train"), "questions")
    else:
        files = [params.problems[name].path for name in ("weak_train", "questions")]
        assert files == ["data/w2s/gsm8k_train_1.jsonl", "data/w2s/gsm8k_train_2.jsonl"]
    assert {run.split for name, run in params.problems.items() if name != "test"} == {"train"}
    assert params.problems["test"].split == "test"


def test_halves_of_gsm8k_take_the_place_of_the_authors_files():
    """As the comment of the recipe says."""
    text = RECIPES[WHOLE].read_text(encoding="utf-8")
    limit, skip = (int(re.findall(rf"`{key}: (\d+)`", text)[0]) for key in ("limit", "skip"))
    raw = yaml.safe_load(text)
    whole = raw["problems"]["test"] | {"split": "train", "shuffle": True}
    raw["problems"] |= {"weak_train": whole | {"limit": limit}, "questions": whole | {"skip": skip}}
    params = parse_params(yaml.safe_dump(raw))
    assert_held_out(params, ("demos", "weak_train"), "questions")
    assert recipe_costs.n_problems(params, "weak_train") + recipe_costs.n_problems(params, "questions") == 7_473


def test_olympicarena_is_read_as_the_authors_do():
    """Its split `test`, whose answers are withheld, has the questions; `val` is the test split; CS is not read."""
    problems = load_params(RECIPES["w2s_olympicarena_llama3"]).problems
    assert {name: run.unanswered for name, run in problems.items()} == {"questions": True, "test": False}
    subjects = ["Astronomy", "Biology", "CS", "Chemistry", "Geography", "Math", "Physics"]
    for name, split in (("questions", "test"), ("test", "val")):
        files = [f"{subject}/{of}-00000-of-00001.parquet" for subject in subjects for of in ("test", "val")]
        read = [file for file in files if fnmatchcase(file, problems[name].files or "")]
        assert read == [f"{subject}/{split}-00000-of-00001.parquet" for subject in subjects if subject != "CS"]


# --- stage I -------------------------------------------------------------------------------------------------------


def test_models_are_the_papers(params, paper):
    assert [run.hub for run in params.models.values()] == [paper.weak, paper.strong]


def test_answers_are_asked_for_as_the_authors_do(params, paper):
    """Greedy and zero-shot, or with four demonstrations from the weak answers; plain text; stops; a limit of tokens."""
    greedy = params.sampling["greedy"]
    assert (greedy.temperature, greedy.max_new_tokens, greedy.stop) == (0.0, paper.longest, ["Question", "Answer"])
    for name, run in params.prompts.items():
        template, _ = load_template(run.template)
        assert (run.rendering, template.user[-8:], template.separator) == ("text", "\nAnswer:", "\n\n")
        shown = (4, "weak", "questions") if name.endswith("_icl") else (0, NONE, NONE)
        assert (run.shots, run.demo_samples, run.demo_problems) == shown
    weak, icl = params.samples["weak"], params.samples["icl"]
    assert {(run.sampling, run.n) for run in (weak, icl)} == {("greedy", 1)}
    assert (weak.prompts, icl.prompts, icl.model) == ("questions", "questions_icl", "strong_base")
    assert weak.model == ("w2s_weak" if "w2s_weak" in params.sft else "weak_chat")


def test_one_checker_reads_every_answer(params, paper):
    runs = [*params.predictions.values(), *params.evaluate.values()]
    assert {run.checker for run in runs} == {paper.checker}


def test_the_endings_of_gold_solutions_are_what_the_checker_reads(params, paper):
    for run in params.samples_gold.values():
        with get_checker(paper.checker) as checker:
            assert checker.extract("", "He has 7." + run.ending.format(answer="7")) == "7"


def test_the_second_iteration_compares_what_the_first_ones_models_answer_to_all_questions(params, paper):
    found = {name: (run.a, run.b) for name, run in params.consistency.items()}
    expected = {"iteration_1": ("weak", "icl"), "iteration_2": ("weak_2", "icl_2")}
    assert found == dict(list(expected.items())[: paper.iterations])
    assert [run.top_up for run in params.consistency.values()] == [paper.top_up, None][: paper.iterations]
    if paper.iterations == 2:
        again = [params.samples[name] for name in ("weak_2", "icl_2")]
        assert [(run.model, run.prompts, run.sampling) for run in again] == [
            ("w2s_weak_ft", "questions", "greedy"),
            ("w2s_icl_ft", "questions", "greedy"),
        ]


def test_fine_tuning_is_on_one_side_or_both_of_what_agrees(params, paper):
    last = paper.iterations
    rows = {name: (run.samples, run.other, run.agreements) for name, run in params.demos_consistent.items()}
    weak, icl = ("weak", "icl") if last == 1 else ("weak_2", "icl_2")
    expected = {
        "w2s_full_weak": ("weak", NONE, NONE),
        "w2s_weak_ft": ("weak", NONE, "iteration_1"),
        "w2s_icl_ft": ("icl", NONE, "iteration_1"),
        "w2s_hybrid_1": ("weak", "icl", "iteration_1"),
        "w2s_plus": (weak, icl, f"iteration_{last}"),
        "w2s_ceiling": ("ceiling", NONE, NONE),
    }
    left_out = {"w2s_hybrid_1"} if last == 1 else {"w2s_ceiling"} if source_of(params) == "olympicarena" else set()
    strong = {name: run for name, run in params.sft.items() if name != "w2s_weak"}
    assert {name: rows[run.demos] for name, run in strong.items()} == {
        name: row for name, row in expected.items() if name not in left_out
    }
    assert {run.model for run in strong.values()} == {"strong_base"}
    assert {run.prompts for run in params.demos_consistent.values()} == {"questions"}
    assert {run.max_tokens for run in params.demos_consistent.values()} == {paper.longest}


# --- stage II ------------------------------------------------------------------------------------------------------


def test_ten_samples_vote_and_empty_answers_do_too(params):
    drawn, vote = params.samples["plus"], params.sampling["vote"]
    assert (drawn.model, drawn.prompts, drawn.sampling, drawn.n) == ("w2s_plus", "questions", "vote", 10)
    assert (vote.temperature, vote.top_p, vote.max_new_tokens) == (1.0, 1.0, params.sampling["greedy"].max_new_tokens)
    assert [(run.samples, run.predictions, run.empty_counts) for run in params.votes.values()] == [
        ("plus", "plus", True)
    ]


def test_pairs_have_the_codes_two_thresholds_and_its_variants_differ_in_one_setting(params, paper):
    pairs = params.pairs_contrast
    plain = pairs["contrast"]
    assert (plain.threshold, plain.reject_threshold, plain.k) == (0.6, 0.8, paper.k)
    assert (plain.samples, plain.weak, plain.weak_predictions) == ("plus", "weak", "weak")
    given = plain.model_dump()
    changes = {name: {k: v for k, v in run.model_dump().items() if v != given[k]} for name, run in pairs.items()}
    assert changes == {
        "contrast": {},
        "contrast_single": {"reject_threshold": 0.6},
        "contrast_self": {"weak": NONE, "weak_predictions": NONE},
    }


def test_m_pro_is_trained_by_dpo_and_orpo_from_m_plus(name, params):
    found = {n: (run.loss, run.pairs, run.reference) for n, run in params.preference.items()}
    expected = {"w2s_pro": ("dpo", "contrast", "contrast"), "w2s_pro_orpo": ("orpo", "contrast", NONE)}
    if name == WHOLE:
        expected |= {
            "w2s_pro_single": ("dpo", "contrast_single", "contrast_single"),
            "w2s_pro_self": ("dpo", "contrast_self", "contrast_self"),
            "w2s_irpo": ("dpo_nll", "majority", "majority"),
        }
    assert found == expected
    assert {run.model for run in (*params.preference.values(), *params.reference.values())} == {"w2s_plus"}


def test_iterative_rpo_without_answers_is_rewarded_by_the_majority():
    params = load_params(RECIPES[WHOLE])
    run = params.pairs_outcome["majority"]
    assert table_runs(params, "rewards")[run.rewards] == "rewards_votes"
    rewards = params.rewards_votes[run.rewards]
    assert (run.samples, run.gold, rewards.predictions, rewards.votes, rewards.threshold) == (
        "plus", NONE, "plus", "plus", 0.6,
    )  # fmt: skip
    trained = params.preference["w2s_irpo"]
    assert (run.k, run.max_pairs, trained.beta, trained.alpha) == (10, 60_000, 0.1, 1.0)


def test_adapters_are_on_all_projections_with_rank_8(params):
    projections = {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    for name, run in trainings(params).items():
        if name == "w2s_weak":
            assert run.lora is None
            continue
        assert run.lora is not None
        assert (run.lora.rank, set(run.lora.targets)) == (8, projections)


# --- no gold -------------------------------------------------------------------------------------------------------


def test_nothing_is_validated_and_training_has_a_fixed_length(params):
    for run in trainings(params).values():
        assert {run.validation.prompts, run.validation.problems, run.steps_from} == {NONE}
        assert run.optimizer.epochs is not None


def test_pairs_and_demos_are_of_the_questions_or_the_weak_models_problems(params):
    for name, run in trainings(params).items():
        of = ("pairs", run.pairs) if isinstance(run, PreferenceRun) else ("demos", run.demos)
        assert set(problems_behind(params, *of)) == {"weak_train" if name == "w2s_weak" else "questions"}, name


# --- report and costs ----------------------------------------------------------------------------------------------


def test_every_model_is_evaluated_under_its_name(params):
    floor = "w2s_weak" if "w2s_weak" in params.sft else "weak_chat"
    assert {name: run.model for name, run in params.evaluate.items()} == {name: name for name in trainings(params)} | {
        "w2s_weak": floor,
        "w2s_icl": "strong_base",
    }
    assert {name for name, run in params.evaluate.items() if run.prompts == "test_icl"} == {"w2s_icl"}
    assert {run.k for run in params.evaluate.values()} == {10}


def test_the_report_measures_what_takes_golds_place(params):
    if source_of(params) == "olympicarena":
        assert params.report.weak_to_strong == []
        assert not params.rewards
        return
    (block,) = params.report.weak_to_strong
    assert (block.floor, block.ceiling) == ("w2s_weak", "w2s_ceiling")
    assert {block.floor, block.ceiling, *block.models} == set(params.evaluate)
    assert (block.consistency, block.votes) == ([*params.consistency], ["plus"])
    assert block.pairs == [*params.pairs_contrast, *params.pairs_outcome]
    assert set(params.rewards) == set(params.predictions)


def test_it_can_be_reduced_for_a_cpu(name, params):
    raw = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    small = parse_params(yaml.safe_dump(shrink(raw), sort_keys=False))
    kept = {(section, run) for section, run, _ in stage_runs(params) if section != "models"}
    assert kept <= {(section, run) for section, run, _ in stage_runs(small)}
    assert small.problems["weak_train" if "weak_train" in small.problems else "test"].source == "arithmetic"
    seeds = [run.seed for name, run in small.problems.items() if name in params.problems]
    windows = [(run.seed, run.skip) for name, run in small.problems.items() if name in params.problems]
    assert len(set(windows)) == len(seeds)


def test_the_cost_of_a_recipe_by_hand():
    """GSM8K: 2 + 2 greedy answers and 10 samples of 7,000 questions; 10 models with 11 answers to each test problem."""
    params = load_params(RECIPES["w2s_gsm8k_gemma_2b"])
    assert recipe_costs.completions(params) == 14 * 7_000 + 10 * 11 * 1_319
    assert recipe_costs.steps(params, params.sft["w2s_weak"]) == -(-3 * 7_000 // 32)
    assert recipe_costs.steps(params, params.sft["w2s_plus"]) == -(-3 * 7_000 // 32)  # half of them, twice
    math = load_params(RECIPES["w2s_math_mistral_7b"])
    assert recipe_costs.n_demos(math, "hybrid_1") == 2 * 2_000


def test_the_readme_says_how_to_get_the_files(params):
    for run in params.problems.values():
        assert run.path == "data/none" or run.path in README


def test_the_readmes_sweep_of_thresholds_is_of_runs_that_a_recipe_has(params):
    ((query, votes, weak),) = re.findall(r"pairwright query (\w+) --set run=(\w+) --set weak=(\w+)", README)
    assert (REPOSITORY / f"stores/queries/{query}.sql").exists()
    assert votes in params.votes
    assert weak in params.predictions
