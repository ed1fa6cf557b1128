"""What a commit request of the Hub does to the files of a branch."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from tests.hub_repos import Entry, Refusal, Repositories, pointer


def apply(repositories: Repositories, kind: str, name: str, branch: str, lines: Iterable[Mapping[str, Any]]) -> str:
    """Makes the commit that the lines of a request describe; returns its hash.

    Raises Refusal: 412 where the branch has moved on from the parent that was read, 400 for a file that was never
    uploaded, 404 for deleting what is not there.
    """
    with repositories.lock:
        head, (header, *operations) = repositories.refs(kind, name)["branches"].get(branch), lines
        if head is None:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        value = header["value"]
        if not head.startswith(value.get("parentCommit", "")):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = _changed_files(repositories, kind, name, repositories.files(kind, name, branch), operations)
        return repositories.add_commit(kind, name, branch, files, head, value["summary"], value.get("description", ""))


def _changed_files(
    repositories: Repositories, kind: str, name: str, files: dict[str, Entry], operations: Iterable[Mapping[str, Any]]
) -> dict[str, Entry]:
    """The files after the operations of a commit request. Raises Refusal for one that cannot be done."""
    for operation in operations:
        value: Mapping[str, Any] = operation["value"]
        path = value["path"]
        match operation["key"]:
            case "file":
                content = base64.b64decode(value["content"])
                if path == "README.md":
                    check_card(content.decode())
                files[path] = repositories.store(kind, name, content)
            case "lfsFile":
                if not repositories.blob(value["oid"]).exists():
                    raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
                files[path] = pointer(value["oid"], repositories.blob(value["oid"]).stat().st_size)
            case "deletedFile":
                if path not in files:
                    raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                del files[path]
            case "deletedFolder":
                files = {other: entry for other, entry in files.items() if not other.startswith(f"{path.rstrip('/')}/")}
            case other:
                raise Refusal(400, f"unknown operation {other}")
    return files


def check_card(content: str) -> None:
    """Raises Refusal (400) for a card whose metadata are no mapping, or whose licence is no name."""
    if error := card_error(content):
        raise Refusal(400, error)


def card_error(content: str) -> str | None:
    """What is wrong with a card's metadata; None if nothing is."""
    if not content.startswith("---\n"):
        return None
    try:
        data = yaml.safe_load(content.split("---\n", 2)[1])
    except yaml.YAMLError as error:
        return f"Invalid metadata in README.md: {error}"
    if not isinstance(data, dict):
        return "Invalid metadata in README.md: no mapping"
    if not isinstance(data.get("license", ""), str | list):
        return '"license" must be a string'
    return None
