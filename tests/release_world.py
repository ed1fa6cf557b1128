"""Releases of a small store, as `export` writes them, and what can become of their files."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import builders.export
from stores.stage import execute

COMMIT = "c0ffee" * 6 + "c0ff"


def export(root: Path, runs: dict[str, list[str]], name: str = "v1", conversational: bool = False) -> Path:
    """A release `name` beside the store's data, stamped with a commit. `runs`: config -> the runs that it holds."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    form = "conversational" if conversational else "standard"
    params["export"] = {name: {"model": "tiny", "format": form} | runs}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    execute("export", name, builders.export.run, root)
    (root / "data/export" / name).rename(root / name)
    write_provenance(root / name, revision=COMMIT)
    return root / name


def provenance(release: Path) -> dict[str, Any]:
    return json.loads((release / "provenance.json").read_text())


def write_provenance(release: Path, **changes: Any) -> None:
    (release / "provenance.json").write_text(json.dumps(provenance(release) | changes))


def write_config(release: Path, config: str = "pairs", **changes: Any) -> None:
    """Changes what the provenance says of a config."""
    configs = provenance(release)["configs"]
    write_provenance(release, configs=configs | {config: configs[config] | changes})


def rewrite(release: Path, change: Callable[[pa.Table], pa.Table], config: str = "pairs", shards: int = 1) -> None:
    """The shards of a config again, with their digests. Rows are dealt in turn, so that no order is relied on."""
    old = [release / path for path in provenance(release)["configs"][config]["files"]]
    table, files = change(pa.concat_tables(map(pq.read_table, old))), {}
    for path in old:
        path.unlink()
    for number in range(shards):
        path = f"{config}/train-{number:05d}-of-{shards:05d}.parquet"
        pq.write_table(table.take(np.arange(number, len(table), shards)), release / path)
        files[path] = sha256(release / path)
    write_config(release, config, files=files)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
