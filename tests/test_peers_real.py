"""Exports read by the trainers' own code: it accepts them, and its tokens are those that an export says.

TRL is installed with the tests. The others lie in a directory of their own, which `$PAIRWRIGHT_PEERS` names (`.ci/run`
makes it): their versions of other packages are not those that the tests run with.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from builders.exporting.peer_layout import Order
from builders.exporting.peer_rows import examples
from builders.exporting.peer_tokens import words_of
from builders.exporting.peers import PEERS
from builders.model_files import load_tokenizer
from builders.rendering import render
from stores.store import Store
from tests import peer_world, training_world
from tests.conftest import REPOSITORY
from tests.peer_world import RUNS, Built

pytestmark = pytest.mark.slow

Sides = list[list[Any]]


class Job(NamedTuple):
    """One export to read; `own`: the trainer tokenises the texts itself."""

    store: Path
    dir: Path
    table: str
    own: bool


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("peers"))


def jobs(made: Built, peer: str) -> list[Job]:
    """Every tokenizer, rendering and kind of pair, as texts and as our tokens; chats as messages; prompts."""
    tables, found = ("demos",) if peer == "verl" else ("pairs", "demos"), []
    for name in peer_world.TOKENIZERS:
        for rendering, prefill in (("text", ""), ("chat", "So, ")):
            store, steps = made.store(name, rendering, prefill), made.store(name, rendering, prefill, steps=True)
            asked = [(store, table) for table in tables] + ([(steps, "pairs")] if "pairs" in tables else [])
            found += [Job(at, made.export(at, peer, table), table, own) for at, table in asked for own in (True, False)]
            if peer == "verl":
                found.append(Job(store, made.export(store, peer, "prompts"), "prompts", False))
    chats = made.store("qwen", "chat")
    return [*found, Job(chats, made.export(chats, peer, tables[0], model=None), tables[0], True)]


@pytest.fixture(scope="module")
def read(made: Built) -> Callable[[str], dict[Job, Any]]:
    """What a trainer makes of all its exports, in one process of its own."""

    @cache
    def results(peer: str) -> dict[Job, Any]:
        apart = os.environ.get("PAIRWRIGHT_PEERS", "")
        if peer != "trl" and not Path(apart, PEERS[peer].rpartition(".")[2].replace("_", "")).is_dir():
            pytest.skip(f"no {peer} in $PAIRWRIGHT_PEERS ({apart or 'not set'}); .ci/run says how to install it")
        asked = jobs(made, peer)
        given = [job._asdict() | {"model": job.store / "data/models/tiny"} for job in asked]
        (made.root / "jobs.json").write_text(json.dumps(given, default=str))
        command = [sys.executable, str(REPOSITORY / "tests/peer_loaders.py"), peer, "jobs.json", "out.json"]
        paths = os.pathsep.join(part for part in (apart, str(REPOSITORY)) if part)
        environment = os.environ | {"PYTHONPATH": paths, "HF_HOME": str(made.root / "hub")}
        done = subprocess.run(command, cwd=made.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(zip(asked, json.loads((made.root / "out.json").read_text()), strict=True))

    return results


def rendered(job: Job) -> bool:
    return job.dir.name.endswith("text")


def predicted(peer: str, job: Job) -> list[Sides]:
    """What our transcription of the trainer's way says."""
    with Store.open(job.store) as store:
        words = words_of(store, "tiny")
        layout = import_module(PEERS[peer]).layout(Order(RUNS[job.table], job.table, False, words, None, 0))
        assert layout.join is not None
        rows = examples(store, job.table, RUNS[job.table], test_answers=True)
        return [[list(tokens) for tokens in layout.join(*layout.texts(example))] for example in rows]


def ours(job: Job) -> list[Sides]:
    return [[list(side) for side in row] for row in peer_world.ours(job.store, job.table)]


def count_equal(read: list[Sides], expected: list[Sides]) -> int:
    return sum(a == b for one, other in zip(read, expected, strict=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("peer", PEERS)
def test_the_trainer_reads_what_the_export_says(read: Callable[[str], dict[Job, Any]], peer: str) -> None:
    for job, found in read(peer).items():
        place = f"{job.dir} {'its own way' if job.own else 'our tokens'}"
        if job.table == "prompts" or not rendered(job):
            continue
        if job.own or peer == "openrlhf":
            assert found == predicted(peer, job), place
            assert count_equal(found, ours(job)) == json.loads((job.dir / "export.json").read_text())["equal"], place
        else:
            assert found == ours(job), place


def test_trl_puts_exactly_one_ending_more_after_a_step(made: Built, read: Callable[[str], dict[Job, Any]]) -> None:
    store = made.store("llama", "chat", "So, ", steps=True)
    job = Job(store, made.export(store, "trl", "pairs"), "pairs", True)
    assert read("trl")[job] == [[[prompt, [*completion, 2]] for prompt, completion in row] for row in ours(job)]


CLOSED = {"trl": "<|im_end|>\n", "openrlhf": "<|im_end|>", "llama-factory": "<|im_end|>\n", "verl": "<|im_end|>\n"}
"""What each trainer ends the chats with; ours end with `<|im_end|>`."""
MESSAGES = {"trl": (8, 10), "openrlhf": (8, 10), "llama-factory": (8, 10), "verl": (4, 5)}
"""How many sequences are ours up to that, of all; as with texts, those at whose edge a token reaches across are not."""


@pytest.mark.parametrize("peer", CLOSED)
def test_messages_are_ours_up_to_what_the_template_writes_after_them(
    read: Callable[[str], dict[Job, Any]], peer: str
) -> None:
    (job,) = (job for job in read(peer) if not rendered(job))
    ending = load_tokenizer(job.store / "data/models/tiny").encode(CLOSED[peer], add_special_tokens=False)
    expected = [[[prompt, [*completion[:-1], *ending]] for prompt, completion in row] for row in ours(job)]
    assert (count_equal(read(peer)[job], expected), sum(map(len, expected))) == MESSAGES[peer]


def test_verl_asks_our_prompts_and_our_checkers_reward(read: Callable[[str], dict[Job, Any]]) -> None:
    asked = {job: found for job, found in read("verl").items() if job.table == "prompts"}
    assert len(asked) == 6
    for job, found in asked.items():
        tokenizer = load_tokenizer(job.store / "data/models/tiny")
        with Store.open(job.store) as store:
            rows = list(examples(store, "prompts", "train", test_answers=True))
        expected = [render(tokenizer, e.messages, e.prefill, e.rendering).ids for e in rows]
        assert [row["ids"] for row in found] == expected
        assert [row["index"] for row in found] == list(range(5))
        assert {(row["source"], row["gold"], *row["scores"]) for row in found} == {("made", "8", 1.0, 0.0, 0.0)}


def test_kto_takes_pairs_apart(made: Built) -> None:
    from datasets import load_dataset
    from trl import unpair_preference_dataset

    store = made.store("qwen", "text")
    file = str(made.export(store, "trl", "pairs") / "train.parquet")
    rows: Any = load_dataset("parquet", data_files=file, split="train", cache_dir=str(made.root / "cache"))
    apart = unpair_preference_dataset(rows.select_columns(["prompt", "chosen", "rejected"]))
    assert apart["label"] == [True] * 5 + [False] * 5
    assert list(apart["completion"]) == [*rows["chosen"], *rows["rejected"]]


def test_the_exported_program_trains(workspace: Path) -> None:
    """Its first loss is that of pairs which policy and reference find equally good: log 2, and the NLL of ours."""
    training_world.build(workspace, changes={"preference.dpo.loss": "dpo", "preference.dpo.optimizer.steps": 2})
    with Store.open() as store:
        export = import_module("builders.exporting.peers")
        export.export_for(store, export.Wanted("trl", "sums", "pairs", "tiny"), Path("out"))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(workspace / "hub")}
    command = [sys.executable, "out/train.py", "data/models/tiny", "trained"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (workspace / "trained/model.safetensors").exists()
    assert pq.read_table("out/train.parquet").num_rows == 10
