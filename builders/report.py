"""`report`: what the built runs show, as metrics, plots and one HTML page that works without a network.

It has no runs of its own: `python -m builders.report` reads everything that the runs in params have built, and shows
what there is. Writes `data/report/`: `metrics.json`, `costs.json`, `report.html`, `plots/*.svg`, `calibration.csv`,
and CSV files for `dvc plots`. All but the costs (and the page, which shows them) depend on the tables alone.
"""

import json
from pathlib import Path
from typing import Any

from builders.calibration import Score
from builders.reporting.costs import measure_costs
from builders.reporting.metrics import measure
from builders.reporting.page import Contents, render
from builders.reporting.plots import (
    ITERATION_COLUMNS,
    LOGPROB_COLUMNS,
    ROLLOUT_COLUMNS,
    Steps,
    csv_text,
    draw,
    iteration_rows,
)
from builders.reporting.steps import calibrations
from builders.reporting.views import open_views, report_rows
from schemas.params import Params, table_runs
from stores.duck import Duck
from stores.paths import DATA
from stores.stage import Stage, run_stage

EXAMPLES_PER_RUN = 2


def run(stage: Stage) -> None:
    """Writes `data/report`.

    Raises ValueError for a corrupt or foreign table, naming the file.
    """
    directory = stage.stage_dir(stage.root / DATA / "report")
    with Duck() as duck:
        missing = open_views(duck, stage.params, stage.root)
        metrics = measure(duck, stage.params, missing)
        costs = measure_costs(duck, stage.params, stage.root)
        steps = training_steps(duck, stage.params)
        examples = report_rows(duck, "examples", per_run=EXAMPLES_PER_RUN)
        labelled = report_rows(duck, "labelled_examples", per_run=EXAMPLES_PER_RUN)
        scores = [score.flat() for score in calibrations(duck, stage.params).scores]
    iterations = iteration_rows(stage.params, metrics["models"])
    plots = draw(iterations, steps)
    logged = [{"run": name, **row} for name, rows in steps.items() for row in rows]
    _write_json(directory / "metrics.json", metrics)
    _write_json(directory / "costs.json", costs)
    _write(directory / "accuracy_by_iteration.csv", csv_text(iterations, ITERATION_COLUMNS))
    _write(directory / "logprobs.csv", csv_text(logged, ["run", *LOGPROB_COLUMNS]))
    _write(directory / "calibration.csv", csv_text(scores, Score.columns()))
    for name, svg in plots.items():
        _write(directory / "plots" / f"{name}.svg", svg)
    _write(directory / "report.html", render(Contents(stage.params, metrics, costs, plots, examples, labelled)))


def training_steps(duck: Duck, params: Params) -> Steps:
    """The logged steps of the runs named in `report.training` (none named: of all), as far as they are built."""
    wanted = params.report.training or list(table_runs(params, "training"))
    columns = ", ".join((*LOGPROB_COLUMNS, *ROLLOUT_COLUMNS))
    rows = duck.table(f"select run, {columns} from training order by run, step").to_pylist()
    steps: Steps = {name: [] for name in wanted}
    for row in rows:
        if row["run"] in steps:
            steps[row.pop("run")].append(row)
    return {name: found for name, found in steps.items() if found}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_stage("report", run)
