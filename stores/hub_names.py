"""Names that become parts of URLs and Git references: checked before anything is asked or sent."""

import re

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile("[0-9a-f]{7,40}")
_LONGEST = 96


def repository(name: str) -> str:
    """The name. Raises ValueError unless it is one that the Hub gives: `ORG/NAME`."""
    parts = name.split("/")
    bad = ".." in name or "--" in name or any(part.endswith((".", "-", ".git")) for part in parts)
    if not _REPOSITORY.fullmatch(name) or bad or len(name) > _LONGEST:
        raise ValueError(
            f"{name!r} is no repository of the Hub; give ORG/NAME: letters, digits and single . - _ inside, at most"
            f" {_LONGEST} characters"
        )
    return name


def tag(name: str) -> str:
    """The tag. Raises ValueError unless Git takes it and it cannot be mistaken for a branch or a commit."""
    if not _TAG.fullmatch(name) or ".." in name or name.endswith((".", ".lock")):
        raise ValueError(f"{name!r} is no tag; give letters, digits and . - _, such as v1.0")
    if name in ("main", "master", "HEAD") or _COMMIT.fullmatch(name):
        raise ValueError(f"tag '{name}' could be mistaken for a branch or a commit; give one such as v1.0")
    return name
