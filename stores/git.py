"""What a Git repository holds at a commit, read with `git` itself and without a checkout.

No name that a user gives is ever an argument of a command or reaches a shell: names go to `git cat-file` on its
standard input, and only full ids that it answered are arguments.
"""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

_NAME = re.compile(r"(?!-)[^\s\x00-\x1f\x7f:\\*?\[]+")
"""What may name a revision: Git's own rule for names, and `~`, `^` and `@{…}` after one. No path, search or range."""


class Repository:
    """The Git repository that a directory lies in; paths are relative to that directory.

    Raises ValueError, in every method, for what Git refuses.
    """

    def __init__(self, directory: Path):
        self.directory = directory.resolve()

    def commit(self, name: str) -> str:
        """The full id of the commit that a tag, branch, commit id or DVC experiment names."""
        if not _NAME.fullmatch(name) or ".." in name:
            raise ValueError(f"{name!r} cannot name a revision; give a tag, branch, commit or experiment")
        (answer,) = self._batch_check([f"{name}^{{commit}}"])
        if answer.endswith(" ambiguous"):
            raise ValueError(f"'{name}' is the beginning of several commit ids; give more digits")
        return answer.split()[0] if " commit " in answer else self._further(name)

    def _further(self, name: str) -> str:
        """A remote's branch, or an experiment of DVC (`refs/exps/<baseline>/<name>`; the checkout's own go first)."""
        refs, last = self.refs("refs/remotes", "refs/exps"), re.escape(name)
        found = {commit for ref, commit in refs.items() if re.fullmatch(rf"refs/remotes/[^/]+/{last}", ref)}
        if not found:
            form = re.compile(rf"refs/exps/([0-9a-f]{{2}})/([0-9a-f]+)/{last}")
            experiments = {"".join(m.groups()): commit for ref, commit in refs.items() if (m := form.fullmatch(ref))}
            own = experiments.get(self.commit("HEAD")) if len(experiments) > 1 else None
            found = {own} if own else set(experiments.values())
        if not found:
            remedy = "`git fetch --tags` gets those of a remote"
            raise ValueError(f"no tag, branch, commit or experiment '{name}' ({remedy})")
        if len(found) > 1:
            raise ValueError(f"'{name}' names several commits ({', '.join(sorted(found))}); give the id of one")
        return found.pop()

    def refs(self, *prefixes: str) -> Mapping[str, str]:
        """Full name of a ref -> its commit's id, of the refs below the prefixes."""
        format = "%(refname)%00%(objectname)%00%(*objectname)"
        lines = self._git("for-each-ref", f"--format={format}", *prefixes).decode(errors="replace").splitlines()
        fields = (line.split("\0") for line in lines)
        return {ref: peeled or object for ref, object, peeled in fields}

    def tree(self, commit: str) -> dict[str, str]:
        """Path -> id of its blob, for every file at a commit."""
        assert re.fullmatch(r"[0-9a-f]{40,64}", commit), "only full ids are arguments"
        listed = self._git("ls-tree", "-r", "-z", commit).decode(errors="surrogateescape")
        entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
        return {path: head.split()[2] for head, _, path in entries if " blob " in head}

    def blobs(self, ids: Iterable[str]) -> list[bytes]:
        """The contents of blobs, in order."""
        wanted = list(ids)
        answer, contents = self._git("cat-file", "--batch", input="\n".join(wanted).encode()), []
        start = 0
        for blob in wanted:
            head, _, _ = answer[start : start + 200].partition(b"\n")
            if not head.startswith(f"{blob} blob ".encode()):
                raise ValueError(f"{self.directory}: Git lacks the object {blob}; `git fsck` says more")
            begin = start + len(head) + 1
            start = begin + int(head.split()[2]) + 1
            contents.append(answer[begin : start - 1])
        return contents

    def changed(self, paths: Iterable[str]) -> list[str]:
        """Those of some paths below the directory that differ from the commit that is checked out."""
        status = self._git("status", "--porcelain", "-z", "--untracked-files=all", "--", *paths)
        return [entry[3:].decode(errors="replace") for entry in status.split(b"\0") if entry]

    def last_change(self, commit: str, paths: Iterable[str]) -> str:
        """The newest commit, `commit` or one before it, that changed one of some paths below the directory."""
        assert re.fullmatch(r"[0-9a-f]{40,64}", commit), "only full ids are arguments"
        return self._git("log", "-1", "--format=%H", commit, "--", *paths).decode().strip()

    def _batch_check(self, names: Iterable[str]) -> list[str]:
        answer = self._git("cat-file", "--batch-check", input="\n".join(names).encode(errors="surrogateescape"))
        return answer.decode(errors="replace").splitlines()

    def _git(self, *arguments: str, input: bytes = b"") -> bytes:
        """Variables such as GIT_DIR, which Git sets for its hooks, would lead to another repository."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", "-C", str(self.directory), *arguments]
        try:
            done = subprocess.run(command, input=input, capture_output=True, env=environment | {"LC_ALL": "C"})
        except FileNotFoundError:
            raise ValueError("revisions need `git`, which is not installed") from None
        if done.returncode:
            reason = " ".join(done.stderr.decode(errors="replace").split())
            raise ValueError(f"{self.directory}: {reason or 'git failed'}")
        return done.stdout
