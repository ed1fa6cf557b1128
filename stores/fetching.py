"""Fetches one version from the DVC remote: DVC's own command can only for all tags, all branches or all commits.

DVC takes what lies in its cache, and what a remote sends, for whole, and ends well where the remote lacks files. Here
both are looked at, before and afterwards.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from stores.revisions import Snapshot

_SHOWN = 3
_LOGGERS = ("dvc", "dvc_data", "dvc_objects")


def fetch(rev: str, paths: Sequence[str] = (), root: Path = Path()) -> int:
    """Gets what a version tracks at or below `paths` (none: all) into the local cache; returns how many files came.

    A damaged file of the cache is replaced. Remote and cache are those of the checkout's configuration, even if the
    version had others. Raises ValueError if there is none, it does not answer or refuses the keys, for
    what it does not have, and for what is damaged there.
    """
    snapshot = Snapshot.at(root, rev)
    targets = [target for path in paths or ["."] for target in snapshot.targets(path)]
    for target in targets:
        for damaged in snapshot.damaged(target).values():
            damaged.unlink(missing_ok=True)
    count = _ask_dvc(snapshot, targets if paths else None)
    for target in targets:
        for path, damaged in snapshot.damaged(target, again=False).items():
            damaged.unlink(missing_ok=True)
            place = damaged.relative_to(damaged.parents[3])
            remedy = "copy it there anew from a cache that has it whole (`dvc push` does not replace it)"
            raise ValueError(f"{rev}: {path} is damaged at the remote, where it is {place}; {remedy}")
    lacking = [target for target in targets if not snapshot.is_local(target)]
    if lacking:
        remedy = "`dvc push` it where it was built, or build it again"
        raise ValueError(f"{rev}: the remote lacks {_some(lacking)}; {remedy}")
    return count


def _ask_dvc(snapshot: Snapshot, targets: list[str] | None) -> int:
    from dvc.repo import Repo

    with contextlib.chdir(snapshot.root), Repo() as repo, _reasons() as reasons:
        config = {section: dict(repo.config[section]) for section in ("core", "remote", "cache")}
        if not config["core"].get("remote"):  # DVC would fetch nothing, and call that a success
            raise ValueError("no default remote to fetch from; `dvc remote add -d NAME URL` names one")
        try:
            return repo.fetch(targets=targets, revs=[snapshot.commit], workspace=False, config=config)
        except Exception as error:  # DVC's own, and whatever the client of this kind of remote raises
            said = " ".join(": ".join([str(error) or type(error).__name__, *reasons[:1]]).split())
            raise ValueError(f"{snapshot.name}: {said}") from None


@contextlib.contextmanager
def _reasons() -> Iterator[list[str]]:
    """What DVC logs as errors, one for each file that failed, instead of printing it."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            cause = record.exc_info[1] if record.exc_info else None
            found.append(record.getMessage() + (f": {cause}" if cause else ""))

    listening: list[logging.Handler] = [Listener(logging.ERROR)]
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = listening, False
    try:
        yield found
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
