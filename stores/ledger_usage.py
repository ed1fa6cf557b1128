"""Which models some version of some checkout still has: what others have drawn is what `prune --unused` means.

A model is known by its fingerprint, which the ledger notes for each context. Versions are the checkouts that the run
log names, with all their branches, tags and DVC experiments; what `dvc.lock` says is looked up in DVC's cache.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stores.ledger import Ledger
from stores.model_record import RECORD
from stores.paths import DATA, ledger_dir
from stores.run_log import RunLog

_MODELS = (DATA / "models").as_posix()


class Used(NamedTuple):
    """Fingerprints of models in use; and names of models whose fingerprint cannot be told, so all of theirs is kept."""

    fingerprints: set[str]
    names: set[str]


def unused_models(ledger: Ledger, roots: Iterable[Path]) -> list[str]:
    """Fingerprints of models in the ledger that no version of the checkouts has."""
    used = used_models(roots)
    rows = ledger.sql("select distinct model_fingerprint, model from contexts where model_fingerprint is not null")[1]
    kept = used.fingerprints | {fingerprint for fingerprint, name in rows if name in used.names}
    return sorted({fingerprint for fingerprint, _ in rows} - kept)


def checkouts(root: Path) -> list[Path]:
    """This checkout, and all others that have used this ledger and are still there."""
    known = {Path(workspace) for workspace in RunLog().workspaces()} | {root.resolve()}
    return sorted(path for path in known if (path / "params.yaml").exists())


def used_models(roots: Iterable[Path]) -> Used:
    """The models of all versions of some checkouts, and those that were evaluated outside them."""
    used = Used(set(), set())
    for record in (ledger_dir() / "eval").glob(f"*/{_MODELS}/*/{RECORD}"):
        _note(used, record.parent.name, record)
    for root in roots:
        for record in (root / _MODELS).glob(f"*/{RECORD}"):
            _note(used, record.parent.name, record)
        cache = None
        for lock in _locks(root):
            for name, md5 in _locked_models(lock):
                cache = cache or _cache(root)
                _note(used, name, _cached_record(cache, md5))
    return used


def _note(used: Used, name: str, record: Path | None) -> None:
    if record is None or not record.exists():
        used.names.add(name)
    else:
        used.fingerprints.add(json.loads(record.read_text(encoding="utf-8"))["fingerprint"])


def _locks(root: Path) -> Iterator[str]:
    """The distinct contents of `dvc.lock`: the file that is here, and those of all refs (experiments are refs too)."""
    if (root / "dvc.lock").exists():
        yield (root / "dvc.lock").read_text(encoding="utf-8")
    listed = _refs(root)
    blobs = {_output(root, "git", "rev-parse", "--verify", "-q", f"{ref}:./dvc.lock") for ref in listed.split()}
    for blob in sorted(blobs - {""}):
        yield _output(root, "git", "cat-file", "blob", blob.strip())


def _refs(root: Path) -> str:
    """The objects of all refs; none outside a repository.

    Raises ValueError where Git cannot say: what it does not list would count as unused.
    """
    command = ("git", "for-each-ref", "--format=%(objectname)")
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if done.returncode and "not a git repository" not in done.stderr:
        reason = " ".join(done.stderr.split())
        raise ValueError(f"{root}: its versions cannot be read, so what they use is not known ({reason})")
    return done.stdout


def _output(root: Path, *command: str) -> str:
    """What a command prints; nothing where it fails."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def _locked_models(lock: str) -> Iterator[tuple[str, str]]:
    """(name, md5) of the model directories that a `dvc.lock` holds."""
    loaded: dict[str, Any] = yaml.load(lock, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    for stage in loaded.get("stages", {}).values():
        for out in stage.get("outs", []):
            if out["path"].startswith(f"{_MODELS}/") and "md5" in out:
                yield out["path"].removeprefix(f"{_MODELS}/"), out["md5"]


def _cache(root: Path) -> Path:
    return Path(_output(root, "dvc", "cache", "dir").strip() or root / ".dvc" / "cache") / "files" / "md5"


def _cached_record(cache: Path, md5: str) -> Path | None:
    """The record in DVC's cache of a model directory; None where the cache has lost it."""
    listing = cache / md5[:2] / md5[2:]
    if not listing.exists():
        return None
    files = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}
    return cache / files[RECORD][:2] / files[RECORD][2:] if RECORD in files else None
