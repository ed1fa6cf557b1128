"""One run of pairs or demos of any version as a release's directory, which training reads without dvc or duckdb.

It is written by what writes releases, beside its place, and renamed when it is whole: a killed one leaves what was
there before. It names the revision that it is of.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc

from builders.exporting.card import stamp
from builders.exporting.release import Written, write_release
from builders.exporting.rows import parts_of
from schemas import Prompt
from schemas.params import table_runs
from schemas.sections_export import ExportRun, is_steps
from schemas.slots import NONE
from stores.named import near
from stores.parquet import scan_parts
from stores.paths import run_dir
from stores.release_files import read_provenance
from stores.sources import run_sources
from stores.staging import staged
from stores.store import Store

TABLES = ("pairs", "demos")
Form = Literal["standard", "conversational"]


def materialize(
    store: Store,
    run: str,
    directory: Path,
    table: str = "pairs",
    form: Form | None = None,
    model: str | None = None,
    test_answers: bool = False,
) -> Written:
    """Writes a run with its texts to a directory, which is new, empty, or an earlier one of these.

    `model` names a models run of that version, whose chat template renders prompts of `rendering: chat`. `form`:
    whether prompts and completions are strings or messages; None: messages where prompts are conversations without a
    given start of the answer and no model is named.

    Raises ValueError for a run that is unknown or not built, a directory with other files, and prompts that do not fit
    the format; OSError where there is no room.
    """
    _require(store, table, run)
    config = "step_pairs" if table == "pairs" and is_steps(store.params, run) else table
    form = form or ("conversational" if model is None and _converse(store, table, run) else "standard")
    release = ExportRun.model_validate(
        {config: [run], "format": form, "model": model or NONE, "test_answers": test_answers}
    )
    with staged(directory, _refuse_foreign) as whole, _model_files(store, model) as files:
        written = write_release(store, run, release, whole, f"{table} run '{run}'", files, own_use=True)
        if store.revision is not None:
            stamp(whole, store.revision)
    return written


def _require(store: Store, table: str, run: str) -> None:
    if table not in TABLES:
        raise ValueError(f"table '{table}' is not one that training reads; name {' or '.join(TABLES)}")
    known = sorted(table_runs(store.params, table))
    if run not in known:
        raise ValueError(f"no run '{run}' of {table} in params.yaml{near(run, known)}")


def _converse(store: Store, table: str, run: str) -> bool:
    """Whether all prompts behind a run are conversations without a given start of the answer."""
    behind = [s.input_run for s in run_sources(store.params) if s[:3] == (table, run, "prompts")]
    columns = ["rendering", "prefill"]
    batches = (b for name in behind for b in scan_parts(parts_of(store, "prompts", name), Prompt, columns))
    fits = (pc.and_(pc.equal(b["rendering"], "chat"), pc.equal(b["prefill"], "")) for b in batches)
    return all(pc.all(each).as_py() is not False for each in fits)


def _refuse_foreign(directory: Path) -> None:
    if directory.is_dir() and any(directory.iterdir()):
        try:
            read_provenance(directory)
        except ValueError as error:
            raise ValueError(
                f"{directory}: not empty, and no earlier release of ours; name another ({error})"
            ) from None
    elif directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: a file; name a directory")


@contextlib.contextmanager
def _model_files(store: Store, model: str | None) -> Iterator[Path | None]:
    """A model's directory without its weights, wherever its files lie."""
    if model is None:
        yield None
        return
    known = sorted(table_runs(store.params, "models"))
    if model not in known:
        raise ValueError(f"no run '{model}' of models in params.yaml{near(model, known)}")
    path = run_dir("models", model)
    with tempfile.TemporaryDirectory(prefix="pairwright-") as directory:
        for name, file in _files_of(store, path).items():
            (Path(directory) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(directory) / name).symlink_to(file.absolute())
        yield Path(directory)


def _files_of(store: Store, path: Path) -> dict[str, Path]:
    if store.snapshot is not None:
        names = [name for name in store.snapshot.contents(path) if not name.endswith(".safetensors")]
        return {Path(name).relative_to(path).as_posix(): store.snapshot.local(name) for name in names}
    here = store.root / path
    if not here.is_dir():
        raise ValueError(f"{here}: not there; build it with `dvc repro`, or restore it with `dvc checkout {here}`")
    return {p.relative_to(here).as_posix(): p for p in here.rglob("*") if p.is_file() and p.suffix != ".safetensors"}
