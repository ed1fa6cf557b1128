"""The part of `pairwright doctor` that looks at where versions go: DVC's links, its cache, its default remote.

URLs of remotes are never shown: they may hold names and keys.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from builders.doctor import Finding
from stores.paths import DATA

_LINKS = "`dvc config --local cache.type reflink,hardlink,symlink`, then `dvc checkout --relink`"
_PACKAGES = {"s3": ("dvc_s3", "s3"), "ssh": ("dvc_ssh", "ssh")}
"""Scheme of a remote -> its module, and our extra that installs it."""
_ASKS_S = 60
_ASK = """
import logging
from pathlib import Path
from dvc.repo import Repo
logging.disable(logging.CRITICAL)
try:
    odb = Repo().cloud.get_remote_odb()
    away = odb.fs.protocol == "local" and not Path(odb.path).parents[1].exists()
    print("there" if odb.fs.exists(odb.path) else "away" if away else "empty")
except Exception as error:  # whatever the client of this kind of remote raises
    print("refused", type(error).__name__, " ".join(str(error).split()))
"""


def examine_remotes(root: Path, possible: str, cache_at: Path, network: bool) -> Iterator[Finding]:
    """Findings about links, the cache and the default remote; `possible` is what `dvc doctor` calls "Cache types"."""
    config = configuration(root)
    yield links(possible, config.get("cache.type"))
    yield cache(cache_at, root / DATA)
    found = remote(config)
    yield found
    if found.state != "problem" and "core.remote" in config:
        yield from _unchecked(config)
        yield reach(root) if network else Finding("dvc remote", "ok", "the remote: not asked (--network asks)")


def configuration(root: Path) -> dict[str, str]:
    """All that DVC is told, by its files of every level: `core.remote`, `cache.type`, `remote.<name>.url`, …"""
    said = _dvc(root, "config", "--list")
    return {name: value.strip() for name, mark, value in (line.partition("=") for line in said.splitlines()) if mark}


def _dvc(root: Path, *arguments: str) -> str:
    """What a command of DVC prints; nothing where it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def links(possible: str, configured: str | None) -> Finding:
    """How DVC brings files from its cache into the workspace; unlike links, copies take the space twice."""
    kinds = [kind.strip() for kind in (configured or "reflink,copy").split(",")]
    if "http" in possible or not possible:
        return Finding("dvc links", "ok", "no cache yet")
    used = next((kind for kind in kinds if kind in possible.replace(",", " ").split()), "copy")
    if used != "copy":
        return Finding("dvc links", "ok", f"{used}: versions share space with the workspace")
    return Finding("dvc links", "warning", "copies: every version in the workspace takes its space twice", _LINKS)


def cache(directory: Path, data: Path) -> Finding:
    """Whether files can be linked: within one file system, reflinks and hard links are possible, across two not."""
    here, there = existing(data), existing(directory)
    if here.stat().st_dev == there.stat().st_dev:
        return Finding("dvc cache", "ok", f"on the file system of {DATA}/; {directory}")
    remedy = "`dvc cache dir --local DIRECTORY` on the same disk; or `dvc config --local cache.type symlink`"
    return Finding("dvc cache", "warning", f"{directory} is on another file system than {DATA}/: no hard links", remedy)


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    path = path.absolute()
    return path if path.exists() else existing(path.parent)


def remote(config: Mapping[str, str]) -> Finding:
    """The default remote: that there is one, and that its kind is installed."""
    names = sorted({match[1] for key in config if (match := re.fullmatch(r"remote\.(.+)\.url", key))})
    default = config.get("core.remote")
    if not names:
        remedy = "`dvc remote add -d NAME URL`, then `dvc push` after each version"
        return Finding("dvc remote", "warning", "none: versions lie on this machine alone", remedy)
    if default is None:
        detail = f"{', '.join(names)}, but no default one: `dvc push` and `dvc fetch` use none"
        return Finding("dvc remote", "warning", detail, f"`dvc remote default {names[0]}`")
    if default not in names:
        detail = f"the default remote '{default}' has no URL (have {', '.join(names)})"
        return Finding("dvc remote", "problem", detail, f"`dvc remote default {names[0]}`")
    before, mark, _ = config[f"remote.{default}.url"].partition("://")
    scheme = before if mark else "local"
    module, extra = _PACKAGES.get(scheme, ("dvc", ""))
    if find_spec(module) is None:
        detail = f"'{default}' is of the kind {scheme}, and {module.replace('_', '-')} is not installed"
        return Finding("dvc remote", "problem", detail, f"`pip install -c constraints.txt -e '.[{extra}]'`")
    return Finding("dvc remote", "ok", f"'{default}' ({scheme})")


def _unchecked(config: Mapping[str, str]) -> Iterator[Finding]:
    """DVC takes what a remote sends for what was asked for, unless it is told to look."""
    name = config["core.remote"]
    if config.get(f"remote.{name}.verify", "").lower() != "true":
        detail = f"what comes from '{name}' is not compared with its checksum"
        yield Finding("dvc remote", "warning", detail, f"`dvc remote modify {name} verify true`")


def reach(root: Path) -> Finding:
    """Whether the default remote answers, and lets us in."""
    command = [sys.executable, "-c", _ASK]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=_ASKS_S)
    except subprocess.TimeoutExpired:
        return Finding("dvc remote", "problem", f"the remote does not answer within {_ASKS_S} s", "mend its URL")
    state, _, reason = done.stdout.strip().rpartition("\n")[2].partition(" ")
    if state == "there":
        return Finding("dvc remote", "ok", "the remote answers")
    if state == "away":
        return Finding(
            "dvc remote", "warning", "the remote's directory is not there", "mount it; else `dvc push` makes it"
        )
    if state == "empty":
        return Finding("dvc remote", "ok", "the remote answers; nothing was pushed to it yet")
    reason = re.sub(r"\w+://[^\s\"']+", "…", reason or done.stderr.strip()[-200:])
    remedy = "start it, mend its URL, or set its keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; an SSH key)"
    return Finding("dvc remote", "problem", f"the remote cannot be used: {reason}", remedy)
