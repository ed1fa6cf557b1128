"""The sweeps of recipes/README.md, applied by DVC itself: every setting is there, and the grids are the papers'."""

import re
from pathlib import Path

import pytest

from schemas.params import load_params
from tests.test_recipes import README, RECIPES

SWEEPS = [re.findall(r"-S '?([^\s']+)'?", line) for line in README.splitlines() if line.startswith("dvc exp run")]


@pytest.mark.parametrize("settings", SWEEPS, ids=" ".join)
def test_sweeps_name_settings_that_the_recipes_have(tmp_path: Path, settings: list[str]) -> None:
    """DVC itself applies each line, value by value, and the params file still parses: with another value there."""
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

    whole = settings[0].split("=")[0].split(".")[1]
    recipe = {"m1": "irpo_arc", "step_dpo": "step_dpo_1gpu"}.get(whole, "irpo_gsm8k")
    shipped, copy, changed = unfolded(RECIPES[recipe]), tmp_path / "params.yaml", []
    for overrides in get_hydra_sweeps({"params.yaml": settings}):
        copy.write_text(shipped, encoding="utf-8")
        apply_overrides(copy, overrides["params.yaml"])
        load_params(copy)
        pairs = zip(shipped.splitlines(), unfolded(copy).splitlines(), strict=True)
        changed.append(tuple((old, new) for old, new in pairs if old != new))
    assert all(len(lines) <= len(settings) for lines in changed), "block style: one setting is one line"
    assert len(set(changed)) == len(changed)
    target = re.findall(r"preference@(\w+)", next(line for line in README.splitlines() if settings[0] in line))
    assert all(run in load_params(RECIPES[recipe]).preference for run in target)


def unfolded(path: Path) -> str:
    """A params file's text; DVC puts the long address of a page on a line of its own."""
    return re.sub(r"revision: *\n +", "revision: ", path.read_text(encoding="utf-8"))


def test_the_grids_are_the_papers():
    grids = {setting.split("=")[0]: setting.split("=")[1].split(",") for sweep in SWEEPS for setting in sweep}
    assert [float(value) for value in grids["preference.m1_select.beta"]] in ([0.5], [0.05, 0.1, 0.5, 1.0])
    swept = [s for sweep in SWEEPS for s in sweep if "," in s]
    assert "preference.m1_select.beta=0.05,0.1,0.5,1.0" in swept
    assert "preference.m1_select.alpha=0.25,0.5,1.0,2.0" in swept
    rates = [float(value) for value in grids["preference.m1_select.optimizer.lr"]]
    assert (min(rates), max(rates)) == (5e-7, 5e-6)
    assert 7e-7 in rates
    assert {0.4, 0.5} <= {float(value) for value in grids["preference.step_dpo.beta"]}
