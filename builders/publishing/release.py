"""The content of a published data set: `data/export/<release>` of one commit, stamped with its Git revision."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from builders.exporting.card_text import stamped
from builders.exporting.licences import laxer
from builders.publishing.plans import Content, Local, local, with_provenance
from stores.git import Repository
from stores.release_files import CARD, PROVENANCE, check_file, data_files, parse_provenance
from stores.revisions import Snapshot

DECIDING = ("params.yaml", "dvc.yaml", "dvc.lock")
"""Files that decide which data a commit has: the commit that changed one last is the data's revision."""
_RELEASE = re.compile(r"[a-z][a-z0-9_]*")


def snapshot_of(root: Path, revision: str | None) -> Snapshot:
    """The commit to publish: a revision, or the one that is checked out.

    Raises ValueError where the checkout has changes that its commit has not.
    """
    if revision is not None:
        return Snapshot.at(root, revision)
    changed = Repository(root).changed(DECIDING)
    if changed:
        raise ValueError(
            f"{changed[0]} has changes that are not committed, so no revision names this data; `git commit` them, or"
            " name a revision with --rev"
        )
    return Snapshot.at(root, "HEAD")


def data_revision(snapshot: Snapshot) -> str:
    """The commit that last changed what decides the data; other commits since, such as of the README, count nothing."""
    return Repository(snapshot.root).last_change(snapshot.commit, DECIDING)


def release_content(
    snapshot: Snapshot, name: str | None = None, test_answers: bool = False, repository: str | None = None
) -> Content:
    """A release (default: the only one), every file checked against the SHA-256 of its provenance.

    The card shows how to load it from `repository`.

    Raises ValueError for an unknown release, one that is not built or whose files are damaged, a licence that is laxer
    than that of a source, and one with gold answers of test splits unless `test_answers` allows it.
    """
    name, config = _declared(snapshot, name)
    place = f"data/export/{name}"
    files = _files(snapshot, place)
    provenance = parse_provenance(files[PROVENANCE].read_bytes(), f"{place}/{PROVENANCE}")
    _check_answers(name, config, provenance, test_answers)
    licence = _checked_licence(provenance, files[CARD], place)
    for path, sha256 in data_files(provenance).items():
        if path not in files:
            raise ValueError(f"{place}/{path} is missing; rebuild it with `dvc repro export@{name}`")
        check_file(files[path], sha256, f"{place}/{path}", f"rebuild it with `dvc repro -f export@{name}`")
    revision = data_revision(snapshot)
    card = stamped(files[CARD].read_text(encoding="utf-8"), revision, repository)
    sent: dict[str, Local] = {path: local(at) for path, at in files.items() if path not in (CARD, PROVENANCE)}
    sent[CARD] = local(card.encode())
    title = f"Release {name} at revision {revision[:12]}"
    everything = with_provenance(sent, provenance | {"revision": revision})
    return Content("dataset", title, licence, everything, tuple(provenance["configs"]))


def _declared(snapshot: Snapshot, name: str | None) -> tuple[str, Mapping[str, Any]]:
    """A release and its settings in that commit's params, of which nothing else is read: they may be older."""
    params = yaml.safe_load(snapshot.text("params.yaml"))
    releases = (params.get("export") if isinstance(params, dict) else None) or {}
    have = ", ".join(releases) or "none"
    if name is None:
        if len(releases) != 1:
            raise ValueError(f"name the release with --release (params.yaml of {snapshot.name} has {have})")
        (name,) = releases
    if name not in releases or not _RELEASE.fullmatch(name):
        raise ValueError(f"no release '{name}' under `export` in params.yaml of {snapshot.name} (have {have})")
    return name, releases[name] or {}


def _files(snapshot: Snapshot, place: str) -> dict[str, Path]:
    if not snapshot.has(place):
        raise ValueError(
            f"{place} is not in dvc.lock of {snapshot.name}; build it with `dvc repro` and commit dvc.lock"
        )
    files = snapshot.files(place)
    for name in (CARD, PROVENANCE):
        if name not in files:
            raise ValueError(f"{place} has no {name}; rebuild it with `dvc repro -f export@{Path(place).name}`")
    return files


def _check_answers(name: str, config: Mapping[str, Any], provenance: Mapping[str, Any], allowed: bool) -> None:
    if (config.get("test_answers") or provenance.get("test_answers")) and not allowed:
        raise ValueError(
            f"release '{name}' holds gold answers of test splits (export.{name}.test_answers); take them out, or allow"
            " it with --test-answers"
        )


def _checked_licence(provenance: Mapping[str, Any], card: Path, place: str) -> str:
    """The licence that the card states. Raises ValueError where a source of the rows asks for more."""
    text = card.read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n", 2)[1]) if text.startswith("---\n") else None
    licence = front.get("license") if isinstance(front, dict) else None
    if not isinstance(licence, str):
        raise ValueError(f"{place}/{CARD} states no `license`; rebuild it with `dvc repro -f`")
    sources = _sources(provenance, place)
    if strict := laxer(licence, sources):
        raise ValueError(
            f"{place}: the card's licence '{licence}' is laxer than that of a source ({', '.join(strict)}); set the"
            " release's `licence` in params.yaml, or leave the rows of that source out"
        )
    return licence


def _sources(provenance: Mapping[str, Any], place: str) -> set[str]:
    """Licences of the sources of all rows. Raises ValueError where those of a config's rows are not stated."""
    stated = provenance.get("licences") or {}
    for name, config in provenance["configs"].items():
        if config.get("rows") != 0 and not stated.get(name):
            raise ValueError(f"{place}/{PROVENANCE} states no licences for '{name}'; rebuild it with `dvc repro -f`")
    return {row["licence"] for rows in stated.values() for row in rows}
