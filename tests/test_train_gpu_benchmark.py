"""The benchmark for a GPU, on the CPU with a small model: its arms train alike, and it prints what it measured."""

import importlib.util
import json
import sys

import pytest
import torch

from tests.benchmarks import train_gpu
from tests.benchmarks.train_gpu import parse, run, search, table
from tests.benchmarks.train_gpu_arms import ARMS, MODELS, Setting, make, step

CPU = torch.device("cpu")
NOISY = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@NOISY
@pytest.mark.slow
def test_all_arms_train_alike_and_the_shared_one_computes_less(monkeypatch, capsys):
    monkeypatch.setenv("PAIRWRIGHT_PEAK_TFLOPS", "1")
    monkeypatch.setattr(sys, "argv", ["train_gpu", "--tiny", "--json", "--shapes", "step_400", "--minutes", "0.5"])
    train_gpu.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["arm"]: row for row in found["rows"]}
    assert (list(rows), found["device"]) == (list(ARMS), "cpu")
    assert [row["loss"] for row in rows.values()] == pytest.approx([rows["shared"]["loss"]] * 4, abs=1e-4)
    assert rows["shared"]["loss"] < 0.6931, "it has learnt"
    unshared, shared = rows["unshared"], rows["shared"]
    per_step = [row["computed_tokens_per_s"] * row["step_s"] for row in (unshared, shared)]
    useful = shared["useful_tokens_per_s"] * shared["step_s"]
    assert per_step[0] == pytest.approx(useful)
    assert per_step[1] < 0.7 * useful
    weights = sum(p.numel() for name, p in MODELS["tiny"].make(CPU).named_parameters() if "embed" not in name)
    assert shared["mfu"] == pytest.approx(6 * weights * shared["useful_tokens_per_s"] / 1e12)
    best = max(rows[arm]["pairs_per_s"] for arm in ARMS[:2])
    assert shared["over_trl"] == pytest.approx(shared["pairs_per_s"] / best)
    header, *lines = table(found["rows"]).splitlines()
    assert header.split()[:3] == ["model", "shape", "arm"]
    assert [line.split()[2] for line in lines] == list(ARMS)


def test_without_trl_its_arms_are_left_out(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "trl" else find(name, *a))
    found = run(parse(["--tiny", "--shapes", "irpo", "--minutes", "0"]))
    assert found["trl"] is None
    assert [(row["arm"], row["over_trl"], row["settings_tried"]) for row in found["rows"]] == [
        ("unshared", None, 1),
        ("shared", None, 1),
    ]


def test_a_setting_that_does_not_fit_is_out(monkeypatch, capsys):
    def making(arm, kind, pairs, setting, device):
        if setting.size > 256:
            raise torch.OutOfMemoryError
        return make(arm, kind, pairs, setting, device)

    monkeypatch.setattr(train_gpu, "make", making)
    pairs = train_gpu.pairs_of("irpo", 2, 256, 8)
    tried = search("shared", MODELS["tiny"], pairs, CPU, 60, tiny=True)
    assert list(tried) == [Setting(256, False), Setting(256, True)]
    assert "shared: Setting(size=4096, checkpointing=False) does not fit into memory" in capsys.readouterr().err
    monkeypatch.setattr(train_gpu, "make", lambda *_: making("", None, [], Setting(999, False), CPU))
    arguments = parse(["--tiny", "--shapes", "irpo"])
    row = train_gpu.measure("shared", MODELS["tiny"], pairs, CPU, 60, arguments)
    assert row == {"arm": "shared", "failed": "no setting ran (see above)"}
    assert table([row]).splitlines()[1].endswith("no setting ran (see above)")


def test_adapters_alone_are_trained_where_a_model_has_them():
    pairs = train_gpu.pairs_of("irpo", 2, 256, 8)
    arm = make("shared", MODELS["tiny"]._replace(lora=2), pairs, Setting(4096, False), CPU)
    frozen = {name: p.clone() for name, p in arm.model.named_parameters() if not p.requires_grad}
    assert [step(arm)[1], step(arm)[1]][0] == pytest.approx(0.6931, abs=1e-4)
    assert all("lora" in name for name, p in arm.model.named_parameters() if p.requires_grad)
    assert all(torch.equal(p, dict(arm.model.named_parameters())[name]) for name, p in frozen.items())


def test_a_machine_without_a_gpu_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        parse([])
    assert "no CUDA device is here; --tiny tries the script on the CPU" in capsys.readouterr().err
