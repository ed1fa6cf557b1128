"""Files of the Hugging Face Hub at a pinned commit, in its own local cache."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

_COMMIT = re.compile("[0-9a-f]{40}")


def commit_hash(revision: str | None, where: str) -> str:
    """The revision, which must be a full commit hash: branches and tags move, and the data would move with them.

    Raises ValueError naming `where`.
    """
    if revision is None or not _COMMIT.fullmatch(revision):
        have = "nothing" if revision is None else f"'{revision}'"
        raise ValueError(f"{where}: give the 40-digit commit hash from the Hub page's history (have {have})")
    return revision


def download(repo: str, kind: Literal["model", "dataset"], revision: str, patterns: Sequence[str], where: str) -> Path:
    """Directory with the files of a repository that match `patterns`, fetched unless the Hub's cache has them.

    Pickled files are left where they are: `patterns` list what is wanted. Raises ValueError naming `where`.
    """
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=list(patterns)))
    except (HTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        remedy = "check the id and the revision, log in for a gated repository, or use a local `path`"
        raise ValueError(f"{where}: cannot fetch '{repo}' at {revision[:12]} ({reason}); {remedy}") from None
