"""A project with versions, made fast: Git is real, DVC's cache, `dvc.lock` and `dvc.yaml` are written as DVC does.

    project = Project(root)               # params.yaml and data/ lie there
    project.commit("first", tag="v1.0")

A test compares the result with what DVC itself says of it.
"""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from schemas.params import STAGES, load_params, stage_runs
from stores.paths import rejects_dir, run_dir

IGNORED = "/data/**\n!/data/*/\n!/data/none\n!/data/*/run=none/\n!/data/*/run=none/**\n"


class Project:
    """A Git repository at `root` that DVC knows; `cache` is its cache directory (default: DVC's own default)."""

    def __init__(self, root: Path, cache: Path | None = None):
        self.root, self.cache = root, cache or root / ".dvc" / "cache"
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        setting = f"[cache]\n    dir = {cache}\n" if cache else ""
        (root / ".dvc" / "config").write_text(f"[core]\n    analytics = false\n{setting}")
        (root / ".gitignore").write_text(IGNORED)
        self.git("init", "-q", "-b", "main")

    @classmethod
    def of(cls, root: Path) -> "Project":
        """The one that lies at `root`, such as a copy of another, with DVC's default cache."""
        found = cls.__new__(cls)
        found.root, found.cache = root, root / ".dvc" / "cache"
        return found

    def git(self, *arguments: str) -> str:
        """Runs Git without the user's configuration; returns what it prints."""
        names = {f"GIT_{who}_{what}": "somebody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        apart = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        base = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=base | names | apart).stdout

    def commit(self, message: str = "a version", tag: str | None = None) -> str:
        """Caches every run of params that is there, and commits; returns the full commit id."""
        (self.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {name: _stage(name) for name in STAGES}}))
        (self.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": self._lock()}, sort_keys=False))
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        if tag is not None:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD").strip()

    def _lock(self) -> dict[str, Any]:
        stages = {}
        for section, run, config in stage_runs(load_params(self.root / "params.yaml")):
            paths = [run_dir(table, run) for table in config.writes]
            paths += [rejects_dir(section, run)] if config.rejects else []
            outs = [{"path": path.as_posix(), "hash": "md5", **self._add(path)} for path in paths]
            stages[f"{section}@{run}"] = {"cmd": "true", "outs": [out for out in outs if "md5" in out]}
        return {stage: entry for stage, entry in stages.items() if entry["outs"]}

    def _add(self, directory: Path) -> dict[str, Any]:
        """Puts a directory into the cache, as `dvc commit` does; nothing if it is not there."""
        here = self.root / directory
        files = sorted(path for path in here.rglob("*") if path.is_file())
        entries = [{"md5": self._put(path), "relpath": path.relative_to(here).as_posix()} for path in files]
        if not entries:
            return {}
        listing = json.dumps(sorted(entries, key=lambda e: e["relpath"])).encode()
        name = hashlib.md5(listing).hexdigest() + ".dir"
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        self._path(name).write_bytes(listing)
        return {"md5": name, "size": sum(path.stat().st_size for path in files), "nfiles": len(files)}

    def _put(self, file: Path) -> str:
        with file.open("rb") as opened:
            name = hashlib.file_digest(opened, "md5").hexdigest()
        if not self._path(name).exists():
            self._path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self._path(name))
            os.utime(self._path(name), (1, 1))  # as of files that have lain there for a while
            self._path(name).chmod(0o444)
        return name

    def _path(self, name: str) -> Path:
        return self.cache / "files" / "md5" / name[:2] / name[2:]

    def forget(self, directory: Path | str) -> None:
        """Removes the files of a directory, as it is in the checkout, from the cache."""
        for path in (self.root / directory).rglob("*.*"):
            self._path(hashlib.md5(path.read_bytes()).hexdigest()).unlink(missing_ok=True)


def _stage(section: str) -> dict[str, Any]:
    outs = [run_dir(table, "${key}").as_posix() for table in STAGES[section].writes]
    outs += [rejects_dir(section, "${key}").as_posix()] if STAGES[section].rejects else []
    body = {"cmd": "true", "outs": outs}
    return {"foreach": f"${{{section}}}", "do": body}
