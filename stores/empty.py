"""The committed empty runs: `data/<table>/run=none` and `data/models/none`.

DVC needs every input of a stage to exist, so an input that a run does not use is `none`. Run as a module, this writes
them again; a test compares them with what is committed.
"""

from pathlib import Path

from schemas import TABLES
from stores.parquet import write_table
from stores.paths import run_dir

NOT_A_MODEL = "No model: the input of runs that use none.\n"


def write_empty_runs(root: Path = Path()) -> list[Path]:
    """Writes all empty runs below a directory; returns their files."""
    files = []
    for table, row_class in TABLES.items():
        if table != "rejects":
            directory = run_dir(table, "none", root)
            write_table(directory, row_class, [])
            files.extend(directory.iterdir())
    model = run_dir("models", "none", root)
    model.mkdir(parents=True, exist_ok=True)
    (model / "README").write_text(NOT_A_MODEL, encoding="utf-8")
    return [*files, model / "README"]


if __name__ == "__main__":
    write_empty_runs()
