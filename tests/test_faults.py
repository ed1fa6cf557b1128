"""Kill -9 in the middle, a larger N, bad input: nothing computed is lost, and every message names place and remedy."""

import shutil
import sys
from pathlib import Path

import pytest

from stores.ledger import Ledger
from tests.pipeline import Checkout, kill, sampling_params, wait_for, wait_for_process

pytestmark = pytest.mark.slow
SAMPLES = "data/samples/run=irpo_0"


def ledger_of(checkout: Checkout) -> Ledger:
    return Ledger(Path(checkout.environment["PAIRWRIGHT_LEDGER"]))


def batches(checkout: Checkout) -> list[tuple]:
    """(number of completions, their keys) of every committed batch, in order."""
    query = "select b.batch, n, group_concat(key) from batches b join completions using (batch) group by 1 order by 1"
    return [(n, ",".join(sorted(keys.split(",")))) for _, n, keys in ledger_of(checkout).sql(query)[1]]


def wait_for_batches(checkout: Checkout, count: int) -> None:
    ledger = ledger_of(checkout)
    wait_for(lambda: ledger.sql("select count(*) from batches")[1][0][0] >= count, "batch")


@pytest.mark.parametrize("engine", ["scripted", "hf"])
def test_samples_killed_in_the_middle_end_byte_identical(tmp_path, engine):
    whole = Checkout(tmp_path / "whole", sampling_params(engine, 8))
    whole.repro("samples@irpo_0")
    broken = Checkout(tmp_path / "broken", sampling_params(engine, 8))
    broken.repro("models@base", "prompts@train")
    slow = {"PAIRWRIGHT_SCRIPTED_DELAY": "0.2"}
    for seen in (2, 5):
        process = broken.start("dvc", "repro", "samples@irpo_0", **slow)
        wait_for_batches(broken, seen)
        kill(process)
        assert not (broken.root / SAMPLES).exists()
    committed = batches(broken)
    assert 5 <= len(committed) < 20
    broken.repro("samples@irpo_0")
    assert broken.bytes_of(SAMPLES) == whole.bytes_of(SAMPLES)
    assert batches(broken) == batches(whole), "the same batches, each of them once"
    assert batches(broken)[: len(committed)] == committed


@pytest.mark.parametrize("engine", ["scripted", "hf"])
def test_a_larger_n_generates_only_the_new_samples(tmp_path, engine):
    checkout = Checkout(tmp_path, sampling_params(engine, 8))
    checkout.repro("samples@irpo_0")
    before = set(ledger_of(checkout).sql("select key, text from completions")[1])
    checkout.write_params(sampling_params(engine, 12))
    checkout.repro("samples@irpo_0")
    after = set(ledger_of(checkout).sql("select key, text from completions")[1])
    assert before < after
    assert (len(before), len(after)) == (40 * 8, 40 * 12)
    assert {key[-4:] for key, _ in after - before} == {"0008", "0009", "0010", "0011"}


def test_two_processes_never_generate_the_same_completion(tmp_path):
    one = Checkout(tmp_path / "one", sampling_params("scripted", 4))
    two = Checkout(tmp_path / "two", sampling_params("scripted", 4), ledger="../one/ledger")
    for checkout in (one, two):
        checkout.repro("models@base", "prompts@train")
    slow = {"PAIRWRIGHT_SCRIPTED_DELAY": "0.1"}
    processes = [c.start("dvc", "repro", "samples@irpo_0", **slow) for c in (one, two)]
    assert [process.wait() for process in processes] == [0, 0]
    assert one.bytes_of(SAMPLES) == two.bytes_of(SAMPLES)
    assert sum(n for n, _ in batches(one)) == 40 * 4


def test_rewards_killed_in_the_middle_end_byte_identical(tmp_path):
    params = sampling_params("scripted", 8)
    params["predictions"]["irpo_0"]["checker"] = "latex"
    params["models"]["base"]["script"] = [rf"\boxed{{\sqrt{{{i}}} + x}}" for i in range(20)]
    whole = Checkout(tmp_path / "whole", params)
    whole.repro("rewards@irpo_0")
    broken = Checkout(tmp_path / "broken", params)
    broken.repro("predictions@irpo_0")
    process = broken.start("dvc", "repro", "rewards@irpo_0")
    wait_for_process("latex_worker", str(broken.root))
    kill(process)
    assert not (broken.root / "data/rewards/run=irpo_0").exists()
    broken.repro("rewards@irpo_0")
    assert broken.bytes_of("data/rewards/run=irpo_0") == whole.bytes_of("data/rewards/run=irpo_0")
    assert not any((broken.root / "data/.staging").glob("*/*"))


_ON_A_FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
from builders.samples import run
from stores.stage import run_stage
run_stage("samples", run, ["irpo_0"])
"""


def message(checkout: Checkout, module: str, run: str) -> str:
    """The one line that a failing stage prints."""
    done = checkout.call("python", "-m", module, run, check=False)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_bad_input_is_one_line_with_place_and_remedy(tmp_path):
    params = sampling_params("scripted", 4)
    checkout = Checkout(tmp_path, params)
    checkout.repro("samples@irpo_0")
    checkout.commit("built")
    part = checkout.root / SAMPLES / "part-00000.parquet"
    good = part.read_bytes()
    part.unlink()
    part.write_bytes(good[: len(good) // 2])
    assert message(checkout, "builders.predictions", "irpo_0").startswith(
        "predictions.irpo_0: data/samples/run=irpo_0/part-00000.parquet: not a readable Parquet file"
    )
    shutil.copy(checkout.root / "data/prompts/run=train/part-00000.parquet", part)
    foreign = message(checkout, "builders.predictions", "irpo_0")
    assert "data/samples/run=irpo_0/part-00000.parquet: not a samples table: column 'sample_id' is missing" in foreign
    checkout.call("dvc", "checkout", "--force", SAMPLES)
    assert part.read_bytes() == good, "dvc checkout restores the last version"
    shutil.rmtree(checkout.root / "data/models/base")
    assert "data/models/base: not there; build it with `dvc repro`" in message(checkout, "builders.samples", "irpo_0")
    params["problems"]["train"] |= {"source": "gsm8k", "path": "empty.jsonl", "limit": None, "steps": None}
    (checkout.root / "empty.jsonl").touch()
    checkout.write_params(params)
    assert "empty.jsonl" in message(checkout, "builders.problems", "train")
    params["samples"]["irpo_0"]["sampling"] = "gredy"
    checkout.write_params(params)
    assert message(checkout, "builders.samples", "irpo_0") == (
        "samples.irpo_0: params.yaml: samples.irpo_0.sampling: no entry 'gredy' under 'sampling' (have 'explore')"
    )


def test_a_full_disk_is_one_line_and_leaves_ledger_and_cache_intact(tmp_path):
    checkout = Checkout(tmp_path, sampling_params("scripted", 8))
    checkout.repro("models@base", "prompts@train")
    done = checkout.call(sys.executable, "-c", _ON_A_FULL_DISK, check=False)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("sampling base: 320 completions")]
    assert len(errors) == 1, done.stderr
    assert not (checkout.root / SAMPLES).exists()
    kept = sum(n for n, _ in batches(checkout))
    checkout.repro("samples@irpo_0")
    assert sum(n for n, _ in batches(checkout)) == 40 * 8 >= kept
