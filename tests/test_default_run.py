"""The shipped params: the whole graph on a reduced copy (slow), and the full default with its seeds (demo)."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.params import load_params, stage_runs
from tests.conftest import REPOSITORY
from tests.pipeline import Checkout, kill, wait_for, wait_for_process

MODELS = ("m0", "m1", "m2", "dpo", "star")
LONGER = ("m0_longer", "m1_longer", "m2_longer")
STEPS = ("step_sft", "step_dpo", "step_dpo_baseline")
RECOVERING = ("w2s_full_weak", "w2s_weak_ft", "w2s_icl_ft", "w2s_hybrid_1", "w2s_plus", "w2s_pro", "w2s_pro_orpo")
WEAK_TO_STRONG = ("w2s_weak", *RECOVERING, "w2s_ceiling")
REFT = ("reft_warmup", "reft_sft", "reft_offline_st", "reft_online_st", "reft", "reft_program_warmup", "reft_program")
PARTLY = ("w2s_strong_base", "w2s_icl", "w2s_plus_sampled", "w2s_pro_sampled")
"""Evaluated on fewer problems."""


def shipped() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))


def reduced() -> dict[str, Any]:
    """The shipped params with small numbers: the same runs, whose time is that of starting 190 processes."""
    params = shipped()
    windows = {"train_most": {"limit": 70}, "train_rest": {"skip": 70, "limit": 30}}
    limits = {"warmup": 300, "train": 100, "validation": 20, "test": 60}
    for name, window in (windows | {name: {"limit": limit} for name, limit in limits.items()}).items():
        params["problems"][name] |= window | {"steps": [2, 2]}
    params["problems"]["longer"] |= {"limit": 20, "steps": [3, 3]}
    params["problems"]["test_part"] |= {"limit": 30, "steps": [2, 2]}
    _reduce_weak_to_strong(params)
    for name in ("tiny", "tiny_steps", "strong_start"):
        params["models"][name]["config"] |= {"num_hidden_layers": 2}
    for name in ("greedy", "explore", "greedy_steps", "explore_steps"):
        params["sampling"][name]["max_new_tokens"] = 40
    for name in ("m0", "step_sft"):
        params["sft"][name]["optimizer"] |= {"epochs": 12}
    for run in (*params["sft"].values(), *params["preference"].values()):
        run["validation"]["every"] = 10
        run["checkpoint_every"] = 4
    for name in MODELS:
        params["evaluate"][name]["k"] = 2
    _reduce_reft(params)
    return params


def _reduce_reft(params: dict[str, Any]) -> None:
    params["problems"]["warmup_part"] |= {"limit": 100, "steps": [2, 2]}
    params["models"]["tiny_program"]["config"] |= {"num_hidden_layers": 2}
    for name in ("reft_sft", "reft_offline_st"):
        params["sft"][name]["optimizer"] |= {"epochs": 1}
    params["reward_model"]["reft_reranker"]["optimizer"] |= {"steps": 4, "batch_size": 16}
    for run in params["ppo"].values():
        run["optimizer"] |= {"steps": 3, "batch_size": 16}
        run["checkpoint_every"] = 2
    for name in ("reft_warmup", "reft"):
        params["evaluate"][name]["k"] = 2


def _reduce_weak_to_strong(params: dict[str, Any]) -> None:
    windows = {"weak_train": {"limit": 300}, "questions": {"limit": 100}, "questions_drawn": {"limit": 60}}
    windows |= {"strong_base": {"limit": 300}, "strong_shots": {"skip": 300, "limit": 40}}
    windows |= {"strong_shots_other": {"skip": 340, "limit": 20}, "strong_kept": {"skip": 360, "limit": 40}}
    for name, window in windows.items():
        params["problems"][name] |= window | {"steps": [2, 2]}
    params["sft"]["strong_short"]["optimizer"] |= {"epochs": 12}
    params["sft"]["strong_base"]["optimizer"] |= {"epochs": 12}
    for run in params["consistency"].values():
        run["top_up"] = 20  # models so small seldom agree
    params["pairs_contrast"]["contrast"] |= {"threshold": 0.25, "reject_threshold": 0.5}
    for run in params["sft"].values():
        if "steps" in run["optimizer"]:
            run["optimizer"] |= {"steps": 20, "lr": 1e-3}
    params["samples"]["plus_drawn"]["n"] = 4
    for name in ("w2s_plus_sampled", "w2s_pro_sampled"):
        params["evaluate"][name]["k"] = 2


def metrics(checkout: Checkout) -> dict[str, Any]:
    return json.loads((checkout.root / "data/report/metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The reduced default, built once."""
    checkout = Checkout(tmp_path_factory.mktemp("default"), reduced())
    checkout.repro()
    checkout.commit("built")
    return checkout


@pytest.mark.slow
def test_the_whole_graph_runs_and_reports(built: Checkout) -> None:
    found = metrics(built)["models"]
    assert set(found) == {*MODELS, *LONGER, *STEPS, *WEAK_TO_STRONG, *PARTLY, *REFT}
    for name in (*MODELS, *STEPS, *WEAK_TO_STRONG, *REFT):
        low, high = found[name]["ci95"]
        assert 0 <= low <= found[name]["accuracy"] <= high <= 1
        assert found[name]["n"] == 60
    assert all({"maj_2", "pass_2"} <= set(found[name]) for name in (*MODELS, "w2s_plus_sampled", "reft"))
    assert all("rerank_2" in found[name] for name in ("reft_warmup", "reft"))
    (recovered,) = metrics(built)["weak_to_strong"].values()
    assert set(recovered["models"]) == {*RECOVERING, "w2s_icl"}
    assert recovered["filters"]["iteration_1"]["n_kept"] > 0
    assert 0 < metrics(built)["audits"]["step_audit"]["total"]["n"] <= 30
    judged = metrics(built)["judging"]
    assert set(judged) == {"step_dpo", "step_dpo_baseline"}
    assert all(0 <= row["accuracy"] <= 1 and row["n"] > 0 for row in judged.values())
    domains = {sets["longer"]["domain"] for model, sets in metrics(built)["domains"].items() if "longer" in sets}
    assert domains == {"out"}
    params = load_params(built.root / "params.yaml")
    for section, name, run in stage_runs(params):
        for table in run.writes:
            assert list((built.root / "data" / table).glob(f"*{name}/*")), f"{section}.{name} wrote no {table}"
    assert "http" not in (built.root / "data/report/report.html").read_text().replace("http://www.w3.org", "")


@pytest.mark.slow
def test_nothing_runs_again_and_the_store_answers(built: Checkout) -> None:
    again = built.repro()
    assert "Running stage" not in again.stdout
    assert built.call("python", "-m", "stores", "check").returncode == 0
    query = "select count(*) as n from pair_texts where run = 'irpo_0'"
    answer = built.call("python", "-m", "stores", "sql", "--format", "json", query)
    assert json.loads(answer.stdout)[0]["n"] > 0


@pytest.mark.slow
def test_killed_in_training_it_ends_byte_identical_from_an_empty_ledger(built: Checkout, tmp_path: Path) -> None:
    """Iterative RPO to its second iteration, and the warm-up that PPO starts from with its rollouts."""
    other, targets = Checkout(tmp_path, reduced()), ("preference@m2", "ppo@reft_ppo")
    process = other.start("dvc", "repro", *targets)
    wait_for_process("train.preference\0m1", str(other.root))
    checkpoints = Path(other.environment["PAIRWRIGHT_LEDGER"]) / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("*/*/state.json")), "checkpoint")
    kill(process)
    assert "Running stage 'sft@m0'" not in other.repro(*targets).stdout
    for table in ("samples", "predictions", "rewards", "pairs", "reference_logprobs", "training", "models"):
        made, whole = other.bytes_of(f"data/{table}"), built.bytes_of(f"data/{table}")
        runs = {Path(name).parts[0] for name in made}
        assert made == {name: held for name, held in whole.items() if Path(name).parts[0] in runs}, table
    assert {f"run={name}/part-00000.parquet" for name in ("m2", "reft_ppo")} <= {*other.bytes_of("data/training")}


@pytest.mark.slow
def test_a_changed_beta_trains_again_and_samples_nothing_before_it(built: Checkout) -> None:
    params = reduced()
    params["preference"]["dpo"]["beta"] = 0.5
    built.write_params(params)
    done = built.repro()
    ran = {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}
    assert ran == {"preference@dpo", "evaluate@dpo", "export@arithmetic", "report"}, "a release names all params"
    built.write_params(reduced())
    assert "> python" not in built.repro().stdout, "DVC's run cache gives the former version back"


@pytest.mark.demo
def test_the_default_improves_over_seeds(tmp_path: Path) -> None:
    """Two iterations gain at least 6 points on average over seeds 0, 1, 2, each with a paired lower bound above 0.

    So has ReFT over the warm-up that it starts from, by at least 5 points on average, and so has a strong model over
    the weak one, in each seed, after learning from answers on which the two agree.
    """
    gains: dict[str, list[float]] = {"m2-vs-m0": [], "reft-vs-reft_warmup": []}
    for seed in (0, 1, 2):
        checkout = Checkout(tmp_path / str(seed), shipped() | {"seed": seed})
        checkout.environment["OMP_NUM_THREADS"] = "2"
        started = time.perf_counter()
        checkout.repro()
        seconds = time.perf_counter() - started
        found = metrics(checkout)
        evaluated = (*MODELS, *STEPS, *WEAK_TO_STRONG, *REFT)
        accuracies = {name: round(100 * found["models"][name]["accuracy"], 2) for name in evaluated}
        shown = {"seed": seed, "seconds": round(seconds), "accuracy": accuracies, "compared": found["comparisons"]}
        print(json.dumps(shown | {"judging": found["judging"]}))
        (tmp_path / f"metrics_{seed}.json").write_text(json.dumps(found))
        for name, points in gains.items():
            points.append(found["comparisons"][name]["points"])
            assert found["comparisons"][name]["ci95"][0] > 0
        assert found["comparisons"]["reft_program-vs-reft_program_warmup"]["ci95"][0] > 0
        assert all(found["comparisons"][f"{name}-vs-w2s_weak"]["ci95"][0] > 0 for name in ("w2s_hybrid_1", "w2s_plus"))
        assert all(found["models"][name]["n"] == 2000 for name in evaluated)
    assert statistics.mean(gains["m2-vs-m0"]) >= 6
    assert statistics.mean(gains["reft-vs-reft_warmup"]) >= 5
