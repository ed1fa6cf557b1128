"""A release directory: Parquet files by config, a card, and `provenance.json`, which has the SHA-256 of every file.

`export` writes it, `publish` sends it, and a published version is read from it. What `provenance.json` says may come
from anybody: names in it are checked before they become paths.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stores.verified import SHA256, damaged

FORMAT = 1
CARD, PROVENANCE = "README.md", "provenance.json"
CONFIGS = {
    "pairs": "preference pair, with its texts",
    "step_pairs": "preference pair of one step, with its texts",
    "demos": "fine-tuning example, with its texts",
    "samples": "completion",
    "rewards": "sample: the verdict on its answer",
    "step_labels": "(sample, labeler, repeat): its steps and which is the first wrong one",
}
"""Config of a release -> what one row is."""

_DATA_FILE = re.compile(r"([a-z][a-z0-9_]*)/train-\d{5}-of-\d{5}\.parquet")
_SHA256 = re.compile("[0-9a-f]{64}")
_RUN = re.compile("[a-z][a-z0-9_]*")
_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_LARGEST = 64 * 2**20
"""Bytes of a `provenance.json`; a real one has some hundred kilobytes at most."""


def parse_provenance(text: str | bytes, where: str) -> dict[str, Any]:
    """The content of a `provenance.json`.

    Raises ValueError naming `where` unless it is one of this format whose files are named as releases name them.
    """
    if len(text) > _LARGEST:
        raise ValueError(f"{where}: no provenance of a release ({len(text):,} bytes, and none has so many)")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no provenance of a release ({error})") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        reason = (
            f"format {found}, and this version reads {FORMAT}; update it" if isinstance(found, int) else "no `format`"
        )
        raise ValueError(f"{where}: no provenance of a release that this version reads ({reason})")
    revision, configs = content.get("revision"), content.get("configs")
    if revision is not None and not (isinstance(revision, str) and _COMMIT.fullmatch(revision)):
        raise ValueError(f"{where}: no provenance of a release (its `revision` is no commit)")
    if not isinstance(configs, dict):
        raise ValueError(f"{where}: no provenance of a release (no `configs`)")
    for name, config in configs.items():
        _check_config(name, config, where)
    return content


def read_provenance(directory: Path) -> dict[str, Any]:
    """What a release directory says of itself.

    Raises ValueError for one that is not there, or is no release that this version reads.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; name a release, or one on the Hub as `hf://ORG/NAME@v1.0`")
    path = directory / PROVENANCE
    if not path.is_file():
        raise ValueError(f"{directory}: no release (it has no {PROVENANCE}); write one with `pairwright materialize`")
    return parse_provenance(path.read_bytes(), str(path))


def _check_config(name: str, config: Any, where: str) -> None:
    files, runs = (config.get("files"), config.get("runs")) if isinstance(config, dict) else (None, None)
    if name not in CONFIGS or not isinstance(files, dict) or not files or not isinstance(runs, list):
        have = f"have {', '.join(CONFIGS)}, each with `files` and `runs`"
        raise ValueError(f"{where}: no config of a release: '{name}' ({have})")
    _check_runs(name, runs, config.get("rows_by_run", {}), where)
    for path, sha256 in files.items():
        match = _DATA_FILE.fullmatch(path)
        if match is None or match[1] != name or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise ValueError(f"{where}: config '{name}' has no data file of a release: '{path}'")


def _check_runs(name: str, runs: list[Any], rows: Any, where: str) -> None:
    """Runs are named as in params: they may be shown, and asked for."""
    if not isinstance(rows, dict) or not all(isinstance(n, int) for n in rows.values()):
        raise ValueError(f"{where}: config '{name}' has `rows_by_run` that are no counts")
    if not all(isinstance(run, str) and _RUN.fullmatch(run) for run in (*runs, *rows)):
        raise ValueError(f"{where}: config '{name}' has `runs` with a name that no run has")


def data_files(provenance: Mapping[str, Any], *configs: str) -> dict[str, str]:
    """Path -> SHA-256 of the Parquet files of some configs (default: all)."""
    wanted = configs or tuple(provenance["configs"])
    return {path: sha256 for name in wanted for path, sha256 in provenance["configs"][name]["files"].items()}


def check_file(path: Path, sha256: str, where: str, remedy: str) -> None:
    """Raises ValueError unless the file has the SHA-256 that its provenance says."""
    if damaged({path.resolve(): f"{SHA256}{sha256}"}):
        raise ValueError(f"{where}: damaged or changed (its SHA-256 is not {sha256[:12]}…); {remedy}")
