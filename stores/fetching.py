"""Fetches one version from the DVC remote: DVC's own command can only for all tags, all branches or all commits."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from stores.revisions import Snapshot


def fetch(rev: str, paths: Sequence[str] = (), root: Path = Path()) -> int:
    """Gets what a version tracks at or below `paths` (none: all) into the local cache; returns how many files came.

    A damaged file of the cache is replaced. Remote and cache are those of the checkout's configuration, even if the
    version had others, or none. Raises ValueError for what the remote does not have, and if there is no remote.
    """
    snapshot = Snapshot.at(root, rev)
    targets = [target for path in paths or ["."] for target in snapshot.targets(path)]
    for target in targets:  # DVC takes a file that is in the cache for whole
        for damaged in snapshot.damaged(target).values():
            damaged.unlink(missing_ok=True)
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with contextlib.chdir(root), Repo() as repo:
        config = {section: dict(repo.config[section]) for section in ("core", "remote", "cache")}
        try:
            count = repo.fetch(
                targets=targets if paths else None, revs=[snapshot.commit], workspace=False, config=config
            )
        except DvcException as error:
            raise ValueError(f"{rev}: {' '.join(str(error).split())}") from None
    lacking = [target for target in targets if not snapshot.is_local(target)] if paths else []
    if lacking:
        raise ValueError(
            f"{rev}: the remote lacks {', '.join(lacking)}; `dvc push` it where it was built, or build it again"
        )
    return count
