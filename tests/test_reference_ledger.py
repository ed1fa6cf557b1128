"""Reference log-probs are computed once: only what the ledger lacks is, and it equals what a fresh run computes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train.reference
import train.reference_ledger
from builders.model_files import write_record
from schemas import Prompt
from schemas.ids import sample_id
from stores.estimates import similar
from stores.ledger import Ledger
from tests import training_world as world
from tests.conftest import REPOSITORY
from tests.test_dvc_graph import closure
from tests.training_world import independent_logprob, rows, run
from train.policy import Policy
from train.reference_ledger import CODE

LABELS = ("prompt_id", "sample_id", "start", "end", "eos")


@pytest.fixture
def forwards(monkeypatch):
    """The number of sequences of every forward that scores."""
    seen, logprobs = [], Policy.logprobs

    def counting(self, sequences):
        seen.append(len(sequences))
        return logprobs(self, sequences)

    monkeypatch.setattr(Policy, "logprobs", counting)
    return seen


def table(root: Path, name: str = "sums") -> dict[tuple, float]:
    return {tuple(row[c] for c in LABELS): row["logprob"] for row in rows(root, "reference_logprobs", name)}


def build(root: Path, count: int, **changes) -> None:
    world.build(root, 10, {f"reference.sums.{key}": value for key, value in changes.items()})
    world.write(root, "sums", [world.pair(i) for i in range(count)])


def test_a_few_pairs_more_cost_their_own_forwards_alone(workspace, forwards, capsys):
    build(workspace, 7, micro_tokens=200)
    run(workspace, "reference.sums")
    assert sum(forwards) == 14
    first = table(workspace)
    world.write(workspace, "sums", [world.pair(i) for i in range(10)])
    forwards.clear()
    run(workspace, "reference.sums")
    assert sum(forwards) == 6
    assert "reference sums: 14 of 20 log-probs are in the ledger\n" in capsys.readouterr().err
    found = table(workspace)
    assert {key: found[key] for key in first} == first, "to the bit"
    shutil.rmtree(workspace.parent / "ledger")
    run(workspace, "reference.sums")
    fresh = table(workspace)
    assert list(fresh) == list(found)
    np.testing.assert_allclose(list(found.values()), list(fresh.values()), rtol=0, atol=1e-5)
    assert fresh[next(key for key in fresh if key[1].startswith(world.ask(9).prompt_id))] < 0


def test_what_is_all_there_loads_no_model(workspace, forwards, monkeypatch):
    build(workspace, 10)
    run(workspace, "reference.sums")
    expected, content = (
        table(workspace),
        (workspace / "data/reference_logprobs/run=sums/part-00000.parquet").read_bytes(),
    )
    world.write(workspace, "sums", [world.pair(i) for i in (2, 5)])
    monkeypatch.setattr(Policy, "load", None)
    forwards.clear()
    run(workspace, "reference.sums")
    assert forwards == []
    fewer = table(workspace)
    assert len(fewer) == 4
    assert fewer.items() <= expected.items()
    world.write(workspace, "sums", [world.pair(i) for i in range(10)])
    run(workspace, "reference.sums")
    assert (workspace / "data/reference_logprobs/run=sums/part-00000.parquet").read_bytes() == content


KILLED = """
import os, sys
import train.reference, train.reference_ledger
from stores.stage import execute
from train.policy import Policy
left, logprobs = [3], Policy.logprobs
def dying(self, sequences):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    return logprobs(self, sequences)
Policy.logprobs, train.reference_ledger._COMMIT_EVERY_S = dying, 0.0
execute("reference", "sums", train.reference.run)
"""


def test_what_was_computed_before_a_kill_is_kept(workspace, forwards, monkeypatch):
    build(workspace, 10, micro_tokens=60)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert subprocess.run([sys.executable, "-c", KILLED]).returncode == -9
    kept = len(Ledger().sql("select key from completions")[1])
    assert 3 <= kept < 20
    run(workspace, "reference.sums")
    assert sum(forwards) == 20 - kept
    for (prompt, sample, *_), logprob in table(workspace).items():
        number = next(i for i in range(10) if world.ask(i).prompt_id == prompt)
        assert logprob == pytest.approx(independent_logprob(workspace, number, int(sample[-1])), abs=2e-5)


def test_an_error_keeps_what_was_computed_before_it(workspace, forwards, monkeypatch):
    build(workspace, 10, micro_tokens=100)
    logprobs = Policy.logprobs

    def failing(self, sequences):
        if len(forwards) == 2:
            raise RuntimeError
        return logprobs(self, sequences)

    with monkeypatch.context() as patched:
        patched.setattr(Policy, "logprobs", failing)
        with pytest.raises(RuntimeError):
            run(workspace, "reference.sums")
    before = sum(forwards)
    run(workspace, "reference.sums")
    assert (before > 0, sum(forwards)) == (True, 20)


def other_weights(root: Path, monkeypatch) -> None:
    run(root, "sft.warm")
    shutil.rmtree(root / "data/models/tiny")
    shutil.copytree(root / "data/models/warm", root / "data/models/tiny")


def other_template(root: Path, monkeypatch) -> None:
    """The tokenizer's, which the record of the model covers, and the prompts' tokens too."""
    path = root / "data/models/tiny/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ messages[0].content }}!"}))
    write_record(root / "data/models/tiny", {"source": "config"})


def other_prompts(root: Path, monkeypatch) -> None:
    """The same ids for other text: the tokens decide."""
    asked = [Prompt.model_validate(row | {"prefill": " Final"}) for row in rows(root, "prompts", "train")]
    world.write(root, "train", asked)


def bf16(root: Path, monkeypatch) -> None:
    world.set_params(root, {"reference.sums.precision": "bf16", "preference.dpo.precision": "bf16"})


def other_code(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(train.reference_ledger, "code_hash", lambda _: "changed")


def other_torch(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(train.reference_ledger, "version", lambda name: f"{name} 99")


def other_endings(root: Path, monkeypatch) -> None:
    world.write(root, "sums", [world.pair(i, chosen_eos=False, rejected_eos=False) for i in range(10)])


CHANGES = [other_weights, other_template, other_prompts, bf16, other_code, other_torch, other_endings]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_decides_a_number_decides_whether_it_is_computed_again(workspace, forwards, monkeypatch, change):
    build(workspace, 10)
    run(workspace, "reference.sums")
    change(workspace, monkeypatch)
    forwards.clear()
    run(workspace, "reference.sums")
    assert sum(forwards) == 20


def test_what_decides_no_number_does_not(workspace, forwards, monkeypatch):
    build(workspace, 10)
    run(workspace, "reference.sums")
    settings = {"pairs": "sums", "model": "tiny", "micro_tokens": 64, "max_tokens": 128}
    world.set_params(workspace, {"reference.again": settings, "seed": 3, "preference.dpo.reference": "again"})
    forwards.clear()
    run(workspace, "reference.again")
    assert forwards == []
    assert table(workspace, "again") == table(workspace)


def test_the_same_tokens_are_scored_once(workspace, forwards):
    """Two samples of one text, as a temperature of 0.3 draws them."""
    world.build(workspace)
    chosen, rejected = world.drawn(1)
    again = chosen.model_copy(update={"sample_id": sample_id(world.ask(1).prompt_id, "0" * 8, 2), "index": 2})
    world.write(workspace, "drawn", [chosen, rejected, again])
    world.write(workspace, "sums", [world.pair(1), world.pair(1, rank=1, chosen_sample_id=again.sample_id)])
    run(workspace, "reference.sums")
    assert sum(forwards) == 2
    assert {key[1]: logprob for key, logprob in table(workspace).items()}.keys() == {
        sample.sample_id for sample in (chosen, rejected, again)
    }


def test_a_number_that_is_not_finite_is_refused_and_not_kept(workspace, monkeypatch):
    build(workspace, 10)
    with monkeypatch.context() as patched:
        broken = lambda _, sequences, __: iter([dict.fromkeys(sequences, float("nan"))])  # noqa: E731
        patched.setattr(train.reference_ledger, "compute", broken)
        with pytest.raises(ValueError, match=r"the log-prob of sample \S+ \(0:\d+\) under prompt \S+ is nan; use"):
            run(workspace, "reference.sums")
    assert Ledger().sql("select count(*) from completions")[1] == [(0,)]
    run(workspace, "reference.sums")


def test_log_probs_are_no_history_of_what_completions_cost(workspace):
    build(workspace, 10)
    run(workspace, "reference.sums")
    ledger = Ledger()
    ((model,),) = ledger.sql("select model_fingerprint from contexts")[1]
    assert similar(ledger, None, model, {"temperature": 1.0}) == []
    ledger.begin("f" * 16, "tiny", model, {"sampling": {"temperature": 0.0}})
    assert similar(ledger, None, model, {"temperature": 1.0}) == [("this model", ["f" * 16])]


def test_the_hashed_code_is_all_that_a_policy_scores_with():
    own = {path for path in closure(REPOSITORY / "train/policy.py") if not path.startswith(("stores/", "schemas/"))}
    assert own - {"train/__init__.py", "builders/__init__.py"} == set(CODE)
