"""Where everything lives: `data/<table>/run=<key>/part-*.parquet`, `data/models/<key>`, and the ledger's directory."""

import os
from pathlib import Path

DATA = Path("data")
WORKSPACE = "workspace"
"""What names the checkout where a revision is expected, as in DVC."""


def run_dir(table: str, run: str, root: Path = Path()) -> Path:
    """Directory of one run of a table; `models` runs are model directories."""
    return root / DATA / table / (run if table == "models" else f"run={run}")


def rejects_dir(stage: str, run: str, root: Path = Path()) -> Path:
    """Directory of the rejects of one run of a stage."""
    return root / DATA / "rejects" / f"stage={stage}" / f"run={run}"


def export_dir(release: str, root: Path = Path()) -> Path:
    """Directory of a data set release."""
    return root / DATA / "export" / release


def ledger_dir() -> Path:
    """`$PAIRWRIGHT_LEDGER`, or `pairwright` in the user's cache directory. Outside the workspace, so that DVC's
    temporary experiment directories and other branches find what was already generated."""
    configured = os.environ.get("PAIRWRIGHT_LEDGER")
    if configured:
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pairwright"
