"""A hash of code: what a change of makes results that were kept outside the workspace stale."""

from collections.abc import Iterable
from pathlib import Path

from schemas.ids import text_hash

_ROOT = Path(__file__).parent.parent


def code_hash(patterns: Iterable[str]) -> str:
    """Over the files of the project that match, in order."""
    paths = (path for pattern in patterns for path in sorted(_ROOT.glob(pattern)))
    return text_hash("".join(path.read_text(encoding="utf-8") for path in paths))
