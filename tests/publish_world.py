"""A Git repository with DVC's files for one release, `main`, made by hand: to publish it, and new versions of it."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from stores.release_files import CARD, FORMAT, PROVENANCE

EXPORT = "data/export/main"
Rows = Sequence[dict[str, Any]]


def pairs(n: int, start: int = 0, **changes: Any) -> Rows:
    """Pairs of one run, as a release has them."""
    return [
        {
            "prompt": f"What is {i} + 1?", "chosen": f" It is {i + 1}.", "rejected": f" It is {i}.",
            "pair_id": f"{i:016x}", "run": "irpo_0", "licence": "mit", "rank": 0,
        }
        | changes
        for i in range(start, start + n)
    ]  # fmt: skip


def rewards(n: int) -> Rows:
    return [{"sample_id": f"s{i}", "verdict": "correct", "reward": 1.0, "run": f"irpo_{i % 2}"} for i in range(n)]


def write_release(
    directory: Path,
    configs: Mapping[str, Sequence[Rows]],
    licence: str = "mit",
    sources: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes a release whose configs have these shards; returns its provenance."""
    described = {}
    for config, shards in configs.items():
        (directory / config).mkdir(parents=True, exist_ok=True)
        files = {}
        for i, rows in enumerate(shards):
            name = f"{config}/train-{i:05}-of-{len(shards):05}.parquet"
            pq.write_table(pa.Table.from_pylist(list(rows)), directory / name, compression="zstd")
            files[name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        rows = [row for shard in shards for row in shard]
        by_run = Counter(row["run"] for row in rows)
        described[config] = {"rows": len(rows), "runs": sorted(by_run), "rows_by_run": dict(by_run), "files": files}
    named = [{"source": source, "licence": name, "rows": 1} for source, name in (sources or {"gsm8k": "mit"}).items()]
    provenance = {
        "format": FORMAT, "revision": None, "release": "main", "licence": licence, "params": "seed: 0\n",
        "configs": described, "licences": dict.fromkeys(configs, named),
    }  # fmt: skip
    (directory / PROVENANCE).write_text(json.dumps(provenance))
    (directory / CARD).write_text(card(list(configs), licence))
    return provenance


def card(configs: Sequence[str], licence: str) -> str:
    front = {
        "license": licence,
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*.parquet"}]}
            | ({"default": True} if name == configs[0] else {})
            for name in configs
        ],
    }
    return f"---\n{yaml.safe_dump(front)}---\n\n# Pairs\n\n<!-- revision -->None yet.<!-- /revision -->\n"


class Project:
    """A Git repository and what DVC would have in it, without DVC."""

    def __init__(self, root: Path, params: Mapping[str, Any] | None = None):
        self.root = root
        self.params = dict(params or {"seed": 0, "export": {"main": {"pairs": ["irpo_0"]}}})
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
        (root / ".gitignore").write_text("/data\n/.dvc/cache\n")
        (root / "dvc.yaml").write_text("stages: {}\n")
        self.outs: dict[str, list[Mapping[str, Any]]] = {}
        self.git("init", "-q", "-b", "main")
        self.write_params()

    def copy(self, root: Path) -> "Project":
        """The same in another, empty directory."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        made = copy.copy(self)
        made.root, made.params, made.outs = root, dict(self.params), dict(self.outs)
        return made

    def git(self, *arguments: str) -> str:
        identity = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        command = ["git", "-C", str(self.root), *arguments]
        return subprocess.run(
            command, env=os.environ | identity, capture_output=True, text=True, check=True
        ).stdout.strip()

    def write_params(self, **sections: Any) -> None:
        self.params |= sections
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.params))

    def release(self, configs: Mapping[str, Sequence[Rows]], **settings: Any) -> str:
        """Replaces the release and commits it; returns the commit."""
        directory = self.root / EXPORT
        for path in sorted(directory.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        write_release(directory, configs, **settings)
        return self.track(EXPORT)

    def track(self, *directories: str, message: str = "data") -> str:
        """Puts directories into the cache and `dvc.lock`, and commits; returns the commit."""
        for directory in directories:
            self.outs[directory] = [{"path": directory, "hash": "md5", "md5": self._cache(self.root / directory)}]
        stages = {f"stage_{i}": {"cmd": "true", "outs": outs} for i, outs in enumerate(self.outs.values())}
        (self.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        return self.commit(message)

    def commit(self, message: str = "more") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def cached(self, path: str) -> Path:
        """Where the cache has a file of the workspace."""
        md5 = hashlib.md5((self.root / path).read_bytes()).hexdigest()
        return self.root / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"

    def _cache(self, directory: Path) -> str:
        listing = []
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            md5 = self._keep(path.read_bytes(), "")
            listing.append({"md5": md5, "relpath": path.relative_to(directory).as_posix()})
        return self._keep(json.dumps(listing, sort_keys=True).encode(), ".dir")

    def _keep(self, content: bytes, suffix: str) -> str:
        md5 = hashlib.md5(content).hexdigest() + suffix
        path = self.root / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return md5
