"""DVC's own files: where its cache lies, and which hash an output has. Importing DVC takes 0.5 s."""

import configparser
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pathlib import PurePosixPath as Posix
from typing import Any, NamedTuple

import yaml

_CONFIG = "config"
_MD5 = r"[0-9a-f]{32}"
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
    stages = _Stages(files)
    found: dict[str, dict[str, Out]] = {}
    for path, content in files.items():
        if Posix(path).name == "dvc.lock" or path.endswith(".dvc"):
            for stage, folder, out in _entries(path, content, version, stages):
                place = os.path.normpath(Posix(path).parent / folder / out["path"])
                found.setdefault(place, {})[stage] = _out(path, out, version)
    return {
        path: _only(path, entries, stages, version) if len(set(entries.values())) > 1 else next(iter(entries.values()))
        for path, entries in found.items()
    }


def _entries(path: str, content: bytes, version: str, stages: "_Stages") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(stage, the directory that it works in, output) of one file."""
    loaded = _load(path, content, version)
    if path.endswith(".dvc"):
        yield from ((path, loaded.get("wdir", "."), out) for out in loaded.get("outs") or [])
        return
    for stage, entry in (loaded.get("stages") or {}).items():
        folder = stages.folder(f"{path}:{stage}")
        yield from ((f"{path}:{stage}", folder, out) for out in entry.get("outs") or [])


def _out(path: str, out: dict[str, Any], version: str) -> Out:
    if out.get("hash") != "md5" or not re.fullmatch(rf"{_MD5}(\.dir)?", str(out.get("md5"))):
        raise ValueError(f"{path} at {version}: {out['path']} has no MD5; written by another DVC than version 3?")
    return Out(out["md5"], out.get("size"))


def listed(content: bytes, at: str) -> dict[str, Out]:
    """Path below `at` -> file, of the listing that DVC keeps of a directory.

    Raises ValueError for what DVC does not write: a listing that leads out of the directory, or out of the cache.
    """
    entries = json.loads(content)
    paths = [os.path.normpath(Posix(at) / entry["relpath"]) for entry in entries]
    if any(not path.startswith(f"{at}/") for path in paths) or any(
        not re.fullmatch(_MD5, entry["md5"]) for entry in entries
    ):
        raise ValueError(f"{at}: its listing in DVC's cache names what is not below it; it was not written by DVC")
    return {path: Out(entry["md5"], None) for path, entry in zip(paths, entries, strict=True)}


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
        self._files, self._loaded = files, dict[Posix, dict[str, Any]]()

    def has(self, entry: str) -> bool:
        """Of an entry such as `dvc.lock:samples@irpo_0`; `*.dvc` files are always there."""
        path, _, stage = entry.partition(":")
        if not stage:
            return True
        key, body = stage.partition("@")[2], self._body(entry)
        if body is None or not key or "foreach" not in body:
            return body is not None and bool(key) == ("matrix" in body) and "foreach" not in body
        each = body["foreach"]
        if isinstance(each, str):
            each = self._param(Posix(path).parent / "params.yaml", each.strip("${} "))
        return key in map(str, each)

    def folder(self, entry: str) -> str:
        """The directory that a stage works in, which its outputs' paths start from."""
        graph = self._files.get(str(Posix(entry.partition(":")[0]).parent / "dvc.yaml"), b"")
        body = (self._body(entry) or {}) if b"wdir" in graph else {}
        return body.get("do", body).get("wdir", ".")

    def _body(self, entry: str) -> dict[str, Any] | None:
        path, _, stage = entry.partition(":")
        return self._read(Posix(path).parent / "dvc.yaml").get("stages", {}).get(stage.partition("@")[0])

    def _param(self, path: Posix, dotted: str) -> Any:
        value: Any = self._read(path)
        for part in dotted.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        return value

    def _read(self, path: Posix) -> dict[str, Any]:
        if path not in self._loaded:
            self._loaded[path] = _load(str(path), self._files.get(str(path), b"{}"), "this version")
        return self._loaded[path]
