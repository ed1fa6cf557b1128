"""The Hub's requests, one function each, and the paths that they answer."""

import hashlib
import json
from collections.abc import Callable
from email.message import Message
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlencode

import yaml

from tests.hub_commits import apply, card_error
from tests.hub_repos import Entry, Refusal, Repositories, git_oid, is_ignored, is_large, url_of

if TYPE_CHECKING:
    from tests.hub_api import Account, Hub

Answer = tuple[int, dict[str, str], bytes]

_REPO = r"(?P<name>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>datasets|models)/{_REPO}"
_PAGE = rf"/(?:(?P<kind>datasets)/)?{_REPO}"


class Request(NamedTuple):
    """One request: who asks, what its path and query say, its body."""

    hub: "Hub"
    method: str
    account: "Account | None"
    path: dict[str, str]
    query: dict[str, str]
    headers: Message
    body: bytes

    @property
    def repos(self) -> Repositories:
        return self.hub.repositories

    @property
    def repo(self) -> tuple[str, str]:
        return self.path.get("kind", "models"), self.path["name"]

    @property
    def revision(self) -> str:
        return self.path.get("revision", "main")

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    def may_read(self) -> None:
        """Raises Refusal (404) for a repository that is not there or that this account may not see."""
        owner = self.repo[1].partition("/")[0]
        if self.repos.settings(*self.repo)["private"] and not _belongs(self.account, owner):
            raise Refusal(404, "Repository not found", "RepoNotFound")

    def may_write(self) -> None:
        """Raises Refusal (401, 403, 404) unless this account may change the repository."""
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        self.may_read()
        if self.account.role != "write" or not _belongs(self.account, self.repo[1].partition("/")[0]):
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")


def _belongs(account: "Account | None", owner: str) -> bool:
    return account is not None and owner in (account.user, *account.organizations)


def _json(value: Any, status: int = 200, **headers: str) -> Answer:
    return status, headers, json.dumps(value).encode()


def whoami(request: Request) -> Answer:
    if request.account is None:
        raise Refusal(401, "Invalid username or password.")
    organizations = [{"type": "org", "name": name} for name in request.account.organizations]
    return _json({"type": "user", "name": request.account.user, "orgs": organizations})


def create(request: Request) -> Answer:
    asked = request.json()
    if request.account is None:
        raise Refusal(401, "Invalid username or password.")
    owner = asked.get("organization") or request.account.user
    kind = f"{asked.get('type', 'model')}s"
    if request.account.role != "write" or not _belongs(request.account, owner):
        raise Refusal(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{owner}"')
    name = f"{owner}/{asked['name']}"
    answer = {"url": request.hub.endpoint + url_of(kind, name), "name": name, "id": name}
    try:
        request.repos.create(kind, name, asked.get("visibility") == "private" or bool(asked.get("private")))
    except Refusal as refusal:
        return _json(answer | {"error": refusal.message}, refusal.status)
    return _json(answer)


def validate_yaml(request: Request) -> Answer:
    error = card_error(request.json()["content"])
    if error is None:
        return _json({"errors": [], "warnings": []})
    return _json({"errors": [{"message": error}], "warnings": []}, 400)


def preupload(request: Request) -> Answer:
    request.may_write()
    asked, files = request.json(), request.repos.files(*request.repo, request.revision)
    ignore = asked.get("gitIgnore")
    if ignore is None and ".gitignore" in files:
        ignore = request.repos.content(*request.repo, ".gitignore", request.revision).decode()
    attributes = request.repos.content(*request.repo, ".gitattributes", request.revision).decode()
    return _json({"files": [_mode(file, attributes, ignore or "", files) for file in asked["files"]]})


def _mode(file: dict[str, Any], attributes: str, ignore: str, files: dict[str, Entry]) -> dict[str, Any]:
    path = file["path"]
    large = is_large(path, attributes) or file["size"] > 10 * 2**20
    mode = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": is_ignored(path, ignore)}
    return mode | ({"oid": files[path].sha256 or files[path].oid} if path in files else {})


def lfs_batch(request: Request) -> Answer:
    request.may_write()
    objects = []
    for asked in request.json()["objects"]:
        actions = {
            "upload": {"href": f"{request.hub.endpoint}/lfs/{asked['oid']}", "header": {}},
            "verify": {"href": f"{request.hub.endpoint}/lfs-verify", "header": {}},
        }
        stored = request.repos.blob(asked["oid"]).exists()
        objects.append(asked | ({} if stored else {"actions": actions}))
    return _json({"transfer": "basic", "objects": objects})


def lfs_put(request: Request) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != request.path["oid"]:
        raise Refusal(400, "the content has another hash")
    request.hub.received += len(request.body)
    request.repos.store_blob(request.body)
    return _json({})


def lfs_verify(request: Request) -> Answer:
    asked = request.json()
    blob = request.repos.blob(asked["oid"])
    if not blob.exists() or blob.stat().st_size != asked["size"]:
        raise Refusal(404, "the object is not there")
    return _json({})


def commit(request: Request) -> Answer:
    request.may_write()
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    made = apply(request.repos, *request.repo, request.revision, lines)
    url = f"{request.hub.endpoint}{url_of(*request.repo)}/commit/{made}"
    return _json({"success": True, "commitOid": made, "commitUrl": url})


def info(request: Request) -> Answer:
    request.may_read()
    kind, name = request.repo
    found, settings = request.repos.commit(kind, name, request.revision), request.repos.settings(kind, name)
    return _json(
        settings
        | {
            "_id": git_oid(name.encode())[:24],
            "id": name,
            "author": name.partition("/")[0],
            "sha": found["id"],
            "lastModified": found["date"],
            "createdAt": found["date"],
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in found["files"]],
            "cardData": _card_data(request),
        }
    )


def _card_data(request: Request) -> dict[str, Any]:
    if "README.md" not in request.repos.files(*request.repo, request.revision):
        return {}
    card = request.repos.content(*request.repo, "README.md", request.revision).decode()
    return (yaml.safe_load(card.split("---\n", 2)[1]) or {}) if card.startswith("---\n") else {}


def tree(request: Request) -> Answer:
    request.may_read()
    folder = request.path.get("path", "").strip("/")
    files = request.repos.files(*request.repo, request.revision)
    inside = {path: entry for path, entry in files.items() if not folder or path.startswith(f"{folder}/")}
    if folder and not inside:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
    recursive = request.query.get("recursive", "").lower() in ("true", "1")
    found = _folders(inside, folder, recursive) + [
        _described(path, entry) for path, entry in sorted(inside.items()) if recursive or _is_in(path, folder)
    ]
    return _paged(request, found)


def _paged(request: Request, found: list[dict[str, Any]]) -> Answer:
    start = int(request.query.get("cursor", 0))
    shown, after = found[start : start + request.hub.page], start + request.hub.page
    if after >= len(found):
        return _json(shown)
    revision, folder = request.revision.replace("/", "%2F"), request.path.get("path", "")
    base = f"{request.hub.endpoint}/api/{request.repo[0]}/{request.repo[1]}/tree/{revision}{folder and '/' + folder}"
    following = f"{base}?{urlencode(request.query | {'cursor': str(after)})}"
    return _json(shown, Link=f'<{following}>; rel="next"')


def _is_in(path: str, folder: str) -> bool:
    return path.rpartition("/")[0] == folder


def _folders(files: dict[str, Entry], above: str, recursive: bool) -> list[dict[str, Any]]:
    parents = {"/".join(parts[:n]) for path in files for parts in [path.split("/")] for n in range(1, len(parts))}
    wanted = sorted(p for p in parents if (recursive and p.startswith(above) and p != above) or _is_in(p, above))
    return [{"type": "directory", "oid": git_oid(p.encode()), "size": 0, "path": p} for p in wanted]


def _described(path: str, entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    large = {"lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": 130}}
    return found | (large if entry.sha256 else {})


def paths_info(request: Request) -> Answer:
    request.may_read()
    files = request.repos.files(*request.repo, request.revision)
    if request.headers.get_content_type() == "application/json":
        asked = request.json()["paths"]
    else:
        asked = parse_qs(request.body.decode())["paths"]
    found = []
    for path in [asked] if isinstance(asked, str) else asked:
        if path in files:
            found.append(_described(path, files[path]))
        elif any(other.startswith(f"{path}/") for other in files):
            found.append({"type": "directory", "oid": git_oid(path.encode()), "size": 0, "path": path})
    return _json(found)


def resolve(request: Request) -> Answer:
    request.may_read()
    entry = request.repos.files(*request.repo, request.revision).get(request.path["path"])
    commit = request.repos.resolve(*request.repo, request.revision)
    if entry is None:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    content = request.repos.object_of(*request.repo, entry).read_bytes()
    headers = {
        "X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{entry.sha256 or entry.oid}"',
        "Content-Type": "application/octet-stream",
    }  # fmt: skip
    if entry.sha256:
        headers |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.sha256}"'}
    asked = request.headers.get("Range")
    if asked is None or not content:
        return 200, headers, content
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
    if start > end:
        raise Refusal(416, "Requested Range Not Satisfiable")
    return 206, headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"}, content[start : end + 1]


def refs(request: Request) -> Answer:
    request.may_read()
    found = request.repos.refs(*request.repo)
    listed = {
        key: [{"name": name, "ref": f"refs/{short}/{name}", "targetCommit": at} for name, at in found[key].items()]
        for key, short in (("branches", "heads"), ("tags", "tags"))
    }
    return _json(listed | {"converts": []})


def commits(request: Request) -> Answer:
    request.may_read()
    history = request.repos.history(*request.repo, request.revision)
    return _json([{k: c[k] for k in ("id", "title", "message", "date")} | {"authors": []} for c in history])


def tag(request: Request) -> Answer:
    request.may_write()
    request.repos.tag(*request.repo, request.json()["tag"], request.revision)
    return _json({})


def settings(request: Request) -> Answer:
    request.may_write()
    asked = request.json()
    if "visibility" in asked:
        asked["private"] = asked.pop("visibility") == "private"
    request.repos.set(*request.repo, **{key: asked[key] for key in ("private", "gated") if key in asked})
    return _json(request.repos.settings(*request.repo))


ROUTES: list[tuple[str, str, Callable[[Request], Answer]]] = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("POST", "/lfs-verify", lfs_verify),
    ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", commit),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", tree),
    ("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", paths_info),
    ("GET", rf"{_API}/refs", refs),
    ("GET", rf"{_API}/commits/(?P<revision>[^/]+)", commits),
    ("POST", rf"{_API}/tag/(?P<revision>[^/]+)", tag),
    ("PUT", rf"{_API}/settings", settings),
    ("GET", rf"{_API}(?:/revision/(?P<revision>[^/]+))?", info),
    ("HEAD GET", rf"{_PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
]
