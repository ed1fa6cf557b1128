"""The shipped recipes: they parse, hold the papers' numbers, select on no test problem, and their graphs resolve."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import builders.models
import builders.pairs_import
import builders.problems
from builders.smoke_run import smoke
from builders.sources import SOURCES
from schemas.params import Params, load_params, run_inputs, stage_runs
from schemas.sections_training import PreferenceRun, SftRun
from schemas.slots import NO_FILE, NONE
from stores.sources import run_sources
from stores.stage import execute
from tests import recipe_costs
from tests.conftest import REPOSITORY
from tests.pipeline import Checkout

RECIPES = {path.stem: path for path in sorted((REPOSITORY / "recipes").glob("*.yaml"))}
README = (REPOSITORY / "recipes/README.md").read_text(encoding="utf-8")
MAX_STAGES = 150
"""More make `dvc repro` slow."""

PAPER: dict[str, dict[str, Any]] = {
    # arXiv 2404.19733, sections 3.1-3.3: N, the temperature of each iteration, K, most pairs, gold among winners, steps
    "irpo_gsm8k": {"n": 30, "temperatures": [0.8, 0.8, 1.3, 1.3], "k": 10, "cap": 60_000, "gold": True, "steps": 5000},
    "irpo_gsm8k_baselines": {"n": 30, "temperatures": [0.8, 0.8], "k": 10, "cap": 60_000, "gold": True, "steps": 5000},
    "irpo_math": {"n": 20, "temperatures": [0.8, 0.8, 1.0], "k": 15, "cap": None, "gold": False, "steps": 5000},
    "irpo_arc": {"n": 30, "temperatures": [0.8, 0.8, 1.3], "k": 20, "cap": 60_000, "gold": False, "steps": 4000},
}
FOR_ONE_GPU = {"irpo_gsm8k_1gpu", "irpo_gsm8k_24gb", "irpo_math_1gpu", "irpo_arc_1gpu"}
IRPO = sorted({*PAPER, *FOR_ONE_GPU})
W2S = sorted(name for name in RECIPES if name.startswith("w2s_"))
"""tests/test_recipes_weak_to_strong.py says what these are to hold."""
REFT = sorted(name for name in RECIPES if name.startswith("reft_"))
"""tests/test_recipes_reft.py says what these are to hold."""
STEP_DPO = sorted(set(RECIPES) - set(IRPO) - set(W2S) - set(REFT))
"""tests/test_recipes_steps.py says what these are to hold."""


def paper(name: str) -> dict[str, Any]:
    """What a recipe is to hold: that of the whole model, with fewer steps for one GPU."""
    whole = re.sub(r"_(1gpu|24gb)$", "", name)
    return PAPER[whole] | ({"steps": 3000} if name in FOR_ONE_GPU else {})


@pytest.fixture(params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def params(name: str) -> Params:
    return load_params(RECIPES[name])


@pytest.fixture(params=IRPO)
def irpo(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def irpo_params(irpo: str) -> Params:
    return load_params(RECIPES[irpo])


def trainings(params: Params) -> dict[str, SftRun | PreferenceRun]:
    return {**params.sft, **params.preference}


def test_every_shipped_recipe_is_known_here():
    assert {name.rpartition("irpo")[1] or name[:8] for name in {*RECIPES} - {*W2S, *REFT}} == {"irpo", "step_dpo"}
    assert set(IRPO) <= set(RECIPES)
    assert set(re.findall(r"^\| `(\w+)\.yaml` \| \d", README, re.MULTILINE)) == set(RECIPES)


def test_it_parses_and_stays_below_the_stages_that_dvc_bears(params):
    assert len(list(stage_runs(params))) < MAX_STAGES


def test_sampling_and_pairs_are_the_papers(irpo, irpo_params):
    expected = paper(irpo)
    iterations = [irpo_params.samples[f"irpo_{t}"] for t in range(len(expected["temperatures"]))]
    assert [irpo_params.sampling[run.sampling].temperature for run in iterations] == expected["temperatures"]
    assert {run.n for run in iterations} == {expected["n"]}
    pairs = [irpo_params.pairs_outcome[f"irpo_{t}"] for t in range(len(iterations))]
    assert {(run.k, run.max_pairs, run.gold != NONE) for run in pairs} == {
        (expected["k"], expected["cap"], expected["gold"])
    }
    assert f"irpo_{len(iterations)}" not in irpo_params.samples


def test_every_iteration_starts_from_the_model_before_and_from_its_pairs_alone(irpo, irpo_params):
    for t in range(len(paper(irpo)["temperatures"])):
        before = f"m{t}" if t else "chat"
        made = irpo_params.preference[f"m{t + 1}"]
        assert (
            irpo_params.samples[f"irpo_{t}"].model == irpo_params.reference[f"irpo_{t}"].model == made.model == before
        )
        assert made.pairs == made.reference == f"irpo_{t}"
        assert irpo_params.evaluate[f"m{t + 1}"].model == f"m{t + 1}"


def test_the_optimiser_is_the_papers(irpo, irpo_params):
    expected = paper(irpo)
    own = [run for name, run in irpo_params.preference.items() if re.fullmatch(r"m\d(_select)?", name)]
    lr = 1e-5 if irpo == "irpo_gsm8k_24gb" else 7e-7
    for run in own:
        assert (run.loss, run.beta, run.alpha) == ("dpo_nll", 0.1, 1.0)
        assert (run.optimizer.lr, run.optimizer.batch_size) == (lr, 16)
        assert run.optimizer.steps in (expected["steps"], None)
        assert (run.lora is not None) == (irpo == "irpo_gsm8k_24gb")


def test_the_majority_of_32_at_the_papers_temperature(irpo_params):
    own = {name: run for name, run in irpo_params.evaluate.items() if re.fullmatch(r"chat|m\d", name)}
    assert {run.k for run in own.values()} == {32}
    assert {irpo_params.sampling[run.explore].temperature for run in irpo_params.evaluate.values()} == {0.8}
    assert {irpo_params.sampling[run.greedy].temperature for run in irpo_params.evaluate.values()} == {0}


def test_nothing_is_selected_or_trained_on_test_problems(params):
    for name, run in trainings(params).items():
        assert run.validation.problems == NONE or params.problems[run.validation.problems].split != "test", name
    behind = [s for s in run_sources(params) if s.table in ("pairs", "demos") and s.input_table == "problems"]
    assert {(params.pairs_import.get(s.input_run) or params.problems[s.input_run]).split for s in behind} == {"train"}
    assert {params.problems[run.problems].split for run in params.evaluate.values()} == {"test"}


def test_what_selects_has_not_been_trained_on_in_its_iteration(params):
    """Training validates on problems which none of its pairs or demos is of: another window, or another split."""
    for run in trainings(params).values():
        if run.validation.problems != NONE:
            of = ("pairs", run.pairs) if isinstance(run, PreferenceRun) else ("demos", run.demos)
            assert_held_out(params, of, run.validation.problems)


def assert_held_out(params: Params, of: tuple[str, str], held_out: str) -> None:
    """No problem of a pairs or demos run is in a problems run: windows of one order that do not overlap, or splits."""
    found = problems_behind(params, *of)
    assert found
    for trained, kept in ((params.problems[run], params.problems[held_out]) for run in found):
        if (trained.source, trained.split) == (kept.source, kept.split):
            assert (trained.seed, trained.shuffle) == (kept.seed, kept.shuffle), of
            assert trained.limit is not None
            assert trained.skip + trained.limit <= kept.skip, of


def problems_behind(params: Params, table: str, run: str) -> list[str]:
    """The problems runs that the rows of a pairs or demos run are of: those that a union names, else its members'; gold
    demos are of their prompts' problems."""
    if table == "demos" and run in params.demos_gold:
        return [params.prompts[params.demos_gold[run].prompts].problems]
    union = params.pairs_union.get(run) if table == "pairs" else params.demos_union.get(run)
    if union is None:
        return [s.input_run for s in run_sources(params) if s[:3] == (table, run, "problems")]
    named = getattr(union, "problems", NONE)
    return [named] if named != NONE else [p for member in union.members for p in problems_behind(params, table, member)]


def test_a_thousand_training_problems_are_held_out_and_all_others_are_trained_on(irpo, irpo_params):
    """Of the data sets without a development set of their own; ARC's is what selects there."""
    held_out = [run.validation.problems for run in trainings(irpo_params).values() if run.validation.problems != NONE]
    if irpo.startswith("irpo_arc"):
        assert {irpo_params.problems[run].split for run in held_out} == {"validation"}
        return
    assert set(held_out) == {"held_out"}
    size = {"gsm8k": 7_473, "math": 7_500}[irpo_params.problems["held_out"].source]
    assert (irpo_params.problems["held_out"].skip, irpo_params.problems["held_out"].limit) == (size - 1000, 1000)
    assert (irpo_params.problems["train_part"].skip, irpo_params.problems["train_part"].limit) == (0, size - 1000)
    assert (irpo_params.problems["train"].skip, irpo_params.problems["train"].limit) == (0, None)


def test_no_sample_is_drawn_that_no_pair_of_spin_takes():
    """One gold solution meets the first K samples of a problem in turn."""
    params = load_params(RECIPES["irpo_gsm8k_baselines"])
    spin = [run for run in params.pairs_outcome.values() if run.chosen == "gold"]
    assert all(params.samples[run.samples].n == run.k for run in spin)


def test_selection_is_followed_by_training_anew_on_all(irpo, irpo_params):
    """For the data sets without a development set of their own."""
    anew = {name: run for name, run in trainings(irpo_params).items() if run.steps_from != NONE}
    selecting = {name for name, run in trainings(irpo_params).items() if run.validation.prompts != NONE}
    if irpo.startswith("irpo_arc"):
        assert not anew
        return
    assert {run.steps_from for run in anew.values()} == selecting == {f"{made}_select" for made in anew}
    for made, run in anew.items():
        section = irpo_params.preference if made in irpo_params.preference else irpo_params.sft
        given, chosen = run.model_dump(), section[run.steps_from].model_dump()
        changed = {key for key in given if given[key] != chosen[key]}
        assert changed == {
            "steps_from",
            "optimizer",
            "validation",
            "pairs" if made in irpo_params.preference else "demos",
        }
        assert chosen["optimizer"] | {"steps": None} == given["optimizer"]


BASELINES = [
    # name, loss (none: SFT), starts from, trained on, its N, its K or cap per problem
    ("sft", None, "chat", "gold", None, None),
    ("star", None, "chat", "star", 30, 10),
    ("star_double", None, "chat", "star_double", 60, 20),
    ("dpo", "dpo", "chat", "irpo_0", 30, 10),
    ("dpo_from_star", "dpo", "star", "irpo_0", 30, 10),
    ("irpo_from_star", "dpo_nll", "star", "irpo_0", 30, 10),
    ("irpo_double", "dpo_nll", "chat", "double", 60, 20),
    ("dpo_2", "dpo", "dpo", "dpo_1", 30, 10),
    ("m2_all_pairs", "dpo_nll", "m1", "irpo_0_1", None, None),
    ("m1_long", "dpo_nll", "chat", "irpo_0", 30, 10),
    ("spin_1", "dpo", "sft", "spin_round_1", 10, 10),
    ("spin_2", "dpo", "spin_1", "spin_round_2", 10, 10),
]


@pytest.mark.parametrize(("name", "loss", "model", "data", "n", "per_problem"), BASELINES)
def test_baselines(name, loss, model, data, n, per_problem):
    params = load_params(RECIPES["irpo_gsm8k_baselines"])
    run: Any = trainings(params)[name]
    assert (getattr(run, "loss", None), run.model, getattr(run, "pairs", None) or run.demos) == (loss, model, data)
    made: Any = params.pairs_outcome.get(data) or params.demos_correct.get(data)
    if n is not None:
        drawn = params.samples[made.samples]
        assert (drawn.n, getattr(made, "k", None) or made.max_per_problem) == (n, per_problem)
        assert name.startswith("star") or drawn.model in (model, "chat")
    if loss is not None:
        assert params.reference[run.reference] == params.reference[run.reference].model_copy(
            update={"pairs": data, "model": model}
        )
        assert (run.beta, run.optimizer.lr, run.optimizer.batch_size) == (0.1, 7e-7, 16)
    assert name in params.evaluate


def test_what_sets_some_baselines_apart():
    params = load_params(RECIPES["irpo_gsm8k_baselines"])
    assert {name for name, run in params.pairs_outcome.items() if run.chosen == "gold"} == {
        "spin_round_1",
        "spin_round_2",
    }
    both = params.pairs_union["irpo_0_1"]
    assert (both.a, both.b, both.c, both.problems) == ("irpo_0", "irpo_1", NONE, NONE)
    assert params.preference["m1_long"].optimizer.steps == 2 * 5000
    assert params.pairs_outcome["double"].max_pairs == 2 * 60_000


STAGES_THAT_FETCH = {
    "problems": builders.problems.run, "models": builders.models.run, "pairs_import": builders.pairs_import.run,
}  # fmt: skip


def test_a_revision_that_is_not_pinned_stops_the_first_stages(workspace: Path, name, params) -> None:
    shutil.copy(RECIPES[name], workspace / "params.yaml")
    stopped = 0
    for section, build in STAGES_THAT_FETCH.items():
        for run in (n for n, made in getattr(params, section).items() if made.revision is not None):
            with pytest.raises(ValueError, match=r"revision: give the 40-digit commit hash .*\(have 'https://hugg"):
                execute(section, run, build, workspace)
            stopped += 1
    assert stopped == RECIPES[name].read_text(encoding="utf-8").count(" revision: ")


def test_the_commands_that_pin_revisions_leave_none(name, params):
    """One address per data set and model: that of its own repository. The README's lines are those of its example."""
    text = RECIPES[name].read_text(encoding="utf-8")
    pages = set(re.findall(r"revision: (.+)", text))
    assert pages == {f"https://huggingface.co/{repository}/commits/main" for repository in repositories(params)}
    if name == "irpo_gsm8k_1gpu":
        assert set(re.findall(r"s\|(https:.*)\|HASH\|", README)) == pages


def repositories(params: Params) -> set[str]:
    data = {run.hub or SOURCES[run.source].hub for run in params.problems.values() if run.path == NO_FILE}
    data |= {run.hub or builders.pairs_import.HUB for run in params.pairs_import.values()}
    return {f"datasets/{hub}" for hub in data} | {run.hub for run in params.models.values() if run.hub}


def test_the_costs_of_the_readme_are_those_of_the_files():
    for line in recipe_costs.table():
        assert line in README


def test_the_cost_of_a_recipe_by_hand():
    """GSM8K: 4 iterations of 30 samples, 5 evaluations of 33, 4 selections of 10 validations."""
    by_hand = 4 * 30 * 7473 + 5 * 33 * 1319 + 4 * 10 * 1000
    assert recipe_costs.completions(load_params(RECIPES["irpo_gsm8k"])) == by_hand


@pytest.mark.slow
def test_dvc_resolves_the_graphs(tmp_path: Path) -> None:
    """Every stage of every recipe, each after those whose tables it reads; dry runs begin with the problems."""
    checkout = Checkout(tmp_path, {})
    for recipe in RECIPES.values():
        checkout.write_params(yaml.safe_load(recipe.read_text(encoding="utf-8")))
        params = load_params(recipe)
        graph = checkout.call("dvc", "dag", "--dot").stdout
        edges = set(re.findall(r'"(\S+@\S+)" -> "(\S+@\S+)"', graph))
        writers = {(t, name): f"{section}@{name}" for section, name, run in stage_runs(params) for t in run.writes}
        inputs = {(writers[e.input_table, e.input_run], writers[e.table, e.run]) for e in run_inputs(params)}
        assert edges == {(before, after) for before, after in inputs if before != after}
        if recipe.stem.endswith("1gpu"):
            first = f"> python -m builders.problems {next(iter(params.problems))}"
            assert first in checkout.call("dvc", "repro", "--dry", check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["irpo_gsm8k_baselines", "irpo_arc_1gpu", "step_dpo_1gpu", "step_dpo_published", "w2s_gsm8k_llama2_7b",
     "w2s_olympicarena_llama3"],
)  # fmt: skip
def test_a_reduced_recipe_runs_from_problems_to_report(tmp_path: Path, name: str) -> None:
    ran = {one.stage for one in smoke(RECIPES[name], REPOSITORY, tmp_path)}
    instead = {"samples_corrections": "samples"}  # a rule writes no corrections
    assert ran >= {
        f"{instead.get(section, section)}.{run}"
        for section, run, _ in stage_runs(load_params(RECIPES[name]))
        if section != "models"
    }
    assert (tmp_path / "workspace/data/report/report.html").exists()
