"""Whether a file is what its hash says. It is hashed once; that it was is remembered beside the ledger.

What is remembered is bound to the file's path, size, time of change and inode: a file that anybody writes to is hashed
again. Damage by the disk alone changes none of these; `pairwright check --deep` hashes everything again.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from schemas.ids import digest
from stores.paths import ledger_dir

SETTLED_NS = 50_000_000
"""A file younger than this may change again within one tick of the file system's clock."""

SHA256 = "sha256:"
"""Begins a plain SHA-256, where the id of a Git blob could be as long."""


def damaged(files: Mapping[Path, str], again: bool = False) -> list[Path]:
    """Those files whose content is not that of their hash (MD5 as DVC's, the id of a Git blob, or `sha256:…`).

    `again`: hash also what is remembered.
    """
    unknown = [path for path in files if again or not _mark(path, files[path]).exists()]
    with ThreadPoolExecutor(min(len(unknown), os.cpu_count() or 1) or 1) as pool:  # hashing releases Python's lock
        good = pool.map(lambda path: _is(path, files[path]), unknown)
        return [path for path, whole in zip(unknown, good, strict=True) if not whole]


def _is(path: Path, expected: str) -> bool:
    mark = _mark(path, expected)
    with path.open("rb") as file:
        hasher = _hasher(expected, os.fstat(file.fileno()).st_size)
        found = hashlib.file_digest(file, lambda: hasher).hexdigest()
    good = found == expected.removesuffix(".dir").removeprefix(SHA256)
    if good and time.time_ns() - path.stat().st_mtime_ns > SETTLED_NS:
        with contextlib.suppress(OSError):  # where nothing can be written, it is hashed again next time
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return good


def _hasher(expected: str, size: int) -> "hashlib._Hash":
    """What a file's content is fed to, to give its hash."""
    if expected.startswith(SHA256):
        return hashlib.sha256(usedforsecurity=False)
    if len(expected.removesuffix(".dir")) == 32:
        return hashlib.md5(usedforsecurity=False)
    hasher = hashlib.new("sha1" if len(expected) == 40 else "sha256", usedforsecurity=False)
    hasher.update(f"blob {size}\0".encode())
    return hasher


def _mark(path: Path, expected: str) -> Path:
    """The empty file that says so; its name is bound to the file as it was before it was hashed."""
    stat = path.stat()
    state = [str(path.absolute()), expected, stat.st_size, stat.st_mtime_ns, stat.st_ino]
    return ledger_dir() / "cache" / "verified" / digest(state, 32)
