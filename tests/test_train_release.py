"""Training from a release directory: the same bits as from the tables, and what the model's record says of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi

import train.preference
import train.reference
import train.reference_ledger
import train.sft
from builders.model_files import read_record
from schemas import Demo, Prompt, ReferenceLogprob, Sample
from stores.stage import Stage, execute
from tests import step_training_world
from tests import training_world as world
from tests.hub_api import WRITE, Hub, hub
from tests.release_world import COMMIT, export, provenance, rewrite
from tests.training_world import rows, run, weights
from train.release import Release
from train.session import Session
from train.tables import Tables

BUILDS = {"preference.dpo": train.preference.run, "reference.sums": train.reference.run, "sft.warm": train.sft.run}
MIXED: list[dict[str, Any]] = [
    {},
    {"chosen_eos": False},
    {"rejected_end": 10, "rejected_eos": False},
    {"rejected_start": 18},
    {"chosen_start": 6, "chosen_eos": False, "rejected_start": 4},
]
"""Spans and endings of pairs."""


def from_release(root: Path, place: str, directory: Path | str, chosen: str | None = None) -> None:
    section, key = place.split(".")
    execute(section, key, lambda stage: BUILDS[place](stage, Release.open(str(directory), chosen)), root)


def outputs(root: Path, key: str) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor], str]:
    return rows(root, "training", key), weights(root, key), read_record(root / f"data/models/{key}")["fingerprint"]


def forget_tables(root: Path) -> None:
    """Leaves what a training machine has: params and the start model."""
    for path in (root / "data").iterdir():
        if path.name != "models":
            shutil.rmtree(path)
    for path in (root / "data/models").iterdir():
        if path.name != "tiny":
            shutil.rmtree(path)


def forget_log_probs(root: Path) -> None:
    """Empties the ledger."""
    for path in (root.parent / "ledger").glob("ledger.sqlite*"):
        path.unlink()


def assert_equal_training(root: Path, release: Path, *places: str) -> None:
    """Trains from tables, then from their release where there are no tables, and compares every bit."""
    run(root, *places)
    key = places[-1].split(".")[1]
    losses, trained, fingerprint = outputs(root, key)
    forget_tables(root)
    forget_log_probs(root)
    from_release(root, places[-1], release)
    found = outputs(root, key)
    assert found[0] == losses
    assert all(torch.equal(found[1][name], tensor) for name, tensor in trained.items())
    assert found[2] == fingerprint


def asked_as(root: Path, rendering: str, prefill: str = "") -> None:
    changes = {"rendering": rendering, "prefill": prefill}
    asked = [Prompt.model_validate(row | changes) for row in rows(root, "prompts", "train")]
    world.write(root, "train", asked)


LORA = {"loss": "dpo_nll", "lora": {"rank": 4, "dropout": 0.3}}


@pytest.mark.parametrize(
    ("rendering", "prefill", "conversational", "changes"),
    [
        ("text", "", False, {"loss": "dpo_nll"}),
        pytest.param("text", " Final answer:", False, {"loss": "dpo"}, marks=pytest.mark.slow),
        ("chat", " Answer:", False, LORA),
        ("chat", "", True, {"loss": "dpo"}),
        ("text", "", False, {"loss": "orpo", "reference": "none"}),
        ("chat", " Answer:", False, {"loss": "kto"}),
    ],
)
def test_pairs_of_a_release_give_the_bits_of_their_tables(workspace, rendering, prefill, conversational, changes):
    changes = {f"preference.dpo.{key}": value for key, value in changes.items()}
    world.build(workspace, changes=changes | {"reference.sums.mismatched": True})
    asked_as(workspace, rendering, prefill)
    world.write(workspace, "sums", [world.pair(i, **MIXED[i % len(MIXED)]) for i in range(10)])
    release = export(workspace, {"pairs": ["sums"]}, conversational=conversational)
    assert_equal_training(workspace, release, "reference.sums", "preference.dpo")


@pytest.mark.parametrize("config", ["steps", pytest.param("whole", marks=pytest.mark.slow)])
def test_step_pairs_of_a_release_end_where_their_step_ends(workspace, config):
    table = {"steps": "step_pairs", "whole": "pairs"}[config]
    step_training_world.build(workspace, {"preference.dpo.pairs": config, "reference.steps.pairs": config})
    assert {pair.chosen_span.eos for pair in world.load(workspace, run=config)} == {config == "whole"}
    release = export(workspace, {table: [config]})
    assert_equal_training(workspace, release, "reference.steps", "preference.dpo")


@pytest.mark.parametrize(
    ("rendering", "prefill", "conversational"),
    [pytest.param("text", "", False, marks=pytest.mark.slow), ("chat", " Answer:", False), ("chat", "", True)],
)
def test_demos_of_a_release_give_the_bits_of_their_tables(workspace, rendering, prefill, conversational):
    world.build(workspace, changes={"sft.warm.watch": "sums", "sft.warm.watch_limit": 3})
    asked_as(workspace, rendering, prefill)
    reasons = ("stop", "length")
    drawn = [Sample(**s.model_dump() | {"finish_reason": reasons[i % 2]}) for i in range(10) for s in world.drawn(i)]
    world.write(workspace, "drawn", drawn)
    world.write(workspace, "good", [Demo(prompt_id=s.prompt_id or "", sample_id=s.sample_id) for s in drawn])
    release = export(workspace, {"demos": ["good"], "pairs": ["sums"]}, conversational=conversational)
    rewrite(release, lambda table: table, "demos", shards=3)
    assert_equal_training(workspace, release, "sft.warm")


def test_the_record_of_a_model_names_what_it_was_trained_on(workspace):
    world.build(workspace)
    release = export(workspace, {"pairs": ["sums"]})
    from_release(workspace, "preference.dpo", release)
    texts = provenance(release)["configs"]["pairs"]["texts"]
    assert read_record(workspace / "data/models/dpo")["provenance"]["data"] == {
        "table": "pairs", "run": "sums", "texts": texts, "revision": COMMIT, "release": None,
    }  # fmt: skip


def test_a_run_that_starts_again_computes_no_reference_again(workspace, capsys, monkeypatch):
    world.build(workspace)
    release = export(workspace, {"pairs": ["sums"]})
    from_release(workspace, "preference.dpo", release)
    line = "preference dpo: data/reference_logprobs/run=sums is not there: computes the log-probs of 20 completions"
    assert line in capsys.readouterr().err
    first = outputs(workspace, "dpo")
    monkeypatch.setattr(train.reference_ledger, "compute", None)
    from_release(workspace, "preference.dpo", release)
    assert "computes" not in capsys.readouterr().err
    assert outputs(workspace, "dpo")[0] == first[0]


def test_a_reference_table_is_used_if_it_is_of_the_texts_of_the_release(workspace, capsys):
    world.build(workspace)
    release = export(workspace, {"pairs": ["sums"]})
    from_release(workspace, "reference.sums", release)
    computed = rows(workspace, "reference_logprobs", "sums")
    run(workspace, "reference.sums")
    assert rows(workspace, "reference_logprobs", "sums") == computed
    from_release(workspace, "preference.dpo", release)
    assert "completions" not in capsys.readouterr().err
    longer = [ReferenceLogprob(**row | {"n_tokens": row["n_tokens"] + 1}) for row in computed]
    for table in (longer, [ReferenceLogprob(**row) for row in computed[:-1]]):
        world.write(workspace, "sums", table)
        forget_log_probs(workspace)
        from_release(workspace, "preference.dpo", release)
        assert "run=sums is of other texts: computes the log-probs of 20 completions" in capsys.readouterr().err


def test_a_reference_of_another_model_is_computed_under_it(workspace, capsys):
    world.build(workspace)
    release = export(workspace, {"pairs": ["sums"]})
    run(workspace, "sft.warm", "reference.sums")
    world.set_params(workspace, {"preference.dpo.model": "warm"})
    run(workspace, "preference.dpo")
    expected, computed = outputs(workspace, "dpo")[0], rows(workspace, "reference_logprobs", "sums")
    other = [ReferenceLogprob(**row | {"n_tokens": row["n_tokens"] + 1, "logprob": -1.0}) for row in computed]
    world.write(workspace, "sums", other)
    forget_log_probs(workspace)
    from_release(workspace, "preference.dpo", release)
    assert outputs(workspace, "dpo")[0] == expected
    said = "run=sums is of other texts: computes the log-probs of 20 completions under 'tiny' first"
    assert said in capsys.readouterr().err


def test_a_checkpoint_of_the_same_data_is_resumed_wherever_they_come_from(workspace, monkeypatch):
    world.build(workspace, changes={"preference.dpo.checkpoint_every": 2})
    release = export(workspace, {"pairs": ["sums"]})
    run(workspace, "reference.sums", "preference.dpo")
    expected, update, taken = outputs(workspace, "dpo")[0], Session.update, []

    def noting(self: Session, step: int, *rest: Any) -> dict[str, Any]:
        taken.append(step)
        if len(taken) == 4:
            raise RuntimeError
        return update(self, step, *rest)

    monkeypatch.setattr(Session, "update", noting)
    with pytest.raises(RuntimeError):
        run(workspace, "preference.dpo")
    from_release(workspace, "preference.dpo", release)
    assert taken == [0, 1, 2, 3, 2, 3, 4, 5]
    assert outputs(workspace, "dpo")[0] == expected


@pytest.mark.parametrize(
    ("held", "chosen", "trained"),
    [(["sums"], None, "sums"), (["other"], None, "other"), (["other", "sums"], None, "sums"),
     (["other", "sums"], "other", "other")],
)  # fmt: skip
def test_the_run_is_the_chosen_one_or_the_one_of_params_or_the_only_one(workspace, held, chosen, trained, capsys):
    world.build(workspace, changes={"pairs_outcome.other": world.PARAMS["pairs_outcome"]["sums"]})
    world.write(workspace, "other", [world.pair(0)])
    release = export(workspace, {"pairs": held})
    source = Release.open(str(release), chosen).source("pairs", "sums")
    assert (source.run, len(source.pairs())) == (trained, 10 if trained == "sums" else 1)
    assert ("trains from its run 'other', not 'sums'" in capsys.readouterr().err) == (trained == "other")


@pytest.mark.parametrize(("limit", "taken"), [(1, 1), (3, 3), (99, 10)])
def test_a_limit_takes_the_pairs_that_it_takes_of_the_table(workspace, limit, taken):
    world.build(workspace)
    release = export(workspace, {"pairs": ["sums"]})
    rewrite(release, lambda table: table, shards=3)
    found = Release.open(str(release)).source("pairs", "sums").pairs(limit)
    assert found == Tables(Stage("preference", "dpo", workspace), "pairs", "sums").pairs(limit)
    assert len(found) == taken


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that the real client asks, with an empty cache of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub(tmp_path / "hub") as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.endpoint)
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in huggingface_hub, of httpx2
def test_a_published_release_is_fetched_by_its_tag_and_named_in_the_record(workspace, server, tmp_path, monkeypatch):
    world.build(workspace)
    release = export(workspace, {"pairs": ["sums"], "samples": ["drawn"]})
    api = HfApi(endpoint=server.endpoint, token=WRITE)
    api.create_repo("team/sums", repo_type="dataset")
    commit = api.upload_folder(repo_id="team/sums", repo_type="dataset", folder_path=release).oid
    api.create_tag("team/sums", repo_type="dataset", tag="v1.0")
    shutil.rmtree(release)
    from_release(workspace, "preference.dpo", "hf://team/sums@v1.0")
    data = read_record(workspace / "data/models/dpo")["provenance"]["data"]
    assert data["release"] == {"repo": "team/sums", "revision": "v1.0", "commit": commit}
    assert data["revision"] == COMMIT
    assert not list((tmp_path / "cache").rglob("samples"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from_release(workspace, "preference.dpo", "hf://team/sums@v1.0")  # from the cache
