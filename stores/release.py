"""A release of one artifact: the Git tag, the entry in `DATA_CHANGELOG.md` (from `diff`), the artifact in `dvc.yaml`.

    release = plan(Path(), "pairs", "v1.0", "First pairs.")
    print(release.shown())
    make(release)

An artifact is a table (`data/pairs`), an export (`data/export/<name>`), or what its entry in `dvc.yaml` says. Its entry
keeps its last version (`meta.version`), which is what the next release is compared with.

The tag `v1.0` is of the whole repository, as a tag of Git is: `Store.open(rev="v1.0")`. Beside it stands the tag that
DVC's registry reads, `pairs@v1.0.0`, for `dvc artifacts get . pairs --rev v1.0.0`, where the version has such a form.
Both are annotated, on one commit that holds the two files and nothing else. What fails in between leaves no trace.
"""

import difflib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from schemas import TABLES
from schemas.params import Params, stage_runs, table_runs
from stores.diff import Diff
from stores.paths import WORKSPACE
from stores.release_files import CONFIGS
from stores.release_git import Checkout
from stores.release_text import entry, with_entry
from stores.store import Store
from stores.yaml_edit import set_values

CHANGELOG = "DATA_CHANGELOG.md"
COMMITTED = ("params.yaml", "dvc.yaml", "dvc.lock")
"""Files that a version is made of: they must be committed before it is released."""
_NAME = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SEMANTIC = re.compile(r"v(\d+)(?:\.(\d+))?(?:\.(\d+))?(-[0-9A-Za-z.-]+)?")
_ID = re.compile(r"[0-9a-f]{4,64}")


class Release(NamedTuple):
    """All that a release will write, worked out before anything is written."""

    root: Path
    name: str
    tags: list[str]
    message: str
    entry: str
    files: dict[str, tuple[str | None, str]]
    """Path -> (text now, text then)."""

    def shown(self) -> str:
        """What would be done, for a human."""
        changes = [
            line
            for path, (old, new) in self.files.items()
            if path != CHANGELOG
            for line in difflib.unified_diff((old or "").splitlines(), new.splitlines(), path, path, lineterm="")
        ]
        tags = [f"tag {tag}" for tag in self.tags]
        return "\n".join([f"{CHANGELOG} (on top):", "", self.entry, *changes, "", *tags, f"commit: {self.message}"])


def plan(root: Path, name: str, version: str, notes: str, since: str | None = None) -> Release:
    """The release of an artifact, compared with its last one (or with `since`).

    Raises ValueError, one line with the remedy, for everything that keeps it from being made.
    """
    checkout = Checkout(root)
    tags = [version, *_registry_tags(checkout, name, version)]
    _check_names(checkout, name, version, tags)
    checkout.require_branch()
    checkout.require_committed(COMMITTED, CHANGELOG)
    definition = (root / "dvc.yaml").read_bytes().decode("utf-8")
    artifact = ((yaml.safe_load(definition) or {}).get("artifacts") or {}).get(name) or {}
    with Store.open(root) as store:
        path, stages = _path(store.params, name, artifact)
        checkout.require_built(stages)
        content = _content(store.params, name)
        found = _differences(store, name, content, _previous(checkout, name, version, artifact, since))
        rows = [run for run in store.runs() if run.run in content.get(run.table, ()) and run.built]
        text = entry(name, version, notes, datetime.now(UTC).date(), rows, found)
    values = _values(name, version, path, artifact, {run.run: run.rows or 0 for run in rows})
    changelog = root / CHANGELOG
    old = changelog.read_bytes().decode("utf-8") if changelog.exists() else None
    files = {
        "dvc.yaml": (definition, set_values(definition, values, "dvc.yaml")),
        CHANGELOG: (old, with_entry(old, text)),
    }
    message = f"Release {name} {version}\n\n{notes}".strip()
    return Release(root, name, tags, message, text, files)


def make(release: Release) -> str:
    """Writes the files, commits them and makes the tags; returns the commit's id.

    Raises ValueError with Git's reason where it refuses; files, index, branch and tags are then as they were.
    """
    return Checkout(release.root).release(release.files, release.message, release.tags)


def _check_names(checkout: Checkout, name: str, version: str, tags: list[str]) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name an artifact: lower-case letters, digits, '_' and '-', as in 'pairs'")
    if not _VERSION.fullmatch(version) or version in ("HEAD", WORKSPACE) or _ID.fullmatch(version):
        raise ValueError(f"{version!r} cannot name a version: letters, digits, '.', '-', '_' and '+', as in 'v1.0'")
    for tag in tags:
        checkout.require_free(tag)


def _registry_tags(checkout: Checkout, name: str, version: str) -> list[str]:
    """The tag of DVC's registry, for versions of the form `v1`, `v1.2`, `v1.2.3` or `v1.2.3-rc1`."""
    found = _SEMANTIC.fullmatch(version)
    if not found:
        return []
    major, minor, patch, pre = found.groups()
    numbers = ".".join(str(int(number or 0)) for number in (major, minor, patch))
    prefix = checkout.prefix.rstrip("/")
    return [f"{prefix + '=' if prefix else ''}{name}@v{numbers}{pre or ''}"]


def _path(params: Params, name: str, artifact: dict[str, Any]) -> tuple[str, list[str]]:
    """Where the artifact lies, and the stages (or files) that make it."""
    if name in params.export:
        default, stages = f"data/export/{name}", [f"export@{name}"]
    elif name in TABLES:
        makers = [(s, run) for s, run, block in stage_runs(params) if name in block.writes or name == "rejects"]
        default, stages = f"data/{name}", [f"{section}@{run}" for section, run in makers]
    elif "path" in artifact:
        default, stages = "", [artifact["path"]]
    else:
        known = ", ".join([*params.export, *TABLES])
        raise ValueError(f"nothing is called '{name}': no export, table or artifact of dvc.yaml (have {known})")
    if not stages:
        raise ValueError(f"params.yaml has no run of '{name}'; there is nothing to release")
    return artifact.get("path", default), stages


def _content(params: Params, name: str) -> dict[str, list[str]]:
    """Table -> the runs that a release is of; of what is neither an export nor a table, all pairs."""
    if name not in params.export:
        table = name if name in TABLES else "pairs"
        return {table: list(table_runs(params, table))}
    found: dict[str, list[str]] = {}
    for config in CONFIGS:
        if runs := params.export[name].runs(config):
            found.setdefault("pairs" if config == "step_pairs" else config, []).extend(runs)
    return found


def _previous(checkout: Checkout, name: str, version: str, artifact: dict[str, Any], since: str | None) -> str | None:
    """What a release is compared with: `since`, or the last version that the artifact's entry names."""
    last = since or (artifact.get("meta") or {}).get("version")
    if last is None or since is not None:
        return since
    if not checkout.has_tag(str(last)):
        remedy = "`git fetch --tags` gets it, or name another with --since"
        if last == version:  # killed between the commit and its tag
            commit = checkout.last_change(CHANGELOG)
            remedy = f"`git fetch --tags` gets it, or `git tag -a {version} {commit}` ends a release that was cut off"
        raise ValueError(f"the last release of {name}, '{last}', has no tag here; {remedy}")
    return str(last)


def _differences(store: Store, name: str, content: dict[str, list[str]], previous: str | None) -> Diff | None:
    """What differs from the last release, in the runs of either."""
    if previous is None:
        return None
    with Store.open(store.root, rev=previous) as old:
        before = _content(old.params, name) if name in store.params.export else {}
    runs = [run for side in (content, before) for named in side.values() for run in named]
    return store.diff(previous, WORKSPACE, list(content), runs if name in store.params.export else ())


def _values(
    name: str, version: str, path: str, artifact: dict[str, Any], rows: dict[str, int]
) -> dict[tuple[str, ...], Any]:
    """What the artifact's entry in dvc.yaml says; path, description and labels that it has stay."""
    meta = {"version": version, "rows": sum(rows.values()), "runs": list(rows)}
    new = {
        "path": path,
        "type": "dataset",
        "desc": f"{name} of Pairwright, {', '.join(rows)}",
        "labels": ["pairwright"],
    }
    values: dict[tuple[str, ...], Any] = {
        ("artifacts", name, key): value for key, value in new.items() if key not in artifact
    }
    return values | {("artifacts", name, "meta", key): value for key, value in meta.items()}
