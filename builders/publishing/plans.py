"""What publishing does to a repository: functions of what is wanted, what is there, and what we wrote last time."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stores.release_files import PROVENANCE

Kind = Literal["dataset", "model"]
OBJECTS = "objects"
"""Key of a published provenance: path -> how Git and large-file storage know each file that we wrote."""
_SMALL = 10 * 2**20
"""Larger files are never kept in Git itself, so their Git hash is not needed."""


class Local(NamedTuple):
    """A file to publish: its bytes, or where they lie."""

    source: bytes | Path
    size: int
    sha256: str
    git: str | None
    """Git's hash of it; None for a large file."""


class Remote(NamedTuple):
    """A file of a repository; `sha256` is known of large files alone."""

    size: int
    git: str
    sha256: str | None


class Content(NamedTuple):
    """All files that a repository is to hold of ours, and what is said about them."""

    kind: Kind
    title: str
    licence: str
    files: Mapping[str, Local]
    configs: Sequence[str] = ()
    """Directories whose every Parquet file is read as data."""


class Plan(NamedTuple):
    """What one commit does; `size` is what it sends, in bytes."""

    send: list[str]
    keep: list[str]
    delete: list[str]
    size: int

    @property
    def changes(self) -> bool:
        return bool(self.send or self.delete)


def local(source: bytes | Path) -> Local:
    """A file with its hashes."""
    if isinstance(source, bytes):
        return Local(source, len(source), hashlib.sha256(source).hexdigest(), git_hash(source))
    size = source.stat().st_size
    if size <= _SMALL:
        content = source.read_bytes()
        return Local(source, size, hashlib.sha256(content).hexdigest(), git_hash(content))
    with source.open("rb") as file:
        return Local(source, size, hashlib.file_digest(file, "sha256").hexdigest(), None)


def git_hash(content: bytes) -> str:
    """What Git calls a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def with_provenance(files: Mapping[str, Local], provenance: Mapping[str, Any]) -> dict[str, Local]:
    """The files and their `provenance.json`, which lists them all."""
    objects = {path: {"sha256": files[path].sha256, "git": files[path].git} for path in sorted(files)}
    text = json.dumps(dict(provenance) | {OBJECTS: objects}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return {**files, PROVENANCE: local(text.encode())}


def written_by_us(provenance: bytes | None) -> dict[str, Remote]:
    """What a repository's `provenance.json` says we wrote, itself included; nothing where it is not of ours."""
    try:
        objects = json.loads(provenance or b"{}").get(OBJECTS)
        found = {path: Remote(-1, hashes["git"] or "", hashes["sha256"]) for path, hashes in (objects or {}).items()}
    except (ValueError, AttributeError, TypeError, KeyError):  # anybody may have a file of this name
        return {}
    return found | {PROVENANCE: Remote(-1, git_hash(provenance or b""), None)} if found else {}


def make_plan(content: Content, there: Mapping[str, Remote], ours: Mapping[str, Remote], replace: bool = False) -> Plan:
    """What is sent, what stays, and which of our files (`ours`, as we wrote them) go.

    Raises ValueError where a file would be overwritten or deleted that we did not write, or that was changed since
    (`replace` allows both), and where a file of somebody else's would be read as data.
    """
    wanted = content.files
    keep = sorted(path for path, file in wanted.items() if path in there and is_same(file, there[path]))
    send = sorted(wanted.keys() - keep)
    delete = sorted(path for path in ours if path in there and path not in wanted)
    if not replace:
        _refuse_foreign([p for p in (*send, *delete) if p in there], there, ours)
    strays = [p for p in there if p not in wanted and p not in delete and _is_read(p, content.configs)]
    if strays:
        raise ValueError(
            f"'{strays[0]}' is not of this release, and readers would take it for a part of it; delete it on the Hub,"
            " or move it to another directory"
        )
    return Plan(send, keep, delete, sum(wanted[path].size for path in send))


def _refuse_foreign(touched: Sequence[str], there: Mapping[str, Remote], ours: Mapping[str, Remote]) -> None:
    for path in touched:
        if path not in ours:
            raise ValueError(
                f"'{path}' is there and was not written by `pairwright publish`; move it, or use --replace"
            )
        if not _was_written(there[path], ours[path]):
            raise ValueError(f"'{path}' was changed on the Hub since it was published; save the change, then --replace")


def is_same(file: Local, there: Remote) -> bool:
    """Whether a repository's file has the bytes of a local one."""
    return file.sha256 == there.sha256 if there.sha256 else file.git == there.git


def _was_written(there: Remote, ours: Remote) -> bool:
    return there.sha256 == ours.sha256 if there.sha256 and ours.sha256 else not ours.git or there.git == ours.git


def _is_read(path: str, configs: Sequence[str]) -> bool:
    return path.endswith(".parquet") and path.partition("/")[0] in configs


def holds(content: Content, there: Mapping[str, Remote]) -> bool:
    """Whether a commit has all files of the content as they are."""
    return all(path in there and is_same(file, there[path]) for path, file in content.files.items())
