"""One repository on the Hub, through huggingface_hub and the login of this machine. Every error is one line.

Commits are made by `create_commit` with the parent that was read, never by `upload_folder`, which makes several with
Xet (huggingface_hub 2.x), and never with force.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from builders.publishing.plans import Kind, Local, Remote
from stores.hub_errors import hub_errors
from stores.hub_names import repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BRANCH = "main"


class State(NamedTuple):
    """A repository at one commit; `tags` (name -> commit) and `branches` are of the whole repository."""

    commit: str
    private: bool
    files: dict[str, Remote]
    tags: dict[str, str]
    branches: frozenset[str]


class HubRepository:
    """A data set or model repository. `api` decides the endpoint and the token (default: the environment's).

    Every method raises ValueError of one line for what goes wrong.
    """

    def __init__(self, name: str, kind: Kind, api: "HfApi | None" = None):
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        self.name, self.kind, self.api = repository(name), kind, api or HfApi(library_name="pairwright")
        if not sys.stderr.isatty():
            disable_progress_bars()

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def look(self, revision: str = BRANCH) -> State | None:
        """The repository at a revision; None where there is none that this login may see."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._errors("be read"):
            try:
                info = self.api.repo_info(self.name, repo_type=self.kind, revision=revision)
            except RepositoryNotFoundError:
                return None
            assert info.sha is not None
            found = self.api.list_repo_tree(self.name, recursive=True, revision=info.sha, repo_type=self.kind)
            refs = self.api.list_repo_refs(self.name, repo_type=self.kind)
            files = {
                file.path: Remote(file.size, file.blob_id, file.lfs.sha256 if file.lfs else None)
                for file in found
                if isinstance(file, RepoFile)
            }
        tags, branches = {tag.name: tag.target_commit for tag in refs.tags}, frozenset(b.name for b in refs.branches)
        return State(info.sha, bool(info.private), files, tags, branches)

    def read(self, path: str, commit: str) -> bytes:
        """A small file, without a copy on this disk."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        url = hf_hub_url(self.name, path, repo_type=self.kind, revision=commit, endpoint=self.api.endpoint)
        with self._errors(f"be read ({path})"):
            answer = http_backoff("GET", url, headers=build_hf_headers(token=self.api.token), follow_redirects=True)
            hf_raise_for_status(answer)
            return answer.content

    def create(self, private: bool) -> None:
        """Makes the repository, private from the first moment where that is asked."""
        with self._errors("be created"):
            self.api.create_repo(self.name, repo_type=self.kind, private=private, exist_ok=True)

    def commit(self, parent: str, files: Mapping[str, Local], delete: Sequence[str], title: str) -> str:
        """One commit on top of `parent`: all of it or nothing. Returns its hash.

        A `.gitignore` in the repository would make the client leave files out without a word, so it is told of none.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._errors("be changed"):
            additions = [CommitOperationAdd(path, file.source) for path, file in files.items()]
            deletions = [CommitOperationDelete(path, is_folder=False) for path in delete]
            if additions:
                self.api.preupload_lfs_files(
                    self.name, additions, repo_type=self.kind, free_memory=False, gitignore_content="# none\n"
                )
            made = self.api.create_commit(
                self.name, [*additions, *deletions], commit_message=title, repo_type=self.kind, parent_commit=parent
            )
        return made.oid

    def tag(self, tag: str, commit: str) -> None:
        with self._errors(f"be tagged '{tag}'"):
            self.api.create_tag(self.name, tag=tag, revision=commit, repo_type=self.kind)

    def _errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        return hub_errors(f"{self.kind} {self.name} cannot {what}", self.api.endpoint, self.api.token)
