"""Repositories as the Hub keeps them, on disk: commits, branches, tags, small files in Git, large ones by SHA-256.

Everything lies in files under one directory, so that a server that was killed goes on where it was. A commit is whole
or not there: the branch is moved last.
"""

import fnmatch
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
"""`.gitattributes` of the commit that a new repository starts with."""


class Refusal(Exception):
    """An answer with an error: a status, the Hub's error code, what it says."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Entry(NamedTuple):
    """A file of a commit. `sha256` is given for large files."""

    oid: str
    size: int
    sha256: str | None = None


class Repositories:
    """All repositories of one Hub, by (kind, "owner/name"); kinds are `datasets` and `models`."""

    def __init__(self, root: Path):
        self.root = root
        self.lock = threading.RLock()
        self._number = itertools.count()

    def names(self) -> list[tuple[str, str]]:
        return sorted((p.parts[-4], "/".join(p.parts[-3:-1])) for p in self.root.glob("*/*/*/repository.json"))

    def create(self, kind: str, name: str, private: bool = False) -> None:
        """A repository with one commit that holds `.gitattributes`. Raises Refusal (409) where it exists."""
        with self.lock:
            if self._path(kind, name, "repository.json").exists():
                raise Refusal(409, f"You already created this {kind.removesuffix('s')} repo")
            self._write_json(kind, name, "repository.json", {"private": private, "gated": False})
            self._write_json(kind, name, "refs.json", {"branches": {}, "tags": {}})
            files = {".gitattributes": self.store(kind, name, ATTRIBUTES)}
            self.add_commit(kind, name, "main", files, None, "initial commit", "")

    def settings(self, kind: str, name: str) -> dict[str, Any]:
        """Raises Refusal (404) where there is no such repository."""
        path = self._path(kind, name, "repository.json")
        if not path.exists():
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return json.loads(path.read_text())

    def set(self, kind: str, name: str, **settings: Any) -> None:
        self._write_json(kind, name, "repository.json", self.settings(kind, name) | settings)

    def refs(self, kind: str, name: str) -> dict[str, dict[str, str]]:
        """`branches` and `tags`, each name -> commit."""
        return json.loads(self._path(kind, name, "refs.json").read_text())

    def resolve(self, kind: str, name: str, revision: str) -> str:
        """The commit that a branch, tag or hash names. Raises Refusal (404) for another."""
        self.settings(kind, name)
        refs = self.refs(kind, name)
        found = refs["branches"].get(revision) or refs["tags"].get(revision)
        if found is None and self._path(kind, name, f"commits/{revision}.json").exists():
            found = revision
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def commit(self, kind: str, name: str, revision: str) -> dict[str, Any]:
        """`parent`, `title`, `message`, `date` and `files` of a commit."""
        commit = self.resolve(kind, name, revision)
        return json.loads(self._path(kind, name, f"commits/{commit}.json").read_text()) | {"id": commit}

    def history(self, kind: str, name: str, revision: str = "main") -> list[dict[str, Any]]:
        """Commits, the newest first."""
        found, at = [], self.commit(kind, name, revision)
        while True:
            found.append(at)
            if at["parent"] is None:
                return found
            at = self.commit(kind, name, at["parent"])

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, Entry]:
        return {path: Entry(*entry) for path, entry in self.commit(kind, name, revision)["files"].items()}

    def content(self, kind: str, name: str, path: str, revision: str = "main") -> bytes:
        """Raises Refusal (404) for a file that is not there."""
        entry = self.files(kind, name, revision).get(path)
        if entry is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        return self.object_of(kind, name, entry).read_bytes()

    def object_of(self, kind: str, name: str, entry: Entry) -> Path:
        """Where a file's bytes lie."""
        return self.blob(entry.sha256) if entry.sha256 else self._path(kind, name, f"objects/{entry.oid}")

    def blob(self, sha256: str) -> Path:
        """Where a large file's bytes lie, or will."""
        return self.root / "blobs" / sha256

    def store(self, kind: str, name: str, content: bytes) -> Entry:
        """Keeps a small file."""
        oid = git_oid(content)
        self._write(self._path(kind, name, f"objects/{oid}"), content)
        return Entry(oid, len(content))

    def store_blob(self, content: bytes) -> Entry:
        """Keeps a large file, which Git knows by a pointer."""
        sha256 = hashlib.sha256(content).hexdigest()
        self._write(self.blob(sha256), content)
        return pointer(sha256, len(content))

    def write(self, kind: str, name: str, files: Mapping[str, bytes | None], title: str = "by somebody else") -> str:
        """Commits files (None: deletes one) as another client would, large ones where attributes say so."""
        with self.lock:
            found = self.files(kind, name)
            attributes = self.content(kind, name, ".gitattributes").decode()
            for path, content in files.items():
                if content is None:
                    del found[path]
                elif is_large(path, attributes):
                    found[path] = self.store_blob(content)
                else:
                    found[path] = self.store(kind, name, content)
            return self.add_commit(kind, name, "main", found, self.resolve(kind, name, "main"), title, "")

    def tag(self, kind: str, name: str, tag: str, revision: str) -> None:
        """Raises Refusal (409) where the tag exists."""
        with self.lock:
            commit, refs = self.resolve(kind, name, revision), self.refs(kind, name)
            if tag in refs["tags"]:
                raise Refusal(409, "Tag already exists")
            refs["tags"][tag] = commit
            self._write_json(kind, name, "refs.json", refs)

    def branch(self, kind: str, name: str, branch: str, commit: str) -> None:
        """Makes a branch, or moves it."""
        refs = self.refs(kind, name)
        refs["branches"][branch] = commit
        self._write_json(kind, name, "refs.json", refs)

    def add_commit(
        self, kind: str, name: str, branch: str, files: Mapping[str, Entry], parent: str | None, title: str, text: str
    ) -> str:
        """Moves a branch to a commit of these files; returns its hash."""
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        content = {"parent": parent, "title": title, "message": text, "date": date, "files": dict(files)}
        commit = hashlib.sha1(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self._write_json(kind, name, f"commits/{commit}.json", content)
        self.branch(kind, name, branch, commit)
        return commit

    def _path(self, kind: str, name: str, inside: str) -> Path:
        return self.root / kind / name / inside

    def _write_json(self, kind: str, name: str, inside: str, value: Any) -> None:
        self._write(self._path(kind, name, inside), json.dumps(value).encode())

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{next(self._number)}.part")
        unfinished.write_bytes(content)
        unfinished.replace(path)


def git_oid(content: bytes) -> str:
    """What Git calls a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(sha256: str, size: int) -> Entry:
    """A large file, which Git knows by its pointer."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Entry(git_oid(text.encode()), size, sha256)


def is_large(path: str, attributes: str) -> bool:
    """Whether `.gitattributes` keeps a file out of Git."""
    patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
    return any(fnmatch.fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)


def is_ignored(path: str, ignore: str) -> bool:
    """Whether `.gitignore` leaves a file out of commits."""
    patterns = [line for line in ignore.splitlines() if line and not line.startswith("#")]
    names = [path, path.rpartition("/")[2], *path.split("/")[:-1]]
    return any(fnmatch.fnmatch(name, pattern.strip("/")) for pattern in patterns for name in names)


def url_of(kind: str, name: str) -> str:
    """The path of a repository's page."""
    return f"/{'datasets/' if kind == 'datasets' else ''}{quote(name)}"
