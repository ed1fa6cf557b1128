"""DVC's own files: where its cache lies, and which hash an output has. Importing DVC takes 0.5 s."""

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pathlib import PurePosixPath as Posix
from typing import Any, NamedTuple

import yaml

_CONFIG = "config"
Files = Mapping[str, bytes]
"""Path -> content, of one version."""


class Out(NamedTuple):
    """One output of a stage, or of `dvc add`: the MD5 that names it in the cache (of a directory: of its listing)."""

    md5: str
    size: int | None

    @property
    def is_dir(self) -> bool:
        return self.md5.endswith(".dir")

    def path(self, cache: Path) -> Path:
        """Its file in the cache, whether it is there or not."""
        return cache / "files" / "md5" / self.md5[:2] / self.md5[2:]


def project_dir(root: Path) -> Path:
    """The nearest directory with `.dvc`, from `root` upwards.

    Raises ValueError if there is none.
    """
    start = root.resolve()
    for directory in (start, *start.parents):
        if (directory / ".dvc").is_dir():
            return directory
    raise ValueError(f"{root}: no DVC project here (no directory `.dvc`); run in the project's directory")


def cache_dir(project: Path) -> Path:
    """`cache.dir` of the nearest level that sets it: `.dvc/config.local`, `.dvc/config`, the user's, the system's.

    Raises ValueError for a cache that is not on this machine, and for a file that is no configuration.
    """
    own = project / ".dvc"
    for file in (own / "config.local", own / _CONFIG, *_user_configs()):
        given = _setting(file)
        if given is not None:
            if re.match(r"\w+://", given):
                raise ValueError(f"{file}: the cache {given} is not on this machine; set cache.dir to a directory")
            return Path(os.path.abspath(file.parent / Path(given).expanduser()))  # noqa: PTH100, links stay as given
    return own / "cache"


def _user_configs() -> Iterator[Path]:
    import platformdirs

    given = (os.environ.get(f"DVC_{level}_CONFIG_DIR") for level in ("GLOBAL", "SYSTEM"))
    usual = (platformdirs.user_config_dir, platformdirs.site_config_dir)
    for directory, default in zip(given, usual, strict=True):
        yield Path(directory or default("dvc", "iterative")) / _CONFIG


def _setting(file: Path) -> str | None:
    if not file.is_file():
        return None
    parser = configparser.ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=("#",))
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not a configuration of DVC ({' '.join(str(error).split())})") from None
    value = parser.get("cache", "dir", fallback=None)
    return value.strip("\"'") if value else None


def outputs(files: Files, version: str) -> dict[str, Out]:
    """Path -> output, of all `dvc.lock` and `*.dvc` among the files.

    A stage that is gone leaves its entry in `dvc.lock`: where two entries have one path, the stage counts that
    `dvc.yaml` still has. Raises ValueError for a file that is not DVC's, or has two such stages.
    """
    found: dict[str, dict[str, Out]] = {}
    for path, content in files.items():
        if Posix(path).name == "dvc.lock" or path.endswith(".dvc"):
            for stage, out in _entries(path, content, version):
                found.setdefault(os.path.normpath(Posix(path).parent / out["path"]), {})[stage] = _out(
                    path, out, version
                )
    several = {path: entries for path, entries in found.items() if len(set(entries.values())) > 1}
    live = _Stages(files) if several else None
    single = {path: next(iter(entries.values())) for path, entries in found.items() if path not in several}
    return single | {path: _only(path, entries, live, version) for path, entries in several.items() if live is not None}


def _entries(path: str, content: bytes, version: str) -> Iterator[tuple[str, dict[str, Any]]]:
    loaded = _load(path, content, version)
    if path.endswith(".dvc"):
        yield from ((path, out) for out in loaded.get("outs") or [])
        return
    for stage, entry in (loaded.get("stages") or {}).items():
        yield from ((f"{path}:{stage}", out) for out in entry.get("outs") or [])


def _out(path: str, out: dict[str, Any], version: str) -> Out:
    if out.get("hash") != "md5" or not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(out.get("md5"))):
        raise ValueError(f"{path} at {version}: {out['path']} has no MD5; written by another DVC than version 3?")
    return Out(out["md5"], out.get("size"))


def _only(path: str, entries: dict[str, Out], stages: "_Stages", version: str) -> Out:
    left = {out for stage, out in entries.items() if stages.has(stage)}
    if len(left) != 1:
        names = ", ".join(stage.partition(":")[2] or stage for stage in entries)
        raise ValueError(
            f"dvc.lock at {version}: {path} is an output of several stages ({names}); run `dvc repro` there"
        )
    return left.pop()


def _load(path: str, content: bytes, version: str) -> dict[str, Any]:
    try:
        loaded = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} at {version}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} at {version}: not a file of DVC")
    return loaded


class _Stages:
    """Which stages `dvc.yaml` and `params.yaml` still have."""

    def __init__(self, files: Files):
        self._files = files

    def has(self, entry: str) -> bool:
        """Of an entry such as `dvc.lock:samples@irpo_0`; `*.dvc` files are always there."""
        path, _, stage = entry.partition(":")
        if not stage:
            return True
        name, _, key = stage.partition("@")
        body = self._read(Posix(path).parent / "dvc.yaml").get("stages", {}).get(name)
        if body is None or not key or "foreach" not in body:
            return body is not None and bool(key) == ("matrix" in body) and "foreach" not in body
        each = body["foreach"]
        if isinstance(each, str):
            each = self._param(Posix(path).parent / "params.yaml", each.strip("${} "))
        return key in map(str, each)

    def _param(self, path: Posix, dotted: str) -> Any:
        value: Any = self._read(path)
        for part in dotted.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        return value

    def _read(self, path: Posix) -> dict[str, Any]:
        return _load(str(path), self._files.get(str(path), b"{}"), "this version")
