"""The part of `pairwright doctor` that looks at disks, Git, DVC and the ledger."""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from builders.doctor import Finding
from builders.doctor_remotes import examine_remotes, existing
from stores.dvc_files import cache_dir, project_dir
from stores.ledger import Ledger
from stores.ledger_schema import VERSION
from stores.paths import DATA, ledger_dir

_LITTLE, _TOO_LITTLE = 10e9, 1e9
_LARGE = 10**9
_NETWORK = re.compile(r"nfs|cifs|smb|lustre|gpfs|beegfs|ceph|fuse\.(?!fuseblk)|9p|afs")


def examine_storage(root: Path, deep: bool, network: bool = False) -> Iterator[Finding]:
    """Findings about everything that is kept."""
    yield from _git(root)
    found = _dvc_doctor(root)
    yield from _dvc(root, found)
    cache = cache_dir(project_dir(root)) if found is not None else root / ".dvc" / "cache"
    if found is not None:
        yield from examine_remotes(root, found.get("Cache types", ""), cache, network)
    yield from disks(
        {"data/": root / DATA, "DVC's cache": cache, "the ledger": ledger_dir(), "temporary files": Path(_tmp())}
    )
    yield from ledger(ledger_dir(), deep)


def _tmp() -> str:
    import tempfile

    return tempfile.gettempdir()


def _output(root: Path, *command: str) -> str | None:
    """What a command prints; None where it fails."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def _git(root: Path) -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield Finding("git", "problem", "not installed", "install it: a version of the data is a Git revision")
        return
    head = _output(root, "git", "rev-parse", "--short", "HEAD")
    if head is None:
        remedy = "`git init`, and commit: a version of the data is a Git revision"
        yield Finding("git", "problem", "no Git repository with a commit", remedy)
        return
    status = _output(root, "git", "status", "--porcelain", "--", "params.yaml", "dvc.yaml", "dvc.lock") or ""
    changed = [line[3:] for line in status.splitlines()]
    if changed:
        remedy = "`git commit` them together, so that this version can be found again"
        yield Finding("git", "warning", f"not committed: {', '.join(changed)}", remedy)
    else:
        yield Finding("git", "ok", f"at {head.strip()}, params and locks are committed")


def _dvc_doctor(root: Path) -> dict[str, str] | None:
    """The lines of `dvc doctor`; None outside a DVC repository."""
    said = _output(root, sys.executable, "-m", "dvc", "doctor") or ""
    found = {name: value.strip() for name, mark, value in (line.partition(": ") for line in said.splitlines()) if mark}
    return found if found.get("Repo", "").startswith("dvc") else None


def _dvc(root: Path, found: dict[str, str] | None) -> Iterator[Finding]:
    if found is None:
        yield Finding("dvc", "problem", "no DVC repository", "`dvc init`, and commit .dvc/")
        return
    built = "something is built" if (root / "dvc.lock").exists() else "nothing is built yet"
    yield Finding("dvc", "ok", f"{found.get('DVC version', '').split()[0]}, {built}")


def disks(places: dict[str, Path]) -> Iterator[Finding]:
    """Free space, a line per disk."""
    by_disk: dict[int, tuple[list[str], int]] = {}
    for name, path in places.items():
        there = existing(path)
        by_disk.setdefault(there.stat().st_dev, ([], shutil.disk_usage(there).free))[0].append(name)
    for names, free in by_disk.values():
        state = "problem" if free < _TOO_LITTLE else "warning" if free < _LITTLE else "ok"
        remedy = "" if state == "ok" else "free space, or move one of them (PAIRWRIGHT_LEDGER, `dvc cache dir`, TMPDIR)"
        yield Finding("disk", state, f"{free / 1e9:,.1f} GB free for {', '.join(names)}", remedy)


def ledger(directory: Path, deep: bool) -> Iterator[Finding]:
    """Whether the ledger is whole, can be written, and lies where its locks work."""
    path, move = directory / "ledger.sqlite", "point PAIRWRIGHT_LEDGER elsewhere"
    kind = filesystem(existing(directory), Path("/proc/mounts"))
    if kind and _NETWORK.search(kind):
        detail = f"{directory} is on {kind}: SQLite's log needs memory that all its processes share"
        yield Finding("ledger place", "problem", detail, f"{move}, to a local disk; share it by export and merge")
    if not path.exists():
        there = existing(directory)
        writable = there.is_dir() and os.access(there, os.W_OK)
        detail = f"none yet; {path}" if writable else f"{path} cannot be made in {there}"
        yield Finding("ledger", "ok" if writable else "problem", detail, "" if writable else move)
        return
    try:
        yield _earlier(path) or _inspect(directory, path, deep)
    except (OSError, ValueError, sqlite3.Error) as error:
        yield Finding("ledger", "problem", str(error), f"restore {path} from a backup or an export, or {move}")


def _earlier(path: Path) -> Finding | None:
    """A file of an earlier version is left as it is: bringing it up to date may take long."""
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
        if db.execute("pragma user_version").fetchone()[0] >= VERSION:
            return None
    size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    state, remedy = ("ok", "") if free > 2 * size else ("problem", "free space, or point PAIRWRIGHT_LEDGER elsewhere")
    detail = (
        f"of an earlier version; its next use brings it up to date, with room for {size / 1e6:,.1f} MB more; {path}"
    )
    return Finding("ledger", state, detail, remedy)


def _inspect(directory: Path, path: Path, deep: bool) -> Finding:
    opened = Ledger(directory)
    size = path.stat().st_size
    entries = opened.sql("select coalesce(sum(n), 0) from batches")[1][0][0]
    whole = deep or size < _LARGE
    said = [row[0] for row in opened.db.execute("pragma quick_check(3)")] if whole else ["ok"]
    opened.db.execute("begin immediate")
    opened.db.execute("create table doctor (written integer)")
    opened.db.execute("rollback")
    probe = directory / f".doctor-{os.getpid()}"
    probe.write_bytes(b"synced")
    probe.unlink()
    opened.close()
    if said != ["ok"]:
        raise ValueError(f"damaged: {' '.join(' '.join(said).split())}")
    checked = "whole" if whole else "not read whole (--deep reads it)"
    return Finding("ledger", "ok", f"{entries:,} entries, {size / 1e6:,.1f} MB, {checked}, can be written; {path}")


def filesystem(path: Path, mounts: Path) -> str | None:
    """The type of the file system that a path lies on, by Linux's table of mounts; None where there is none."""
    if not mounts.exists():
        return None
    resolved, best = path.resolve(), ("", None)
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, point, kind, *_ = line.split()
        point = point.replace("\\040", " ")
        if resolved.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]
