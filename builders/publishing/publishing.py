"""Publishing content to a repository: one commit on top of what was read, then the tag.

Killed anywhere, the repository has its last good state, and the next run completes what is missing.
"""

from collections.abc import Callable
from typing import NamedTuple

from builders.publishing.hub_repository import HubRepository, State
from builders.publishing.plans import Content, Plan, holds, make_plan, written_by_us
from stores.release_files import PROVENANCE

Say = Callable[[str], None]
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Published(NamedTuple):
    """What the repository holds now. `made_commit`, `made_tag`: whether this run made them."""

    url: str
    commit: str
    tag: str | None
    made_commit: bool
    made_tag: bool


def publish(
    repo: HubRepository,
    content: Content,
    tag: str | None = None,
    private: bool = False,
    replace: bool = False,
    say: Say = lambda line: None,
) -> Published:
    """Makes the repository hold the content, and the tag name it; `say` gets a line per file and act.

    Raises ValueError, before anything is sent, for a tag that names something else, a repository that is public where
    it was to be private, and files of somebody else's that would be touched; for a change that somebody makes
    meanwhile, and for what goes wrong on the way.
    """
    state = repo.look()
    if state is None:
        repo.create(private)
        say(f"create  {repo.url} ({'private' if private else 'public'})")
        state = repo.look()
        if state is None:
            raise ValueError(f"{repo.name}: was created, but is not visible to your login; check its permissions")
    plan = plan_for(repo, content, state, tag, private, replace)
    if plan is None:
        say(f"keep    tag {tag}, which holds all of this")
        return Published(repo.url, state.tags[tag or ""], tag, False, False)
    for line in described(content, plan):
        say(line)
    commit = state.commit
    if plan.changes:
        commit = repo.commit(state.commit, {p: content.files[p] for p in plan.send}, plan.delete, content.title)
        say(f"commit  {repo.url}/commit/{commit}")
    if tag is not None:
        _set_tag(repo, tag, commit, plan.changes)
        say(f"tag     {tag} at {commit[:12]}")
    return Published(repo.url, commit, tag, plan.changes, tag is not None)


def plan_for(
    repo: HubRepository, content: Content, state: State, tag: str | None, private: bool, replace: bool
) -> Plan | None:
    """What is to be done to the repository as it is; None where the tag holds all of the content already."""
    if private and not state.private:
        raise ValueError(f"{repo.name} is public; make it private in its settings on the Hub, or leave --private out")
    if tag in state.branches:
        raise ValueError(f"{repo.name}: '{tag}' is the name of a branch there, which would be read; choose another tag")
    if tag is not None and tag in state.tags:
        tagged = repo.look(tag)
        if tagged is None or not holds(content, tagged.files):
            at = state.tags[tag][:12]
            raise ValueError(
                f"{repo.name}: tag '{tag}' is there, at {at}, and holds something else; choose another tag"
            )
        return None
    previous = repo.read(PROVENANCE, state.commit) if PROVENANCE in state.files else None
    try:
        return make_plan(content, state.files, written_by_us(previous), replace)
    except ValueError as error:
        raise ValueError(f"{repo.name}: {error}") from None


def _set_tag(repo: HubRepository, tag: str, commit: str, made_commit: bool) -> None:
    try:
        repo.tag(tag, commit)
    except ValueError as error:
        done = f"commit {commit[:12]} is published" if made_commit else "nothing was changed"
        raise ValueError(f"{error} ({done}; the same command again sets the tag and sends nothing twice)") from None


def preview(
    repo: HubRepository, content: Content, tag: str | None = None, private: bool = False, replace: bool = False
) -> list[str]:
    """What `publish` would do, line by line; the Hub is only read, and where it cannot be, a line says so.

    Raises ValueError for what `publish` would refuse.
    """
    whole = Plan(sorted(content.files), [], [], sum(file.size for file in content.files.values()))
    tagging = [f"tag     {tag}"] if tag else []
    try:
        state = repo.look()
    except ValueError as error:
        return [*described(content, whole), *tagging, f"dry run: nothing was sent, and the Hub not asked: {error}"]
    if state is None:
        created = f"create  {repo.url} ({'private' if private else 'public'}; or your login may not see it)"
        return [created, *described(content, whole), *tagging, "dry run: nothing was sent"]
    plan = plan_for(repo, content, state, tag, private, replace)
    if plan is None:
        return [f"keep    tag {tag}, which holds all of this", "dry run: nothing was sent"]
    return [*described(content, plan), *tagging, "dry run: nothing was sent"]


def described(content: Content, plan: Plan) -> list[str]:
    """A line per file, and what they come to."""
    lines = [f"send    {path}  {size_text(content.files[path].size)}" for path in plan.send]
    lines += [f"keep    {path}  {size_text(content.files[path].size)}" for path in plan.keep]
    lines += [f"delete  {path}" for path in plan.delete]
    total = f"{len(plan.send)} to send ({size_text(plan.size)}), {len(plan.keep)} kept, {len(plan.delete)} to delete"
    return [*lines, f"files   {total}; licence {content.licence}"]


def size_text(size: float) -> str:
    """Bytes for people: 12.3 MB."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
