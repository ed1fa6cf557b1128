"""Stages on a million samples with little memory: nothing grows with the rows."""

from pathlib import Path

import pytest

from schemas import TABLES
from schemas.params import STAGES
from stores.parquet import count_rows
from stores.paths import rejects_dir, run_dir
from tests.benchmarks import pairs_step, synthetic

ROWS = 999_990
PROBLEMS = ROWS // synthetic.PER_PROMPT
LIMIT = "200MB"
"""DuckDB's; the tables below take up to three times that as Arrow, and more as Python objects."""
PEAK_GIB = 0.6
STAGE_ROWS = {
    # stage: (rows, rejects); None: at least half of all samples
    "samples_gold": (PROBLEMS, 0),
    "demos_gold": (PROBLEMS, 0),
    "predictions": (ROWS, 0),
    "rewards": (ROWS, 0),
    "demos_correct": (4 * PROBLEMS, None),
    "pairs_outcome": (200_000, None),
}


@pytest.mark.slow
def test_stages_take_bounded_memory(tmp_path: Path) -> None:
    synthetic.write_samples_and_problems(tmp_path, ROWS, chars=80)
    synthetic.write_params(tmp_path, pairs_outcome={"max_pairs": 200_000, "k": 30, "gold": "gold"})
    peaks = {}
    for stage, (rows, rejects) in STAGE_ROWS.items():
        peaks[stage] = synthetic.run_measured(tmp_path, stage, PAIRWRIGHT_MEMORY=LIMIT)["peak_gib"]
        name = synthetic.run_name(stage)
        (table,) = STAGES[stage].writes
        assert count_rows(run_dir(table, name, tmp_path), TABLES[table]) == pytest.approx(rows, rel=0.01)
        dropped = count_rows(rejects_dir(stage, name, tmp_path), TABLES["rejects"])
        assert dropped > ROWS / 2 if rejects is None else dropped == rejects
    assert max(peaks.values()) < PEAK_GIB, peaks


@pytest.mark.slow
def test_stages_of_step_pairs_take_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without parts, 200,000 labelled samples took a gigabyte, or more than DuckDB was let."""
    monkeypatch.setenv("PAIRWRIGHT_MEMORY", LIMIT)
    results = {row["stage"]: row for row in pairs_step.measure(200_000, 2, 1, tmp_path)}
    assert set(results) == set(pairs_step.MEASURED)
    assert results["samples_corrections"]["kept"] + results["samples_corrections"]["rejects"] == 200_000
    assert results["pairs_step"]["kept"] > 200_000
    assert max(row["peak_gib"] for row in results.values()) < PEAK_GIB, results
