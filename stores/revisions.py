"""A version without a checkout: path → MD5 in `dvc.lock` at a commit → file in DVC's cache; what Git has, from Git.

    snapshot = Snapshot.at(Path(), "v1.0")
    snapshot.text("params.yaml"), snapshot.parts_of("data/pairs/run=irpo_0")

Files of the cache are checked against their hash before they are given out (`stores.verified`).
"""

import os
import shlex
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from pathlib import PurePosixPath as Posix
from typing import NamedTuple, TypeVar

from stores.dvc_files import Out, cache_dir, listed, outputs, project_dir
from stores.git import Repository
from stores.paths import ledger_dir
from stores.verified import damaged

_READ = ("dvc.lock", "dvc.yaml", "params.yaml")
_T = TypeVar("_T")


class Content(NamedTuple):
    """One tracked file: the hash of its content (DVC's MD5, or the id of a Git blob) and where it lies, or would."""

    hash: str
    path: Path
    in_git: bool


class Snapshot:
    """The project at `root` as it was at one commit. Paths are relative to `root`, as `Path` or `str`.

    Every method raises ValueError for what this version does not track, for a file that is not in the local cache
    (naming the command that fetches it), and for one that is damaged there.
    """

    def __init__(self, root: Path, name: str, commit: str):
        self.root, self.name, self.commit = root, name, commit
        self._project = project_dir(root)
        self._start = root.resolve().relative_to(self._project).as_posix() + "/"
        self._git = Repository(self._project)

    @classmethod
    def at(cls, root: Path, name: str) -> "Snapshot":
        """`name`: a tag, branch, commit or DVC experiment of the Git repository at `root`."""
        return cls(root, name, Repository(project_dir(root)).commit(name))

    @cached_property
    def _tree(self) -> dict[str, str]:
        return self._git.tree(self.commit)

    @cached_property
    def _blobs(self) -> dict[str, str]:
        """Path below `root` -> id of its Git blob, in the order of the paths."""
        return self._below_root(self._tree)

    @cached_property
    def outs(self) -> dict[str, Out]:
        """Path below `root` -> output (`md5`, `size`), of all that DVC keeps; what Git has itself is left out."""
        paths = [path for path in self._tree if Posix(path).name in _READ or Posix(path).suffix == ".dvc"]
        contents = self._git.blobs(self._tree[path] for path in paths)
        found = self._below_root(outputs(dict(zip(paths, contents, strict=True)), self.name))
        return {path: out for path, out in found.items() if path not in self._blobs}

    def _below_root(self, found: Mapping[str, _T]) -> dict[str, _T]:
        start = self._start
        below = ((path, value) for path, value in found.items() if start == "./" or path.startswith(start))
        return dict(sorted((path if start == "./" else path.removeprefix(start), value) for path, value in below))

    @cached_property
    def _cache(self) -> Path:
        return cache_dir(self._project)

    def text(self, path: Path | str) -> str:
        """A text file that Git has, such as `params.yaml`."""
        blob = self._blobs.get(_key(path))
        if blob is None:
            raise ValueError(f"{path}: Git has no such file at {self.name}")
        try:
            return self._git.blobs([blob])[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} at {self.name}: not UTF-8 text (byte {error.start})") from None

    def local(self, path: Path | str) -> Path:
        """One tracked file, as a local file with its content."""
        found = self.contents(path)
        if list(found) != [_key(path)]:
            raise ValueError(f"{path}: a directory at {self.name}, no file")
        return self._ready(found)[_key(path)]

    def files(self, directory: Path | str) -> dict[str, Path]:
        """Every tracked file below a directory: its path relative to it -> a local file with its content."""
        start = f"{_key(directory)}/"
        return {path.removeprefix(start): local for path, local in self._ready(self.contents(directory)).items()}

    def parts_of(self, directory: Path | str) -> list[Path]:
        """The local Parquet files of one run's directory, in the order of their names; none where it is not tracked."""
        found = self.contents(directory) if self.has(directory) else {}
        return list(self._ready({p: c for p, c in found.items() if Posix(p).match("part-*.parquet")}).values())

    def has(self, path: Path | str) -> bool:
        """Whether this version tracks something at or below a path, in the local cache or not."""
        return any(_below(paths, _key(path)) for paths in (self.outs, self._blobs)) or bool(self._around(_key(path)))

    def is_local(self, path: Path | str) -> bool:
        """Whether all files at or below a tracked path are in the local cache, or in Git."""
        key = _key(path)
        outs = [self.outs[at] for at in self._around(key) or _below(self.outs, key)]
        there = all(out.path(self._cache).is_file() for out in outs)
        return there and all(content.in_git or content.path.is_file() for content in self.contents(key).values())

    def size(self, path: Path | str) -> int | None:
        """Bytes of the outputs at or below a path, as `dvc.lock` has them; None where it does not say, or of none."""
        sizes = [self.outs[at].size for at in _below(self.outs, _key(path))]
        return sum(size or 0 for size in sizes) if sizes and None not in sizes else None

    def contents(self, path: Path | str) -> dict[str, Content]:
        """Path -> hash and place of every tracked file at or below a path, whether it is in the cache or not."""
        key = _key(path)
        found = {at: self._blob(self._blobs[at]) for at in _below(self._blobs, key)}
        for at in self._around(key) or _below(self.outs, key):
            out = self.outs[at]
            inside = self._listed(at, out) if out.is_dir else {at: out}
            found |= {p: self._cached(o) for p, o in inside.items() if _within(p, key)}
        if not found:
            raise ValueError(f"{path}: neither DVC nor Git tracks it at {self.name}")
        return dict(sorted(found.items()))

    def _around(self, key: str) -> list[str]:
        """The tracked directory that a path lies in."""
        return [parent for parent in map(str, Posix(key).parents) if parent in self.outs and self.outs[parent].is_dir]

    def _listed(self, at: str, out: Out) -> dict[str, Out]:
        """The files of a tracked directory, which DVC's cache lists in a file of its own."""
        (listing,) = self._ready({at: self._cached(out)}).values()
        return listed(listing.read_bytes(), at)

    def _cached(self, out: Out) -> Content:
        return Content(out.md5, out.path(self._cache), False)

    def _blob(self, blob: str) -> Content:
        return Content(blob, ledger_dir() / "cache" / "git" / blob, True)

    def _ready(self, found: Mapping[str, Content]) -> dict[str, Path]:
        """Path -> local file, once each is there and is what its hash says."""
        self._write_blobs(content for content in found.values() if content.in_git)
        for path, content in found.items():
            if not content.path.is_file():
                raise ValueError(f"{path} of {self.name} is not in the local cache; {self._remedy(path)}")
        wrong = set(damaged({content.path: content.hash for content in found.values()}))
        for path, content in found.items():
            if content.path in wrong:
                raise ValueError(f"{content.path}: damaged, not {path} of {self.name}; {self._remedy(path)}")
        return {path: content.path for path, content in found.items()}

    def _write_blobs(self, wanted: Iterable[Content]) -> None:
        """Puts what only Git has beside the ledger, where DuckDB and pyarrow can read it."""
        blobs = {content.path: content.hash for content in wanted}
        wrong = damaged({path: blob for path, blob in blobs.items() if path.is_file()})
        missing = [path for path in blobs if path in wrong or not path.is_file()]
        for path, content in zip(missing, self._git.blobs(blobs[path] for path in missing), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}")
            unfinished.write_bytes(content)
            unfinished.replace(path)

    def _remedy(self, path: str) -> str:
        """The command that fetches what a path belongs to. DVC's own takes a damaged file for whole."""
        target = shlex.quote(next(iter(self._around(path)), path))
        command = f"pairwright fetch {shlex.quote(self.name)} {target}"
        return f"`{command}` gets it from the remote (without the path all of {self.name})"

    def targets(self, path: Path | str) -> list[str]:
        """What DVC's commands call the outputs at, below or around a path."""
        key = _key(path)
        found = [key] if self._around(key) else _below(self.outs, key)
        if not found:
            raise ValueError(f"{path}: DVC tracks nothing there at {self.name}")
        return found

    def damaged(self, path: Path | str, again: bool = True) -> dict[str, Path]:
        """Path -> file in the cache that is damaged, of what is there at or below a path.

        `again`: all of it is hashed again, what was found good before, too.
        """
        key = _key(path)
        outs = {at: self.outs[at] for at in self._around(key) or _below(self.outs, key)}
        wrong = _damaged({at: self._cached(out) for at, out in outs.items()}, again)
        listed = [at for at, out in outs.items() if out.is_dir and at not in wrong and out.path(self._cache).is_file()]
        inside = [(p, self._cached(o)) for at in listed for p, o in self._listed(at, outs[at]).items()]
        return wrong | _damaged({p: content for p, content in inside if _within(p, key)}, again)


def _damaged(found: Mapping[str, Content], again: bool) -> dict[str, Path]:
    there = {content.path: content.hash for content in found.values() if content.path.is_file()}
    wrong = set(damaged(there, again))
    return {path: content.path for path, content in found.items() if content.path in wrong}


def _key(path: Path | str) -> str:
    key = os.path.normpath(Posix(path))
    if key.startswith(("../", "/")) or key == "..":
        raise ValueError(f"{path}: not below the project")
    return key


def _within(path: str, key: str) -> bool:
    return path == key or key == "." or path.startswith(f"{key}/")


def _below(paths: Mapping[str, object], key: str) -> list[str]:
    """Those of sorted paths that are a path, or lie below it."""
    ordered = list(paths)
    start = 0 if key == "." else bisect_left(ordered, key)
    exact = ordered[start : start + 1] if ordered[start : start + 1] == [key] else []
    first = 0 if key == "." else bisect_left(ordered, f"{key}/")
    last = len(ordered) if key == "." else bisect_left(ordered, f"{key}0")  # "0" follows "/"
    return exact + ordered[first:last]
