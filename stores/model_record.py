"""`pairwright.json` of a model directory: the SHA-256 of every file, the fingerprint over them, and where they came
from. `builders.model_files` writes it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "pairwright.json"


def read_record(directory: Path, files: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """The record: `fingerprint`, `provenance` and `files` (name -> SHA-256).

    `files` says where the directory's files are, where that is elsewhere (another version's). Raises ValueError if the
    directory is missing or is no model directory of ours.
    """
    path = directory / RECORD if files is None else files.get(RECORD, directory / RECORD)
    if not path.exists():
        raise ValueError(f"{directory}: no model here; build it with `dvc repro`, or restore it with `dvc checkout`")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(_foreign(path, str(error))) from None
    if not isinstance(record, dict):
        raise ValueError(_foreign(path, "no JSON object"))
    for name, kind in (("fingerprint", str), ("provenance", dict), ("files", dict)):
        if not isinstance(record.get(name), kind):
            raise ValueError(_foreign(path, f"no `{name}`"))
    return record


def _foreign(path: Path, reason: str) -> str:
    return f"{path}: no record of a model ({reason}); restore it with `dvc checkout {path.parent}`"
