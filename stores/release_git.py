"""What a release does to a checkout, with `git` and `dvc` as they are on the command line: all of it or nothing.

Names are arguments only after `--end-of-options` or `--`, and no shell sees them. Hooks and signing work as ever.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from stores.git import Repository


class Checkout:
    """The working tree of the Git repository around a project.

    Raises ValueError if there is none.
    """

    def __init__(self, root: Path):
        self.root = root
        try:
            self.prefix = self._git("rev-parse", "--show-prefix").strip()
        except ValueError as error:
            raise ValueError(f"{root.resolve()}: a release needs a Git repository with a commit ({error})") from None

    def require_branch(self) -> None:
        """Raises ValueError where no branch is checked out: the next `git switch` would leave the commit behind."""
        if self._fails("symbolic-ref", "--quiet", "HEAD"):
            raise ValueError("no branch is checked out (detached HEAD); `git switch` to the one that gets the release")

    def require_committed(self, needed: Sequence[str], *others: str) -> None:
        """Raises ValueError for files that differ from the last commit, and for needed ones that are not there."""
        changed = sorted({path.removeprefix(self.prefix) for path in Repository(self.root).changed([*needed, *others])})
        if changed:
            raise ValueError(
                f"{', '.join(changed)}: not as in the last commit; commit it or take it back, then release"
            )
        missing = [path for path in needed if not (self.root / path).exists()]
        if missing:
            raise ValueError(
                f"{', '.join(missing)}: no such file; a release is of a project that `dvc repro` has built"
            )

    def require_built(self, stages: Sequence[str]) -> None:
        """Raises ValueError where `dvc status` finds that stages, or what they are made of, are not up to date."""
        command = [sys.executable, "-m", "dvc", "status", "--json", "--with-deps", "--", *stages]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"dvc status: {_line(done.stderr) or 'failed'}")
        stale = sorted(json.loads(done.stdout[done.stdout.find("{") :]))
        if stale:
            shown = ", ".join(stale[:3]) + (f" and {len(stale) - 3} more" if len(stale) > 3 else "")
            raise ValueError(f"not up to date with dvc.lock: {shown}; run `dvc repro`, commit dvc.lock, then release")

    def require_free(self, tag: str) -> None:
        """Raises ValueError for what cannot be a new tag."""
        if self._fails("check-ref-format", f"refs/tags/{tag}"):
            raise ValueError(f"{tag!r} cannot name a tag of Git")
        if self.has_tag(tag):
            raise ValueError(f"the tag '{tag}' exists already; a release is never made twice: choose another version")
        if not self._fails("show-ref", "--verify", "--quiet", "--end-of-options", f"refs/heads/{tag}"):
            raise ValueError(f"a branch is called '{tag}'; choose another version, or both would be ambiguous")

    def has_tag(self, tag: str) -> bool:
        return not self._fails("show-ref", "--verify", "--quiet", "--end-of-options", f"refs/tags/{tag}")

    def tagged(self, tag: str) -> str | None:
        """The commit that a tag is of."""
        found = self._run(("rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}"), "")
        return found.stdout.strip() or None

    def last_change(self, path: str) -> str:
        """The newest commit that changed a file, in short."""
        return self._git("log", "-1", "--format=%h", "--", path).strip()

    def release(self, files: Mapping[str, tuple[str | None, str]], message: str, tags: Sequence[str]) -> str:
        """Writes files (path -> text before and after), commits them alone and tags the commit; returns its id."""
        before = self._head()
        with self._undone_if_it_fails(files, before, tags):
            for path, (_, text) in files.items():
                _write(self.root / path, text)
            self._git("add", "--intent-to-add", "--", *files)
            self._git("commit", "--quiet", "--only", "--cleanup=whitespace", "-F", "-", "--", *files, input=message)
            commit = self._head()
            for tag in tags:
                said = ("--annotate", "--cleanup=whitespace", "-F", "-")
                self._git("tag", *said, "--end-of-options", tag, commit, input=message)
        return commit

    @contextmanager
    def _undone_if_it_fails(
        self, files: Mapping[str, tuple[str | None, str]], before: str, tags: Sequence[str]
    ) -> Iterator[None]:
        """Puts tags, branch, index and files back as they were, whatever goes wrong."""
        try:
            yield
        except BaseException:
            if (commit := self._head()) != before:
                for tag in tags:
                    if self.tagged(tag) == commit:
                        self._fails("tag", "--delete", "--end-of-options", tag)
                self._git("reset", "--quiet", "--soft", before)
            self._fails("reset", "--quiet", "--", *files)
            for path, (text, _) in files.items():
                if text is None:
                    (self.root / path).unlink(missing_ok=True)
                else:
                    _write(self.root / path, text)
            raise

    def _head(self) -> str:
        return self._git("rev-parse", "--verify", "HEAD^{commit}").strip()

    def _git(self, *arguments: str, input: str = "") -> str:
        done = self._run(arguments, input)
        if done.returncode:
            raise ValueError(f"git {arguments[0]}: {_line(done.stderr) or _line(done.stdout) or 'failed'}")
        return done.stdout

    def _fails(self, *arguments: str) -> bool:
        return self._run(arguments, "").returncode != 0

    def _run(self, arguments: Sequence[str], input: str) -> "subprocess.CompletedProcess[str]":
        """Variables such as GIT_DIR, which Git sets for its hooks, would lead to another repository."""
        ours = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG_", "GIT_SSH")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(ours)}
        command = ["git", "-C", str(self.root), *arguments]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=environment | {"LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise ValueError("a release needs `git`, which is not installed") from None
        with process:
            try:
                out, err = process.communicate(input)
            except BaseException:  # not killed, as `subprocess.run` would: Git then leaves its locks behind
                process.terminate()
                process.wait()
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def _write(path: Path, text: str) -> None:
    """A text file, under its name only when it is whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(text.encode("utf-8"))
        if path.exists():
            unfinished.chmod(path.stat().st_mode)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _line(text: str) -> str:
    return " ".join(text.split())
