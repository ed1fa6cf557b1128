"""`export`: data set releases, one directory each, in the layout that the Hub, `datasets` and trainers read.

A release holds its rows with their texts, in shards of one config per kind of row (`pairs` is the default), a card,
and `provenance.json`. It is written beside its place and renamed when it is whole. It cannot name the revision that it
will be part of; `pairwright publish` and `pairwright materialize` stamp it.
"""

import sys

from builders.exporting.release import Written, write_release
from schemas.slots import NONE
from stores.paths import export_dir
from stores.stage import Stage, run_stage
from stores.store import Store
from stores.views import local_parts, run_files


def run(stage: Stage) -> None:
    """Writes `data/export/<release>`.

    Raises ValueError as `write_release` does.
    """
    store = Store(stage.params, run_files(stage.params, local_parts(stage.root)), stage.root)
    directory = stage.stage_dir(export_dir(stage.name, stage.root))
    model = None if stage.config.model == NONE else stage.dir("models", stage.config.model)
    with store:
        written = write_release(store, stage.name, stage.config, directory, f"export.{stage.name}", model)
    for line in said(written):
        print(f"export.{stage.name}: {line}", file=sys.stderr)


def said(written: Written) -> list[str]:
    """What was written, a line for each config."""
    lines = []
    for config, tally in written.tallies.items():
        left = {"test": "of test problems", "invalid": "that label nothing"}
        out = [f"{count:,} {left[reason]} left out" for reason, count in sorted(tally.left_out.items()) if count]
        files = len(written.shards[config].files)
        lines.append(", ".join([f"{config}: {tally.rows:,} rows in {files} file{'s' if files > 1 else ''}", *out]))
    return lines


if __name__ == "__main__":
    run_stage("export", run)
