"""What a training command says of a release that it cannot train on, and where it trains with nothing installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import train.preference
import train.sft
from tests import training_world as world
from tests.conftest import REPOSITORY
from tests.release_world import export, provenance, rewrite, sha256, write_config, write_provenance
from tests.training_world import BY_GENERATION, rows

SHARD = "pairs/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and its release `v1`."""
    root = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRWRIGHT_LEDGER", str(root / "ledger"))
        world.build(root, count=4)
        export(root, {"pairs": ["sums"], "demos": ["good"]})
    return root


@pytest.fixture
def root(built: Path, workspace: Path) -> Path:
    """A copy of it."""
    shutil.copytree(built, workspace, dirs_exist_ok=True)
    return workspace


def train_from(module: Any, *arguments: str) -> None:
    module.train_stage(module.__name__.split(".")[1], module.run, arguments)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    with pytest.raises(SystemExit) as stopped:
        train_from(train.preference, "dpo", *arguments)
    assert stopped.value.code == code
    assert not Path("data/models/dpo").exists()
    return capsys.readouterr().err


def lose_provenance(release: Path) -> None:
    (release / "provenance.json").unlink()


def newer_format(release: Path) -> None:
    write_provenance(release, format=2)


def garbled_provenance(release: Path) -> None:
    (release / "provenance.json").write_text("{")


def no_configs(release: Path) -> None:
    (release / "provenance.json").write_text('{"format": 1}')


def only_demos(release: Path) -> None:
    write_provenance(release, configs={"demos": provenance(release)["configs"]["demos"]})


def two_others(release: Path) -> None:
    write_config(release, runs=["first", "second"])


def lose_shard(release: Path) -> None:
    (release / SHARD).unlink()


def damage_shard(release: Path) -> None:
    content = bytearray((release / SHARD).read_bytes())
    content[100] ^= 1
    (release / SHARD).write_bytes(content)


def outside(release: Path) -> None:
    (release.parent / "outside.parquet").write_bytes((release / SHARD).read_bytes())
    write_config(release, files={"../outside.parquet": sha256(release / SHARD)})


def no_files(release: Path) -> None:
    write_config(release, files={})


def no_rows(release: Path) -> None:
    rewrite(release, lambda table: table.slice(0, 0))


def lose_column(release: Path) -> None:
    rewrite(release, lambda table: table.drop_columns(["chosen_eos"]))


def no_parquet(release: Path) -> None:
    (release / SHARD).write_text("prompt,chosen,rejected\n")
    write_config(release, files={SHARD: sha256(release / SHARD)})


@pytest.mark.parametrize(
    ("damage", "chosen", "message"),
    [
        (lose_provenance, (), "v1: no release (it has no provenance.json); write one with `pairwright materialize`"),
        (newer_format, (), "v1/provenance.json: no provenance of a release that this version reads (format 2, and"),
        (garbled_provenance, (), "v1/provenance.json: no provenance of a release (Expecting property name"),
        (no_configs, (), "v1/provenance.json: no provenance of a release (no `configs`)"),
        (only_demos, (), "v1: no pairs in this release (have 'demos'); take one that has some"),
        (two_others, (), "v1: no run 'sums' of pairs (have 'first', 'second'); choose one with --data-run"),
        (two_others, ("third",), "v1: no run 'third' of pairs (have 'first', 'second'); name one in --data-run"),
        (lose_shard, (), f"v1/{SHARD}: missing, though provenance.json names it; copy the release again, or write"),
        (damage_shard, (), f"v1/{SHARD}: damaged: its SHA-256 is not the one in provenance.json; copy the release"),
        (outside, (), "v1/provenance.json: config 'pairs' has no data file of a release: '../outside.parquet'"),
        (no_files, (), "v1/provenance.json: no config of a release: 'pairs' (have pairs, step_pairs, demos, samples,"),
        (no_rows, (), "v1: pairs run 'sums' is empty: nothing to train on; choose another run or release"),
        (lose_column, (), f"v1/{SHARD}: no column 'chosen_eos', which training needs; write the release with"),
        (no_parquet, (), f"v1/{SHARD}: not a Parquet file ("),
    ],
)
def test_a_release_that_is_none_is_one_line_with_place_and_remedy(root, capsys, damage, chosen, message):
    damage(root / "v1")
    said = refused(capsys, "--data", "v1", *(("--data-run", *chosen) if chosen else ()))
    assert said.startswith(f"preference.dpo: {message}")
    assert said.count("\n") == 1


def test_no_such_directory(root, capsys):
    said = refused(capsys, "--data", "v2")
    assert said == (
        "preference.dpo: v2: no such directory; name a release, or one on the Hub as `hf://ORG/NAME@v1.0`\n"
    )


@pytest.mark.parametrize("address", ["hf://../x@v1", "hf://org/name/more@v1", "hf://org name@v1"])
def test_a_name_that_is_no_repository_is_refused(root, capsys, address):
    said = refused(capsys, "--data", address)
    assert "is no repository of the Hub; give ORG/NAME" in said
    assert said.count("\n") == 1


def test_without_network_there_is_one_line(root, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused(capsys, "--data", "hf://org/sums@v1.0")
    assert said.startswith("preference.dpo: hf://org/sums@v1.0 cannot be read: it is not")
    assert said.count("\n") == 1


def test_a_run_of_the_release_needs_the_release(root, capsys):
    assert "--data-run: give --data, the release that has it" in refused(capsys, "--data-run", "sums", code=2)


def test_texts_that_are_too_long_are_named_with_what_can_be_done(root, capsys):
    world.set_params(root, {"preference.dpo.max_tokens": 12})
    said = refused(capsys, "--data", "v1")
    assert "tokens, the limit is 12; train from a release without it, or raise preference.dpo.max_tokens\n" in said


def test_validation_tables_that_are_not_there_are_named_before_anything_takes_long(root, capsys, monkeypatch):
    world.set_params(root, {"preference.dpo.validation": BY_GENERATION})
    for run in ("prompts", "answers"):
        (root / f"data/{run}/run=held_out/part-00000.parquet").unlink()
        (root / f"data/{run}/run=held_out").rmdir()
    monkeypatch.setattr(train.preference, "load_pairs", None)
    assert refused(capsys, "--data", "v1") == (
        "preference.dpo: preference.dpo.validation.prompts: data/prompts/run=held_out is not there; restore it with"
        " `dvc pull data/prompts/run=held_out data/answers/run=held_out` (or build it with `dvc repro`), or set"
        " validation.prompts to none to train without validation\n"
    )


def test_pairs_to_watch_that_are_nowhere_are_named(root, capsys):
    world.set_params(root, {"sft.warm.watch": "sums"})
    export(root, {"demos": ["good"]}, "v2")
    train_from(train.sft, "warm", "--data", "v2")  # the workspace has the pairs
    (root / "data/pairs").rename(root / "elsewhere")
    with pytest.raises(SystemExit):
        train_from(train.sft, "warm", "--data", "v2")
    assert "sft.warm.watch: pairs run 'sums' is neither in v2 nor here; set it to none, or" in capsys.readouterr().err


BARE = """
import re, runpy, sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from importlib.metadata import distributions, packages_distributions, requires

def key(name):
    return re.sub("[-_.]+", "-", name).lower()

kept, todo = set(), ["torch", "transformers", "pyarrow", "pydantic", "pyyaml", "safetensors", "huggingface-hub", "peft"]
installed = {key(d.metadata["Name"]) for d in distributions()}
while todo:
    name = todo.pop()
    if name in installed and name not in kept:
        kept.add(name)
        needed = [text for text in requires(name) or () if "extra ==" not in text]
        todo += [key(re.match("[A-Za-z0-9._-]+", text)[0]) for text in needed]
ours = ("schemas", "stores", "builders", "train")
absent = {top for top, of in packages_distributions().items() if not kept & set(map(key, of)) and top not in ours}
assert absent >= {"dvc", "duckdb", "datasets", "pandas", "matplotlib", "math_verify", "openai", "pydantic_monty"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path = [finder for finder in sys.meta_path if finder.__module__ == "_frozen_importlib"] + [Bare]
for name in absent:
    assert find_spec(name) is None
for place in sys.argv[1:]:
    module, sys.argv[1:] = place.split(".")[0], [place.split(".")[1], "--data", "v1"]
    runpy.run_module(f"train.{module}", run_name="__main__")
"""


@pytest.mark.slow
def test_a_release_is_trained_on_where_only_the_model_libraries_are_installed(root):
    """Neither DVC nor DuckDB, nor what any other installed package but these and theirs brings."""
    world.set_params(root, {"preference.dpo.lora": {"rank": 2}})
    for path in (root / "data").iterdir():
        if path.name != "models":
            path.rename(root / f"not_here_{path.name}")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "error", "-c", BARE, "sft.warm", "preference.dpo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(rows(root, "training", "warm")) == 2
    assert len(rows(root, "training", "dpo")) == 7
