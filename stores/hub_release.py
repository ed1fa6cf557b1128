"""A published release in the Hub's own local cache: `hf://ORG/NAME@v1.0`, its provenance, and its files once checked.

Needs neither DuckDB nor DVC. What is in the cache needs no network.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from stores.hub_errors import hub_errors
from stores.hub_names import repository
from stores.release_files import PROVENANCE, data_files, parse_provenance
from stores.verified import SHA256, damaged

SCHEME = "hf://"
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


class HubRelease(NamedTuple):
    """A release at one commit of a data set repository; `directory` is its snapshot in the cache."""

    name: str
    commit: str
    directory: Path
    provenance: dict[str, Any]

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.name}@{self.commit[:12]}"

    def is_cached(self, config: str) -> bool:
        return all((self.directory / path).is_file() for path in data_files(self.provenance, config))

    def files(self, config: str) -> list[Path]:
        """The Parquet files of one config, fetched unless they are cached, each checked against its SHA-256.

        Raises ValueError for a config that it lacks, for what cannot be fetched, and for a damaged file.
        """
        if config not in self.provenance["configs"]:
            raise ValueError(f"{self.url}: no config '{config}' (have {', '.join(self.provenance['configs'])})")
        wanted = data_files(self.provenance, config)
        directory = _fetch(self.name, self.commit, list(wanted))
        found = {(directory / path).resolve(): f"{SHA256}{sha256}" for path, sha256 in wanted.items()}
        for path, at in zip(wanted, found, strict=True):
            if not at.is_file():
                raise ValueError(f"{self.url}: {path} is not there, though its provenance lists it; publish it again")
        for path in damaged(found):
            raise ValueError(f"{path}: damaged, not what {self.url} says; delete this file, and it is fetched again")
        return list(found)


def is_hub_url(name: object) -> bool:
    return isinstance(name, str) and name.startswith(SCHEME)


def open_hub_release(url: str) -> HubRelease:
    """The release that `hf://ORG/NAME[@REVISION]` names (default: the branch `main`).

    Raises ValueError for a malformed name, for a repository or revision that cannot be read, and for one that holds no
    release.
    """
    name, _, revision = url.removeprefix(SCHEME).partition("@")
    revision = revision or "main"
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ValueError(f"{url}: '{revision}' is no tag, branch or commit")
    directory = _fetch(repository(name), revision, [PROVENANCE])
    if not (directory / PROVENANCE).is_file():
        raise ValueError(f"{url}: holds no release (no {PROVENANCE}); `pairwright publish` makes one")
    provenance = parse_provenance((directory / PROVENANCE).read_bytes(), f"{url}/{PROVENANCE}")
    return HubRelease(name, directory.name, directory, provenance)


def _fetch(name: str, revision: str, paths: list[str]) -> Path:
    """The snapshot's directory, with these files."""
    import sys

    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    shown = revision[:12] if re.fullmatch("[0-9a-f]{40}", revision) else revision
    with hub_errors(f"{SCHEME}{name}@{shown} cannot be read", constants.ENDPOINT):
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=paths))
